"""An operator's word counts for what was seen; here what the hosts answer is given."""

import pytest

from drover.errors import PreconditionFailed
from models.job import Job, JobState, Side
from tests.factories import guest, host, job, load
from workflows.migration import operator_actions, reconcile
from workflows.migration.reconcile import Look

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def waiting() -> int:
    """A job that waits for a person to say who owns its guest."""
    host("one")
    host("two")
    guest("web", "one")
    return job("web", "two", state=JobState.NEEDS_OPERATOR)


def test_of_two_operators_who_decide_at_once_only_the_first_is_heeded(
    waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(job: Job) -> Look:
        # while these hosts are asked, another operator gives the guest to the destination
        monkeypatch.undo()  # codespell:ignore undo
        operator_actions.resolve(waiting, Side.DESTINATION, fenced="one")
        return Look(job.id, job.guest, {}, reconcile.verdict(None, None))

    monkeypatch.setattr(reconcile, "look", look)
    with pytest.raises(PreconditionFailed, match="went on while its hosts were asked, it is running now"):
        operator_actions.resolve(waiting, Side.SOURCE, fenced="two")
    assert load(waiting).state is JobState.RUNNING
    assert load(waiting).fenced == "one"
