"""Machines for a test that boot a real systemd: this machine's own files below a layer of their own. Needs root.

They share this machine's network, so that they reach what a test has started.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers import until
from workers.process import processes
from workers.process.processes import Process


def may_be_made() -> bool:
    """Root may, where Debian's systemd-container is installed and mounts are allowed."""
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    has = shutil.which("systemd-nspawn") is not None and os.geteuid() == 0
    return has and not subprocess.run(words, capture_output=True).returncode


@dataclass
class Booted:
    """A machine that was booted, and may be booted again."""

    name: str
    folder: Path
    shared: Sequence[Path]
    """Folders of this machine that it has as they are."""
    init: Process | None = field(default=None)
    outer: "subprocess.Popen[bytes] | None" = None

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def boot(self) -> None:
        binds = [f"--bind={path}" for path in self.shared]
        words = ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.name}", "--boot"]
        words += ["--register=no", "--keep-unit", "--console=pipe", "--link-journal=no", *binds]
        with (self.folder / "boot.log").open("ab") as log:
            self.outer = subprocess.Popen(
                [*words, "--", "systemd.unit=multi-user.target"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        above = processes.process(self.outer.pid)
        assert above is not None
        self.init = until(f"{self.name} has an init", lambda: _init(above))
        until(f"{self.name} is up", lambda: self.run("systemctl is-system-running").stdout.strip() in UP, 120, 0.2)

    def shut_down(self) -> None:
        """As by `systemctl poweroff`."""
        if self.outer is not None and self.outer.poll() is None and self.init is not None:
            self.init.signal(signal.SIGRTMIN + 4)
            try:
                self.outer.wait(200)
            except subprocess.TimeoutExpired:
                self.init.kill()
                self.outer.wait(30)

    def lose_power(self) -> None:
        """Everything in it dies at once."""
        if self.outer is not None:
            if self.init is not None:
                self.init.kill()
            else:
                self.outer.kill()
            self.outer.wait(60)

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Run a shell script there."""
        assert self.init is not None
        words = ["nsenter", f"--target={self.init.pid}", "--all", "--", "sh", "-euc", script]
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def done(self, script: str) -> str:
        """What a script said that must succeed."""
        done = self.run(script)
        assert done.returncode == 0, f"on {self.name}: {script}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def unit(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.done(f"systemctl show --value --property={name} -- {unit}")


UP = {"running", "degraded"}


def _init(above: Process) -> Process | None:
    """The machine's first process, once it is systemd: another one prepares it."""
    found = (child for child in processes.children(above) if _program(child) == "systemd")
    return next(found, None)


def _program(process: Process) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process.pid}/comm").read_text().strip()
    return ""


@contextlib.contextmanager
def machine(name: str, folder: Path, shared: Sequence[Path]) -> Iterator[Booted]:
    """A machine whose files are laid out, not yet booted; gone at the end of the `with` block."""
    for part in ("upper", "work", "root"):
        (folder / part).mkdir(parents=True)
    layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(folder / "root")], check=True)
    made = Booted(name, folder, shared)
    try:
        _nothing_of_this_machine(made.root)
        yield made
    finally:
        made.lose_power()
        subprocess.run(["umount", "--lazy", str(folder / "root")], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def _nothing_of_this_machine(root: Path) -> None:
    """No service that is enabled here begins there."""
    for wanted in (root / "etc/systemd/system").glob("*.wants"):
        shutil.rmtree(wanted)
    for name in ("redis-server", "postgresql", "systemd-networkd", "systemd-resolved", "networking", "cron"):
        link = root / f"etc/systemd/system/{name}.service"
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
