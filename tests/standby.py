"""A lab whose Postgres has a standby, which takes the first server's place when that one dies."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg

from lab import services
from lab.directory import Lab
from tests.helpers import until
from workers.process import processes

FIRST, SECOND = "postgres", "standby"
"""Under these names the servers are started."""


class LabWithStandby(Lab):
    """Its processes have both servers in their URL, and use the one that takes writes."""

    @property
    def standby(self) -> Path:
        return self.path / "pg2"

    @property
    def environment(self) -> dict[str, str]:
        hosts = f"host={self.postgres},{self.standby}&target_session_attrs=read-write"
        return super().environment | {"DROVER_DATABASE_URL": f"postgresql+psycopg://drover@/drover?{hosts}"}


def start(lab: LabWithStandby) -> None:
    """The first server, if it does not run, and a standby that each commit waits for: none is lost with the first."""
    if not processes.find(lab.mark(FIRST)):
        services.start_postgres(lab)
    _follow(lab, SECOND, lab.standby, lab.postgres)
    with session(lab.postgres) as primary:
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")


def fail_over(lab: LabWithStandby) -> None:
    """The first server is killed, the second takes its place."""
    for process in processes.find(lab.mark(FIRST)):
        process.kill()
    _promote(lab.standby)


def fail_back(lab: LabWithStandby) -> None:
    """The first server catches up and takes its place again; the second follows it as before."""
    _follow(lab, FIRST, lab.postgres, lab.standby)
    for process in processes.find(lab.mark(SECOND)):
        process.signal(signal.SIGINT)  # in order: what it has committed is sent before it ends
        assert process.wait(30), "the standby does not end"
    _promote(lab.postgres)
    start(lab)


def _promote(folder: Path) -> None:
    with session(folder) as server:
        server.execute("SELECT pg_promote()")
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")


def _follow(lab: LabWithStandby, name: str, folder: Path, primary: Path) -> None:
    """A copy of the primary, streaming from it."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    folder.mkdir(exist_ok=True)
    shutil.chown(folder, "postgres" if os.geteuid() == 0 else os.geteuid())
    data = folder / "data"
    copy = ["pg_basebackup", "-h", str(primary), "-U", "drover", "-D", str(data), "-R", "-c", "fast"]
    subprocess.run(_as_database_user(*copy), check=True, cwd="/")
    serve = ("postgres", "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "max_connections=300")
    processes.spawn(lab.mark(name), _as_database_user(*serve), lab.logs / f"{name}.log")
    with session(primary) as server:
        until("it streams", lambda: server.execute("SELECT 1 FROM pg_stat_replication").fetchone())


def _as_database_user(program: str, *arguments: str) -> list[str]:
    return [*services._as_database_user(), str(services._postgres_program(program)), *arguments]


def session(folder: Path) -> "psycopg.Connection[Any]":
    """A connection to the server whose socket lies here."""
    return psycopg.connect(f"host={folder} user=drover dbname=postgres", autocommit=True)
