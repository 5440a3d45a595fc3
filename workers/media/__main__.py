"""`python -m workers.media PARAMETERS`: takes files that a guest needs at its destination."""

import sys
from pathlib import Path

from drover import logs
from workers.media import receiver
from workers.media.parameters import ReceiverParameters


def main() -> None:
    """Until the process is ended."""
    logs.configure_as_told()
    receiver.main(ReceiverParameters.load(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
