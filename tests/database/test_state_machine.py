"""A job and its steps, driven by random events on real Postgres: whatever happens, somebody can go on with it.

The rules are the public functions that workers, the controller and operators call; hosts and guest are played. The
invariants are checked after each of them. The same events are tried each time, so that a failure is a change's;
`DROVER_TEST_EXAMPLES=2000 pytest tests/database/test_state_machine.py --timeout 0` tries so many other lives of a job,
and looks for the shortest one that fails.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
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
from workflows.migration import admission, chain, claims, jobs, operator_actions, reconcile
from workflows.migration.chain import StepName
from workflows.migration.claims import Claim

EXAMPLES = os.environ.get("DROVER_TEST_EXAMPLES")
HOSTS = {Side.SOURCE: "one", Side.DESTINATION: "two"}
SENDS_RAM = chain.LINKS.index(("migrate_ram", Side.SOURCE)) + 1
LETS_RUN = chain.LINKS.index(("cutover", Side.DESTINATION)) + 1
HERE, LONG_AGO = datetime(2100, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)
NO_REDIS = "no message is sent here"
STANDS_STILL = Observation(alive=False)
_numbers = count(1)


def _fail(claim: Claim) -> None:
    claims.fail(claim, "too late")


def anybody(machine: "Life") -> bool:
    """A worker holds a claim."""
    return machine.claim is not None


def doing(machine: "Life") -> bool:
    """A worker holds a claim, and brings its step about."""
    return machine.claim is not None and machine.claim.direction is Direction.DO


class Life(RuleBasedStateMachine):
    """One job, from its submission on."""

    seen: ClassVar[Observation] = STANDS_STILL
    """What both hosts answer when they are asked about the guest."""

    @initialize(done=st.integers(0, len(chain.LINKS) - 1))
    def submit(self, done: int) -> None:
        """It begins, and so many of its steps are done without anything else happening. With none it waits."""
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
        if done > 0:
            self.admit()
        for _ in range(done):
            self.job = self._load()
            self.take_the_next_step()
            self.finish()
        self.job = self._load()

    @precondition(lambda self: self.job.state.finished)
    @rule(done=st.integers(0, len(chain.LINKS) - 1))
    def submit_another(self, done: int) -> None:
        """An example goes on with a new job."""
        self.submit(done)

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

    @precondition(lambda self: self.claim is None and self.job.next_step is not None)
    @rule()
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

    @rule(seq=st.integers(1, len(chain.LINKS)), direction=st.sampled_from(Direction), late=st.booleans())
    def receive_a_message_that_is_late_double_or_forged(self, seq: int, direction: Direction, late: bool) -> None:
        step = self.job.next_step
        due = step is not None and (seq, direction) == (step.seq, self.job.direction)
        if late or not due:
            assert self._take(seq, direction, self.job.epoch - late) is None

    @precondition(anybody)
    @rule()
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

    @precondition(doing)
    @rule()
    def let_the_guest_go(self) -> None:
        assert self.claim is not None
        self.let_go = self.let_go or self.claim.seq == SENDS_RAM

    @precondition(doing)
    @rule(data=st.data())
    def begin_anew(self, data: st.DataObject) -> None:
        claim = self.claim
        assert claim is not None
        edges = sorted(chain.RESTARTS.get((StepName(claim.name), claim.side), ()))
        if not edges or self.let_go:
            return
        if claim.seq == SENDS_RAM:
            claims.note(claim, cutover_begun_at=None)
        claims.retry(self._ended(), "it got nowhere", timedelta(0), data.draw(st.sampled_from(edges)))

    @precondition(anybody)
    @rule()
    def try_again(self) -> None:
        claims.retry(self._ended(), "it took no effect", timedelta(0))

    @precondition(anybody)
    @rule()
    def fail(self) -> None:
        claims.fail(self._ended(), "no")

    @precondition(lambda self: doing(self) and self._load().cancel_requested and not self.let_go)
    @rule()
    def stop_on_request(self) -> None:
        claims.give_up(self._ended(), "cancelled on request")

    @precondition(lambda self: doing(self) and self.claim.seq == LETS_RUN)
    @rule()
    def find_that_it_never_ran(self) -> None:
        self.let_go = False
        claims.go_back(self._ended(), "its QEMU died before it was told to run")

    @precondition(anybody)
    @rule()
    def stop_for_an_operator(self) -> None:
        claims.stop_for_operator(self._ended(), "nobody can tell who owns the guest")

    @precondition(anybody)
    @rule()
    def hand_back(self) -> None:
        claims.hand_back(self._ended())

    @precondition(lambda self: self.former)
    @rule(how=st.sampled_from([claims.finish, claims.hand_back, _fail]))
    def write_for_a_claim_that_is_over(self, how: Callable[[Claim], None]) -> None:
        for former in self.former[-2:]:
            with pytest.raises(LeaseLost):
                how(former)

    # what the controller does

    @precondition(lambda self: self.job.state is JobState.QUEUED)
    @rule()
    def admit(self) -> None:
        with transaction() as session:
            assert admission.admit(session, ours()) == {}

    @rule()
    def look(self) -> None:
        with transaction() as session:
            job = claims.lock(session, self.job_id)
            assert job is not None
            loop.advance(session, job, ours(), NO_REDIS)

    @precondition(anybody)
    @rule()
    def take_a_claim_away(self) -> None:
        self._ended()
        with transaction() as session:
            mine = Step.job_id == self.job_id
            claims.expire(session, mine, "its lease ran out", actor=Actor.CONTROLLER, by="controller")

    @rule(host=st.sampled_from(sorted(HOSTS.values())))
    def fall_silent(self, host: str) -> None:
        self._heard_of(host, LONG_AGO)

    @rule()
    def come_back(self) -> None:
        for name in HOSTS.values():
            self._heard_of(name, HERE)
        for job_id in loop._waiting_for_a_host(ours()):
            loop.go_on_with_returned(job_id)

    # what operators do

    @rule()
    def cancel(self) -> None:
        with suppress(PreconditionFailed):
            jobs.cancel(self.job_id)

    @precondition(lambda self: self.job.state is JobState.NEEDS_OPERATOR)
    @rule()
    def retry(self) -> None:
        jobs.retry(self.job_id)

    @precondition(lambda self: self.job.state is JobState.NEEDS_OPERATOR)
    @rule(owner=st.sampled_from(Side), fence=st.booleans(), died_there=st.booleans())
    def resolve(self, owner: Side, fence: bool, died_there: bool) -> None:
        """The operator makes the statement true."""
        other = Side.SOURCE if owner is Side.DESTINATION else Side.DESTINATION
        Life.seen = Observation(alive=False, may_run=died_there)
        operator_actions.resolve(self.job_id, owner, HOSTS[other] if fence else None)
        self.let_go = owner is Side.DESTINATION

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
                max_examples=int(EXAMPLES or 30),
                derandomize=EXAMPLES is None,
                stateful_step_count=35,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink) if EXAMPLES else (Phase.generate,),
                report_multiple_bugs=False,
            ),
        )
