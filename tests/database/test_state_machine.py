"""A job and its steps, driven by random events on real Postgres: whatever happens, somebody can go on with it.

The rules are the public functions that workers, the controller and operators call; hosts and guest are played. The
invariants are checked after each of them. The same events are tried each time, so that a failure is a change's;
`DROVER_TEST_EXAMPLES=2000 pytest tests/database/test_state_machine.py --timeout 0` tries so many other lives of a job,
and looks for the shortest one that fails.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from itertools import count, product
from typing import Any, ClassVar, NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run
from sqlalchemy import delete, text, update
from sqlalchemy.orm import selectinload

from drover.controller import loop
from drover.errors import LeaseLost, PreconditionFailed
from drover.settings import settings as ours
from models.database import engine, transaction
from models.guest import Guest
from models.host import Host
from models.host_rpc import Observation
from models.job import Job, Side, Step
from models.transitions import CLAIMED, WAYS, Actor, Direction, JobState, StepState
from tests import factories
from tests.documents import plan
from tests.transition_guard import guarded
from workflows.migration import admission, claims, jobs, links, operator_actions, reconcile
from workflows.migration.claims import Claim
from workflows.migration.links import StepName

pytestmark = pytest.mark.thorough

EXAMPLES = os.environ.get("DROVER_TEST_EXAMPLES")
HOSTS = {Side.SOURCE: "one", Side.DESTINATION: "two"}
SENDS_RAM = links.LINKS.index(("migrate_ram", Side.SOURCE)) + 1
LETS_RUN = links.LINKS.index(("cutover", Side.DESTINATION)) + 1
CLEARS = links.LINKS.index(("cleanup", Side.SOURCE)) + 1
HERE, LONG_AGO = datetime(2100, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)
NO_REDIS = "no message is sent here"
STANDS_STILL = Observation(alive=False)
F = TypeVar("F", bound=Callable[..., None])
_numbers = count(1)
STEPS_DONE = st.integers(0, 1) | st.integers(0, len(links.LINKS) - 1)
DECISIONS = st.sampled_from([None, None, *product(Side, (False, True))])
"""Of most jobs an operator decides at once who owns the guest, and whether the other host is fenced."""
STARTS = st.tuples(STEPS_DONE, DECISIONS) | st.tuples(st.integers(0, 1), st.just((Side.SOURCE, True)))
"""Half of the jobs were begun on the destination alone when that is fenced: nobody has anything left to do."""


def _fail(claim: Claim) -> None:
    claims.fail(claim, "too late")


def _try_again(claim: Claim) -> None:
    claims.retry(claim, "it took no effect", timedelta(0))


def _take_away(claim: Claim) -> None:
    with transaction() as session:
        mine = Step.job_id == claim.job_id
        claims.expire(session, mine, "its lease ran out", actor=Actor.CONTROLLER, by="controller")


class Event(NamedTuple):
    """What may happen to a job, while a condition holds."""

    may_happen: Callable[["Life"], Any]
    happen: Callable[..., None]
    arguments: dict[str, st.SearchStrategy[Any]]


EVENTS: list[Event] = []


def event(may_happen: Callable[["Life"], Any], **arguments: st.SearchStrategy[Any]) -> Callable[[F], F]:
    def listed(happen: F) -> F:
        EVENTS.append(Event(may_happen, happen, arguments))
        return happen

    return listed


def unfinished(machine: "Life") -> bool:
    return not machine.job.state.finished


def anybody(machine: "Life") -> bool:
    """A worker holds a claim."""
    return machine.claim is not None


def doing(machine: "Life", seq: int | None = None) -> bool:
    """A worker holds a claim, and brings its step about: that one, if any is named."""
    claim = machine.claim
    return claim is not None and claim.direction is Direction.DO and seq in {None, claim.seq}


class Life(RuleBasedStateMachine):
    """One job, from its submission on."""

    seen: ClassVar[Observation] = STANDS_STILL
    """What both hosts answer when they are asked about the guest."""

    @initialize(start=STARTS)
    def submit(self, start: tuple[int, tuple[Side, bool] | None]) -> None:
        """So many of its steps are done without anything else happening; the next may ask an operator, who decides."""
        done, decided = start
        with transaction() as session:
            session.execute(delete(Job))
            session.execute(delete(Guest))
        self.guest = f"g{next(_numbers)}"
        factories.guest(self.guest, "one")
        self.job_id = factories.job(self.guest, "two", plan=plan())
        self.claim: Claim | None = None
        self.former: list[Claim] = []
        self.effects: set[int] = set()
        """The steps that may have left something on their host."""
        self.let_go = False
        """The source has told the destination to run: the destination owns the guest."""
        for name in HOSTS.values():
            self._heard_of(name, HERE)
        self.job = self._load()
        if done or decided:
            self.admit()
        for end in [self.finish] * done + [self.stop_for_an_operator] * bool(decided):
            self.job = self._load()
            self.take_the_next_step()
            end()
        if decided:
            self.resolve(*decided, died_there=False)
        self.job = self._load()

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """The one rule: of several, hypothesis switches most off in an example, and the job gets nowhere."""
        drawn = data.draw(st.sampled_from([one for one in EVENTS if one.may_happen(self)]))
        drawn.happen(self, **data.draw(st.fixed_dictionaries(drawn.arguments)))

    @event(lambda self: self.job.state.finished, start=STARTS)
    def submit_another(self, start: tuple[int, tuple[Side, bool] | None]) -> None:
        """An example goes on with a new job."""
        self.submit(start)

    def _load(self) -> Job:
        with transaction() as session:
            return session.get_one(Job, self.job_id, options=[selectinload(Job.steps)])

    def _heard_of(self, host: str, at: datetime) -> None:
        with transaction() as session:
            session.execute(update(Host).where(Host.name == host).values(heartbeat_at=at))

    def _ended(self) -> Claim:
        """The claim, which is to be ended now."""
        assert self.claim is not None
        claim, self.claim = self.claim, None
        self.former.append(claim)
        return claim

    def _take(self, seq: int, direction: Direction, epoch: int) -> Claim | None:
        step = self.job.steps[seq - 1]
        return claims.claim(
            job_id=self.job_id,
            seq=seq,
            name=step.name,
            epoch=epoch,
            direction=direction,
            host=step.host,
            owner=f"{step.host}-1",
            settings=ours(),
        )

    # what workers do

    @event(lambda self: self.claim is None and self.job.next_step is not None)
    def take_the_next_step(self) -> None:
        step, direction = self.job.next_step, self.job.direction
        assert step is not None
        assert direction is not None
        self.claim = self._take(step.seq, direction, self.job.epoch)
        assert self.claim is not None, f"{step.name} is due, and cannot be claimed"
        if direction is Direction.DO:
            self.effects.add(step.seq)
            if step.seq == SENDS_RAM:
                claims.note(self.claim, cutover_begun_at=HERE)

    @event(anybody)
    def finish(self) -> None:
        claim = self.claim
        assert claim is not None
        if claim.direction is Direction.ROLLBACK:
            if claim.seq == SENDS_RAM and self.let_go and not claim.job.kept_by_source:
                claims.go_forward(self._ended(), "the source has handed the guest over")
                return
            self.effects.discard(claim.seq)
        elif claim.seq == SENDS_RAM:
            self.let_go = True
            claims.note(claim, committed_at=claim.job.committed_at or claim.now())
        elif claim.seq == LETS_RUN:
            with claims.fenced(claim) as (session, job, _):
                session.get_one(Guest, job.guest).lives_on("two", "/qmp")
        claims.finish(self._ended())

    @event(lambda self: doing(self, SENDS_RAM))
    def let_the_guest_go(self) -> None:
        self.let_go = True

    @event(lambda self: doing(self) and not self.let_go and self._edges(), which=st.integers(0, 2))
    def begin_anew(self, which: int) -> None:
        edges = self._edges()
        claim = self._ended()
        if claim.seq == SENDS_RAM:
            claims.note(claim, cutover_begun_at=None)
        claims.retry(claim, "it got nowhere", timedelta(0), edges[which % len(edges)])

    def _edges(self) -> list[links.Restart]:
        claim = self.claim
        return [] if claim is None else sorted(links.RESTARTS.get((StepName(claim.name), claim.side), ()))

    @event(anybody, how=st.sampled_from([_try_again, claims.hand_back, _take_away]))
    def leave_the_step_to_another_attempt(self, how: Callable[[Claim], None]) -> None:
        how(self._ended())

    @event(anybody)
    def fail(self) -> None:
        claims.fail(self._ended(), "no")

    @event(lambda self: doing(self) and self.job.cancel_requested and not self.let_go)
    def stop_on_request(self) -> None:
        claims.give_up(self._ended(), "cancelled on request")

    @event(lambda self: doing(self, LETS_RUN))
    def find_that_it_never_ran(self) -> None:
        self.let_go = False
        claims.go_back(self._ended(), "its QEMU died before it was told to run")

    @event(anybody)
    def stop_for_an_operator(self) -> None:
        claims.stop_for_operator(self._ended(), "nobody can tell who owns the guest")

    @event(lambda self: self.former, how=st.sampled_from([claims.finish, claims.hand_back, _fail]))
    def write_for_a_claim_that_is_over(self, how: Callable[[Claim], None]) -> None:
        with pytest.raises(LeaseLost):
            how(self.former.pop())

    @event(unfinished, seq=st.integers(1, len(links.LINKS)), direction=st.sampled_from(Direction), late=st.booleans())
    def receive_a_message_that_is_late_double_or_forged(self, seq: int, direction: Direction, late: bool) -> None:
        step = self.job.next_step
        due = step is not None and (seq, direction) == (step.seq, self.job.direction)
        if late or not due:
            assert self._take(seq, direction, self.job.epoch - late) is None

    # what the controller does

    @event(lambda self: self.job.state is JobState.QUEUED)
    def admit(self) -> None:
        with transaction() as session:
            assert admission.admit(session, ours()) == {}

    @event(lambda self: self.job.direction is not None)
    def look(self) -> None:
        with transaction() as session:
            job = claims.lock(session, self.job_id)
            assert job is not None
            loop.advance(session, job, ours(), NO_REDIS)

    @event(unfinished, silent=st.sampled_from([*HOSTS.values(), None]))
    def fall_silent_or_come_back(self, silent: str | None) -> None:
        for name in HOSTS.values() if silent is None else [silent]:
            self._heard_of(name, HERE if silent is None else LONG_AGO)
        for job_id in loop._waiting_for_a_host(ours()):
            loop.go_on_with_returned(job_id)

    # what operators do

    @event(lambda self: unfinished(self) and not self.job.cancel_requested)
    def cancel(self) -> None:
        with suppress(PreconditionFailed):
            jobs.cancel(self.job_id)

    @event(lambda self: self.job.state is JobState.NEEDS_OPERATOR)
    def retry(self) -> None:
        jobs.retry(self.job_id)

    @event(
        lambda self: self.job.state is JobState.NEEDS_OPERATOR,
        owner=st.sampled_from(Side),
        fence=st.booleans(),
        died_there=st.booleans(),
    )
    def resolve(self, owner: Side, fence: bool, died_there: bool) -> None:
        """The operator makes the statement true."""
        other = Side.SOURCE if owner is Side.DESTINATION else Side.DESTINATION
        Life.seen = Observation(alive=False, may_run=died_there)
        cleared = self._load().steps[CLEARS - 1].started_at is not None
        refused = owner is Side.SOURCE and cleared and not fence
        with pytest.raises(PreconditionFailed, match="has removed what it had") if refused else nullcontext():
            operator_actions.resolve(self.job_id, owner, HOSTS[other] if fence else None)
        self.let_go = refused or owner is Side.DESTINATION

    # what is always true

    @invariant()
    def at_most_one_step_is_claimed_by_one_worker(self) -> None:
        self.job = self._load()
        claimed = [step for step in self.job.steps if step.state in CLAIMED]
        held = [] if self.claim is None else [(self.claim.seq, self.claim.token)]
        assert [(step.seq, step.token) for step in claimed] == held
        assert all(step.owner and step.lease_until and step.token == self.job.token for step in claimed)
        assert all(step.owner is None for step in self.job.steps if step not in claimed)
        assert all(step.state is WAYS[self.job.direction].claimed for step in claimed if self.job.direction)

    @invariant()
    def somebody_can_go_on_with_it(self) -> None:
        job = self.job
        if job.state is JobState.NEEDS_OPERATOR:
            assert job.error
        elif job.state in {way.job for way in WAYS.values()}:
            assert self.claim is not None or job.next_step is not None, f"it is {job.state}, and nothing is runnable"
        else:
            assert job.state is JobState.QUEUED or job.state.finished

    @invariant()
    def one_host_owns_the_guest(self) -> None:
        job = self.job
        assert not (job.committed_at and job.kept_by_source)
        if job.state is JobState.DONE:
            assert self.let_go
        if job.state is JobState.ROLLED_BACK:
            assert not self.let_go
            assert job.committed_at is None
        if job.state.finished:
            with transaction() as session:
                lives_on = session.get_one(Guest, self.guest).host
            assert lives_on == (job.destination if job.state is JobState.DONE else job.source)

    @invariant()
    def of_a_job_that_is_rolled_back_nothing_is_left(self) -> None:
        if self.job.state is JobState.ROLLED_BACK:
            left = {step.seq for step in self.job.steps if step.host != self.job.fenced} & self.effects
            assert not left
            assert {step.state for step in self.job.steps if step.started_at} <= {StepState.ROLLED_BACK}

    @invariant()
    def of_a_job_that_is_done_every_step_is_done(self) -> None:
        if self.job.state is JobState.DONE:
            assert {step.state for step in self.job.steps} == {StepState.DONE}


@contextmanager
def _commits_unflushed() -> Iterator[None]:
    """Postgres does not wait for its disk: nothing here is about what survives a crash of it."""

    def execute(change: str) -> None:
        with transaction() as session:
            session.execute(text(f"ALTER ROLE CURRENT_USER {change}"))
        engine().dispose()  # new connections begin with it

    execute("SET synchronous_commit = off")
    try:
        yield
    finally:
        execute("RESET synchronous_commit")


@pytest.mark.usefixtures("database")
def test_whatever_happens_a_job_is_never_stuck_never_owned_twice_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in HOSTS.values():
        factories.host(name)

    def look(job: Job) -> reconcile.Look:
        return reconcile.Look(job.id, job.guest, dict.fromkeys(Side, Life.seen), reconcile.verdict(None, None))

    monkeypatch.setattr(reconcile, "look", look)
    with guarded(), _commits_unflushed():
        run(
            Life,
            settings=settings(
                max_examples=int(EXAMPLES or 40),
                derandomize=EXAMPLES is None,
                stateful_step_count=20,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink) if EXAMPLES else (Phase.generate,),
                report_multiple_bugs=False,
            ),
        )
