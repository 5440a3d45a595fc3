"""A part of the crash matrix that covers every row and every column; `make chaos` runs all of it."""

from collections.abc import Iterator

import pytest

from tests.chaos import matrix, stage, trial
from tests.chaos.faults import FAULTS
from tests.chaos.points import POINTS, Durations
from tests.chaos.stage import Stage

pytestmark = pytest.mark.guests

ENDED_WELL = {"done", "undone"}


@pytest.fixture(scope="module")
def measured() -> Iterator[tuple[Stage, Durations]]:
    """A stage, and what each link takes on it."""
    with stage.raised() as here:
        yield here, trial.measure(here)


@pytest.mark.parametrize("cell", matrix.chosen(), ids=lambda cell: f"{POINTS[cell[0]].name}: {FAULTS[cell[1]].name}")
def test_whatever_strikes_at_whatever_point_the_guest_is_safe_and_nothing_is_left(
    measured: tuple[Stage, Durations], cell: matrix.Cell
) -> None:
    outcome = matrix.try_cell(*measured, cell)
    assert not outcome.problems, "\n".join(outcome.problems)
    if not FAULTS[cell[1]].may_lose_guest:
        assert outcome.state in ENDED_WELL | {"absent", "missed"}, outcome.said


def test_the_chosen_part_covers_every_row_and_every_column() -> None:
    rows, columns = zip(*matrix.chosen(), strict=True)
    assert set(rows) == set(range(len(POINTS)))
    assert set(columns) == set(range(len(FAULTS)))
