"""How a run is cut into calls of `fit`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgpt.training.parts import Part, parts_of


def ends_of(parts):
    return [part.start_step + n * part.steps for part in parts for n in range(1, part.epochs + 1)]


@pytest.mark.parametrize(
    ("start", "total", "intervals", "expected"),
    [
        (0, 500, (100, 100), [Part(0, 0, 100, 5)]),
        (0, 100, (250, 250), [Part(0, 0, 100, 1)]),
        (0, 1001, (250, 250), [Part(0, 0, 250, 4), Part(1000, 4, 1, 1)]),
        (200, 500, (100, 50), [Part(200, 4, 50, 6)]),
        (18, 24, (4, 4), [Part(18, 5, 2, 1), Part(20, 6, 4, 1)]),
        (24, 24, (4, 4), []),
    ],
)
def test_examples(start, total, intervals, expected):
    assert parts_of(start, total, *intervals) == expected


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 70), st.integers(1, 70), st.integers(1, 12))
def test_an_epoch_ends_wherever_something_is_due(start, more, validate, checkpoint, wanted):
    total = start + more
    parts = parts_of(start, total, validate, checkpoint)
    due = {s for s in range(start + 1, total + 1) if s % validate == 0 or s % checkpoint == 0} | {total}
    assert ends_of(parts) == sorted(due)
    epochs = [part.first_epoch + n for part in parts for n in range(part.epochs)]
    assert epochs == list(range(epochs[0], epochs[0] + len(due)))
    validated = [epoch for part in parts for epoch in part.epochs_that_end_at(validate, total)]
    numbers = dict(zip(ends_of(parts), epochs, strict=True))
    assert validated == [numbers[s] + 1 for s in sorted(due) if s % validate == 0 or s == total]
    for part in parts:
        together = part.steps_per_execution(wanted)
        assert together <= wanted and part.steps % together == 0


def test_short_steps_run_together_as_far_as_they_go():
    assert Part(0, 0, 250, 4).steps_per_execution(10) == 10
    assert Part(1000, 4, 5, 1).steps_per_execution(10) == 5
    assert Part(1000, 4, 1, 1).steps_per_execution(10) == 1
