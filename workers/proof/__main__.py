"""`python -m workers.proof PARAMETERS`: answers questions about the images of a running guest."""

import asyncio
import sys
from pathlib import Path

from drover import logs
from workers.proof import answering
from workers.proof.answering import Parameters


def main() -> None:
    """Until the process is ended."""
    logs.configure_as_told()
    asyncio.run(answering.serve(Parameters.load(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
