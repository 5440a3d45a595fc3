"""An operator's statement replaces the hosts' answers; here the answers are given."""

import pytest
from sqlalchemy import func

from drover.controller import loop
from drover.errors import PreconditionFailed
from drover.settings import settings
from models.database import transaction
from models.guest import Guest
from models.host_rpc import Observation
from models.job import Job, JobState, Side, StepState
from models.plan import Plan
from models.transitions import Actor
from tests import documents
from tests.factories import guest, host, job, load
from workflows.migration import claims, links, operator_actions, reconcile
from workflows.migration.links import StepName
from workflows.migration.reconcile import Look, Verdict

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def waiting() -> int:
    """A job that waits for an operator to decide who owns its guest."""
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


STANDS_STILL = Observation(alive=False)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both hosts report that the guest's QEMU is dead there."""
    verdict = reconcile.verdict(None, None)
    seen: dict[Side, Observation | None] = dict.fromkeys(Side, STANDS_STILL)
    monkeypatch.setattr(reconcile, "look", lambda job: Look(job.id, job.guest, seen, verdict))


def begun(job_id: int, *positions: int, committed: bool = False) -> None:
    """The steps at these positions of the chain were begun."""
    with transaction() as session:
        row = session.get_one(Job, job_id)
        row.error, row.committed_at = "it is silent", func.now() if committed else None
        for position in positions:
            row.steps[position].started_at = func.now()


@pytest.mark.usefixtures("seen")
def test_a_job_that_has_only_begun_on_the_fenced_host_is_rolled_back_at_once(waiting: int) -> None:
    begun(waiting, 0, 1)
    operator_actions.resolve(waiting, Side.SOURCE, fenced="two")
    assert load(waiting).state is JobState.ROLLED_BACK
    assert load(waiting).steps[0].error == "skipped: the source owns web, decided by command line; two is fenced"


@pytest.mark.usefixtures("seen")
def test_what_was_begun_on_the_other_host_is_rolled_back_first(waiting: int) -> None:
    begun(waiting, 0, 1, 2)
    operator_actions.resolve(waiting, Side.SOURCE, fenced="two")
    resolved = load(waiting)
    assert (resolved.state, resolved.next_step) == (JobState.ROLLING_BACK, resolved.steps[2])


def test_the_controller_ends_a_job_that_an_earlier_version_left_with_nothing_to_roll_back(waiting: int) -> None:
    with transaction() as session:
        stuck = session.get_one(Job, waiting)
        stuck.state = JobState.ROLLING_BACK
        loop.advance(session, stuck, settings())
    assert load(waiting).state is JobState.ROLLED_BACK


@pytest.mark.usefixtures("seen")
def test_a_guest_that_had_arrived_lives_at_the_source_again_when_an_operator_says_so(waiting: int) -> None:
    begun(waiting, 0, 1, committed=True)
    with transaction() as session:
        session.get_one(Guest, "web").lives_on("two", "/there")
        plan = Plan(source=documents.inspection(qmp="/here"), destination=documents.destination_plan())
        session.get_one(Job, waiting).plan = plan
    operator_actions.resolve(waiting, Side.SOURCE, fenced="two")
    with transaction() as session:
        found = session.get_one(Guest, "web")
        assert (found.host, found.qmp) == ("one", "/here")


@pytest.mark.usefixtures("seen")
@pytest.mark.parametrize("side", Side)
def test_a_person_goes_on_without_a_proof_that_failed_and_the_images_stay_but_reconciliation_does_not(
    waiting: int, side: Side
) -> None:
    place = links.LINKS.index((StepName.COMPARE_IMAGES, side))
    with transaction() as session:
        row = session.get_one(Job, waiting)
        row.error, row.committed_at = "its images differ", func.now()
        for step in row.steps[:place]:
            step.state = StepState.DONE
        row.steps[place].state = StepState.FAILED
    certain = Verdict(reconcile.Owner.DESTINATION, "it runs there")
    assert not operator_actions.by_what_was_seen(load(waiting), Look(waiting, "web", {}, certain), "test")

    operator_actions.resolve(waiting, Side.DESTINATION, fenced=None)
    row = load(waiting)
    assert row.way_back_needed
    assert row.steps[place].state is StepState.DONE
    assert [step.name for step in row.remaining] == [StepName.CLEANUP] * 2


@pytest.mark.usefixtures("seen")
def test_of_two_words_of_an_operator_the_later_one_counts(waiting: int) -> None:
    begun(waiting, 0, 2)
    operator_actions.resolve(waiting, Side.SOURCE, fenced=None)
    with transaction() as session:
        claims.ask_operator(session, session.get_one(Job, waiting), "again", actor=Actor.CONTROLLER, by="test")
    operator_actions.resolve(waiting, Side.DESTINATION, fenced=None)
    resolved = load(waiting)
    assert (resolved.kept_by_source, resolved.committed_at is not None) == (False, True)


@pytest.mark.usefixtures("seen")
def test_a_silent_host_turns_no_job_round_whose_guest_is_at_the_destination_by_an_operators_word(waiting: int) -> None:
    begun(waiting, 0)
    operator_actions.resolve(waiting, Side.DESTINATION, fenced=None)
    with transaction() as session:
        row = session.get_one(Job, waiting)
        assert row.next_step is not None
        loop.give_up_waiting(session, row, row.next_step)
    assert load(waiting).state is JobState.NEEDS_OPERATOR


@pytest.mark.usefixtures("seen")
def test_a_source_that_has_cleared_away_gets_no_guest_back_while_its_destination_may_have_it(waiting: int) -> None:
    begun(waiting, 0, links.LINKS.index((StepName.CLEANUP, Side.SOURCE)), committed=True)
    with pytest.raises(PreconditionFailed, match=r"only two can go on with it.*--owner source --fenced two"):
        operator_actions.resolve(waiting, Side.SOURCE, fenced=None)
    assert load(waiting).state is JobState.NEEDS_OPERATOR
    operator_actions.resolve(waiting, Side.SOURCE, fenced="two")
    assert load(waiting).state is JobState.ROLLING_BACK
