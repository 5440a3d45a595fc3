"""Launch lines as people have them: the guest of each is started on a host of a lab, adopted, and moved or refused.

These guests have no operating system. Before the move every disk gets a pattern, by its QEMU, and what the guest sees
of each disk is written down; after the move it must see the same.
"""

import asyncio
import ctypes
import json
import re
import shlex
import shutil
import socket
import subprocess
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from drover.errors import DroverError, PreconditionFailed
from lab import fleet, network
from lab.directory import Lab, LabHost
from models.documents import MigrationOptions
from models.job import JobState
from tests.helpers import Moves, until
from workers.process import processes
from workers.qemu import balloon, inline_secrets
from workers.qemu.bitmaps import is_theirs
from workers.qemu.monitor import Monitor, MonitorLost, connect
from workflows import guests
from workflows.migration import jobs, preflight

FILE = Path(__file__).with_suffix(".toml")
STARTED_WITHIN_S = 20.0
CLONE_NEWNET = 0x40000000
TAP = "vnet0"
TAP_DESCRIPTOR = 30
OPEN_TAP = """
import fcntl, os, struct, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"{name}", 0x1002))  # TUNSETIFF: a tap, without packet headers
os.system("ip link set {name} master virbr0 up")
os.dup2(tap, {number}, inheritable=True)
os.execvp(sys.argv[1], sys.argv[1:])
""".replace("{name}", TAP).replace("{number}", str(TAP_DESCRIPTOR))
PASSWORD = "hunter2"  # nosec B105 # pragma: allowlist secret
"""The one of all lines that have one."""
PATTERNS = (0, 1 << 20, 40 << 20)
"""Where a disk gets a pattern of 64 KiB, as far as it reaches."""

Answer = TypeVar("Answer")


class Row(StrEnum):
    """The kinds of what people have."""

    MEDIA = "media"
    CHAINS = "chains"
    BLOCK_DEVICES = "block devices"
    LIMITS = "limits"
    HOT_PLUGGED = "hot-plugged"
    TAPS = "taps"
    PROCESS = "process"
    MONITORS = "monitors"
    PATHS = "paths"
    IMAGES = "images"
    MACHINES = "machines"
    STATE = "state"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Live(_Part):
    """What somebody does to the running guest by QMP."""

    execute: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    job: Literal["ready", "gone"] | None = None
    """Wait then until all block jobs are."""


class Line(_Part):
    """One launch line."""

    name: str
    title: str
    row: Row
    everyday: bool = False
    """Tried in every run of the tests; the others by `make test-guests`."""
    refused: str | None = None
    """It is refused before anything begins, with a sentence that this regular expression matches. None: it moves."""
    options: MigrationOptions = MigrationOptions(verify=True)
    """Of its moves."""
    needs: tuple[str, ...] = ()
    """It is tried only where these are: paths, and programs by their names."""
    warned: str | None = None
    """The plan of its first move warns of something that this regular expression matches."""
    moves: int = 2
    """There, back, and so on."""
    setup: str
    """A shell script."""
    line: str | None = None
    """Either this, as a shell has it, or `argv`."""
    argv: tuple[str, ...] = ()
    qmp: str = "{G}/qmp.sock"
    folder: str | None = None
    """What `{G}` is below the guest root; without it the line's name."""
    cwd: str | None = None
    live: tuple[Live, ...] = ()
    """Before it is adopted."""
    between: tuple[Live, ...] = ()
    """Before its last move."""

    def lacks(self) -> list[str]:
        """What of its needs is not on this machine."""
        return [name for name in self.needs if shutil.which(name) is None and not Path(name).exists()]

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        assert bool(self.line) != bool(self.argv), f"{self.name}: either line or argv"
        return self


@cache
def all_lines() -> tuple[Line, ...]:
    """In their order in the file."""
    return tuple(Line(name=name, **fields) for name, fields in tomllib.loads(FILE.read_text()).items())


@dataclass(frozen=True)
class Outcome:
    """What became of a line."""

    verdict: Literal["moved", "refused", "not adopted", "failed"]
    """`failed`: although the dry run had said yes."""
    sentence: str = ""


def write_policy(lab: Lab) -> None:
    """Guests of the lines may run as an ordinary user, have images beside the guest root, and speak with Proxmox."""
    fleet.write_policy(
        lab,
        users=json.dumps(["libvirt-qemu", "qemu", "vmuser"]),
        folders=json.dumps([str(lab.path / "hosts"), str(beside(lab))]),
        sockets=json.dumps([str(host.guests / "run") for host in lab.hosts]),
    )


def beside(lab: Lab) -> Path:
    """`{T}`."""
    return lab.path / "beside"


def tried(lab: Lab, line: Line) -> Outcome:
    """Start it on host-a and move it to host-b, and so on. Afterwards nothing of it is left.

    Raises:
        AssertionError: the line itself does not work, or the guest came out of its move with other disks.
    """
    trial = _Trial(lab, line)
    try:
        trial.start()
        return trial.moved()
    finally:
        trial.clear_away()


class _Trial:
    """One line in one lab."""

    def __init__(self, lab: Lab, line: Line) -> None:
        self.lab, self.line = lab, line
        self.here, self.there = lab.host("host-a"), lab.host("host-b")
        self.moves = Moves(lab)
        self.name = f"line-{line.name}"
        self.qmp = self._filled(line.qmp)
        self.warnings: list[str] = []

    def start(self) -> None:
        """Prepare what it needs, start it, and do what somebody does to it."""
        self._place().mkdir(parents=True)
        beside(self.lab).mkdir(exist_ok=True)
        beside(self.lab).chmod(0o777)
        done = subprocess.run(
            ["bash", "-ec", self._filled(self.line.setup, shlex.quote)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{self.line.name}: {done.stderr}"
        log = self.lab.logs / f"{self.name}.log"
        processes.spawn(self.lab.mark(self.name), [*network.inside(self.lab, self.here), *self._argv()], log)
        try:
            until(f"{self.line.name} answers", lambda: self._answers(self.qmp), STARTED_WITHIN_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {processes.log_tail(log)}") from error
        self._act(self.line.live, self.qmp, self.here)

    def moved(self) -> Outcome:
        """Adopt it, ask whether it can be moved, and move it as often as its line says."""
        try:
            guests.adopt(self.name, self.here.name, self.qmp)
        except DroverError as error:
            return Outcome("not adopted", str(error))
        before = self._seen()
        state = self._on_host(_state)
        for number in range(1, self.line.moves + 1):
            if number == self.line.moves and self.line.between:
                self._act(self.line.between, guests.known_guest(self.name).qmp, self.here)
                before = self._seen()
                state = self._on_host(_state)
            outcome = self._one_move()
            if outcome is not None:
                return Outcome(
                    outcome.verdict, f"move {number}: {outcome.sentence}" if number > 1 else outcome.sentence
                )
            self.here, self.there = self.there, self.here
            self._compare(before)
            self._on_host(_tells_no_password)
            assert not [log for log in self.lab.path.rglob("*.log") if PASSWORD.encode() in log.read_bytes()]
            assert self._on_host(_state) == state, self.line.name
        said = "; ".join(self.warnings)
        assert self.line.warned is None or re.search(self.line.warned, said), f"{self.line.name}: {said}"
        return Outcome("moved")

    def _one_move(self) -> Outcome | None:
        try:
            options = self.line.options
            plan = preflight.plan(guests.known_guest(self.name), self.there.name, options, tried=True)
            assert PASSWORD not in str(plan), self.line.name
            self.warnings += preflight.warnings(plan, options)
        except PreconditionFailed as error:
            return Outcome("refused", str(error))
        try:
            job = self.moves.ended(jobs.submit(self.name, self.there.name, options=options).id)
        except DroverError as error:
            return Outcome("failed", str(error))
        return None if job.state is JobState.DONE else Outcome("failed", f"{job.state}: {job.error}")

    # What the guest sees

    def _seen(self) -> dict[str, Path]:
        """Write a pattern into each disk that can be written, and keep a copy of what is on each; by their devices."""
        return self._on_host(self._kept)

    async def _kept(self, monitor: Monitor) -> dict[str, Path]:
        if (await monitor.query("query-status"))["status"] in {"paused", "prelaunch"}:
            await monitor.execute("cont")
        kept = {}
        for number, medium in enumerate(await _media(monitor)):
            if not medium["inserted"]["ro"]:
                await _write_patterns(monitor, medium, 0x11 + number)
            kept[_seen_as(medium)] = copy = self.lab.path / f"{self.name}-{number}.raw"
            async with _served(monitor, medium, self._socket) as url:
                await asyncio.to_thread(_run, "qemu-img", "convert", "-f", "raw", "-O", "raw", url, str(copy))
        return kept

    def _compare(self, before: dict[str, Path]) -> None:
        async def same(monitor: Monitor) -> None:
            media = {_seen_as(medium): medium for medium in await _media(monitor)}
            assert media.keys() == before.keys(), f"{self.line.name}: {sorted(before)} became {sorted(media)}"
            for device, copy in before.items():
                async with _served(monitor, media[device], self._socket) as url:
                    await asyncio.to_thread(_run, "qemu-img", "compare", "-f", "raw", "-F", "raw", str(copy), url)

        self._on_host(same)

    @property
    def _socket(self) -> Path:
        return beside(self.lab) / "nbd.sock"

    def _on_host(self, ask: Callable[[Monitor], Awaitable[Answer]]) -> Answer:
        return _ask(self.lab, self.here, guests.known_guest(self.name).qmp, ask)

    # How it is started

    def _filled(self, text: str, quoted: Callable[[str], str] = str) -> str:
        place = quoted(str(self._place()))
        values = {
            "{G}": place,
            "{Gc}": place.replace(",", ",,"),
            "{RA}": str(self.lab.host("host-a").guests),
            "{RB}": str(self.lab.host("host-b").guests),
            "{T}": str(beside(self.lab)),
            "LABPREFIX-": network.namespace(self.lab, ""),
            "TAPFD": str(TAP_DESCRIPTOR),
        }
        for name, value in values.items():
            text = text.replace(name, value)
        return text

    def _place(self) -> Path:
        return self.lab.host("host-a").guests / (self.line.folder or self.line.name)

    def _argv(self) -> list[str]:
        words = self.line.argv or shlex.split(self.line.line or "")
        argv = [self._filled(word) for word in words]
        if any("TAPFD" in word for word in words):
            argv = ["python3", "-c", OPEN_TAP, *argv]
        return ["env", "-C", self._filled(self.line.cwd), *argv] if self.line.cwd else argv

    def _answers(self, qmp: str) -> bool:
        if qmp.startswith("tcp:"):
            return in_network_of(self.lab, self.here, lambda: _listens(qmp))
        with suppress(MonitorLost):
            _ask(self.lab, self.here, qmp, _nothing)
            return True
        return False

    def _act(self, what: Sequence[Live], qmp: str, host: LabHost) -> None:
        async def act(monitor: Monitor) -> None:
            for one in what:
                arguments = json.loads(self._filled(json.dumps(one.arguments)))
                await monitor.execute_each(one.execute, [arguments])
                while one.job is not None and not _are(one.job, await monitor.query("query-block-jobs")):
                    await asyncio.sleep(0.02)

        if what:
            _ask(self.lab, host, qmp, act)

    # Afterwards

    def clear_away(self) -> None:
        """End its QEMU wherever it is, and delete all files."""
        for process in processes.find_below(self.lab.path):
            if "qemu-system" in str(Path(f"/proc/{process.pid}/exe").readlink()):
                process.kill()
        self.moves.end([self.name])
        for device, image in _loop_devices():
            if Path(image).is_relative_to(self.lab.path):
                _run("losetup", "-d", device)
        for folder in (*(host.guests for host in self.lab.hosts), beside(self.lab)):
            for entry in folder.iterdir() if folder.exists() else ():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        for copy in self.lab.path.glob(f"{self.name}-*.raw"):
            copy.unlink()


async def _media(monitor: Monitor) -> list[dict[str, Any]]:
    """The disks with an image in them. UEFI goes on writing into its variables."""
    found = await monitor.query("query-block")
    return [one for one in found if "inserted" in one and "flash" not in one.get("device", "") + one.get("qdev", "")]


def _seen_as(medium: dict[str, Any]) -> str:
    """By its device, or where no device is on it by its drive."""
    return str(medium["device"] or medium["qdev"])


async def _state(monitor: Monitor) -> dict[str, Any]:
    """What lives in the process alone and can be read."""
    nodes = await monitor.query("query-named-block-nodes", flat=True)
    found = [bitmap for node in nodes for bitmap in node.get("dirty-bitmaps", ()) if is_theirs(bitmap)]
    found.sort(key=lambda bitmap: str(bitmap["name"]))
    return {
        "balloons": await balloon.intervals(monitor),
        "bitmaps": sorted(found, key=lambda bitmap: str(bitmap["name"])),
        "memory": [one["data"] | {"hotplugged": None} for one in await monitor.query("query-memory-devices")],
    }


async def _write_patterns(monitor: Monitor, medium: dict[str, Any], pattern: int) -> None:
    """By the guest's own QEMU, as if the guest had written it."""
    size = medium["inserted"]["image"]["virtual-size"]
    target = f"-d {medium['qdev']}" if "qdev" in medium else medium["device"]
    for at in PATTERNS:
        if at + (64 << 10) <= size:
            await monitor.hmp(f'qemu-io {target} "write -P {pattern:#x} {at} 64k"')


@asynccontextmanager
async def _served(monitor: Monitor, medium: dict[str, Any], at: Path) -> AsyncIterator[str]:
    """What the guest sees of a disk, to be read at this address."""
    await monitor.execute("nbd-server-start", addr={"type": "unix", "data": {"path": str(at)}})
    try:
        node = medium["inserted"]["node-name"]
        await monitor.execute("block-export-add", type="nbd", id="seen", node_name=node, name="seen")
        yield f"nbd+unix:///seen?socket={at}"
    finally:
        await monitor.execute("nbd-server-stop")


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(argv)}: {done.stdout}{done.stderr}"


async def _tells_no_password(monitor: Monitor) -> None:
    line = Path(f"/proc/{monitor.pid}/cmdline").read_text()
    assert PASSWORD not in line
    for path in re.findall(r"file=([^,\0]*\.sock\.\w+\.secret)", line):
        assert Path(path).stat().st_mode & 0o777 == inline_secrets.MODE


async def _nothing(monitor: Monitor) -> None:
    """It answers."""


def _are(state: Literal["ready", "gone"], jobs: list[dict[str, Any]]) -> bool:
    return all(job["ready"] for job in jobs) if state == "ready" else not jobs


def _listens(qmp: str) -> bool:
    _, host, port = qmp.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def _ask(lab: Lab, host: LabHost, qmp: str, ask: Callable[[Monitor], Awaitable[Answer]]) -> Answer:
    """What a monitor on a host answers; it may listen at an address of that host's own network."""

    async def talk() -> Answer:
        async with connect(qmp) as monitor:
            return await ask(monitor)

    return in_network_of(lab, host, lambda: asyncio.run(talk()))


def in_network_of(lab: Lab, host: LabHost, do: Callable[[], Answer]) -> Answer:
    """Do something in the network namespace of a host: a thread that has entered one ends with it."""

    def there() -> Answer:
        _enter_network_of(lab, host)
        return do()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(there).result()


def _enter_network_of(lab: Lab, host: LabHost) -> None:
    with Path("/run/netns", network.namespace(lab, host.name)).open() as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _loop_devices() -> list[tuple[str, str]]:
    told = subprocess.run(["losetup", "-l", "-J", "-O", "NAME,BACK-FILE"], capture_output=True, text=True, check=True)
    devices = json.loads(told.stdout or '{"loopdevices": []}')["loopdevices"]
    return [(one["name"], (one["back-file"] or "").removesuffix(" (deleted)")) for one in devices]
