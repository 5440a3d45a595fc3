"""`python -m workers.launcher.run GUEST`: become the guest's QEMU. What `drover-guest@GUEST.service` starts.

The incoming QEMU of a move, once, if one is asked for; else the guest, cold, by its launch file, once it is certain
that it does not live elsewhere by now: an operator may have said so while this host was off. As long as nobody can say,
it waits. What it imports starts quickly, but for that question.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from workers.process.sockets import listens

NOT_HERE, RUNS_ALREADY = 78, 75
"""EX_CONFIG and EX_TEMPFAIL of sysexits.h."""
ASK_AGAIN_S = 2.0
UNASKED, YES = "DROVER_START_UNASKED", {"1", "on", "t", "true", "y", "yes"}
"""A setting, see `drover.settings`; what that takes for yes."""


def launch_file(guest: str, directory: Path) -> Path:
    """By which a guest is started cold here."""
    return directory / "launch" / f"{guest}.json"


def incoming_file(guest: str, directory: Path) -> Path:
    """What the next incoming QEMU of a guest is to be."""
    return directory / "launch" / f"{guest}.incoming"


def worker_folder() -> Path:
    """Without the settings, which take longer to read."""
    return Path(os.environ.get("DROVER_DIRECTORY", "/var/lib/drover"))


def main(guest: str) -> None:
    """Never returns."""
    incoming = incoming_file(guest, worker_folder())
    try:
        launch = json.loads(incoming.read_text())
        incoming.unlink()  # whatever comes of it: a restart begins none anew
    except FileNotFoundError:
        launch = _cold(guest, launch_file(guest, worker_folder()))
    log = os.open(launch["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.execve(launch["argv"][0], launch["argv"], launch["environment"])  # noqa: S606 # nosec B606 # becomes the QEMU


def _cold(guest: str, path: Path) -> dict[str, str]:
    launch = _launch(guest, path)
    if (there := _elsewhere(guest, launch.get("host", ""))) is not None:
        _refuse(NOT_HERE, f"{guest} lives on {there} now, not on this host")
    launch = _launch(guest, path)  # it may have been asked for long
    if listens(launch["qmp"]):
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


def _refuse(status: int, why: str) -> NoReturn:
    print(why, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
