"""The verification as a page that a person reads."""

TITLES = {
    "fp32": "ONNX, float32",
    "fp16": "ONNX, float16",
    "int8": "ONNX, 8-bit weights",
    "int4": "ONNX, 4-bit weights",
    "portable": "ONNX, float32, standard operators",
    "saved_model": "TensorFlow SavedModel",
}


def verification_page(report: dict, sizes: dict[str, int]) -> str:
    """Markdown of what `verification.json` holds, with the size of each artifact in bytes."""
    lines = ["# Verification", ""]
    if not report["verified"]:
        lines += ["**Not verified**: this export was made with verification turned off.", ""]
    else:
        lines += ["Every artifact below was compared with the Keras model it was made from.", ""]
    lines += ["| artifact | size | compared | result |", "|---|---|---|---|"]
    for name, size in sizes.items():
        entries = [entry for entry in report["artifacts"] if entry["artifact"] == name]
        for entry in entries or [None]:
            compared, result = _sentence(entry)
            lines.append(f"| {TITLES[name]} | {size / 1e6:,.1f} MB | {compared} | {result} |")
    lines += ["", *_cases(report), *_operators(report)]
    return "\n".join(lines) + "\n"


def _sentence(entry: dict | None) -> tuple[str, str]:
    if entry is None:
        return "nothing", "not verified"
    if entry["kind"] == "lossless":
        return (
            f"cache and logits, {len(entry['cases'])} ways of asking",
            f"largest difference {entry['max_relative_difference']:.1e} (allowed {entry['tolerance']:.0e})",
        )
    if entry["kind"] == "rounded":
        return (
            "cache and logits, against Keras with the same rounded weights",
            f"largest difference {entry['max_relative_difference']:.1e} (allowed {entry['tolerance']:.0e})",
        )
    if entry["kind"] == "generation":
        return (
            f"{entry['greedy_tokens']} greedy tokens by onnxruntime",
            f"{entry['chosen_by_keras']} are the ones that Keras chooses",
        )
    limits = entry["limits"]
    judged = "" if limits else "; not judged, since no text was given"
    return (
        f"predictions at {entry['positions']:,} positions",
        f"same first choice {entry['top1_agreement']:.1%}, "
        f"perplexity {entry['reference_perplexity']:.3f} -> {entry['perplexity']:.3f} "
        f"({entry['perplexity_change']:+.3%}{_allowed(limits, 'perplexity_change', '.1%')}), "
        f"KL {entry['kl_divergence']:.1e} nats{_allowed(limits, 'kl_divergence', 'g')}{judged}",
    )


def _allowed(limits: dict, measure: str, form: str) -> str:
    return f", allowed {limits[measure]:{form}}" if limits else ""


def _cases(report: dict) -> list[str]:
    lossless = [entry for entry in report["artifacts"] if entry["kind"] == "lossless"]
    if not lossless:
        return []
    lines = ["## Differences, relative to the largest number of each tensor (or to 1)", ""]
    lines += ["| way of asking |" + "".join(f" {TITLES[entry['artifact']]} |" for entry in lossless)]
    lines += ["|---|" + "---|" * len(lossless)]
    for case in lossless[0]["cases"]:
        lines.append(f"| {case} |" + "".join(f" {entry['cases'][case]:.1e} |" for entry in lossless))
    return [*lines, ""]


def _operators(report: dict) -> list[str]:
    lines = ["## Operators of the graphs", ""]
    for name, counts in report["operators"].items():
        total = sum(counts.values())
        listed = ", ".join(f"{number} {operator}" for operator, number in counts.items())
        lines.append(f"- {TITLES[name]}: {total} nodes: {listed}")
    return lines
