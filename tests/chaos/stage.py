"""The lab in which trials are run: two hosts in network namespaces, and a database that tells when a step begins."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from lab import fleet, network, services
from lab.directory import Lab
from workers import processes
from workers.processes import Process

SOURCE, DESTINATION = "host-a", "host-b"
CLAIMS = 0x636C61
"""First half of the advisory locks at which a claim waits; the second is the step's number."""

PATIENCE_S = 40
"""How long jobs wait for a host, or a way to it, that is silent: longer than any fault that passes."""

TELL = f"""
CREATE FUNCTION chaos_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock({CLAIMS}, NEW.seq);
  PERFORM pg_notify('claimed', NEW.job_id || ' ' || NEW.seq);
  RETURN NEW;
END $$;
CREATE TRIGGER chaos BEFORE UPDATE OF state ON step FOR EACH ROW
WHEN (NEW.state = 'running' AND OLD.state <> 'running') EXECUTE FUNCTION chaos_tell();
"""
"""The lab's own database holds a claim back while we hold its lock, and tells of it once it is committed.

So a trial meets a boundary between two steps exactly, and no code of Drover knows of it.
"""


@dataclass
class Stage:
    """One lab; its processes by role."""

    lab: Lab

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection to the lab's database, outside of any transaction."""
        return psycopg.connect(f"host={self.lab.postgres} user=drover dbname=drover", autocommit=True)

    def worker(self, host: str) -> list[Process]:
        """A host's worker."""
        return processes.find(self.lab.mark(f"worker-{host}"))

    def controller(self) -> list[Process]:
        """The controller."""
        return processes.find(self.lab.mark("controller"))

    def mend_link(self) -> None:
        """The hosts reach each other again."""
        for host in self.lab.hosts:
            network.mend(self.lab, host)

    def supervise(self) -> None:
        """Start again what a supervisor would: services, workers, controller."""
        if not processes.find(self.lab.mark("postgres")):
            services.start_postgres(self.lab)
        if not processes.find(self.lab.mark("redis")):
            services.start_redis(self.lab)
        for host in self.lab.hosts:
            if not self.worker(host.name):
                fleet.start_worker(self.lab, host)
        if not self.controller():
            fleet.start_controller(self.lab)


@contextmanager
def raised() -> Iterator[Stage]:
    """A new lab for the time of a `with` block; this process is pointed at it."""
    lab = Lab(Path(tempfile.mkdtemp(prefix="dc", dir="/tmp")))
    before = os.environ.get("DROVER_HOST_PATIENCE_S")
    os.environ["DROVER_HOST_PATIENCE_S"] = str(PATIENCE_S)
    try:
        fleet.up(lab, 2, flower=False, namespaces=True)
        with fleet.pointed_at(lab):
            stage = Stage(lab)
            with stage.connect() as connection:
                connection.execute(TELL)
            yield stage
    finally:
        os.environ.pop("DROVER_HOST_PATIENCE_S")
        if before is not None:
            os.environ["DROVER_HOST_PATIENCE_S"] = before
        fleet.down(lab)
        shutil.rmtree(lab.path, ignore_errors=True)
