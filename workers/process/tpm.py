"""An emulated TPM: the process (swtpm) that a QEMU speaks with, and how another one is started for the next QEMU.

The TPM's state goes along in the RAM stream: the source's QEMU reads it from its swtpm, the destination's gives it to
a new one that begins with nothing. `workers.process.exec_qemu` starts that right before it becomes the QEMU, and it
ends with it.
"""

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from drover.settings import Settings
from models.plan import Inspection, PlannedTpm, Tpm
from models.preflight import Check
from workers import files
from workers.media import destination
from workers.preflight import checks
from workers.process import execution, processes, sockets
from workers.process.processes import Process
from workers.process.sockets import listens
from workers.qemu import program
from workers.qemu.options import Pairs, parse_command_line, parse_options, words_of, write_options
from workers.qemu.permissions import Made
from workers.trust.policy import HostPolicy

PROGRAM = "swtpm"
ALONE = words_of("tpm2")
"""Options without a value that stay."""
KEPT = {
    "ctrl": words_of("type path mode"),
    "tpmstate": words_of("dir mode backend-uri"),
    "log": words_of("file level prefix"),
    "flags": words_of("not-need-init startup-clear startup-state startup-deactivated startup-none"),
    "locality": words_of("reject-locality-4 allow-set-locality"),
    "seccomp": words_of("action"),
}
"""Likewise with a value, and what may be in it."""
DROPPED = {"terminate": 0, "t": 0, "daemon": 0, "d": 0, "pid": 1, "runas": 1, "r": 1}
"""What the way in which it is started decides, and how many values each has."""
NUMBERS = words_of("uid gid")
"""Of the socket's owner: the QEMU's user gets it."""
STATES = tuple(f"{kind}-00.{part}" for kind in ("tpm", "tpm2") for part in ("permall", "volatilestate", "savestate"))
LOCK = ".lock"
PATHS = words_of("dir path file backend-uri")
"""Keys whose value is a path; `-` is none."""
_FILE = "file://"
LARGEST_FILE_BYTES = 1 << 26
ENDS_WITHIN_S = 5.0


class Strange(Exception):
    """The TPM cannot be started elsewhere as it was here; the text has the reason."""


# --- At the source ----------------------------------------------------------------------------------------------


def read(argv: Sequence[str]) -> tuple[Tpm | None, list[Check]]:
    """The emulated TPM of a QEMU, and why it cannot be moved."""
    options = parse_command_line(argv)
    behind = {option.get("id"): option for option in options if option.name == "chardev"}
    for option in options:
        if option.name == "tpmdev" and option.driver == "emulator":
            chardev = behind.get(option.get("chardev"))
            try:
                return _read(chardev.get("path") if chardev is not None else None), []
            except (Strange, OSError, subprocess.SubprocessError) as error:
                return None, [checks.machine.TPM.found(f"{option.text}: {error}")]
    return None, []


def _read(socket: str | None) -> Tpm:
    if not socket or not socket.startswith("/"):
        raise Strange("it is reached by no full path of a socket")
    server = sockets.server(socket)
    process = processes.process(server.pid) if server is not None else None
    if process is None:
        raise Strange(f"nobody can be seen to serve it at {socket}")
    usual, exe = shutil.which(PROGRAM), Path(f"/proc/{process.pid}/exe")
    if usual is None or not exe.samefile(usual):
        raise Strange(
            f"it is emulated by {exe.readlink()} (pid {process.pid}), which is not the {PROGRAM} of this host"
        )
    words = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[1:-1]
    runs_as = execution.read(process, ["swtpm"])
    if runs_as is None:
        raise Strange(f"its process {process.pid} may not be looked at")
    argv = _lasting(words)
    paths = dict(_paths(argv))
    if paths.get("ctrl") != socket or "tpmstate" not in paths:
        raise Strange(
            f"{PROGRAM} (pid {process.pid}) was not told its socket and the folder of its state by full paths"
        )
    return Tpm(
        pid=process.pid,
        started=process.started,
        version=program.version(usual) or (0, 0, 0),
        argv=tuple(argv),
        socket=socket,
        state=paths["tpmstate"],
        file_bytes=_size(Path(paths["tpmstate"])),
        started_as=runs_as,
    )


def _size(state: Path) -> int | None:
    """Of the file; None: it is a folder."""
    there = state.stat()
    if stat.S_ISDIR(there.st_mode):
        return None
    if not stat.S_ISREG(there.st_mode) or not 0 < there.st_size <= LARGEST_FILE_BYTES:
        raise Strange(f"its state {state} is neither a folder nor a small file")
    return there.st_size


def _lasting(words: Sequence[str]) -> list[str]:
    """The options with which it would be started elsewhere."""
    if words[:1] != ["socket"]:
        raise Strange(f"`{PROGRAM} {' '.join(words[:1])}` is tied to this host")
    kept, rest = ["socket"], iter(words[1:])
    for word in rest:
        name, has_value, value = word.lstrip("-").partition("=")
        if name in ALONE:
            kept.append(f"--{name}")
        elif name in KEPT:
            pairs = parse_options(value if has_value else next(rest, ""))
            kept += [f"--{name}", write_options(tuple(pair for pair in pairs if pair[0] not in NUMBERS))]
        elif name not in DROPPED:
            raise Strange(f"its option {word} is not moved")
        elif DROPPED[name] and not has_value:
            next(rest, "")
    if why := _strange(kept):
        raise Strange(why)
    return kept


def _valued(argv: Sequence[str]) -> Iterator[tuple[str, Pairs]]:
    rest = iter(argv[1:])
    for word in rest:
        if (name := word.removeprefix("--")) not in ALONE:
            yield name, parse_options(next(rest, ""))


def _strange(argv: Sequence[str]) -> str | None:
    """What of these options nobody has looked at."""
    for name, pairs in _valued(argv):
        for key, value in pairs:
            if name not in KEPT or (key or value) not in KEPT[name]:
                return f"its option --{name} {write_options(pairs)} is not moved"
            if key in PATHS and not value.removeprefix(_FILE).startswith("/") and value != "-":
                return f"{value} of its option --{name} is no full path"
            if (name, key) == ("ctrl", "type") and value != "unixio":
                return f"its option --ctrl type={value} is not moved"
    return None


def _paths(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name, pairs in _valued(argv):
        yield from ((name, value.removeprefix(_FILE)) for key, value in pairs if key in PATHS and value != "-")


def places(tpm: Tpm | None) -> list[str]:
    """Files of it, whose folders it needs at the destination as well."""
    if tpm is None:
        return []
    return [tpm.socket, str(states(tpm)[0]), *(path for name, path in _paths(tpm.argv) if name == "log")]


async def end(tpm: Tpm) -> None:
    """Its QEMU has ended: so does it."""
    await Process(tpm.pid, tpm.started).end()


# --- At the destination -----------------------------------------------------------------------------------------


def planned(seen: Inspection, source_root: str, ours: Settings) -> PlannedTpm | None:
    """How it is started here."""
    tpm = seen.tpm
    if tpm is None:
        return None

    def here(path: str) -> str:
        return destination.relocated(path, source_root, ours)

    return PlannedTpm(
        argv=_elsewhere(tpm.argv, here),
        socket=here(tpm.socket),
        state=here(tpm.state),
        file_bytes=tpm.file_bytes,
        started_as=tpm.started_as,
    )


def _elsewhere(argv: Sequence[str], place: Callable[[str], str]) -> tuple[str, ...]:
    words = ["socket", *(word for word in argv if word.removeprefix("--") in ALONE)]
    for name, pairs in _valued(argv):
        words += [f"--{name}", write_options(tuple((key, _placed(value, place)) for key, value in pairs))]
    return tuple(words)


def _placed(value: str, place: Callable[[str], str]) -> str:
    path = value.removeprefix(_FILE)
    return value.removesuffix(path) + place(path) if path.startswith("/") else value


def stand_in(plan: PlannedTpm, folder: Path) -> PlannedTpm:
    """One with the same options for a trial, in a folder that is the trial's own."""
    state = folder / "tpm"
    places = {plan.socket: str(folder / "tpm.sock"), plan.state: str(state)}
    argv = _elsewhere(plan.argv, lambda path: places.get(path, str(folder / "tpm.log")))
    made = plan.model_copy(
        update={
            "argv": argv,
            "socket": places[plan.socket],
            "state": places[plan.state],
            "started_as": execution.plainly(),
        }
    )
    if plan.file_bytes is None:
        state.mkdir()
    prepare(made)
    return made


def prepare(plan: PlannedTpm) -> None:
    """Its state will be in one file: swtpm begins with an empty one, and makes none itself."""
    path = Path(plan.state)
    if plan.file_bytes is None or files.status(path) is not None:
        return
    descriptor = files.opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.ftruncate(descriptor, plan.file_bytes)
        if (owner := execution.owner_here(plan.started_as, None)) is not None:
            os.fchown(descriptor, *owner)
    finally:
        os.close(descriptor)


def impossible(seen: Inspection, plan: PlannedTpm | None, rules: HostPolicy) -> list[Check]:
    """Why no such TPM can be started here."""
    if plan is None or seen.tpm is None:
        return []
    found = execution.impossible(plan.started_as, rules, "its TPM")
    if why := _strange(plan.argv):
        found.append(checks.machine.NO_TPM.found(why, remedy=""))
    paths = list(_paths(plan.argv))
    if {("ctrl", plan.socket), ("tpmstate", plan.state)} != {each for each in paths if each[0] != "log"}:
        found.append(
            checks.machine.NO_TPM.found("its TPM's options name other paths than it is said to have", remedy="")
        )
    for _, path in paths:
        if not rules.may_write(path):
            seen_there = f"{path} of its TPM is outside the folders that the policy allows, see {rules.name} there"
            found.append(checks.machine.NO_TPM.found(seen_there, remedy="list them there"))
    return found + _too_old(seen.tpm)


def _too_old(tpm: Tpm) -> list[Check]:
    here = shutil.which(PROGRAM)
    if here is None:
        return [checks.machine.NO_TPM.found(f"there is no {PROGRAM} here")]
    version = None
    with suppress(OSError, subprocess.SubprocessError):
        version = program.version(here)
    if version is None or version < tpm.version:
        ours, theirs = (".".join(map(str, each)) for each in (version or (0,), tpm.version))
        seen = f"{PROGRAM} here is of version {ours}, and {theirs} at the source"
        return [checks.machine.NO_TPM.found(seen, remedy="install the newer one")]
    return []


def in_the_way(plan: PlannedTpm | None) -> list[Check]:
    """The state of another TPM."""
    if plan is None:
        return []
    there = [path for path in states(plan) if files.status(path) is not None]
    return [checks.files.IN_THE_WAY.found(f"{path}, the state of a TPM, exists already") for path in there]


def written(plan: PlannedTpm | None) -> list[Made]:
    """Like `permissions.written`: its socket and its log."""
    paths = _paths(plan.argv) if plan is not None else ()
    return [Made(path, text=name == "log") for name, path in paths if name != "tpmstate"]


async def take_back(plan: PlannedTpm) -> None:
    """The move is rolled back and its incoming QEMU has ended: what its TPM has left goes. None was there before."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ENDS_WITHIN_S):
            while listens(Path(plan.socket)):
                await asyncio.sleep(0.02)
    locks = [] if plan.file_bytes is not None else [Path(plan.state, LOCK)]
    for path in (*states(plan), *locks):
        if files.status(path) is not None:
            files.unlink(path)


def states(of: Tpm | PlannedTpm) -> list[Path]:
    """The files in which a TPM's state may be."""
    return [Path(of.state)] if of.file_bytes is not None else [Path(of.state, name) for name in STATES]
