"""systemd on this host, by its own commands; on a host without it there are no units."""

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from drover.errors import Transient
from workers.files import sync_folder
from workers.process.environment import handed_on

BOOTED = Path("/run/systemd/system")
"""Exists where systemd is the init system, sd_booted(3)."""
UNITS = Path("/etc/systemd/system")
"""Where an administrator's units are, and what we add to units: nothing below `/run` overrides those, and it is lost at
boot."""
TIMEOUT_S = 60.0
"""To load all units anew takes seconds on a host with thousands of them."""


def booted() -> bool:
    """Whether units can be asked for at all."""
    return BOOTED.is_dir()


def ask(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run systemctl, whatever comes of it.

    Raises:
        Transient: it does not answer.
    """
    try:
        return subprocess.run(
            ["systemctl", "--no-pager", "--no-ask-password", *words],
            env={**handed_on(), "SYSTEMD_COLORS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Transient(f"systemctl {words[0]} gives no answer: {error}") from error


def tell(*words: str) -> None:
    """Run systemctl.

    Raises:
        Transient: it did not do as told; the text has its own.
    """
    done = ask(*words)
    if done.returncode:
        raise Transient(f"systemctl {' '.join(words)} failed: {done.stderr.strip() or done.returncode}")


def properties(unit: str, names: Sequence[str]) -> dict[str, str]:
    """Properties of a unit; one that systemd does not know is left out. Errors as for `ask`."""
    told = ask("show", f"--property={','.join(names)}", "--", unit)
    return dict(line.split("=", 1) for line in told.stdout.splitlines() if "=" in line)


def main_pid(unit: str) -> int:
    """The pid of what runs in a unit; 0: nothing. Errors as for `ask`."""
    return int(properties(unit, ["MainPID"]).get("MainPID", "0"))


def drop_in(unit: str, name: str) -> Path:
    """Where a file lies that adds to a unit."""
    return UNITS / f"{unit}.d" / f"{name}.conf"


def add(path: Path, text: str) -> None:
    """Write such a file, whole or not at all, and have systemd read it. Errors as for `tell`."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        draft.write_text(text)
        draft.chmod(0o644)
        draft.replace(path)
        sync_folder(path.parent)
    tell("daemon-reload")


def take_away(unit: str, *names: str) -> None:
    """Delete such files, and have systemd know. Where there is none nothing happens. Errors as for `tell`."""
    added = [path for name in names if (path := drop_in(unit, name)).exists()]
    for path in added:
        path.unlink()
    with suppress(OSError):  # somebody else's are there, or it is not
        (UNITS / f"{unit}.d").rmdir()
    if added or properties(unit, ["NeedDaemonReload"]).get("NeedDaemonReload") == "yes":  # who deleted them has died
        tell("daemon-reload")
