"""Moves by `virsh migrate --copy-storage-all` and by Drover in turns, with two guests of the same kind.

libvirt cannot take over a guest that it did not start, so each has its own; the other one rests meanwhile. Both hosts
are network namespaces, and each has a libvirtd in further name spaces of its own.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any
from uuid import uuid4
from xml.sax.saxutils import escape  # nosec B406 # it writes XML and parses none

from bench.figures import Figure, median
from bench.guests import LONGEST_MOVE_S, Guest, Move, Times, booted
from bench.moves import HEAVY, IDLE, LIGHT, MIB, Scenario, line, turns
from drover.errors import PreconditionFailed
from lab import network
from lab.directory import Lab, LabHost
from lab.guest.boot_files import boot_files, default_cache
from lab.guest.command_line import kernel_words
from lab.guest.spec import DiskSpec, GuestSpec, create_images
from models.documents import MigrationOptions
from workers.process import processes

SCRIPT = Path(__file__).with_name("libvirtd.sh")
DOMAIN = Template(Path(__file__).with_name("libvirt.xml").read_text())
FOLDERS = ("etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt", "run")
START_TIMEOUT_S, BOOT_TIMEOUT_S = 60.0, 120.0
SETTLE_S = 1.0
OPTIONS = ("--live", "--copy-storage-all", "--auto-converge")
"""--p2p and cache='none' did no better."""
DOWNTIME_MS = 15
"""A heavy guest was paused for 121 ms with QEMU's 300, for 60 with 50, for some less with 15; 5 gained nothing more."""
BOTH = ("libvirt", "drover")
CONFIGURATION = """
auth_unix_rw = "none"
host_uuid = "{uuid}"
"""
QEMU_CONFIGURATION = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
seccomp_sandbox = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
"""Nothing that confines a guest: Drover's are not confined either."""


def measure(lab: Lab, runs: int, only: list[str] | None) -> list[Figure]:
    """Total time, storage time and downtime over libvirt's.

    Raises:
        PreconditionFailed: there is no libvirt, or it does not start.
    """
    if not (shutil.which("libvirtd") and shutil.which("virsh")):
        raise PreconditionFailed("there is no libvirt on this machine: run `make bench LIBVIRT=1`, which installs it")
    for host in lab.hosts:
        _start(lab, host)
    found: list[Figure] = []
    for scenario in scenarios():
        if not only or scenario.name in only:
            _run(scenario, lab, runs)
            found += _figures(scenario)
    return found


def scenarios() -> list[Scenario]:
    """Guests from idle to heavy, and a larger disk."""
    loads = {"idle": IDLE, "light": LIGHT, "heavy": HEAVY}
    small = [Scenario(name=f"{name}-1g", load=load) for name, load in loads.items()]
    return [*small, Scenario(name="light-8g", load=LIGHT, disk_mib=8192, fill_mib=1024)]


def _start(lab: Lab, host: LabHost) -> None:
    own = host.folder / "libvirt"
    for folder in FOLDERS:
        (own / folder).mkdir(parents=True)
    (own / "etc/libvirt/libvirtd.conf").write_text(CONFIGURATION.format(uuid=uuid4()))
    (own / "etc/libvirt/qemu.conf").write_text(QEMU_CONFIGURATION)
    log = lab.logs / f"libvirtd-{host.name}.log"
    alone = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    what = ["sh", str(SCRIPT), host.name, str(own), str(host.guests), str(_common_path(lab))]
    started = processes.spawn(lab.mark(f"libvirtd-{host.name}"), [*network.inside(lab, host), *alone, *what], log)
    deadline = time.monotonic() + START_TIMEOUT_S
    while _virsh(host, "domcapabilities").returncode:  # asks QEMU what it can do, which libvirt caches
        if not started.alive or time.monotonic() > deadline:
            raise PreconditionFailed(f"libvirtd did not start: {processes.log_tail(log)}")
        time.sleep(0.1)


def _common_path(lab: Lab) -> Path:
    return lab.host("host-a").guests


def _uri(host: LabHost) -> str:
    return f"qemu+unix:///system?socket={host.folder}/libvirt/run/libvirt/libvirt-sock"


def _virsh(host: LabHost, *words: str) -> subprocess.CompletedProcess[str]:
    argv = ["virsh", "--quiet", "--connect", _uri(host), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=LONGEST_MOVE_S)


@dataclass
class Domain(Guest):
    """A guest of libvirt's."""

    @property
    def devices(self) -> list[str]:
        """By libvirt's name for the disk."""
        return ["/machine/peripheral/virtio-disk0/virtio-backend"]

    def _moved(self, by: str, to: str, asked: MigrationOptions, floor: dict[str, Any]) -> Times:
        self.create_images(to)
        there = self.lab.host(to)
        self._virsh("migrate-setmaxdowntime", self.spec.name, str(DOWNTIME_MS))
        begun = time.time()
        self._virsh("migrate", *OPTIONS, "--migrateuri", f"tcp://{there.address}", self.spec.name, _uri(there))
        return Times(begun, time.time())

    def _virsh(self, *words: str) -> None:
        done = _virsh(self.lab.host(self.host), *words)
        assert not done.returncode, done.stderr

    def create_images(self, host: str) -> None:
        """Empty ones, which `--copy-storage-all` wants to find."""
        self._at(host).mkdir()
        create_images(replace(self.spec, directory=self._at(host)))

    def start(self) -> None:
        """Boot it and wait until it writes."""
        self.create_images(self.host)
        document = self.lab.path / "domain.xml"
        document.write_text(_xml(self.spec))
        self._virsh("create", str(document))
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        sign = b"ack " if self.spec.write_rate else b"tick "
        while sign not in self.spec.console.read_bytes():
            assert time.monotonic() < deadline, f"{self.spec.name} did not boot"
            time.sleep(0.05)


def _xml(spec: GuestSpec) -> str:
    files = boot_files(default_cache())
    values: dict[str, Any] = {
        "name": spec.name,
        "uuid": spec.uuid,
        "memory_mib": spec.memory_mib,
        "cpus": spec.cpus,
        "kernel": files.kernel,
        "initramfs": files.initramfs,
        "words": kernel_words(spec),
        "qemu": shutil.which(spec.qemu),
        "format": spec.disks[0].format,
        "image": spec.image(0),
        "console": spec.console,
        "watch": spec.watch_socket,
    }
    return DOMAIN.substitute({key: escape(str(value)) for key, value in values.items()})


@contextmanager
def _domain(lab: Lab, name: str, **load: Any) -> Iterator[Domain]:
    """Like `booted`, by libvirt."""
    domain = Domain(lab, GuestSpec(name=name, directory=_common_path(lab) / name, **load))
    domain.start()
    yield domain
    domain.check()
    _virsh(lab.host(domain.host), "destroy", name)


def _run(scenario: Scenario, lab: Lab, runs: int) -> None:
    disks = (DiskSpec(size_bytes=scenario.disk_mib * MIB),)
    load = {**scenario.load, "disks": disks, "fill_mib": scenario.fill_mib}
    with _domain(lab, f"libvirt-{scenario.name}", **load) as domain:
        domain.rest()
        with booted(lab, f"drover-{scenario.name}", **load) as guest:
            guest.rest()
            for by in turns(runs, "drover", "libvirt"):
                scenario.moves.append(_move(guest if by == "drover" else domain, by))
                print(f"  {scenario.name}: {line(scenario.moves[-1])}", flush=True)


def _move(guest: Guest, by: str) -> Move:
    guest.go_on()
    time.sleep(SETTLE_S)
    move = guest.move(by)
    guest.rest()
    return move


def _figures(scenario: Scenario) -> list[Figure]:
    print(_parts(scenario), flush=True)
    return [
        _figure(scenario, "total", "total time", "s", lambda move: move.total_s),
        _figure(scenario, "storage", "time of the disk's copy", "s", lambda move: move.seen.copy_s),
        _figure(scenario, "downtime", "downtime", "ms", lambda move: move.seen.downtime_ms),
    ]


def _figure(scenario: Scenario, name: str, what: str, unit: str, value: Callable[[Move], float]) -> Figure:
    values = {by: [value(move) for move in scenario.of(by)] for by in BOTH}
    libvirt, drover = (median(values[by]) for by in BOTH)
    return Figure(
        name=f"libvirt-{name}-{scenario.name}",
        what=f"{what} over that of libvirt {_version()}, {scenario.name} ({drover:.3g} and {libvirt:.3g} {unit})",
        value=drover / libvirt,
        at_most=1.0,
        series=values,
        axis=f"{what}, {unit}, {scenario.name}",
    )


def _version() -> str:
    return subprocess.run(["virsh", "--version"], capture_output=True, text=True, check=True).stdout.strip()


PARTS: dict[str, Callable[[Move], float]] = {
    "ordered, until the first mirror begins": lambda move: move.seen.mirror_at - move.times.begun_at,
    "disk copied": lambda move: move.seen.copy_s,
    "copied, until the RAM is sent": lambda move: move.seen.ram_at - move.seen.ready_at,
    "RAM sent, the guest runs": lambda move: move.seen.stopped_at - move.seen.ram_at,
    "paused, until the mirrors have ended": lambda move: move.seen.mirrors_ended_at - move.seen.stopped_at,
    "until the device state may be sent": lambda move: move.seen.continued_at - move.seen.mirrors_ended_at,
    "until the source has sent all": lambda move: move.seen.completed_at - move.seen.continued_at,
    "until the guest runs": lambda move: move.seen.resumed_at - move.seen.completed_at,
    "it runs, until the end": lambda move: move.times.ended_at - move.seen.resumed_at,
}


def _parts(scenario: Scenario) -> str:
    """Where the time goes, as seen from outside: the median of each part."""
    lines = [f"| {scenario.name}, ms | {' | '.join(BOTH)} |", "| --- | --- | --- |"]
    for name, part in PARTS.items():
        values = (1000 * median([part(move) for move in scenario.of(by)]) for by in BOTH)
        lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |")
    return "\n".join(lines)
