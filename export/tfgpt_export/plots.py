"""Small SVG plots for the verification page: no script, no library, colours from the page's style sheet.

A series has the class of its artifact (`fp32`, `int8`, ...), which the style sheet colours for light, dark
and print. Every mark carries a `<title>`, which browsers show on hovering and screen readers read.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720


@dataclass(frozen=True)
class Bar:
    """One row of `bars`.

    Args:
        kind: class of its colour. label: in front. value: its length; shown: how it is written behind.
        gate: where the allowed limit stands, or `None`.
    """

    kind: str
    label: str
    value: float
    shown: str
    gate: float | None = None


def svg(height: float, parts: Sequence[str], label: str, width: float = WIDTH) -> str:
    """The picture around its parts; it scales with the column that it stands in."""
    body = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{width:g}px">\n{body}\n</svg>'
    )


def lines(series: dict[str, Sequence[float]], x_labels: Sequence[str], gate: float, label: str) -> str:
    """One line for each series over the same places, on a logarithmic axis, with a dashed gate.

    Args:
        series: class -> a value for each of `x_labels`; what is not a positive number is drawn at the bottom.
        gate: where the dashed line stands.
    """
    height, left, right, top, bottom = 300, 58, 104, 12, 40
    values = [value for row in series.values() for value in row if 0 < value < math.inf]
    low = math.floor(math.log10(min([*values, gate])))
    high = max(low + 1, math.ceil(math.log10(max([*values, gate]))))
    plot_width, plot_height = WIDTH - left - right, height - top - bottom

    def x(place: int) -> float:
        return left + plot_width * (place / max(1, len(x_labels) - 1))

    def y(value: float) -> float:
        power = low if not value > 0 else min(high, max(low, math.log10(min(value, 10.0**high))))
        return top + plot_height * (high - power) / (high - low)

    parts = []
    for power in range(low, high + 1):
        place = y(10.0**power)
        parts.append(_grid(left, place, WIDTH - right, place))
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{place + 4:.1f}" text-anchor="end">{_power(power)}</text>'
        )
    every = max(1, math.ceil(len(x_labels) / 14))
    last = len(x_labels) - 1
    for place, text in enumerate(x_labels):
        if place == last or (place % every == 0 and last - place >= every):
            parts.append(
                f'<text class="tick" x="{x(place):.1f}" y="{height - bottom + 20}" '
                f'text-anchor="middle">{escape(text)}</text>'
            )
    parts.append(
        f'<line class="gate" x1="{left}" y1="{y(gate):.1f}" x2="{WIDTH - right}" y2="{y(gate):.1f}">'
        f"<title>allowed for float32: {gate:.0e}</title></line>"
    )
    ends = _spread({kind: y(row[-1]) for kind, row in series.items()}, 15, top, height - bottom)
    for kind, row in series.items():
        points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(row))
        parts.append(f'<polyline class="line {kind}" points="{points}"/>')
        parts += [
            f'<circle class="{kind}" cx="{x(place):.1f}" cy="{y(value):.1f}" r="3">'
            f"<title>{kind}, {escape(x_labels[place])}: {value:.1e}</title></circle>"
            for place, value in enumerate(row)
        ]
        parts.append(
            f'<text class="name {kind}" x="{WIDTH - right + 10}" y="{ends[kind] + 4:.1f}">{kind}</text>'
        )
    return svg(height, parts, label)


def bars(rows: Sequence[Bar], label: str, scale: Callable[[float], float] | None = None) -> str:
    """Horizontal bars from a common zero, each with a tick where its gate stands.

    Args:
        scale: value -> share of the full length; `None` is linear up to the largest value or gate.
    """
    step, left, right = 30, 104, 150
    length = WIDTH - left - right
    largest = max([*(row.value for row in rows), *(row.gate or 0.0 for row in rows)]) or 1.0
    share = scale or (lambda value: value / largest)
    parts = []
    for number, row in enumerate(rows):
        top = number * step + 5
        wide = max(2.0, length * min(1.0, max(0.0, share(row.value))))
        parts.append(
            f'<text class="label" x="{left - 10}" y="{top + 14}" text-anchor="end">{escape(row.label)}</text>'
        )
        parts.append(
            f'<rect class="{row.kind}" x="{left}" y="{top}" width="{wide:.1f}" height="18" rx="3">'
            f"<title>{escape(row.label)}: {escape(row.shown)}</title></rect>"
        )
        behind = left + wide + 8
        if row.gate is not None:
            place = left + length * min(1.0, share(row.gate))
            parts.append(
                f'<line class="gate" x1="{place:.1f}" y1="{top - 3}" x2="{place:.1f}" y2="{top + 21}">'
                f"<title>allowed: {row.gate:g}</title></line>"
            )
            behind = max(behind, place + 8) if place < behind + 40 else behind
        parts.append(f'<text class="value" x="{behind:.1f}" y="{top + 14}">{escape(row.shown)}</text>')
    parts.insert(0, _grid(left, 2, left, len(rows) * step))
    return svg(len(rows) * step + 4, parts, label)


def histogram(counts: Sequence[int], kind: str, label: str) -> str:
    """How many prompts first differ at each new token; the last count, those that never do, is set apart."""
    width, height, left, top, bottom = 350, 130, 8, 18, 22
    slot = (width - left) / (len(counts) + 1)
    largest = max([*counts, 1])
    parts = [_grid(left, height - bottom, width, height - bottom)]
    for place, count in enumerate(counts):
        is_last = place == len(counts) - 1
        x = left + slot * (place + (1 if is_last else 0))
        tall = (height - top - bottom) * count / largest
        name = "never" if is_last else str(place + 1)
        tone = kind if is_last else f"{kind} faint"
        parts.append(
            f'<rect class="{tone}" x="{x + 1:.1f}" y="{height - bottom - tall:.1f}" width="{slot - 2:.1f}" '
            f'height="{tall:.1f}" rx="2"><title>{name}: {count} prompts</title></rect>'
        )
        if count:
            parts.append(
                f'<text class="value small" x="{x + slot / 2:.1f}" y="{height - bottom - tall - 4:.1f}" '
                f'text-anchor="middle">{count}</text>'
            )
        if is_last or place % 4 == 0:
            parts.append(
                f'<text class="tick" x="{x + slot / 2:.1f}" y="{height - 6}" '
                f'text-anchor="middle">{name}</text>'
            )
    return svg(height, parts, label, width)


def logarithmic(low: float, high: float) -> Callable[[float], float]:
    """A scale for `bars`: 0 at or below `low`, 1 at `high`."""
    return lambda value: math.log(max(value, low) / low) / math.log(high / low)


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:g}" y1="{y1:.1f}" x2="{x2:g}" y2="{y2:.1f}"/>'


def _power(power: int) -> str:
    """10 to a power, with the exponent raised."""
    return f'10<tspan dy="-5" font-size="9">{power}</tspan>'


def _spread(places: dict[str, float], gap: float, top: float, bottom: float) -> dict[str, float]:
    """Moves labels apart that would overlap, keeping their order."""
    spread, last = {}, top - gap
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        last = max(place, last + gap)
        spread[name] = last
    over = max(0.0, last - bottom)
    return {name: place - over for name, place in spread.items()}
