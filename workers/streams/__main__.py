"""`python -m workers.streams server|client PARAMETERS`: one end of a job's streams, in a process of its own."""

import sys
from pathlib import Path

from drover import logs
from workers.streams import client, server
from workers.streams.parameters import ClientParameters, ServerParameters


def main() -> None:
    """Carry streams until the process is ended."""
    logs.configure_as_told()
    end, path = sys.argv[1], Path(sys.argv[2])
    if end == "server":
        server.main(ServerParameters.load(path))
    else:
        client.main(ClientParameters.load(path))


if __name__ == "__main__":
    main()
