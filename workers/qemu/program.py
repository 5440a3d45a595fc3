"""The version and machine types of a QEMU binary: asked once, and again when the binary was replaced."""

import re
import subprocess
from functools import cache
from pathlib import Path

from workers.process.environment import handed_on
from workers.qemu.known_bugs import Version

_LONGEST_S = 10.0


def output(qemu: str, *words: str, told: str = "") -> str:
    """Its stdout when started with these arguments and this stdin.

    Raises:
        OSError: it cannot be started.
        subprocess.SubprocessError: it failed, or did not end.
    """
    return _output(qemu, Path(qemu).stat().st_mtime_ns, words, told)


@cache
def _output(qemu: str, _mtime_ns: int, words: tuple[str, ...], told: str) -> str:
    return subprocess.run(
        [qemu, *words],
        env=handed_on(),
        input=told,
        capture_output=True,
        text=True,
        timeout=_LONGEST_S,
        check=True,
    ).stdout


def version(qemu: str) -> Version | None:
    """Its version; None if it does not name one."""
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", output(qemu, "--version"))
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def machine_types(qemu: str) -> set[str]:
    """The machine types that it has."""
    return {line.split()[0] for line in output(qemu, "-machine", "help").splitlines() if line.strip()}
