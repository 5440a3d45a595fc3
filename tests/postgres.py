"""A Postgres of the test's own, on a Unix socket: never the machine's server."""

import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

START_TIMEOUT_S = 30.0


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """Run a server below `directory` (a short path: its socket lies there); answers SQLAlchemy's URL of a database."""
    _own(directory)
    data = directory / "data"
    subprocess.run(
        [*_as_postgres(), _program("initdb"), "-D", str(data), "-A", "trust", "-U", "drover", "--no-sync"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    options = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=50")
    server = subprocess.Popen(
        [*_as_postgres(), _program("postgres"), "-D", str(data), "-k", str(directory), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        _wait(server, directory)
        yield f"postgresql+psycopg://drover@/postgres?host={directory}"
    finally:
        server.send_signal(2)  # SIGINT: a fast shutdown, whoever is still connected
        server.wait(timeout=30)


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(found[-1])


def _as_postgres() -> list[str]:
    """Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _own(directory: Path) -> None:
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(directory, account.pw_uid, account.pw_gid)


def _wait(server: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(f"host={directory} user=drover dbname=postgres").close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
