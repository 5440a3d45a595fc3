"""What can go wrong: who is killed, frozen or cut off, and how the world is put right again."""

import json
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import redis

from drover.broker.app import CONTROL_QUEUE, host_queue
from lab import network
from models.job import Side
from tests import brokers, standby
from tests.chaos.stage import DESTINATION, FROZEN_S, SOURCE, Stage
from tests.standby import LabWithStandby
from workers.process import processes
from workers.process.processes import Process
from workers.switchover import guardian
from workflows.migration.links import LINKS


@dataclass
class RunningMove:
    """One move that is under way, as faults and points see it."""

    stage: Stage
    guest: str
    job_id: int
    side: Side = Side.SOURCE
    """The side of the step at which the fault is injected."""
    frozen: list[Process] = field(default_factory=list)
    came_by: int | None = None
    """The job that brought the guest to the source; None: it was booted there."""
    held_up: bool = False
    """After `run`, when only it may let the guest go on, the destination's switchover process was frozen."""

    def journal_says(self, event: str) -> bool:
        """Whether an event is in the journal of any of the source's switchover processes."""
        journals = self.directory(SOURCE).glob("switch-source-*.jsonl")
        return any(f'"{event}"'.encode() in journal.read_bytes() for journal in journals)

    def directory(self, host: str) -> Path:
        """The job's directory on a host."""
        return self._jobs(host) / str(self.job_id)

    @property
    def source_mark(self) -> str:
        """Of the guest's QEMU at the source."""
        if self.came_by is None:
            return self.stage.lab.mark(f"guest-{self.guest}")
        return f"{self._jobs(SOURCE)}/{self.came_by}/incoming"

    def _jobs(self, host: str) -> Path:
        return self.stage.lab.host(host).folder / "drover" / "jobs"


Role = Callable[[RunningMove], list[Process]]


def worker(host: str) -> Role:
    return lambda move: move.stage.worker(host)


def both_workers(move: RunningMove) -> list[Process]:
    return [*move.stage.worker(SOURCE), *move.stage.worker(DESTINATION)]


def worker_of_the_step(move: RunningMove) -> list[Process]:
    return move.stage.worker(SOURCE if move.side is Side.SOURCE else DESTINATION)


def controller(move: RunningMove) -> list[Process]:
    return move.stage.controller()


def switch(host: str) -> Role:
    def find(move: RunningMove) -> list[Process]:
        return [found for found in processes.find_below(move.directory(host)) if is_switch(found)]

    return find


def is_switch(found: Process) -> bool:
    """A switchover process; not its guardian."""
    return _is_of_switch(found) and _name(found) != guardian.NAME


def is_guardian(found: Process) -> bool:
    """The guardian of an attempt."""
    return _is_of_switch(found) and _name(found) == guardian.NAME


def _is_of_switch(found: Process) -> bool:
    try:
        return b"workers.switchover" in Path(f"/proc/{found.pid}/cmdline").read_bytes()
    except OSError:
        return False


def _name(found: Process) -> str:
    try:
        return Path(f"/proc/{found.pid}/comm").read_text().strip()
    except OSError:
        return ""


def worker_and_switch(host: str) -> Role:
    return lambda move: [*worker(host)(move), *switch(host)(move)]


def nbd_server(move: RunningMove) -> list[Process]:
    return processes.find(f"{move.directory(DESTINATION)}/exporter")


def incoming_qemu(move: RunningMove) -> list[Process]:
    return processes.find(f"{move.directory(DESTINATION)}/incoming")


def source_qemu(move: RunningMove) -> list[Process]:
    """Not what has started it, or was started by that meanwhile: all of them carry its mark."""
    return [found for found in processes.find(move.source_mark) if _name(found).startswith("qemu-system")]


def postgres(move: RunningMove) -> list[Process]:
    """All its processes: one of them that went on would answer."""
    postmasters = processes.find(move.stage.lab.mark("postgres"))
    return postmasters + [child for postmaster in postmasters for child in processes.children(postmaster)]


Life = tuple[float, float]
ALWAYS: Life = (0.0, 100.0)


def _link(name: str, side: Side) -> float:
    return 1.0 + LINKS.index((name, side))


OF_NBD_SERVER: Life = (_link("start_nbd", Side.DESTINATION), _link("cleanup", Side.DESTINATION))
OF_INCOMING_QEMU = OF_NBD_SERVER
OF_SOURCE_QEMU: Life = (0.0, _link("cleanup", Side.SOURCE))
OF_SOURCE_SWITCH: Life = (_link("migrate_ram", Side.DESTINATION) - 0.5, _link("migrate_ram", Side.SOURCE))
OF_DESTINATION_SWITCH: Life = (_link("start_nbd", Side.DESTINATION), _link("migrate_ram", Side.SOURCE))
"""Both are started ahead of their orders."""


class Fault(ABC):
    """Something that goes wrong, and is put right after a while."""

    name: str
    lasts_s: float = 0.0
    """After so long `heal` is called; infinite: only when the job has ended."""
    may_lose_guest = False
    """It kills the guest's own QEMU."""
    kills_guest = False
    """It kills the QEMU that the guest runs in at the source."""
    may_pause_guest = False
    """Nobody could keep the guest going: its QEMU is frozen or killed, or the hosts cannot talk."""
    longest_pause_s = 2.0
    """For how long the guest may stand still otherwise."""
    longest_pause_alone_s = 2.0
    """Likewise while another fault holds the source's worker up: the guardian looks for longer before it counts the
    switchover process as frozen."""
    holds_up_source_worker = False
    first, last = 0.0, 100.0
    """Between these positions (see `points.Point.position`) there may be somebody to do it to."""

    @abstractmethod
    def strike(self, move: RunningMove) -> bool:
        """Do it; false when there is nobody to do it to."""

    def heal(self, move: RunningMove) -> None:
        """Put it right, as an operator or a supervisor would."""
        move.stage.supervise()


class Kill(Fault):
    """`kill -9`; what has a supervisor in real life is started again after a second."""

    lasts_s = 1.0

    def __init__(
        self, name: str, role: Role, life: Life = ALWAYS, *, guest: bool = False, source_worker: bool = False
    ) -> None:
        self.name, self.role, (self.first, self.last) = name, role, life
        self.may_lose_guest = self.may_pause_guest = guest
        self.holds_up_source_worker = source_worker
        self.kills_guest = role is source_qemu

    def strike(self, move: RunningMove) -> bool:
        victims = self.role(move)
        for victim in victims:  # all at once
            victim.signal(signal.SIGKILL)
        for victim in victims:
            move.stage.killed.append(victim)
            victim.kill()
        return bool(victims)

    @property
    def in_the_switch(self) -> bool:
        """It has a part in the switchover; workers and controller have none."""
        return (self.first, self.last) != ALWAYS


class Freeze(Fault):
    """SIGSTOP, and SIGCONT after a while."""

    def __init__(
        self,
        name: str,
        role: Role,
        lasts_s: float,
        life: Life = ALWAYS,
        *,
        guest: bool = False,
        source_worker: bool = False,
        resumes: bool = False,
        pause_alone_s: float = Fault.longest_pause_alone_s,
    ) -> None:
        self.name, self.role, self.lasts_s, (self.first, self.last) = name, role, lasts_s, life
        self.may_pause_guest, self.resumes = guest, resumes
        self.holds_up_source_worker, self.longest_pause_alone_s = source_worker, pause_alone_s

    def strike(self, move: RunningMove) -> bool:
        move.frozen += self.role(move)
        for victim in move.frozen:
            victim.signal(signal.SIGSTOP)
        return bool(move.frozen)

    def heal(self, move: RunningMove) -> None:
        move.held_up = self.resumes and move.journal_says("run")
        for victim in move.frozen:
            victim.signal(signal.SIGCONT)
        move.frozen.clear()


class EmptyRedis(Fault):
    """Redis is killed and starts again with nothing in it."""

    name, lasts_s = "Redis killed and emptied", 1.0

    def strike(self, move: RunningMove) -> bool:
        for victim in processes.find(move.stage.lab.mark("redis")):
            victim.kill()
        shutil.rmtree(move.stage.lab.redis / "appendonlydir", ignore_errors=True)
        return True


class RedisReplica(Fault):
    """Redis becomes a replica of a master that is not there, as in a failover, and a master again later."""

    name, lasts_s = "Redis a replica for 10 s", 10.0

    def strike(self, move: RunningMove) -> bool:
        with (
            suppress(redis.ConnectionError),
            brokers.connected(move.stage.lab) as client,
        ):  # killed by another fault
            client.replicaof("127.0.0.1", 1)
        return True

    def heal(self, move: RunningMove) -> None:
        super().heal(move)
        with brokers.connected(move.stage.lab) as client:
            client.replicaof("NO", "ONE")


class Garbage(Fault):
    """What is no message, and messages that once ended a worker, in every queue."""

    name = "garbage in every queue"

    def strike(self, move: RunningMove) -> bool:
        with suppress(redis.ConnectionError, redis.ResponseError), brokers.connected(move.stage.lab) as client:
            for queue, task in QUEUES.items():
                poisoned = brokers.envelope(queue, task, {"job_id": move.job_id, "seq": "x", "epoch": None})
                poisoned["headers"]["timelimit"] = "x"
                client.lpush(queue, "garbage", "[1,2,3]", "[" * 100_000, json.dumps(poisoned))
        return True


QUEUES = {
    host_queue(SOURCE): "drover.step.migrate_ram",
    host_queue(DESTINATION): "drover.step.cleanup",
    CONTROL_QUEUE: "drover.job.cancel",
}


class FailOverPostgres(Fault):
    """The primary is killed and its standby takes its place, on a stage with one; later they change places again."""

    name, lasts_s = "Postgres fails over", 10.0

    def strike(self, move: RunningMove) -> bool:
        if move.stage.fails_over or not processes.find(move.stage.lab.mark(standby.FIRST)):
            return False
        move.stage.fails_over = True
        standby.fail_over(cast("LabWithStandby", move.stage.lab))
        return True

    def heal(self, move: RunningMove) -> None:
        if move.stage.fails_over:
            standby.fail_back(cast("LabWithStandby", move.stage.lab))
            move.stage.fails_over = False
        super().heal(move)


class RestartPostgres(Fault):
    """Postgres ends at once, all connections break, and it recovers from its log."""

    name, lasts_s = "Postgres restarted", 1.0

    def strike(self, move: RunningMove) -> bool:
        for postmaster in processes.find(move.stage.lab.mark("postgres")):
            postmaster.signal(signal.SIGQUIT)
            postmaster.wait(20)
        return True


class CutLink(Fault):
    """Packets between the hosts vanish in silence; both still reach the control node."""

    def __init__(self, name: str, lasts_s: float) -> None:
        self.name, self.lasts_s = name, lasts_s
        self.may_pause_guest = True

    def strike(self, move: RunningMove) -> bool:
        network.cut(move.stage.lab, move.stage.lab.host(SOURCE))
        return True

    def heal(self, move: RunningMove) -> None:
        move.stage.mend_link()


FOR_GOOD = float("inf")
FAULTS: tuple[Fault, ...] = (
    Kill("source worker killed", worker(SOURCE), source_worker=True),
    Kill("destination worker killed", worker(DESTINATION)),
    Kill("both workers killed", both_workers, source_worker=True),
    Kill("controller killed", controller),
    Kill("source switch killed", switch(SOURCE), OF_SOURCE_SWITCH),
    Kill(
        "source worker and switchover process killed", worker_and_switch(SOURCE), OF_SOURCE_SWITCH, source_worker=True
    ),
    Kill("destination switch killed", switch(DESTINATION), OF_DESTINATION_SWITCH),
    Kill("NBD server killed", nbd_server, OF_NBD_SERVER),
    Kill("incoming QEMU killed", incoming_qemu, OF_INCOMING_QEMU, guest=True),
    Kill("source QEMU killed", source_qemu, OF_SOURCE_QEMU, guest=True),
    EmptyRedis(),
    RedisReplica(),
    Garbage(),
    RestartPostgres(),
    Freeze("Postgres frozen for 10 s", postgres, 10.0),
    CutLink("link cut for 5 s", 5.0),
    CutLink("link cut for good", FOR_GOOD),
    Freeze("worker frozen until its lease ran out", worker_of_the_step, FROZEN_S, source_worker=True),
    Freeze("source switch frozen for 5 s", switch(SOURCE), 5.0, OF_SOURCE_SWITCH, pause_alone_s=4.0),
    Freeze("destination switch frozen for 5 s", switch(DESTINATION), 5.0, OF_DESTINATION_SWITCH, resumes=True),
    Freeze("NBD server frozen for 5 s", nbd_server, 5.0, OF_NBD_SERVER),
    Freeze("incoming QEMU frozen for 5 s", incoming_qemu, 5.0, OF_INCOMING_QEMU, guest=True),
    Freeze("source QEMU frozen for 5 s", source_qemu, 5.0, OF_SOURCE_QEMU, guest=True),
)
"""The columns of the matrix."""
OF_THE_SOAK: tuple[Fault, ...] = (*FAULTS, FailOverPostgres())
