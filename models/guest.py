"""Guests: running QEMUs that were adopted."""

import enum
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from drover import words
from models.activity import Activity
from models.base import Base
from models.columns import Typed, nothing
from models.launcher import Launcher


class Life(enum.StrEnum):
    """What becomes of a guest, as far as anybody sees."""

    RUNNING = "running"
    PAUSED = "paused"
    """Its QEMU lives and the guest does not run: by its owner, an error, or a signal."""
    GONE = "gone"
    """Its QEMU has ended and no other has taken its place."""
    TWICE = "twice"
    """Another QEMU is the same machine."""
    UNKNOWN = "unknown"
    """Its host is silent."""


class Guest(Base):
    """A running QEMU. `host` is where it lives; only a completed cutover changes that."""

    __tablename__ = "guest"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    host: Mapped[str] = mapped_column(ForeignKey("host.name"))
    qmp: Mapped[str] = mapped_column(Text)
    """Path of the QMP socket on that host."""
    process: Mapped[str | None] = mapped_column(Text)
    """Its QEMU as last seen, see `workers.process.processes.identity`: equal for two names of one process."""
    uuid: Mapped[str | None] = mapped_column(String(36))
    """Its machine's, where one is set; it goes with the guest to its next host."""
    launcher: Mapped[Launcher | None] = mapped_column(Typed(Launcher, otherwise=nothing))
    """Who launched it, as last looked at; None before that."""
    adopted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    moved_at: Mapped[datetime | None]
    cpus: Mapped[int] = mapped_column(default=0, server_default="0")
    """What it takes of its host, as last looked at; 0 before that."""
    memory_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    disk_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Virtual sizes of all disks together."""
    allocated_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """What their image files take of the host now, as its worker last saw; null: not seen yet."""
    device_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """The part of `disk_bytes` that lies on block devices, which take nothing of a file system."""
    activity: Mapped[Activity | None] = mapped_column(Typed(Activity))
    """What it writes and changes of its RAM, as last looked at; null: not seen yet."""
    gone_at: Mapped[datetime | None]
    """Since when its QEMU is seen to have ended and no other has taken its place; it counts for nothing then."""
    runstate: Mapped[str | None] = mapped_column(String(32))
    """As QEMU last said; null: not asked yet."""
    twin: Mapped[str | None] = mapped_column(Text)
    """What shows that it runs twice, see `workflows.twins`; null: nothing."""
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    """A drain moves guests of higher priority first."""
    affinity: Mapped[str | None] = mapped_column(String(64))
    """Guests of one such group go to one host."""
    anti_affinity: Mapped[str | None] = mapped_column(String(64))
    """Guests of one such group never share a host."""

    labels: Mapped[dict[str, str]] = mapped_column(default=dict, server_default="{}")
    """See `workflows.selectors`; a value may be empty."""
    never_drain: Mapped[str | None] = mapped_column(Text)
    """Why no drain moves it, until then; null: drains do."""
    never_drain_until: Mapped[datetime | None]

    def stays(self, at: datetime) -> str | None:
        """Why no drain moves it at a time, as a sentence."""
        if self.never_drain is None or self.never_drain_until is None or self.never_drain_until <= at:
            return None
        until = words.utc(self.never_drain_until)
        ends = f"`drover guest set {self.name} --never-drain ''` ends that"
        return f"it is never drained until {until}: {self.never_drain} ({ends})"

    def lives_on(self, host: str, qmp: str, process: str | None = None, launcher: Launcher | None = None) -> None:
        """Record where it runs after a move, and in which process and by which launcher if that is known."""
        self.host, self.qmp, self.process, self.moved_at = host, qmp, process, func.clock_timestamp()
        self.launcher = launcher
        self.gone_at, self.runstate = None, "running"

    def life(self, *, host_alive: bool) -> Life:
        """What is to be said of it now; its host sent a heartbeat lately, or not."""
        if self.twin is not None:
            return Life.TWICE
        if not host_alive:
            return Life.UNKNOWN
        if self.gone_at is not None:
            return Life.GONE
        return Life.RUNNING if self.runstate in {None, "running"} else Life.PAUSED
