"""The compose file brought up for real: a Docker daemon of our own, images built here, guests that write."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.guest.boot_files import BootFiles, boot_files, default_cache
from lab.guest.command_line import command_line
from lab.guest.spec import DiskSpec, GuestSpec
from lab.guest.verify import ImageRef, verify
from tests.helpers import MIB, until

ROOT = Path(__file__).parents[2]
HOME = Path("/var/lib/drover")
"""Of a host's container: its volume."""
DRIVER = "controller"
"""The container in which the command line is run."""


def missing() -> list[str]:
    """What this needs and the machine lacks."""
    programs = ["dockerd", "docker", "docker-compose", "debootstrap"]
    return [name for name in programs if shutil.which(name) is None] + ([] if os.geteuid() == 0 else ["root"])


@dataclass
class Stack:
    """A running stack; commands for it."""

    checkout: Path
    environment: dict[str, str] = field(repr=False)

    def docker(self, *words: str, check: bool = True) -> str:
        """Run docker; returns what it printed."""
        return self._run(["docker", *words], check)

    def compose(self, *words: str) -> str:
        """Run docker-compose on the checkout's file."""
        return self._run(["docker-compose", *words], check=True)

    def drover(self, *words: str) -> Any:
        """The command line in a container, and its JSON."""
        return json.loads(self.docker("exec", self.container(DRIVER), "drover", *words, "--json"))

    def container(self, service: str) -> str:
        """The service's one container."""
        return self.compose("ps", "-q", service).strip()

    def volume(self, host: str) -> Path:
        """Where a host's home lies on this machine."""
        [mount] = json.loads(self.docker("inspect", "--format", "{{json .Mounts}}", self.container(host)))
        return Path(mount["Source"])

    def healthy(self) -> bool:
        """Every service with a health check is healthy."""
        services = [name for name in self.compose("config", "--services").split() if name != "migrate"]
        states = self.docker("inspect", "--format", "{{.State.Health.Status}}", *map(self.container, services))
        return set(states.split()) == {"healthy"}

    def boot(self, name: str, files: BootFiles, host: str = "host-a") -> None:
        """A guest on a host, started as its owner would start it there, and adopted."""
        spec = GuestSpec(
            name=name,
            directory=HOME / name,
            disks=(DiskSpec(size_bytes=64 * MIB, format="raw"),),
            window_mib=4,
            write_rate=100,
            fill_mib=32,
        )
        image, size = str(spec.image(0)), str(spec.disks[0].size_bytes)
        here = self.container(host)
        self.docker("exec", here, "mkdir", str(spec.directory))
        self.docker("exec", here, "qemu-img", "create", "-q", "-f", "raw", image, size)
        self.docker("exec", "--detach", here, *command_line(spec, files))
        until("the guest writes", lambda: b"ack " in self._console(host, name), 180)
        self.drover("guest", "adopt", name, "--host", host, "--qmp", str(spec.qmp_socket))

    def _console(self, host: str, name: str) -> bytes:
        console = self.volume(host) / name / "console.log"
        return console.read_bytes() if console.exists() else b""

    def intact(self, name: str, host: str) -> None:
        """It writes on, and its image has each write that it ever saw acknowledged."""
        seen = len(self._console(host, name))
        until("the guest goes on", lambda: len(self._console(host, name)) > seen)
        self.docker("pause", self.container(host))
        try:
            self.lost_nothing(name, host)
        finally:
            self.docker("unpause", self.container(host))

    def lost_nothing(self, name: str, host: str) -> None:
        """The image has each write that the guest saw acknowledged, wherever that was."""
        consoles = [self.volume(place) / name / "console.log" for place in ("host-a", "host-b")]
        consoles = [console for console in consoles if console.exists() and console.stat().st_size]
        consoles.sort(key=lambda console: console.parent.parent == self.volume(host))
        report = verify([ImageRef(self.volume(host) / name / "disk0.raw", "raw", "vda")], consoles)
        assert report.ok, report.problems

    def _run(self, argv: list[str], check: bool) -> str:
        done = subprocess.run(argv, cwd=self.checkout, env=self.environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@contextmanager
def up() -> Iterator[Stack]:
    """The stack from a clean clone, for the time of a `with` block."""
    if lacking := missing():
        pytest.skip(f"not on this machine: {', '.join(lacking)}")
    folder = Path(tempfile.mkdtemp(prefix="dc", dir="/var/tmp"))
    try:
        with _docker(folder) as address:
            checkout = folder / "drover"
            subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)
            stack = Stack(checkout, os.environ | _secrets() | {"DOCKER_HOST": address})
            subprocess.run([ROOT / "tests/compose/base_images.sh", folder], env=stack.environment, check=True)
            stack.docker("build", "--network", "host", "--tag", "drover", ".")
            try:
                stack.compose("up", "--detach", "--no-build")
                until("every service is well", stack.healthy, 180, every_s=1)
                yield stack
            finally:
                print(stack.compose("logs", "--no-color", "--tail", "50"))  # pytest shows it beside a failure
                stack.compose("down", "--volumes", "--timeout", "1")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def boot_files_for(stack: Stack) -> BootFiles:
    """Kernel and initramfs at the same place on both hosts."""
    built = boot_files(default_cache())
    files = BootFiles(kernel=HOME / "vmlinuz", initramfs=HOME / "initramfs")
    for host in ("host-a", "host-b"):
        for source, place in ((built.kernel, files.kernel), (built.initramfs, files.initramfs)):
            stack.docker("cp", str(source), f"{stack.container(host)}:{place}")
            (stack.volume(host) / place.name).chmod(0o644)
    return files


def _secrets() -> dict[str, str]:
    return {
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "REDIS_PASSWORD": secrets.token_hex(24),
        "FLOWER_BASIC_AUTH": f"operator:{secrets.token_hex(24)}",
        "FLOWER_PORT": "0",
        "PROMETHEUS_PORT": "0",
    }


@contextmanager
def _docker(folder: Path) -> Iterator[str]:
    """A daemon of our own; it changes none of this machine's packet filters."""
    address = f"unix://{folder}/docker.sock"
    options: list[str | Path] = [
        "--data-root",
        folder / "data",
        "--exec-root",
        folder / "exec",
        "--pidfile",
        folder / "docker.pid",
    ]
    with (folder / "dockerd.log").open("w") as log:
        daemon = subprocess.Popen(
            ["dockerd", "--host", address, *options, "--iptables=false", "--ip6tables=false"], stdout=log, stderr=log
        )
    try:
        until("the daemon listens", (folder / "docker.sock").exists)
        yield address
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
