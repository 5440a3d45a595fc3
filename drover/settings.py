"""Settings, read once from `DROVER_*` in the environment at the edge of the program."""

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

from drover.errors import PreconditionFailed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How this process reaches the others, and where its host keeps guests."""

    database_url: str
    """Postgres, in SQLAlchemy's form: `postgresql+psycopg://user@host/name`."""

    broker_url: str
    """Redis, in Celery's form: `redis://...`, `rediss://...`, or all Sentinels: `sentinel://a:26379;sentinel://b:26379`."""

    broker_master: str = "mymaster"
    """What the Sentinels call the Redis that is meant; read only where `broker_url` names Sentinels."""

    host: str = ""
    """Name of the hypervisor this worker serves; empty on control nodes."""

    address: str = "127.0.0.1"
    """Address on which this host listens for disk and RAM streams: the migration network's."""

    directory: Path = Path("/var/lib/drover")
    """Where this host keeps sockets, journals and logs of the jobs under way."""

    guest_root: Path = Path("/")
    """Everything of a guest (images, sockets, logs) lies below; mapped onto the other host's guest root."""

    bandwidth_bytes_per_s: int = 0
    """Budget of this host for all outgoing disk mirrors together; 0 is unlimited."""

    retention: timedelta = timedelta(hours=24)
    """How long the images a guest left behind are kept, set aside, on its former host."""

    lease_ttl: timedelta = timedelta(seconds=15)
    """A claim that was not renewed for so long may be taken over by another worker."""

    lease_margin: timedelta = timedelta(seconds=3)
    """A worker stops acting so long before its lease ends, by its own monotonic clock."""

    heartbeat: timedelta = timedelta(seconds=5)
    """How often a worker says that its host is there; dead after four times that."""

    host_patience: timedelta = timedelta(minutes=5)
    """A job waits so long for a host that is silent; then it is rolled back, or an operator is asked."""

    republish_after: timedelta = timedelta(seconds=10)
    """A step that was published and not picked up for so long is published again."""

    concurrency: int = 16
    """Steps that one host's worker runs at the same time; they mostly wait."""

    guest_cpus: int = 0
    """Virtual CPUs that guests may have on this host together; 0: sixteen for each CPU of the machine."""

    guest_memory_bytes: int = 0
    """Memory that guests may have on this host together; 0: all of the machine's."""

    guest_disk_bytes: int = 0
    """What the disks of guests may hold on this host together; 0: all of the guest root's file system."""

    max_outgoing: int = 2
    """Moves that leave one host at the same time. This and the next two are the controller's to read."""

    max_incoming: int = 2
    """Moves that arrive at one host at the same time."""

    max_moves: int = 10
    """Moves under way at the same time, over all hosts."""

    max_held: int = 8
    """Moves whose disks are kept in sync ahead on one host at the same time; each keeps a thread of its worker busy,
    so `concurrency` must be well above."""

    stalled_after: timedelta = timedelta(minutes=10)
    """A move without any progress for so long goes on, but no longer counts against the three limits above."""

    webhook_secret: str = ""
    """With it the controller signs what it tells others of the ends of jobs and drains."""

    metrics_address: str = ""
    """ADDRESS:PORT at which a controller answers Prometheus; empty: nowhere."""

    @property
    def host_timeout(self) -> timedelta:
        """A host that was silent for so long is taken for unreachable."""
        return 4 * self.heartbeat


def _seconds(name: str, default: timedelta) -> timedelta:
    return timedelta(seconds=float(os.environ.get(name, default.total_seconds())))


def _count(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def _required(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise PreconditionFailed(
            f"{name} is not set; in a lab run `eval $(drover lab env)`, "
            "elsewhere see the README's section on a first set-up"
        )
    return value


@cache
def settings() -> Settings:
    """The settings of this process.

    Raises:
        PreconditionFailed: a variable without a default is missing.
    """
    environ = os.environ
    return Settings(
        database_url=_required("DROVER_DATABASE_URL"),
        broker_url=_required("DROVER_BROKER_URL"),
        broker_master=environ.get("DROVER_BROKER_MASTER", Settings.broker_master),
        host=environ.get("DROVER_HOST", ""),
        address=environ.get("DROVER_ADDRESS", Settings.address),
        directory=Path(environ.get("DROVER_DIRECTORY", Settings.directory)),
        guest_root=Path(environ.get("DROVER_GUEST_ROOT", Settings.guest_root)),
        bandwidth_bytes_per_s=_count("DROVER_BANDWIDTH_BYTES_PER_S", Settings.bandwidth_bytes_per_s),
        retention=_seconds("DROVER_RETENTION_S", Settings.retention),
        lease_ttl=_seconds("DROVER_LEASE_TTL_S", Settings.lease_ttl),
        lease_margin=_seconds("DROVER_LEASE_MARGIN_S", Settings.lease_margin),
        heartbeat=_seconds("DROVER_HEARTBEAT_S", Settings.heartbeat),
        host_patience=_seconds("DROVER_HOST_PATIENCE_S", Settings.host_patience),
        republish_after=_seconds("DROVER_REPUBLISH_AFTER_S", Settings.republish_after),
        concurrency=_count("DROVER_CONCURRENCY", Settings.concurrency),
        guest_cpus=_count("DROVER_GUEST_CPUS", Settings.guest_cpus),
        guest_memory_bytes=_count("DROVER_GUEST_MEMORY_BYTES", Settings.guest_memory_bytes),
        guest_disk_bytes=_count("DROVER_GUEST_DISK_BYTES", Settings.guest_disk_bytes),
        max_outgoing=_count("DROVER_MAX_OUTGOING", Settings.max_outgoing),
        max_incoming=_count("DROVER_MAX_INCOMING", Settings.max_incoming),
        max_moves=_count("DROVER_MAX_MOVES", Settings.max_moves),
        max_held=_count("DROVER_MAX_HELD", Settings.max_held),
        webhook_secret=environ.get("DROVER_WEBHOOK_SECRET", ""),
        metrics_address=environ.get("DROVER_METRICS_ADDRESS", ""),
        stalled_after=_seconds("DROVER_STALLED_AFTER_S", Settings.stalled_after),
    )
