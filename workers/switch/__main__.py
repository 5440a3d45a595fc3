"""`python -m workers.switch source|destination ORDER`: one side of one attempt, in a process of its own."""

import asyncio
import sys
from pathlib import Path

from workers.switch import destination, source
from workers.switch.orders import DestinationOrder, SourceOrder


def main() -> None:
    """Carry out the order and end."""
    side, order = sys.argv[1], Path(sys.argv[2])
    if side == "source":
        asyncio.run(source.hand_over(SourceOrder.load(order)))
    else:
        asyncio.run(destination.serve(DestinationOrder.load(order)))


if __name__ == "__main__":
    main()
