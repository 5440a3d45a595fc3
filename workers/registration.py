"""A host's worker as a member of the fleet: one per host, registered, with a heartbeat.

These are hooks of Celery's own signals, so that `drover worker` and a plain
`celery -A drover.broker.app worker -Q drover.HOST` are the same thing.
"""

import fcntl
import logging
import os
import shutil
import subprocess
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TextIO

from celery.exceptions import SecurityWarning
from celery.signals import celeryd_init, worker_init, worker_shutting_down
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from drover import logs, names, words
from drover.broker.app import CONTROL_MODULES, CONTROL_QUEUE, app, configuration
from drover.errors import PreconditionFailed
from drover.extras import require
from drover.settings import Settings, settings
from models.database import away, patiently, transaction
from models.documents import HostFacts
from models.host import Host
from models.transitions import Actor
from workers import files, upgrade
from workers.executor import STOPPING
from workers.guest import liveness
from workers.images import retention
from workers.launcher import given_away
from workers.process.machine import machine, machine_id, memory_bytes
from workers.qemu import program
from workers.step import JobDirectory
from workers.storage import places, watch
from workers.trust import held_plan, host_key, policy
from workflows import outages
from workflows.migration import claims

log = logging.getLogger(__name__)

CPUS_PER_CPU = 16
"""Virtual CPUs for each CPU of the machine, unless the settings have another number: guests mostly wait."""

LOOK_S = 5.0
"""Between two looks at storages and at QEMUs; each costs some milliseconds of CPU."""
HEARTBEAT = "heartbeat"
"""It alone says in the log that the database is away."""
LOCK = "worker.lock"
_lock: list[TextIO] = []


@cache
def incarnation() -> str:
    """The name of this process as the owner of claims."""
    return f"{settings().host or 'control'}-{uuid.uuid4().hex[:12]}"


warnings.filterwarnings("ignore", category=SecurityWarning)  # as root, since QEMU is; messages are JSON, never pickle


@celeryd_init.connect
def take_host_from_queue(conf: Any = None, options: dict[str, Any] | None = None, **_: Any) -> None:
    """Take the host's name from `-Q drover.HOST` when the environment does not give it."""
    asked = (options or {}).get("queues") or ""
    queues = asked.split(",") if isinstance(asked, str) else list(asked)
    hosts = [queue.removeprefix("drover.") for queue in queues if queue != CONTROL_QUEUE]
    if len(hosts) == 1 and hosts[0] and not settings().host:
        os.environ["DROVER_HOST"] = hosts[0]
        settings.cache_clear()
        with _ending_the_start():
            names.check(hosts[0], "a host")
        conf.update(configuration())
    logs.configure(settings().host or "control")
    if hosts != [settings().host] and CONTROL_QUEUE not in queues:
        raise SystemExit(
            f"this worker is for host {settings().host!r} but was started to serve {queues}: "
            "start it with `drover worker --host HOST`"
        )
    if CONTROL_QUEUE in queues:
        with _ending_the_start():
            require("controller", "a controller")
        for module in CONTROL_MODULES:
            app.loader.import_task_module(module)
    if settings().host:
        first_start(settings())
        _lock.append(_alone(settings()))
        patiently(lambda: join(settings()), log.warning)


@contextmanager
def _ending_the_start() -> Iterator[None]:
    """A refusal ends the process: Celery would log what a handler of its signals raises, and go on."""
    try:
        yield
    except PreconditionFailed as error:
        raise SystemExit(str(error)) from None


def first_start(ours: Settings) -> None:
    """A new host has its key from the beginning, so that `join` takes nothing over: no earlier version ran there."""
    if not (ours.directory / LOCK).exists():
        host_key.public(ours)


def _alone(ours: Settings) -> TextIO:
    """The lock that only one worker of this host can hold."""
    ours.directory.mkdir(0o711, parents=True, exist_ok=True)  # guests' QEMUs connect to sockets in it
    file = os.fdopen(files.private(ours.directory / LOCK, os.O_WRONLY), "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"another worker serves {ours.host} already ({ours.directory}/{LOCK})") from None
    return file


def join(ours: Settings) -> None:
    """Register this host, and take over the claims of its former worker.

    The lock proves that the former worker is dead, so its claims need not run out first.
    """
    if sentence := taken(ours):
        raise SystemExit(sentence)
    if not host_key.exists(ours):
        upgrade.take_over(ours)
    register(ours)
    seen = facts(ours)
    memory = words.size(seen.memory_bytes or 0)
    log.info("serves this host: %s CPUs, %s of memory, %s", seen.cpus, memory, seen.qemu or "no QEMU")
    with transaction() as session:
        claims.expire(
            session,
            claims.of_earlier_incarnation(ours.host, incarnation()),
            "the worker was started anew",
            actor=Actor.WORKER,
            by=incarnation(),
        )


def taken(ours: Settings) -> str | None:
    """Which other machine serves this host's name now, and what to do: the two would overwrite each other's row and
    share a queue, and the lock holds on one machine only.
    """
    fresh = Host.heartbeat_at > func.clock_timestamp() - ours.host_timeout
    with transaction() as session:
        there = session.scalar(select(Host).where(Host.name == ours.host, fresh))
    if there is None or there.facts.machine_id in {None, machine_id()}:
        return None
    return (
        f"another machine serves {ours.host} already ({there.address}, its last heartbeat at "
        f"{there.heartbeat_at:%H:%M:%S %Z}): give this one another DROVER_HOST, or end that worker and wait "
        f"{ours.host_timeout.total_seconds():g} s"
    )


def register(ours: Settings) -> None:
    """Write this host's row: its address, its machine, its heartbeat."""
    row = {
        "name": ours.host,
        "address": ours.address,
        "guest_root": str(ours.guest_root),
        "incarnation": incarnation(),
        "facts": facts(ours),
        "guest_cpus": ours.guest_cpus or CPUS_PER_CPU * (os.cpu_count() or 1),
        "guest_memory_bytes": ours.guest_memory_bytes or memory_bytes("MemTotal"),
        "guest_disk_bytes": ours.guest_disk_bytes or disk_bytes(ours),
        "public_key": host_key.public(ours),
        "heartbeat_at": func.clock_timestamp(),
    }
    statement = insert(Host).values(row)
    with transaction() as session:
        outages.host_is_back(session, ours.host, ours.host_timeout)
        session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))


def facts(ours: Settings) -> HostFacts:
    """Facts about this machine."""
    binary = shutil.which("qemu-system-x86_64")
    version = None
    with suppress(OSError, subprocess.SubprocessError):
        version = next(iter(program.output(binary, "--version").splitlines()), None) if binary else None
    return HostFacts(
        cpus=os.cpu_count(),
        memory_bytes=memory_bytes("MemTotal"),
        qemu=version,
        machine=machine(),
        machine_id=machine_id(),
        concurrency=ours.concurrency,
        streams=ours.streams,
        successions=host_key.successions(ours),
    )


def disk_bytes(ours: Settings) -> int:
    """What the storages hold together."""
    return places.total_bytes(policy.of(ours))


@worker_init.connect
def begin_heartbeat(**_: Any) -> None:
    """From now on this host counts as alive, also while Redis is unreachable: what runs on it goes on."""
    if settings().host:
        heartbeat_s = settings().heartbeat.total_seconds()
        _repeat(HEARTBEAT, register, heartbeat_s)
        _repeat("look at storages", watch.look, max(heartbeat_s, LOOK_S))
        _repeat("look at guests", liveness.look, max(heartbeat_s, LOOK_S))
        _repeat("look at launch files", given_away.look, max(heartbeat_s, LOOK_S))
        _repeat("look for room", retention.make_room, max(heartbeat_s, LOOK_S))
        _repeat("look at former keys", forget_keys, max(heartbeat_s, LOOK_S))
        _repeat("retirement", retention.delete_expired, heartbeat_s)  # beside it: a large image takes minutes


def forget_keys(ours: Settings) -> None:
    """Former keys of this host that no move needs any more."""
    host_key.drop_former(ours, held_plan.oldest(JobDirectory.all_below(ours)))


def _repeat(name: str, what: Callable[[Settings], None], every_s: float) -> None:
    """In a thread of its own, at once and again until the worker ends."""

    def run() -> None:
        said = False
        while not STOPPING.is_set():
            try:
                what(settings())
            except Exception as error:
                if not said and (name == HEARTBEAT or not away(error)):
                    log.warning(
                        "the %s is tried again every %g s, guests run on: %s", name, every_s, words.first_line(error)
                    )
                said = True
            else:
                said = False
            STOPPING.wait(every_s)

    threading.Thread(target=run, name=name, daemon=True).start()


@worker_shutting_down.connect
def stop_steps(**_: Any) -> None:
    """SIGTERM: running steps hand their claims back at once instead of going on for hours."""
    log.info("stops: steps that run are handed back, guests run on")
    STOPPING.set()
