"""The verification as text that a person reads; `page.py` has it with plots."""

from tfgpt_export.gates import NOT_JUDGED, is_lossless

# The kind of an entry on a file that missed its gates and is not in the export.
LEFT_OUT = "left out"
TITLES = {
    "fp32": "ONNX, float32",
    "fp16": "ONNX, float16",
    "int8": "ONNX, 8-bit weights",
    "int8_prompts": "ONNX, 8-bit weights, for long prompts",
    "int4": "ONNX, 4-bit weights",
    "portable": "ONNX, float32, standard operators",
    "saved_model": "TensorFlow SavedModel",
    "files": "all files",
    "reference": "recorded answers",
}


def title(artifact: str) -> str:
    """An artifact's name in words."""
    return TITLES.get(artifact, artifact)


def verification_page(report: dict) -> str:
    """Markdown of what `verification.json` holds."""
    lines = ["# Verification", "", verdict(report), ""]
    lines += ["| artifact | size | compared | result |", "|---|---|---|---|"]
    names = [*report["sizes"], *(e["artifact"] for e in report["artifacts"])]
    for name in dict.fromkeys(names):
        size = f"{report['sizes'][name] / 1e6:,.1f} MB" if name in report["sizes"] else ""
        entries = [entry for entry in report["artifacts"] if entry["artifact"] == name]
        for compared, result in [row for entry in entries for row in sentences(entry)] or [("nothing", "")]:
            lines.append(f"| {title(name)} | {size} | {compared} | {result or 'not verified'} |")
    lines.append("")
    lines += [f"- not compared: {line}" for line in report.get("skipped", [])]
    lines += ["", *_cases(report), *_operators(report), *_omitted(report)]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def verdict(report: dict) -> str:
    """One sentence on the whole."""
    if not report["verified"]:
        return "**Not verified**: this export was made with verification turned off."
    whole = "the Keras model it was made from"
    whole = whole if report["compared_with"] == "Keras" else "the recorded answers of the Keras model"
    if report["passed"]:
        left_out = [title(entry["artifact"]) for entry in report["artifacts"] if entry["kind"] == LEFT_OUT]
        end = f"; what missed them was left out ({', '.join(left_out)})" if left_out else ""
        return f"**Passed.** Every artifact in it was compared with {whole}, and passed its gates{end}."
    number = len(report["failures"])
    return f"**FAILED.** Compared with {whole}, {number} gate{'s were' if number > 1 else ' was'} missed."


def is_judged(entry: dict) -> bool:
    """Whether a gate stands behind an entry, or it only reports."""
    if entry["kind"] == "predictions":
        return bool(entry["limits"])
    if entry["kind"] == "generation":
        return entry.get("limit") != NOT_JUDGED
    return entry["kind"] not in ("layers", LEFT_OUT)


def sentences(entry: dict) -> list[tuple[str, str]]:
    """(what was compared, with which result) for one comparison."""
    failures = [("**FAILED**", failure) for failure in entry["failures"]]
    if entry["kind"] == "checksums":
        return failures or [("checksums", f"{entry['files']} files are those that were exported")]
    if entry["kind"] == "generation" and "greedy_tokens" in entry:
        return [_generation(entry), *failures]
    if "cases" in entry:
        allowed = "" if entry["tolerance"] is None else f" (allowed {entry['tolerance']:.0e})"
        worst = f"largest difference {entry['max_relative_difference']:.1e}{allowed}"
        return [(f"cache and logits, {len(entry['cases'])} ways of asking", worst), *failures]
    if entry["kind"] == "rounded":
        worst = (
            f"largest difference {entry['max_relative_difference']:.1e} (allowed {entry['tolerance']:.0e})"
        )
        return [("cache and logits, against Keras with the same rounded weights", worst), *failures]
    if entry["kind"] == "engine":
        worst = (
            f"largest difference {entry['max_relative_difference']:.1e} (allowed {entry['tolerance']:.0e})"
        )
        return [(f"probabilities of prompts side by side in {entry['client']}", worst), *failures]
    if entry["kind"] == "predictions":
        return [(f"predictions at {entry['positions']:,} positions", _predictions(entry)), *failures]
    if entry["kind"] == LEFT_OUT:
        return [("predictions", f"not in this export: {entry['reason']}")]
    if entry["kind"] == "loop in the graph":
        found = ", ".join(f"{number} {name}" for name, number in entry["tokens"].items())
        return [("tokens by the loop in its graph", f"{found}, all as Keras's"), *failures]
    if entry["kind"] == "text in the graph":
        return [
            ("text to text in its graph", entry["refused"] or f"{entry['texts']} texts as Keras's"),
            *failures,
        ]
    return failures


def _predictions(entry: dict) -> str:
    limits = entry["limits"]

    judged = "" if limits or is_lossless(entry["artifact"]) else "; not judged, since no text was given"

    def allowed(measure: str, form: str) -> str:
        return f", allowed {limits[measure]:{form}}" if measure in limits else ""

    return (
        f"same first choice {entry['top1_agreement']:.1%}, "
        f"perplexity {entry['reference_perplexity']:.3f} -> {entry['perplexity']:.3f} "
        f"({entry['perplexity_change']:+.3%}{allowed('perplexity_change', '.1%')}), "
        f"KL {entry['kl_divergence']:.1e} nats{allowed('kl_divergence', '.2g')}, "
        f"logits off by {entry['mean_logit_difference']:.1e} in the mean{judged}"
    )


def _generation(entry: dict) -> tuple[str, str]:
    agreed, total = entry["chosen_by_keras"], entry["greedy_tokens"]
    text = f"{agreed:,} are the ones that Keras chooses ({entry['equal_share']:.1%})"
    if entry["ties"]:
        text += f"; {_prompts(entry['ties'])} left it at a tie"
    by = entry.get("client", "onnxruntime" if entry["artifact"] != "saved_model" else "TensorFlow")
    return f"{total:,} greedy tokens of {entry['prompts']} prompts by {by}", text


def _prompts(count: int) -> str:
    return "1 prompt" if count == 1 else f"{count:,} prompts"


def _cases(report: dict) -> list[str]:
    numbers = [entry for entry in report["artifacts"] if "cases" in entry]
    if not numbers:
        return []
    lines = ["## Differences, relative to the largest number of each tensor (or to 1)", ""]
    lines += ["| way of asking |" + "".join(f" {title(entry['artifact'])} |" for entry in numbers)]
    lines += ["|---|" + "---|" * len(numbers)]
    for case in numbers[0]["cases"]:
        lines.append(f"| {case} |" + "".join(f" {entry['cases'][case]:.1e} |" for entry in numbers))
    return [*lines, ""]


def _operators(report: dict) -> list[str]:
    lines = ["## Operators of the graphs", ""]
    for name, counts in report["operators"].items():
        total = sum(counts.values())
        listed = ", ".join(f"{number} {operator}" for operator, number in counts.items())
        lines.append(f"- {title(name)}: {total} nodes: {listed}")
    return lines


def _omitted(report: dict) -> list[str]:
    """What this model cannot have; reports of older exports do not say."""
    omitted = report.get("omitted", {})
    if not omitted:
        return []
    lines = [f"- `{name}`: {reason}" for name, reason in omitted.items()]
    return ["", "## Not in this export", "", *lines]
