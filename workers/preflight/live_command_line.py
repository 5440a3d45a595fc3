"""How a QEMU was started, read from /proc so that it says the same on another host.

What depends on the process is resolved: paths that are relative to its working directory, a file for `-readconfig`.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from models.preflight import Check
from workers.preflight import checks
from workers.preflight.handed_images import NONE_HANDED, HandedImages
from workers.process import handed_channels, processes
from workers.process.processes import Process
from workers.qemu import config_file, paths
from workers.qemu.config_file import UnreadableConfig
from workers.qemu.options import parse_command_line

CONFIG_LIMIT_BYTES = 1 << 20
CLOCKS_DIFFER_S = 2.0
"""The kernel's clock for files is coarser than the one for processes, and the start is computed from two."""


@dataclass(frozen=True, kw_only=True)
class LiveCommandLine:
    """A command line that depends on nothing of its process, as far as that is possible."""

    argv: list[str]
    said: list[str]
    """What was said in so many words; only what files say is put in."""
    folder: Path | None = None
    """Where the relative paths of its start begin; None: nothing says so."""
    checks: tuple[Check, ...] = ()
    """Why it cannot be told to another host, and what of it is not."""
    handed: HandedImages = NONE_HANDED
    """Images that it did not open itself."""

    def place(self, name: str) -> str:
        """The path from the root of a file that QEMU calls by this name; an address of another kind stays as it is."""
        name = self.handed.paths.get(name, name)
        return name if paths.is_no_file(name) else _place(self.folder, name)


def read(process: Process) -> LiveCommandLine:
    """The command line of a living QEMU, resolved."""
    raw = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[:-1]
    words = [word.decode(errors="backslashreplace") for word in raw]
    if against := tuple(_not_utf8(word) for word in raw if not _is_utf8(word)):
        return LiveCommandLine(argv=words, said=words, checks=against)
    folder = _folder(process, words)
    try:
        said = config_file.merged(words, lambda name: _config(process, _place(folder, name)))
    except (OSError, UnicodeError, UnreadableConfig) as error:
        against = (checks.process.READCONFIG.found(f"{checks.process.READCONFIG.why}: {error}"),)
        return LiveCommandLine(argv=_absolute(words, folder), said=words, folder=folder, checks=against)
    argv, ended = handed_channels.without_logs(handed_channels.by_name(process, _absolute(said, folder)))
    return LiveCommandLine(argv=argv, said=said, folder=folder, checks=tuple(ended))


def _place(folder: Path | None, name: str) -> str:
    if not name.startswith("/"):
        name = name if folder is None else str(folder / name)
    if not name.startswith("/"):
        return name
    if ".." in Path(name).parts:
        return str(Path(name).parent.resolve() / Path(name).name)
    return "/" + str(Path(name)).lstrip("/")


def _is_utf8(word: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        word.decode()
        return True
    return False


def _not_utf8(word: bytes) -> Check:
    return checks.files.NOT_UTF8.of(word.decode(errors="backslashreplace"))


def _config(process: Process, name: str) -> str:
    """The text of a configuration file, if it is the one that QEMU has read."""
    found = os.open(_seen_by(process, name), os.O_PATH | os.O_CLOEXEC)  # a pipe or a device is not opened
    try:
        there = os.fstat(found)
        if not (stat.S_ISREG(there.st_mode) and processes.permitted(process, there, stat.S_IROTH)):
            raise UnreadableConfig(f"{name} is no file that the user of the guest's QEMU may read")
        if there.st_mtime > processes.started_at(process) + CLOCKS_DIFFER_S:
            raise UnreadableConfig(f"{name} was changed after the guest was started")
        with Path(f"/proc/self/fd/{found}").open("rb") as file:
            return file.read(CONFIG_LIMIT_BYTES).decode()
    finally:
        os.close(found)


def _seen_by(process: Process, name: str) -> Path:
    """The path by which we find what the process finds there: it may have a file system of its own."""
    if not name.startswith("/") or name.startswith(("/dev/", "/proc/")):
        raise UnreadableConfig(f"{name} is no file that is still there")
    return Path(f"/proc/{process.pid}/root{name}")


def _absolute(argv: Sequence[str], folder: Path | None) -> list[str]:
    """Names that QEMU also looks for elsewhere are meant here only if they are here, or in a folder of `-L`."""
    searched = [
        _place(folder, option.value) for option in parse_command_line(argv) if option.name == "L" and option.value
    ]

    def place(name: str) -> str:
        return _place(folder, name)

    def place_if_here(name: str) -> str:
        found = (_place(folder, name), *(f"{each}/{name}" for each in searched))
        return next((here for here in found if here.startswith("/") and Path(here).exists()), name)

    return paths.changed(argv, place, searched=place_if_here)


def _folder(process: Process, argv: Sequence[str]) -> Path | None:
    """Where it was started; None: nothing says so, or it does not matter.

    `-daemonize` changes the working directory to `/` once all is open. Then the files that it has open tell, or the
    environment does.
    """
    relative = paths.relative(argv)
    if not any(option.name == "daemonize" for option in parse_command_line(argv)):
        return _working_directory(process)
    for folder in _told_by_open_files(process, relative) + _told_by_environment(process):
        if all(os.path.lexists(folder / name) for name in relative):
            return folder
    return None


def _working_directory(process: Process) -> Path | None:
    try:
        return Path(f"/proc/{process.pid}/cwd").readlink()
    except OSError:  # another user's
        return None


def _told_by_open_files(process: Process, relative: Sequence[str]) -> list[Path]:
    found: dict[Path, None] = {}
    for opened in processes.open_files(process):
        for name in relative:
            end = f"/{os.path.normpath(name)}"
            if str(opened).endswith(end) and ".." not in name:
                found[Path(str(opened).removesuffix(end) or "/")] = None
    return list(found)


def _told_by_environment(process: Process) -> list[Path]:
    with suppress(OSError):
        for entry in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == b"PWD" and value.startswith(b"/"):
                return [Path(os.fsdecode(value))]
    return []
