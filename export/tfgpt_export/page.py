"""`verification.html`: the verification as one page with plots, which needs neither scripts nor a network."""

import re
from html import escape
from pathlib import Path

from tfgpt_export.plots import Bar, bars, histogram, lines, logarithmic
from tfgpt_export.report import is_judged, sentences, title, verdict
from tfgpt_export.tolerances import LOSSLESS

STYLE = Path(__file__).with_name("page.css")


def verification_html(report: dict) -> str:
    """HTML of what `verification.json` holds."""
    model = report["model"]
    facts = [
        str(model["type"]),
        f"{model['vocabulary_size']:,} tokens" if model["vocabulary_size"] else "",
        f"context {model['context_length']:,}" if model["context_length"] else "",
        f"tfgpt {report['tfgpt']}",
        f"compared with {report['compared_with']}",
        f"text: {report['text']}",
    ]
    sections = [
        _artifacts(report),
        _layers(report),
        _predictions(report),
        _greedy(report),
        _sizes(report),
        _operators(report),
    ]
    state = "off" if not report["verified"] else "good" if report["passed"] else "bad"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Verification of {escape(str(model['type']))}</title>\n"
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>Verification</h1>\n<p class=facts>{escape(' · '.join(fact for fact in facts if fact))}</p>\n"
        f'<p class="verdict {state}">{_bold(verdict(report))}</p>\n'
        f"{_failures(report)}{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def _failures(report: dict) -> str:
    items = [f"<li>{escape(failure)}</li>" for failure in report.get("failures", [])]
    items += [f"<li class=skipped>not compared: {escape(line)}</li>" for line in report.get("skipped", [])]
    return f"<ul class=notes>{''.join(items)}</ul>\n" if items else ""


def _section(heading: str, text: str, body: str) -> str:
    return (
        f"<section>\n<h2>{escape(heading)}</h2>\n<p>{escape(text)}</p>\n{body}\n</section>\n" if body else ""
    )


def _artifacts(report: dict) -> str:
    bodies = []
    for name in dict.fromkeys(entry["artifact"] for entry in report["artifacts"]):
        entries = [entry for entry in report["artifacts"] if entry["artifact"] == name]
        rows = [row for entry in entries for row in _rows(entry)]
        rows[0] = f"<th scope=rowgroup rowspan={len(rows)}>{escape(title(name))}</th>{rows[0]}"
        bodies.append(f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody>")
    if not bodies:
        return ""
    head = "<tr><th>artifact</th><th>compared</th><th>result</th><th>gate</th></tr>"
    return _section(
        "What was compared",
        "Lossless files are held against Keras number by number, the others by what they predict on text and "
        "by the tokens that they choose.",
        f"<div class=wide><table><thead>{head}</thead>{''.join(bodies)}</table></div>",
    )


def _rows(entry: dict) -> list[str]:
    """The cells of an entry's rows, but for the artifact's name."""
    mark = "<td class=skipped>reported</td>"
    if entry["failures"]:
        mark = "<td class=bad>missed</td>"
    elif is_judged(entry):
        mark = "<td class=good>passed</td>"
    return [
        f"<td>{_bold(compared)}</td><td>{escape(result)}</td>{mark if number == 0 else '<td></td>'}"
        for number, (compared, result) in enumerate(sentences(entry))
    ]


def _layers(report: dict) -> str:
    """The largest difference of each layer's keys and values, then of the logits, for every artifact."""
    series, labels = {}, []
    for entry in report["artifacts"]:
        tensors = entry.get("tensors")
        if not tensors:
            continue
        layers: dict[str, float] = {}
        for name, difference in tensors.items():
            found = re.match(r"present\.(\d+)\.", name)
            place = found.group(1) if found else name
            layers[place] = max(layers.get(place, 0.0), difference)
        labels = list(layers)
        series[entry["artifact"]] = list(layers.values())
    if not series:
        return ""
    return _section(
        "Difference from Keras, layer by layer",
        "Largest difference of each layer's keys and values, and of the logits, relative to the largest "
        f"number of the tensor (or to 1). The dashed line is what float32 is allowed, {LOSSLESS:.0e}; the "
        "other precisions are judged below.",
        f"<figure>{lines(series, labels, LOSSLESS, 'difference by layer')}</figure>",
    )


def _predictions(report: dict) -> str:
    entries = [entry for entry in report["artifacts"] if "kl_divergence" in entry]
    if not entries:
        return ""

    def rows(measure: str, form: str, limit: str) -> list[Bar]:
        return [
            Bar(
                entry["artifact"],
                entry["artifact"],
                abs(entry[measure]),
                format(entry[measure], form),
                entry.get("limits", {}).get(limit),
            )
            for entry in entries
        ]

    divergence = rows("kl_divergence", ".1e", "kl_divergence")
    change = rows("perplexity_change", "+.3%", "perplexity_change")
    other = [
        Bar(
            entry["artifact"],
            entry["artifact"],
            1 - entry["top1_agreement"],
            f"{1 - entry['top1_agreement']:.2%}",
        )
        for entry in entries
    ]
    scale = logarithmic(1e-9, max([1e-1, *(bar.value for bar in divergence if bar.value < float("inf"))]))
    reference = entries[0]["reference_perplexity"]
    figures = (
        f"<figure><figcaption>KL divergence from Keras, nats (logarithmic)</figcaption>"
        f"{bars(divergence, 'KL divergence', scale)}</figure>"
        f"<figure><figcaption>Change of perplexity, from {reference:.3f}</figcaption>"
        f"{bars(change, 'change of perplexity')}</figure>"
        f"<figure><figcaption>Positions where another token is the likeliest</figcaption>"
        f"{bars(other, 'other first choices')}</figure>"
    )
    return _section(
        f"Predictions at {entries[0]['positions']:,} positions of text",
        "A dashed tick is the limit of that precision.",
        figures,
    )


def _greedy(report: dict) -> str:
    figures = []
    for entry in report["artifacts"]:
        if "first_divergence" in entry:
            by = f" in {entry['client']}" if "client" in entry else ""
            text = f"{title(entry['artifact'])}{by}: {entry['equal_share']:.1%} of the tokens are Keras's"
            picture = histogram(entry["first_divergence"], entry["artifact"], "first other token")
            figures.append(f"<figure><figcaption>{escape(text)}</figcaption>{picture}</figure>")
    if not figures:
        return ""
    entry = next(entry for entry in report["artifacts"] if "first_divergence" in entry)
    return _section(
        f"Greedy tokens of {entry['prompts']} prompts",
        "At which new token each prompt first differs from Keras; at the right stand those that never do.",
        f"<div class=grid>{''.join(figures)}</div>",
    )


def _sizes(report: dict) -> str:
    rows = [Bar(name, name, size, f"{size / 1e6:,.1f} MB") for name, size in report["sizes"].items()]
    if not rows:
        return ""
    return _section("Size", "All files of each artifact together.", f"<figure>{bars(rows, 'sizes')}</figure>")


def _operators(report: dict) -> str:
    counts = report["operators"]
    names = sorted(
        {name for each in counts.values() for name in each}, key=lambda name: (-_most(counts, name), name)
    )
    if not names:
        return ""
    head = "".join(f"<th>{escape(artifact)}</th>" for artifact in counts)
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th>"
        + "".join(f"<td class=number>{each.get(name, '') or ''}</td>" for each in counts.values())
        + "</tr>"
        for name in names
    )
    totals = "".join(f"<td class=number>{sum(each.values())}</td>" for each in counts.values())
    return _section(
        "Operators of the graphs",
        "How many nodes of each.",
        f"<div class=wide><table class=counts><thead><tr><th>operator</th>{head}</tr></thead><tbody>{rows}"
        f"<tr class=total><th scope=row>all</th>{totals}</tr></tbody></table></div>",
    )


def _most(counts: dict[str, dict[str, int]], name: str) -> int:
    return max(each.get(name, 0) for each in counts.values())


def _bold(text: str) -> str:
    """Escaped text with **bold** as Markdown writes it."""
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(text))
