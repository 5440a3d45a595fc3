"""`python -m workers.switchover source|destination ORDER`: one side of one attempt, in a process of its own."""

import asyncio
import sys
from pathlib import Path

from workers.switchover import destination, guardian, parameters, source
from workers.switchover.parameters import DestinationParameters, SourceParameters

PATIENCE_S = 60.0
"""A process may be started ahead of its order; one that none comes for ends by itself."""


def main() -> None:
    """Carry out the order and end."""
    side, order = sys.argv[1], Path(sys.argv[2])
    if not parameters.comes(order, PATIENCE_S):
        return
    if side == "source":
        told = SourceParameters.load(order)
        guardian.begin(told)
        asyncio.run(source.hand_over(told))
    else:
        asyncio.run(destination.serve(DestinationParameters.load(order)))


if __name__ == "__main__":
    main()
