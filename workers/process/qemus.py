"""Every QEMU of this host, by the kernel alone: none of them is asked anything."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from drover.settings import Settings
from models.documents import SeenQemu
from workers.process import accounts, processes
from workers.process.processes import Process
from workers.qemu.options import parse_command_line

PROGRAM = re.compile(r"qemu-(system-.+|kvm)|kvm")
LAB = "DROVER_LAB_DIR"
_JOB = re.compile(r"/jobs/([0-9]{1,18})/incoming$")
TRIALS = "trials"
"""Where dry runs try what a guest's next QEMU would be."""
_TRIAL = re.compile(rf"/{TRIALS}/[^/]+/trial$")


@dataclass(frozen=True, kw_only=True)
class Qemu:
    """One running QEMU."""

    process: Process
    argv: tuple[str, ...]
    mark: str
    """The name under which a worker has started it; empty for others."""
    user: str
    """As whom it runs."""
    stopped: bool
    """By a signal: nothing of it runs."""

    @property
    def seen(self) -> SeenQemu:
        """What is reported of it."""
        return _seen(self.process, self.argv, self.mark, self.user)


def job_of(process: Process) -> int | None:
    """The job whose worker has started this QEMU; None: nobody's has."""
    return _job(processes.mark_of(process) or "")


def _job(mark: str) -> int | None:
    found = _JOB.search(mark)
    return int(found[1]) if found else None


@lru_cache(maxsize=1024)
def _seen(process: Process, argv: tuple[str, ...], mark: str, user: str) -> SeenQemu:
    return SeenQemu(
        process=processes.identity(process),
        pid=process.pid,
        name=name_of(argv),
        uuid=uuid_of(argv),
        macs=macs_of(argv),
        job=_job(mark),
        user=user,
    )


def running(ours: Settings) -> list[Qemu]:
    """All of them, by their pids, but for those that dry runs try: no guest ever runs in such a one."""
    found = (qemu for pid in sorted(processes.pids()) if (qemu := qemu_of(pid)) is not None)
    return [qemu for qemu in found if not _TRIAL.search(qemu.mark) and _is_of(qemu, ours)]


def qemu_of(pid: int) -> Qemu | None:
    """The QEMU with this pid; None if the process is none, or has ended."""
    with suppress(OSError):
        program = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 # of all processes again and again: a Path costs more
        if not PROGRAM.fullmatch(program.rpartition("/")[2].removesuffix(processes.DELETED)):
            return None
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        process = processes.process(pid)
        if process is not None:
            argv, mark = _launch_of(process)
            user = accounts.user_name(Path(f"/proc/{pid}").stat().st_uid)
            return Qemu(process=process, argv=argv, mark=mark, user=user, stopped=state in "Tt")
    return None


@lru_cache(maxsize=1024)
def _launch_of(process: Process) -> tuple[tuple[str, ...], str]:
    """Its command line, and the name under which a worker has started it. A QEMU keeps both until it ends.

    Raises:
        OSError: it has ended.
    """
    folder = Path(f"/proc/{process.pid}")
    argv = folder.joinpath("cmdline").read_bytes().split(b"\0")[:-1]
    if not argv:
        raise ProcessLookupError(process.pid)
    # what is no UTF-8 is shown as it is in checks: neither JSON nor Postgres takes what `os.fsdecode` makes of it
    return tuple(word.decode(errors="backslashreplace") for word in argv), processes.mark_of(process) or ""


def _is_of(qemu: Qemu, ours: Settings) -> bool:
    """The hosts of a lab share one machine: each sees those that have something in its folder."""
    lab = os.environ.get(LAB)
    if lab is None:
        return True
    folder = f"{lab}/hosts/{ours.host}/"
    with suppress(OSError):
        where = f"{Path(f'/proc/{qemu.process.pid}/cwd').readlink()}/"
        return any(folder in text for text in (qemu.mark, where, *qemu.argv))
    return False


def name_of(argv: Sequence[str]) -> str | None:
    """What `-name` calls it."""
    for option in parse_command_line(argv):
        if option.name == "name" and option.value:
            return option.get("guest") or next((text for key, text in option.pairs() if key is None), None)
    return None


def uuid_of(argv: Sequence[str]) -> str | None:
    """The machine's, by `-uuid` or `-smbios type=1`."""
    found = None
    for option in parse_command_line(argv):
        if option.name == "uuid":
            found = option.value
        elif option.name == "smbios" and option.get("type") == "1" and found is None:
            found = option.get("uuid")
    return found.lower() if found else None


def macs_of(argv: Sequence[str]) -> tuple[str, ...]:
    """The addresses that were given to its network cards."""
    return tuple(dict.fromkeys(_macs(argv)))


def _macs(argv: Sequence[str]) -> Iterator[str]:
    for option in parse_command_line(argv):
        if option.name in {"device", "nic"} or (option.name, option.driver) == ("net", "nic"):
            yield from (value.lower() for key, value in option.leaves() if key in {"mac", "macaddr"})
