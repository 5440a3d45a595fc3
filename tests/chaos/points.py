"""When a fault is injected: between two links of the chain, within one, or at a line of the switchover's journal.

Generated from `LINKS`, so a new step is covered the day it is added.
"""

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import psycopg

from models.job import Side
from tests.chaos.faults import RunningMove, worker_of_the_step
from tests.chaos.stage import CLAIMS, SOURCE, Stage
from tests.helpers import until
from workers.hooks import Point as HookPoint
from workflows.migration.links import LINKS, StepName

REACHED_WITHIN_S = 90.0
SWITCH = ("migrate_ram", Side.SOURCE)
"""The link in which the guest changes its owner."""
BUILDS_ON_FORMER_IMAGES = {("prepare_dest_image", Side.DESTINATION), ("mirror_disks", Side.SOURCE)}
"""The links that do something else when the guest goes back by what has changed."""
BUILDS_ON_A_COPY = {("mirror_disks", Side.SOURCE)}
"""The links in which a move by what has changed differs by where that is recorded: in a QEMU that never moved."""
LAUNCHER_MATTERS = {("migrate_ram", Side.SOURCE), ("cleanup", Side.SOURCE)}
"""The links before and after which it is told to keep still, and in which the guest's former QEMU ends."""
HOOKS = {
    (HookPoint.BEFORE_COPY, Side.DESTINATION): "prepare_dest_image",
    (HookPoint.BEFORE_SWITCHOVER, Side.SOURCE): "await_sync",
    (HookPoint.AFTER_SWITCHOVER, Side.DESTINATION): "after_switchover",
    (HookPoint.AFTER_CLEANUP, Side.SOURCE): "cleanup",
}
"""One hook of each point, with the step that runs it."""
JOURNAL_LINES = ("migrating", "pre-switchover", "continuing", "run")
"""The guest is paused from `pre-switchover` on; `run` is the point of no return."""

Durations = dict[int, float]
"""Of each link, by its number: seconds that it took in a move without faults."""


Meet = Callable[[RunningMove, Callable[[], bool]], bool]
"""Waits for the moment, injects the fault, lets the move go on; returns whether the fault had a target."""


class Missed(Exception):
    """The move was past the point when the fault would have struck."""


class Point(ABC):
    """A moment in a move. `armed` is entered before the move is submitted."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As the matrix has it."""

    @property
    @abstractmethod
    def side(self) -> Side:
        """Of the link that is due or under way."""

    @property
    @abstractmethod
    def position(self) -> float:
        """In the middle of the third link: 3.0; right before it: 2.5."""

    @property
    def proves(self) -> bool:
        """Both sides' images are compared, so that the link has something to do."""
        return False

    goes_back = False
    """The guest goes back to images that it left behind at the destination, by what has changed."""
    goes_again = False
    """A move there was rolled back once its disks were in sync, and this one sends what has changed since."""
    launched = False
    """The guest is started again by a shell whenever its QEMU has ended at the source."""

    @abstractmethod
    def armed(self, stage: Stage, durations: Durations) -> AbstractContextManager[Meet]:
        """Be there before the moment is."""


@dataclass(frozen=True)
class Boundary(Point):
    """All before this link is done, and its worker is about to claim it."""

    seq: int

    @property
    def side(self) -> Side:
        return LINKS[self.seq - 1][1]

    @property
    def proves(self) -> bool:
        return _proves(self.seq)

    @property
    def name(self) -> str:
        return f"before {_title(self.seq)}"

    @property
    def position(self) -> float:
        return self.seq - 0.5

    @contextmanager
    def armed(self, stage: Stage, durations: Durations) -> Iterator[Meet]:
        with stage.connect() as holder:
            holder.execute("SELECT pg_advisory_lock(%s, %s)", (CLAIMS, self.seq))

            def meet(move: RunningMove, strike: Callable[[], bool]) -> bool:
                until(f"the claim of {self.name} waits", lambda: _somebody_waits(holder), REACHED_WITHIN_S)
                struck = strike()
                holder.close()  # lets go of the lock; a Postgres that is frozen now would not answer a statement
                return struck

            yield meet


def _proves(seq: int) -> bool:
    return LINKS[seq - 1][0] == StepName.COMPARE_IMAGES


def _somebody_waits(connection: "psycopg.Connection[tuple[object, ...]]") -> bool:
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND NOT granted"
    return connection.execute(waiting, (CLAIMS,)).fetchone() is not None


@dataclass(frozen=True)
class Middle(Point):
    """Half of the time after which this link ended in a move without faults."""

    seq: int
    share: float = 0.5
    goes_back: bool = False
    goes_again: bool = False
    launched: bool = False

    @property
    def side(self) -> Side:
        return LINKS[self.seq - 1][1]

    @property
    def proves(self) -> bool:
        return _proves(self.seq)

    @property
    def name(self) -> str:
        kinds = {
            ", by changes": self.goes_back,
            ", by changes after a rollback": self.goes_again,
            ", in the loop of a shell": self.launched,
        }
        return f"during {_title(self.seq)}" + "".join(how for how, is_so in kinds.items() if is_so)

    @property
    def position(self) -> float:
        return float(self.seq)

    @contextmanager
    def armed(self, stage: Stage, durations: Durations) -> Iterator[Meet]:
        with stage.connect() as listener:
            listener.execute("LISTEN claimed")

            def meet(move: RunningMove, strike: Callable[[], bool]) -> bool:
                self._wait_for_claim(listener, move)
                time.sleep(self.share * durations[self.seq])  # the moment is one of time: there is no event to await
                return self._strike_while_held(listener, move, strike)

            yield meet

    def _wait_for_claim(self, listener: "psycopg.Connection[tuple[object, ...]]", move: RunningMove) -> None:
        wanted = f"{move.job_id} {self.seq}"
        for told in listener.notifies(timeout=REACHED_WITHIN_S):
            if told.payload == wanted:
                return
        raise AssertionError(f"{self.name} never came")

    def _strike_while_held(
        self, listener: "psycopg.Connection[tuple[object, ...]]", move: RunningMove, strike: Callable[[], bool]
    ) -> bool:
        """The worker of the step is frozen for a moment, so that the step is known to be under way."""
        held = worker_of_the_step(move)
        for worker in held:
            worker.signal(signal.SIGSTOP)
        try:
            states = "SELECT state FROM step WHERE job_id = %s AND seq = %s"
            if listener.execute(states, (move.job_id, self.seq)).fetchone() != ("running",):
                raise Missed(self.name)
            return strike()
        finally:
            for worker in held:
                if worker not in move.frozen:
                    worker.signal(signal.SIGCONT)


@dataclass(frozen=True)
class Line(Point):
    """The source's switchover process has written this line."""

    event: str
    side = Side.SOURCE
    position = 1.0 + LINKS.index(SWITCH)

    @property
    def name(self) -> str:
        return f"switch: {self.event}"

    @contextmanager
    def armed(self, stage: Stage, durations: Durations) -> Iterator[Meet]:
        def meet(move: RunningMove, strike: Callable[[], bool]) -> bool:
            def says() -> bool:
                if move.journal_says(self.event):
                    return True
                if not move.directory(SOURCE).exists():  # the move is over: this process stood still meanwhile
                    raise Missed(self.name)
                return False

            until("the switchover begins", lambda: move.journal_says("started"), REACHED_WITHIN_S)
            until(f"the switchover says {self.event}", says, REACHED_WITHIN_S, every_s=0.0005)
            return strike()

        yield meet


@dataclass(frozen=True)
class InHook(Point):
    """A hook of the host's administrator runs; it ends once the fault has struck."""

    point: HookPoint
    host: Side

    @property
    def side(self) -> Side:
        return self.host

    @property
    def position(self) -> float:
        return 1.0 + LINKS.index((StepName(HOOKS[self.point, self.side]), self.side))

    @property
    def name(self) -> str:
        return f"in the hook `{self.point}` ({self.side})"

    @contextmanager
    def armed(self, stage: Stage, durations: Durations) -> Iterator[Meet]:
        begun, held = (stage.lab.path / f"{self.point}-{self.side}-{what}" for what in ("begun", "held"))
        program = stage.lab.policy.with_name("hooks") / f"{self.point}.d/50-held"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(
            f"#!/bin/sh\n[ $DROVER_SIDE = {self.side} ] || exit 0\ntouch {begun}\n"
            f"while [ -e {held} ]; do sleep 0.05; done\n"
        )
        program.chmod(0o755)
        begun.unlink(missing_ok=True)  # of another guest: the hook stays, so that it is run again where it has to be
        held.touch()

        def meet(move: RunningMove, strike: Callable[[], bool]) -> bool:
            until(f"{self.name} the fault strikes", begun.exists, REACHED_WITHIN_S)
            try:
                return strike()
            finally:
                held.unlink()

        try:
            yield meet
        finally:
            held.unlink(missing_ok=True)


def _title(seq: int) -> str:
    name, side = LINKS[seq - 1]
    both = sum(other == name for other, _ in LINKS) > 1
    return f"`{name}`" + (f" ({side})" if both else "")


def _points() -> Iterator[Point]:
    for seq in range(1, len(LINKS) + 1):
        yield Boundary(seq)
        yield Middle(seq)
        if LINKS[seq - 1] in BUILDS_ON_FORMER_IMAGES:
            yield Middle(seq, goes_back=True)
        if LINKS[seq - 1] in BUILDS_ON_A_COPY:
            yield Middle(seq, goes_again=True)
        if LINKS[seq - 1] in LAUNCHER_MATTERS:
            yield Middle(seq, launched=True)
        if LINKS[seq - 1] == SWITCH:
            yield from map(Line, JOURNAL_LINES)
    yield from (InHook(point, side) for point, side in HOOKS)


POINTS: tuple[Point, ...] = tuple(_points())
"""The rows of the matrix."""
