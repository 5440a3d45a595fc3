"""What a switchover process is told: one JSON file that only its own user can read.

The process may be started before its parameters. It blocks on a FIFO until the parameters exist.

The worker validates the parameters with pydantic when it writes them. This process only checks their version: it needs
130 ms of CPU to start, with pydantic 215 ms (Python 3.11, pydantic 2.14), and it starts while a guest is being moved.
"""

import json
import os
import select
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from io import FileIO
from pathlib import Path
from typing import Self

from drover.errors import UnreadableDocument
from models.plain import SlowedDrive
from workers.files import write_durably

LOOK_S = 1.0
"""The writer of the parameters may have died before it wrote to the FIFO."""

VERSION = 3
"""Raised with whatever an older process must not overlook. Drover 0.1 wrote none, which is version 0."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What the processes of both sides are told."""

    qmp: str
    ram: str
    """Unix socket of the RAM's stream, see `workers.streams`; the next likewise."""
    switchover: str
    images: list[str]
    """Image files on this host, to be written out just before the switchover."""
    journal: str

    version: int = VERSION

    def save(self, path: Path) -> None:
        """Write the file, and wake the process that may be waiting for it."""
        write_durably(path, json.dumps(asdict(self)))
        wake(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it in that process.

        Raises:
            UnreadableDocument: a worker of a later version wrote it.
        """
        told = json.loads(path.read_text())
        if told.get("version", 0) > VERSION:
            raise UnreadableDocument(
                f"{path} is of version {told['version']} and this process reads up to version {VERSION}: "
                "it was started by a worker of an earlier version"
            )
        return cls(**{each.name: told[each.name] for each in fields(cls) if each.name in told})


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What an operator or a budget may change while the RAM is sent."""

    bandwidth_bytes_per_s: int
    """0 is unlimited."""
    max_downtime_ms: int
    give_up: str = ""
    """Why the attempt is to be called off; empty: it is not."""

    def save(self, path: Path) -> None:
        """Write the file, at once as a whole: half a number is another number."""
        written = path.with_name(f"{path.name}.new")
        written.write_text(json.dumps(asdict(self)))
        written.replace(path)

    @classmethod
    def load(cls, path: str) -> "Terms | None":
        """None: nothing was changed yet."""
        try:
            told = json.loads(Path(path).read_text())
        except OSError:
            return None
        return cls(
            bandwidth_bytes_per_s=told["bandwidth_bytes_per_s"],
            max_downtime_ms=told["max_downtime_ms"],
            give_up=told.get("give_up", ""),
        )


def comes(path: Path, patience_s: float) -> bool:
    """Wait until the parameters exist; False: they did not come in time. A write to the FIFO starts the wait anew."""
    deadline = time.monotonic() + patience_s
    with suppress(FileExistsError):
        os.mkfifo(_fifo(path), 0o600)
    with _open(_fifo(path), os.O_RDWR) as fifo:  # opened for writing as well: so it never reads end-of-file
        poll = select.poll()
        poll.register(fifo, select.POLLIN)
        while not path.exists():
            if time.monotonic() > deadline:
                return False
            if poll.poll(1000 * min(LOOK_S, patience_s)):
                fifo.read(select.PIPE_BUF)
                deadline = time.monotonic() + patience_s
    return True


def wake(path: Path) -> None:
    """Wake the process that waits for these parameters, if there is one."""
    with suppress(OSError), _open(_fifo(path), os.O_WRONLY) as fifo:  # else no process waits
        fifo.write(b"!")


def _open(fifo: Path, how: int) -> FileIO:
    return FileIO(os.open(fifo, how | os.O_NONBLOCK), "r+")


def _fifo(path: Path) -> Path:
    return path.with_suffix(".bell")


@dataclass(frozen=True, kw_only=True)
class SourceParameters(Parameters):
    """What the source's is told besides."""

    mirrors: list[str]
    """Ids of the mirrors' block jobs."""
    nodes: list[str]
    """Node names of their NBD clients."""
    live: bool
    """False: pause the guest before its RAM is sent, because this QEMU corrupts it otherwise."""
    max_downtime_ms: int
    bandwidth_bytes_per_s: int
    """Of the RAM stream; 0 is unlimited."""
    terms_file: str = ""
    """Has what may change while the RAM is sent; empty: a worker of an earlier version does not write it."""
    deadline_s: float
    """Give up when RAM has not converged by then."""
    devices: list[str]
    """QOM names of the guest's devices at preflight: nothing may have been plugged since."""
    closes_at: float | None = None
    """When the job's window closes, by this host's `timing.uptime`; None: it has none."""
    slow_cpu: bool = True
    """QEMU may keep the guest from running for a part of its time."""
    slowed: dict[str, SlowedDrive] = field(default_factory=dict)
    """Drives whose writes are limited for the move alone, by their names."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it in that process; errors as for `Parameters.load`."""
        told = super().load(path)
        return replace(told, slowed={name: SlowedDrive(**drive) for name, drive in asdict(told)["slowed"].items()})


@dataclass(frozen=True, kw_only=True)
class DestinationParameters(Parameters):
    """What the destination's is told besides."""

    nbd_server_qmp: str
    exports: list[str]
    nodes: list[str]
    """The NBD server's block nodes, in the order in which they can be removed."""
    marker: str
