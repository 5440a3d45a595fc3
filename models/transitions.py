"""All states of jobs, steps, drains and the guests of drains, and all ways from one state to another, as data.

`Table.apply` is the one function that returns the next state; it refuses what no row lists. Rows of the database change
their state by it alone: `Job.apply`, `Step.apply`, `Drain.move`, `DrainGuest.move`, and the statements by which a claim
is won and ended (`workflows.migration.claim_statements`), which take their states from `WAYS`.

States are stored by value: never rename or reuse one. `docs/explanation/states.md` shows these tables.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from drover.errors import DroverError

S = TypeVar("S", bound=enum.StrEnum)
E = TypeVar("E", bound=enum.StrEnum)


class IllegalTransition(DroverError):
    """A state change that no table lists: a bug of ours."""


class Actor(enum.StrEnum):
    """Who changes a state."""

    WORKER = "worker"
    CONTROLLER = "controller"
    OPERATOR = "operator"


WORKER = frozenset({Actor.WORKER})
CONTROLLER = frozenset({Actor.CONTROLLER})
OPERATOR = frozenset({Actor.OPERATOR})
ANYBODY = WORKER | CONTROLLER | OPERATOR


@dataclass(frozen=True)
class Transition(Generic[S, E]):
    """One row of a table: in `state`, `event` leads to `after` if it comes from one of `actors`."""

    state: S
    event: E
    after: S
    actors: frozenset[Actor]
    why: str


class Table(Generic[S, E]):
    """The transitions of one kind of row."""

    def __init__(self, kind: str, rows: Iterable[Transition[S, E]]) -> None:
        self.kind = kind
        self.rows = tuple(rows)
        self._rows = {(row.state, row.event): row for row in self.rows}
        assert len(self._rows) == len(self.rows), f"two rows for one state and event of a {kind}"

    def apply(self, state: S, event: E, actor: Actor | None = None) -> S:
        """The state after `event`; without an actor, only if every actor may cause it.

        Raises:
            IllegalTransition: the table has no such row, or not for this actor.
        """
        row = self._rows.get((state, event))
        if row is None:
            raise IllegalTransition(f"there is no '{event}' for a {self.kind} that is {state}")
        if not row.actors.issuperset({actor} if actor else ANYBODY):
            raise IllegalTransition(f"'{event}' of a {self.kind} that is {state} is not for {actor or 'anybody'}")
        return row.after

    def allows(self, state: S, event: E) -> bool:
        """The table has a row for it."""
        return (state, event) in self._rows

    def is_final(self, state: S) -> bool:
        """No event changes this state any more."""
        return all(row.state is not state for row in self.rows)

    def pairs(self) -> frozenset[tuple[S, S]]:
        """All changes of state that are legal."""
        return frozenset((row.state, row.after) for row in self.rows)


class JobState(enum.StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # accepted; nothing was touched yet
    RUNNING = "running"  # its steps are being done
    ROLLING_BACK = "rolling_back"  # its steps are being rolled back, last first; the guest runs at the source
    DONE = "done"  # the guest lives at the destination
    ROLLED_BACK = "rolled_back"  # the guest lives at the source as if nothing had been tried
    NEEDS_OPERATOR = "needs_operator"  # an operator must decide who owns the guest

    @property
    def finished(self) -> bool:
        """The job is over: no event changes it any more."""
        return self in FINISHED

    @property
    def settled(self) -> bool:
        """No step of the job runs by itself any more: it is finished, or waits for an operator."""
        return self.finished or self is JobState.NEEDS_OPERATOR


class JobEvent(enum.StrEnum):
    """What happens to a job."""

    BEGIN = "begin"
    FINISH = "finish"
    ROLL_BACK = "roll back"
    GO_FORWARD = "go forward"
    ASK = "ask an operator"


JOB: Table[JobState, JobEvent] = Table(
    "job",
    [
        Transition(JobState.QUEUED, JobEvent.BEGIN, JobState.RUNNING, CONTROLLER, "the controller admits it"),
        Transition(
            JobState.QUEUED,
            JobEvent.ROLL_BACK,
            JobState.ROLLED_BACK,
            CONTROLLER | OPERATOR,
            "cancelled or refused before it began",
        ),
        Transition(JobState.RUNNING, JobEvent.FINISH, JobState.DONE, ANYBODY, "the last step is done"),
        Transition(
            JobState.RUNNING,
            JobEvent.ROLL_BACK,
            JobState.ROLLING_BACK,
            ANYBODY,
            "a step failed for good, or the job was cancelled",
        ),
        Transition(
            JobState.RUNNING,
            JobEvent.ASK,
            JobState.NEEDS_OPERATOR,
            WORKER | CONTROLLER,
            "stuck past the point of no return, or nobody can tell who owns the guest",
        ),
        Transition(
            JobState.ROLLING_BACK, JobEvent.FINISH, JobState.ROLLED_BACK, ANYBODY, "the first step is rolled back"
        ),
        Transition(
            JobState.ROLLING_BACK,
            JobEvent.GO_FORWARD,
            JobState.RUNNING,
            WORKER,
            "the destination owns the guest already",
        ),
        Transition(
            JobState.ROLLING_BACK,
            JobEvent.ASK,
            JobState.NEEDS_OPERATOR,
            WORKER | CONTROLLER,
            "even the rollback failed for good",
        ),
        Transition(
            JobState.NEEDS_OPERATOR,
            JobEvent.GO_FORWARD,
            JobState.RUNNING,
            CONTROLLER | OPERATOR,
            "job retry, job resolve, or its hosts are back",
        ),
        Transition(
            JobState.NEEDS_OPERATOR,
            JobEvent.ROLL_BACK,
            JobState.ROLLING_BACK,
            CONTROLLER | OPERATOR,
            "job retry, job resolve, or its hosts are back",
        ),
    ],
)
FINISHED = tuple(state for state in JobState if JOB.is_final(state))
"""The states that no job leaves."""


class StepState(enum.StrEnum):
    """Where a step stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"  # for good; the job is being rolled back or waits for a person
    TO_ROLL_BACK = "to_roll_back"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


class StepEvent(enum.StrEnum):
    """What happens to a step."""

    CLAIM = "claim"
    FINISH = "finish"
    RETRY = "retry"
    HAND_BACK = "hand back"
    EXPIRE = "expire"
    FAIL = "fail"
    RESTART = "restart"
    ROLL_BACK = "roll back"
    GO_FORWARD = "go forward"
    REDO = "redo"
    SKIP = "skip"


def _each(
    event: StepEvent,
    states: Mapping[StepState, StepState],
    actors: frozenset[Actor],
    why: str,
) -> list[Transition[StepState, StepEvent]]:
    """One row for each state in which `event` means the same."""
    return [Transition(state, event, after, actors, why) for state, after in states.items()]


_LET_GO = {StepState.RUNNING: StepState.PENDING, StepState.ROLLING_BACK: StepState.TO_ROLL_BACK}
_FAILED = dict.fromkeys((StepState.RUNNING, StepState.ROLLING_BACK), StepState.FAILED)
_UNCLAIMED = (StepState.PENDING, StepState.DONE, StepState.FAILED, StepState.TO_ROLL_BACK, StepState.ROLLED_BACK)
_NOT_DONE = (StepState.PENDING, StepState.FAILED, StepState.TO_ROLL_BACK, StepState.ROLLED_BACK)

STEP: Table[StepState, StepEvent] = Table(
    "step",
    [
        *_each(
            StepEvent.CLAIM,
            {StepState.PENDING: StepState.RUNNING, StepState.TO_ROLL_BACK: StepState.ROLLING_BACK},
            WORKER,
            "a worker takes it up, see `claim_statements.TAKE`",
        ),
        *_each(
            StepEvent.FINISH,
            {StepState.RUNNING: StepState.DONE, StepState.ROLLING_BACK: StepState.ROLLED_BACK},
            WORKER,
            "its effect is in place, or taken away",
        ),
        *_each(StepEvent.RETRY, _LET_GO, WORKER, "it is tried again after a pause"),
        *_each(StepEvent.HAND_BACK, _LET_GO, WORKER, "its worker was told to stop"),
        *_each(StepEvent.EXPIRE, _LET_GO, WORKER | CONTROLLER, "its lease ran out, or its worker started anew"),
        *_each(StepEvent.FAIL, _FAILED, WORKER, "it failed for good, or its job was cancelled"),
        Transition(
            StepState.DONE,
            StepEvent.RESTART,
            StepState.PENDING,
            WORKER,
            "a later step begins anew from here, see `chain.RESTARTS`",
        ),
        *_each(
            StepEvent.ROLL_BACK,
            dict.fromkeys(_UNCLAIMED, StepState.TO_ROLL_BACK),
            ANYBODY,
            "its job is rolled back; only a step that was begun",
        ),
        *_each(
            StepEvent.GO_FORWARD,
            {
                StepState.ROLLING_BACK: StepState.DONE,
                StepState.TO_ROLL_BACK: StepState.DONE,
                StepState.ROLLED_BACK: StepState.PENDING,
            },
            WORKER,
            "the rollback came too late: its effect is still there, or has to be brought about again",
        ),
        *_each(
            StepEvent.REDO,
            dict.fromkeys(_NOT_DONE, StepState.PENDING),
            OPERATOR,
            "job retry, or job resolve for the destination",
        ),
        *_each(
            StepEvent.SKIP,
            {StepState.PENDING: StepState.DONE, StepState.TO_ROLL_BACK: StepState.ROLLED_BACK},
            OPERATOR,
            "job resolve: its host is fenced, or its work is of no use any more",
        ),
    ],
)


class Direction(enum.StrEnum):
    """Which way a claim takes its step."""

    DO = "do"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Way:
    """How the steps of a job are taken in one direction: one at a time, those in `left` in their order."""

    job: JobState
    """The job's state meanwhile."""
    due: StepState
    """Of a step that may be claimed once its turn comes."""
    left: frozenset[StepState]
    """Of steps that must be finished before any later one."""
    backwards: bool
    """The last step is the first."""

    @property
    def claimed(self) -> StepState:
        """Of a step that a worker holds a claim on."""
        return STEP.apply(self.due, StepEvent.CLAIM, Actor.WORKER)

    @property
    def finished(self) -> StepState:
        """Of a step that was taken to its end."""
        return STEP.apply(self.claimed, StepEvent.FINISH, Actor.WORKER)


WAYS: Mapping[Direction, Way] = {
    Direction.DO: Way(JobState.RUNNING, StepState.PENDING, frozenset(StepState) - {StepState.DONE}, backwards=False),
    Direction.ROLLBACK: Way(
        JobState.ROLLING_BACK,
        StepState.TO_ROLL_BACK,
        frozenset({StepState.TO_ROLL_BACK, StepState.ROLLING_BACK}),
        backwards=True,
    ),
}
"""Which step is next follows from this alone: `Job.remaining` and the statements of claims read it."""
CLAIMED = tuple(way.claimed for way in WAYS.values())
"""While a worker holds a claim on the step."""
GOING_ON = tuple(way.job for way in WAYS.values())
"""States of jobs that go on by themselves."""
BEGUN = (*GOING_ON, JobState.NEEDS_OPERATOR)
"""States of jobs that may have something on their hosts."""


class DrainState(enum.StrEnum):
    """Where a drain stands."""

    QUEUED = "queued"  # its time has not come
    RUNNING = "running"
    PAUSED = "paused"  # moves under way go on, no other begins
    CANCELLING = "cancelling"  # moves under way are being rolled back
    DONE = "done"  # the host is empty; or all guests are home
    INCOMPLETE = "incomplete"  # some guests are left; each has a reason
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """It does nothing more by itself."""
        return self in {DrainState.DONE, DrainState.INCOMPLETE, DrainState.CANCELLED}


class GuestState(enum.StrEnum):
    """What a drain has done about a guest."""

    WAITING = "waiting"  # its turn will come
    MOVING = "moving"  # its job is under way
    MOVED = "moved"
    SKIPPED = "skipped"  # it runs where it was; it has a reason


def _to(state: S, after: S, why: str) -> Transition[S, S]:
    """A row whose event is the next state."""
    return Transition(state, after, after, ANYBODY, why)


DRAIN: Table[DrainState, DrainState] = Table(
    "drain",
    [
        _to(DrainState.QUEUED, DrainState.RUNNING, "its time has come, the host is cordoned"),
        _to(DrainState.QUEUED, DrainState.CANCELLED, "before anything was touched"),
        _to(DrainState.RUNNING, DrainState.PAUSED, "drain pause"),
        _to(DrainState.PAUSED, DrainState.RUNNING, "drain resume"),
        _to(DrainState.RUNNING, DrainState.CANCELLING, "drain cancel"),
        _to(DrainState.PAUSED, DrainState.CANCELLING, "drain cancel"),
        _to(DrainState.CANCELLING, DrainState.CANCELLED, "its last move has ended"),
        _to(DrainState.RUNNING, DrainState.DONE, "the host is empty and in maintenance, or all guests are home"),
        _to(DrainState.RUNNING, DrainState.INCOMPLETE, "nothing is under way, some guests are left"),
        _to(DrainState.INCOMPLETE, DrainState.RUNNING, "drain resume"),
    ],
)
DRAIN_GUEST: Table[GuestState, GuestState] = Table(
    "guest of a drain",
    [
        _to(GuestState.WAITING, GuestState.MOVING, "its job was submitted"),
        _to(GuestState.WAITING, GuestState.MOVED, "somebody else moved it"),
        _to(GuestState.WAITING, GuestState.SKIPPED, "no host takes it, or the drain was cancelled"),
        _to(GuestState.MOVING, GuestState.MOVED, "its job is done"),
        _to(GuestState.MOVING, GuestState.WAITING, "its job was rolled back: another destination is looked for"),
        _to(GuestState.MOVING, GuestState.SKIPPED, "its job was cancelled or needs an operator"),
        _to(GuestState.SKIPPED, GuestState.WAITING, "the drain is resumed"),
        _to(GuestState.SKIPPED, GuestState.MOVED, "somebody else moved it"),
    ],
)


class RollState(enum.StrEnum):
    """Where a roll stands."""

    RUNNING = "running"
    PAUSED = "paused"  # nothing of it begins; a drain, a hook or a return that was begun ends by itself
    CANCELLING = "cancelling"  # what it began is being ended
    DONE = "done"  # every host has been out and is back
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """It does nothing more."""
        return self in {RollState.DONE, RollState.CANCELLED}


class RollHostState(enum.StrEnum):
    """How far a roll has come with a host."""

    WAITING = "waiting"  # its turn will come
    DRAINING = "draining"  # a drain empties it
    IN_HOOK = "in_hook"  # it is empty, the hook works on it
    COMING_BACK = "coming_back"  # the hook is done; it is not healthy yet
    RETURNING = "returning"  # a return brings its guests home
    DONE = "done"  # it has its guests again
    LEFT = "left"  # the roll was cancelled before it was done

    @property
    def ended(self) -> bool:
        """The roll is over with it."""
        return self in {RollHostState.DONE, RollHostState.LEFT}

    @property
    def out(self) -> bool:
        """It counts against the hosts that may be out at a time."""
        return not self.ended and self is not RollHostState.WAITING


ROLL: Table[RollState, RollState] = Table(
    "roll",
    [
        _to(RollState.RUNNING, RollState.PAUSED, "roll pause, or something failed on a host"),
        _to(RollState.PAUSED, RollState.RUNNING, "roll resume"),
        _to(RollState.RUNNING, RollState.CANCELLING, "roll cancel"),
        _to(RollState.PAUSED, RollState.CANCELLING, "roll cancel"),
        _to(RollState.CANCELLING, RollState.CANCELLED, "nothing of it is under way any more"),
        _to(RollState.RUNNING, RollState.DONE, "every host is done"),
    ],
)
ROLL_HOST: Table[RollHostState, RollHostState] = Table(
    "host of a roll",
    [
        _to(RollHostState.WAITING, RollHostState.DRAINING, "fewer hosts are out than may be"),
        _to(RollHostState.DRAINING, RollHostState.IN_HOOK, "its drain is done, nothing runs on it"),
        _to(RollHostState.IN_HOOK, RollHostState.COMING_BACK, "the hook ended with 0"),
        _to(RollHostState.COMING_BACK, RollHostState.RETURNING, "it is healthy: its worker was started anew"),
        _to(RollHostState.RETURNING, RollHostState.DONE, "its return is done"),
        *(
            _to(state, RollHostState.LEFT, "the roll is cancelled, nothing goes on there for it")
            for state in RollHostState
            if not state.ended
        ),
    ],
)
