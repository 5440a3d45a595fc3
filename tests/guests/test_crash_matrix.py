"""A part of the crash matrix that covers every row and every column; `make chaos` runs all of it."""

from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from lab.guest.spec import DiskSpec
from tests.chaos import matrix, stage, trial
from tests.chaos.faults import FAULTS
from tests.chaos.points import POINTS, Boundary, Durations, InHook, Middle, Point
from tests.chaos.stage import Stage
from tests.chaos.trial import Recipe
from tests.helpers import MIB
from workflows.migration.links import LINKS, StepName

pytestmark = pytest.mark.guests

LANES = 3
"""So many processes of pytest-xdist, each with a stage of its own, share the cells."""
ENDED_WELL = {"done", "rolled_back"}


@pytest.fixture(scope="module")
def measured() -> Iterator[tuple[Stage, Durations]]:
    """A stage, and what each link takes on it."""
    with stage.raised() as here:
        yield here, trial.measure(here)


def _parameters() -> Iterator[ParameterSet]:
    """The cells, dealt out to the lanes by turns, the slow ones first."""
    for number, (row, column) in enumerate(sorted(matrix.chosen(), key=lambda cell: -FAULTS[cell[1]].lasts_s)):
        marks = [pytest.mark.xdist_group(f"crash-{number % LANES}")]
        if _is_of_an_option(POINTS[row]):
            marks.append(pytest.mark.thorough)
        yield pytest.param((row, column), marks=marks, id=f"{POINTS[row].name}: {FAULTS[column].name}")


OF_SOME_MOVES = {StepName.COPY_FILES, StepName.AFTER_SWITCHOVER, StepName.CHECK_GUEST, StepName.COMPARE_IMAGES}
"""In a plain move these steps have little to do or nothing."""


def _is_of_an_option(point: Point) -> bool:
    """Only a move with files, hooks, a check, a proof, a way home or a launcher comes to this point with work to do."""
    if isinstance(point, Boundary | Middle) and LINKS[point.seq - 1][0] in OF_SOME_MOVES:
        return True
    return isinstance(point, InHook) or point.goes_back or point.goes_again or point.launched


@pytest.mark.parametrize("cell", list(_parameters()))
def test_whatever_strikes_at_whatever_point_the_guest_is_safe_and_nothing_is_left(
    measured: tuple[Stage, Durations], cell: matrix.Cell
) -> None:
    outcome = matrix.try_cell(*measured, cell)
    assert not outcome.problems, "\n".join(outcome.problems)
    if not FAULTS[cell[1]].may_lose_guest:
        assert outcome.state in ENDED_WELL | {"absent", "missed"}, outcome.said


@pytest.mark.thorough
@pytest.mark.xdist_group("crash-0")
def test_a_link_cut_for_good_while_several_disks_are_copied_is_no_match_for_rollback(
    measured: tuple[Stage, Durations],
) -> None:
    """QEMU changes nothing about one mirror while requests of another are on their way over the dead link."""
    [copying] = [point for point in POINTS if point.name == "during `await_sync`"]
    [cut] = [fault for fault in FAULTS if fault.name == "link cut for good"]
    disks = tuple(DiskSpec(size_bytes=128 * MIB, bus="virtio-scsi") for _ in range(3))
    outcome = trial.run(measured[0], copying, cut, measured[1], Recipe(disks=disks, fill_mib=32))
    assert not outcome.problems, "\n".join(outcome.problems)
    assert outcome.state == "rolled_back", outcome.said


@pytest.mark.xdist_group("crash-0")
def test_the_chosen_part_covers_every_row_and_every_column() -> None:
    rows, columns = zip(*matrix.chosen(), strict=True)
    assert set(rows) == set(range(len(POINTS)))
    assert set(columns) == set(range(len(FAULTS)))
