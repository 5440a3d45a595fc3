"""`python -m workers.launcher.run GUEST`: become the guest's QEMU. What `drover-guest@GUEST.service` starts.

The incoming QEMU of a move, once, if one is asked for; else the guest, cold, by its launch file, once it is certain
that it does not live elsewhere by now: an operator may have said so while this host was off. As long as nobody can say,
it waits. Standard library alone but for that question.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

NOT_HERE, RUNS_ALREADY = 78, 75
"""EX_CONFIG and EX_TEMPFAIL of sysexits.h."""
ASK_AGAIN_S = 2.0
UNASKED, YES = "DROVER_START_UNASKED", {"1", "on", "t", "true", "y", "yes"}
"""A setting, see `drover.settings`; what that takes for yes."""


def files_of(guest: str, directory: Path) -> tuple[Path, Path]:
    """Where the launch file of a guest is, and what the next incoming QEMU is to be."""
    folder = directory / "launch"
    return folder / f"{guest}.json", folder / f"{guest}.incoming"


def main(guest: str) -> None:
    """Never returns."""
    cold, incoming = files_of(guest, Path(os.environ.get("DROVER_DIRECTORY", "/var/lib/drover")))
    try:
        launch = json.loads(incoming.read_text())
        incoming.unlink()  # whatever comes of it: a restart begins none anew
    except FileNotFoundError:
        launch = _cold(guest, cold)
    log = os.open(launch["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.execve(launch["argv"][0], launch["argv"], launch["environment"])  # noqa: S606 # nosec B606 # becomes the QEMU


def _cold(guest: str, path: Path) -> dict[str, str]:
    launch = _launch(guest, path)
    if (there := _elsewhere(guest, launch.get("host", ""))) is not None:
        _refuse(NOT_HERE, f"{guest} lives on {there} now, not on this host")
    launch = _launch(guest, path)  # it may have been asked for long
    if _listens(launch["qmp"]):
        _refuse(RUNS_ALREADY, f"{guest} runs already: a QEMU listens at {launch['qmp']}")
    return launch


def _launch(guest: str, path: Path) -> dict[str, str]:
    try:
        launch: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        _refuse(NOT_HERE, f"{guest} does not live on this host: there is no {path}")
    return launch


def _elsewhere(guest: str, host: str) -> str | None:
    """Where it lives by the database's word, if not here. Waits for as long as there is no answer."""
    if os.environ.get(UNASKED, "").lower() in YES:
        return None
    said = None
    while True:
        try:
            from workers.launcher import whereabouts

            return whereabouts.elsewhere(guest, host)
        except Exception as error:  # whatever it is, nobody knows
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            if why != said:
                print(f"{guest} is not started yet: nobody can say whether it lives here: {why}", file=sys.stderr)
            said = why
        time.sleep(ASK_AGAIN_S)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _refuse(status: int, why: str) -> None:
    print(why, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
