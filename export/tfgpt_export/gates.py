"""Which gates an artifact has to pass, from the numbers in `tolerances.py`."""

from dataclasses import dataclass, field

from tfgpt_export import tolerances

# The measures of an `Agreement` that are judged, and the share of decided greedy tokens.
NOT_JUDGED = 1.0  # a share that is never exceeded
JUDGED = ("kl_divergence", "perplexity_change")


class VerificationError(RuntimeError):
    """An artifact does not say what the Keras model says; the export stops and leaves nothing."""


def is_lossless(name: str) -> bool:
    """Whether an artifact computes what Keras does, in float32."""
    return name not in tolerances.QUANTIZED


@dataclass(frozen=True)
class Gates:
    """What one artifact may differ by.

    Args:
        tolerance: of every tensor, relative to its size; `None`: differences are only reported.
        predictions: measure of an `Agreement` -> its limit.
        greedy: share of Keras's decided greedy tokens that may differ; `None`: no token but at a tie.
    """

    tolerance: float | None = None
    predictions: dict[str, float] = field(default_factory=dict)
    greedy: float | None = None


def gates_of(name: str, text_is_given: bool) -> Gates:
    """The gates against Keras. Rounding is judged on text that was given: a model's own may be noise."""
    tolerance = tolerances.TOLERANCES.get(name)
    if is_lossless(name):
        return Gates(tolerance)
    if not text_is_given:
        return Gates(tolerance, greedy=NOT_JUDGED)
    return Gates(tolerance, tolerances.QUANTIZED[name], tolerances.GREEDY.get(name))


def gates_again(name: str, measured: dict[str, float]) -> Gates:
    """The gates against recorded answers: what was `measured` against them when the export was made."""
    tolerance = tolerances.TOLERANCES.get(name)
    if is_lossless(name):
        return Gates(tolerance)
    limits = {
        measure: tolerances.AGAIN_FACTOR * abs(value) + tolerances.AGAIN_MORE
        for measure, value in measured.items()
    }
    return Gates(tolerance, {measure: limits[measure] for measure in JUDGED}, limits["greedy"] + 0.01)


def broken_limits(name: str, agreement, limits: dict[str, float]) -> list[str]:
    """One line for each measure of an `Agreement` that is over its limit, or NaN."""
    broken = []
    for measure, limit in limits.items():
        value = abs(getattr(agreement, measure))
        if not value <= limit:
            broken.append(
                f"{name}: {measure.replace('_', ' ')} against Keras is {value:.3g}, "
                f"expected at most {limit:.3g}"
            )
    return broken
