"""Channels that a guest's launcher has opened for its QEMU, as if QEMU had opened them by their names.

libvirt hands over the sockets of its monitor and of agents (`-chardev socket,fd=`), logs of consoles (`-add-fd`,
`/dev/fdset/N`, with virtlogd behind them), and the device of a vsock (`vhostfd=`).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from models.preflight import Check
from workers.preflight import checks
from workers.process import processes
from workers.process.processes import Process
from workers.qemu.options import Option, command_words, parse_command_line, write_options

FDSET = "/dev/fdset/"
VHOST_VSOCK = "/dev/vhost-vsock"


def by_name(process: Process, argv: Sequence[str]) -> list[str]:
    """The command line with the paths of the Unix sockets that it listens at in place of their descriptors."""
    options = [_vsock(_socket(option, process), process) for option in parse_command_line(argv)]
    return [*argv[:1], *command_words(options)]


def _socket(option: Option, process: Process) -> Option:
    number = option.get("fd")
    if (option.name, option.driver) != ("chardev", "socket") or number is None or not option.listens:
        return option
    path = _listens_at(process, number)
    if path is None:
        return option  # refused for that
    pairs = tuple(("path", path) if key == "fd" else (key, value) for key, value in option.pairs())
    return replace(option, value=write_options(pairs))


def _vsock(option: Option, process: Process) -> Option:
    """QEMU opens the device itself where it is handed none."""
    number = option.get("vhostfd")
    if option.name != "device" or number is None or _opened(process, number) != VHOST_VSOCK:
        return option
    return option.without("vhostfd")


def _opened(process: Process, number: str) -> str:
    with suppress(OSError):
        return processes.opened(process, number)
    return ""


def _listens_at(process: Process, number: str) -> str | None:
    """The full path of a socket, proc_net(5)."""
    inode = _opened(process, number).removeprefix("socket:[").removesuffix("]")
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/net/unix").read_text().splitlines():
            words = line.split(maxsplit=7)
            if inode and len(words) == 8 and words[6] == inode and words[7].startswith("/"):
                return words[7]
    return None


def without_logs(argv: Sequence[str]) -> tuple[list[str], list[Check]]:
    """The command line without the logs of consoles that are handed over, and what to say of each."""
    found, kept = list[Check](), list[Option]()
    for option in parse_command_line(argv):
        unlogged = _unlogged(option)
        kept.append(unlogged)
        if unlogged is not option:
            found.append(checks.process.LOG_HANDED_OVER.of(option.text))
    return [*argv[:1], *command_words(kept)], found


def _unlogged(option: Option) -> Option:
    if option.name != "chardev":
        return option
    if option.driver == "file" and (option.get("path") or "").startswith(FDSET):
        kept = (pair for pair in option.pairs() if pair[0] in {"id", "mux"})
        return replace(option, value=write_options(((None, "null"), *kept)))
    if not (option.get("logfile") or "").startswith(FDSET):
        return option
    return option.without("logfile", "logappend")
