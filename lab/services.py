"""The lab's own Postgres and Redis: Debian's programs, on sockets inside the lab's folder.

Never the machine's servers. Postgres refuses to run as root, so then its cluster belongs to the package's user.
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import psycopg
import redis

from drover.broker import acl
from drover.errors import PreconditionFailed
from lab.directory import Lab
from migrations import rights
from migrations.rights import Purpose
from models.database import disconnect
from workers.process import processes
from workers.process.processes import Process, process

START_TIMEOUT_S = 30.0
CONTROLLER, READER, FLOWER = "control", "console", "flower"
"""Roles in the database and users of Redis, besides the hosts'."""


def start_postgres(lab: Lab) -> Process:
    """Make the cluster if need be, and start it."""
    if not (lab.postgres / "data").exists():
        _make_cluster(lab)
    argv = [
        *_as_database_user(),
        *(str(_postgres_program("postgres")), "-D", str(lab.postgres / "data"), "-k", str(lab.postgres)),
        *("-c", "listen_addresses=", "-c", "max_connections=300", "-c", "log_min_messages=warning"),
        *(() if lab.durable else ("-c", "fsync=off")),
    ]
    started = processes.spawn(lab.mark("postgres"), argv, lab.logs / "postgres.log")
    _wait(started, lambda: _answers_postgres(lab), lab.logs / "postgres.log")
    return started


def make_roles(lab: Lab, hosts: Iterable[str]) -> None:
    """Each service has a role of its own, as in a real deployment; the schema is there."""
    script = rights.script({Purpose.HOST: hosts, Purpose.CONTROLLER: [CONTROLLER], Purpose.READER: [READER]}, {})
    url = lab.environment["DROVER_DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script.encode())


def stop_postgres(lab: Lab) -> None:
    """End it in order, so that no shared memory is left behind."""
    disconnect()
    pid_file = lab.postgres / "data" / "postmaster.pid"
    if not pid_file.exists():
        return
    postmaster = process(int(pid_file.read_text().splitlines()[0]))
    if postmaster is not None and postmaster in processes.find(lab.mark("postgres")):
        postmaster.signal(signal.SIGINT)
        if not postmaster.wait(20):
            postmaster.kill()


def _make_cluster(lab: Lab) -> None:
    lab.postgres.mkdir(parents=True)
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(lab.postgres, account.pw_uid, account.pw_gid)
    initdb = [str(_postgres_program("initdb")), "-D", str(lab.postgres / "data"), "-A", "trust", "-U", "drover"]
    made = subprocess.run(
        [*_as_database_user(), *initdb, "--no-sync"], capture_output=True, text=True, check=False, cwd="/"
    )
    if made.returncode:
        raise PreconditionFailed(f"initdb failed: {made.stderr.strip()}")


def _postgres_program(name: str) -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1]
    elsewhere = shutil.which(name)
    if elsewhere is None:
        raise PreconditionFailed(f"there is no {name} on this machine: run `make setup`")
    return Path(elsewhere)


def _as_database_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _answers_postgres(lab: Lab) -> bool:
    try:
        with psycopg.connect(f"host={lab.postgres} user=drover dbname=postgres", autocommit=True) as connection:
            exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = 'drover'").fetchone()
            if exists is None:
                connection.execute("CREATE DATABASE drover")
    except psycopg.OperationalError:
        return False
    return True


def start_redis(lab: Lab) -> Process:
    """Start Redis as operators should run it: append-only, and never dropping a message."""
    program = shutil.which("redis-server")
    if program is None:
        raise PreconditionFailed("there is no redis-server on this machine: run `make setup`")
    lab.redis.mkdir(parents=True, exist_ok=True)
    socket = lab.redis / "redis.sock"
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "dir": str(lab.redis),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "aclfile": str(_write_users(lab)),
        "set-proc-title": "no",  # it would overwrite the environment, by which `lab down` finds it again
    }
    argv = [program, *(word for key, value in options.items() for word in (f"--{key}", value))]
    started = processes.spawn(lab.mark("redis"), argv, lab.logs / "redis.log")
    _wait(started, lambda: _answers_redis(socket), lab.logs / "redis.log")
    return started


def _write_users(lab: Lab) -> Path:
    """The ACL file: each service has a user of its own, as in a real deployment, and a password like its name."""
    file = lab.redis / "users.acl"
    file.write_text("\n".join(["user default on nopass ~* &* +@all", *users(host.name for host in lab.hosts), ""]))
    return file


def users(hosts: Iterable[str]) -> list[str]:
    """Lines of the ACL file."""
    named = {acl.Purpose.HOST: list(hosts), acl.Purpose.CONTROLLER: [CONTROLLER], acl.Purpose.FLOWER: [FLOWER]}
    return acl.lines(named, {name: [name] for name in (acl.LOADER, *chain.from_iterable(named.values()))})


def _answers_redis(socket: Path) -> bool:
    try:
        with redis.Redis(unix_socket_path=str(socket)) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _wait(started: Process, ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if not started.alive or time.monotonic() > deadline:
            raise PreconditionFailed(f"it did not start, see {log}: {processes.log_tail(log)}")
        time.sleep(0.05)
