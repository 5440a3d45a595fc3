"""`python -m workers.switchover source|destination PARAMETERS`: one side of one attempt, in a process of its own."""

import asyncio
import logging
import os
import sys
from pathlib import Path

from drover import logs
from workers.switchover import destination, guardian, journal, source
from workers.switchover.parameters import DestinationParameters, Parameters, SourceParameters, comes

log = logging.getLogger("workers.switchover")

PATIENCE_S = 60.0
"""A process may be started before its parameters exist; it ends by itself if none come in time."""


def main() -> None:
    """Carry out the attempt and end. Nothing is logged between STOP and RESUME, unless DEBUG is asked for."""
    logs.configure_as_told()
    side, path = sys.argv[1], Path(sys.argv[2])
    if not comes(path, PATIENCE_S):
        log.info("ends: no parameters came within %g s", PATIENCE_S)
        return
    log.info("begins as the %s's switchover process", side, extra={"pid": os.getpid()})
    parameters: Parameters
    if side == "source":
        parameters = SourceParameters.load(path)
        guardian.begin(parameters)
        asyncio.run(source.hand_over(parameters))
    else:
        parameters = DestinationParameters.load(path)
        asyncio.run(destination.serve(parameters))
    _say_the_end(Path(parameters.journal))


def _say_the_end(path: Path) -> None:
    last = journal.read(path).lines[-1]
    event, reason = last["event"], last.get("reason")
    log.log(logging.WARNING if reason else logging.INFO, "ends: %s%s", event, f": {reason}" if reason else "")


if __name__ == "__main__":
    main()
