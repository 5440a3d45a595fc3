"""Machines for a test: one network, process, mount and host name space each, with folders of their own.

What a machine writes below `OWN` is its alone, on top of what this machine has there. Needs root.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import until

OWN = ("/etc", "/opt", "/var/lib", "/var/log", "/var/backups")
NETWORK = "10.99.0"


@dataclass
class Machine:
    """A machine that is up."""

    name: str
    pid: int
    """Of its first process."""
    folder: Path

    def path(self, own: str) -> Path:
        """Where a file that the machine wrote below `OWN` lies."""
        top = next(top for top in OWN if own.startswith(top))
        return self.folder / top.strip("/").replace("/", "-") / "upper" / own.removeprefix(top).strip("/")

    def argv(self, *words: str) -> list[str]:
        """What runs a command on this machine."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--uts", "--pid", "--root", "--wd", *words]

    def run(self, script: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a shell script there, as a person would paste it."""
        argv = self.argv("sh", "-euc", f"cd {cwd or '/'}; {script}")
        return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def may_be_made() -> bool:
    """Root may, but in a container it mostly may not."""
    words = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return os.geteuid() == 0 and not subprocess.run(words, capture_output=True).returncode


@contextmanager
def machines(names: Sequence[str], folder: Path) -> Iterator[list[Machine]]:
    """Machines on one network for the time of a `with` block; the first one is its hub."""
    hosts = "127.0.0.1 localhost\n" + "".join(
        f"{NETWORK}.{number} {name}\n" for number, name in enumerate(names, start=1)
    )
    with ExitStack() as stack:
        made = [stack.enter_context(_machine(name, folder / name)) for name in names]
        for machine in made:
            machine.run(f"cat >/etc/hosts <<END\n{hosts}END")
        _join(made)
        yield made


@contextmanager
def _machine(name: str, folder: Path) -> Iterator[Machine]:
    layers = []
    for top in OWN:
        place = folder / top.strip("/").replace("/", "-")
        (place / "upper").mkdir(parents=True)
        (place / "work").mkdir()
        layers.append(f"mount -t overlay overlay -o lowerdir={top},upperdir={place}/upper,workdir={place}/work {top}")
    boot = "; ".join([f"hostname {name}", *layers, "mount -t tmpfs -o mode=0755 tmpfs /run", "ip link set lo up"])
    spaces = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    script = f"set -e; {boot}; touch /run/up; exec sleep infinity"
    process = subprocess.Popen(["unshare", *spaces, "--propagation", "private", "sh", "-c", script])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        until(f"{name} is up", lambda: _is_up(children))
        yield Machine(name, int(children.read_text().split()[0]), folder)
    finally:
        process.kill()  # its first process dies with it, and with that all others
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _is_up(children: Path) -> bool:
    found = children.read_text().split()
    return bool(found) and Path(f"/proc/{found[0]}/root/run/up").exists()


def _join(made: Sequence[Machine]) -> None:
    hub = ["nsenter", f"--target={made[0].pid}", "--net"]
    _ip(hub, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
    _ip(hub, "addr", "add", f"{NETWORK}.1/24", "dev", "br0")
    _ip(hub, "link", "set", "br0", "up")
    for number, machine in enumerate(made[1:], start=2):
        peer = ["peer", "name", "eth0", "netns", str(machine.pid)]
        _ip(hub, "link", "add", machine.name, "type", "veth", *peer)
        _ip(hub, "link", "set", machine.name, "master", "br0", "up")
        there = ["nsenter", f"--target={machine.pid}", "--net"]
        _ip(there, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        _ip(there, "link", "set", "eth0", "up")


def _ip(where: Sequence[str], *words: str) -> None:
    subprocess.run([*where, "ip", *words], check=True, capture_output=True)
