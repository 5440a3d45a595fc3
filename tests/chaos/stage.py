"""The lab in which trials are run: two hosts in network namespaces, and a database that notifies when a step begins."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from lab import fleet, network, services
from lab.directory import Lab
from tests import factories, labs, standby
from tests.chaos import launcher
from tests.slow_receiver import slow_receiver
from tests.standby import LabWithStandby
from workers.process import processes
from workers.process.processes import Process

SOURCE, DESTINATION = "host-a", "host-b"
CLAIMS = 0x636C61
"""First half of the advisory locks at which a claim waits; the second is the step's number."""

FROZEN_S = labs.LEASE_S + 3
"""How long a frozen worker stays frozen: its lease runs out, and its host counts as silent."""
PATIENCE_S = 60.0
"""How long jobs wait for a host, or a way to it, that is silent: longer than any fault that passes, and than a busy
machine takes to start a worker."""

TELL = f"""
CREATE FUNCTION chaos_tell() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  PERFORM pg_advisory_xact_lock({CLAIMS}, NEW.seq);
  PERFORM pg_notify('claimed', NEW.job_id || ' ' || NEW.seq);
  RETURN NEW;
END $$;
CREATE TRIGGER chaos BEFORE UPDATE OF state ON step FOR EACH ROW
WHEN (NEW.state = 'running' AND OLD.state <> 'running') EXECUTE FUNCTION chaos_tell();
"""
"""The lab's own database holds a claim back while we hold its lock, and notifies once it is committed.

So a trial meets a boundary between two steps exactly, and no code of Drover knows of it.
"""


@dataclass
class Stage:
    """One lab; its processes by role."""

    lab: Lab
    webhook: str
    """Of a receiver that takes minutes to answer."""
    services: list[Process] = field(default_factory=list)
    """Every worker and controller that was started here."""
    fails_over: bool = False
    """The standby has the place of the first Postgres, which nobody may start again as it is."""
    killed: list[Process] = field(default_factory=list)
    """Those that a fault killed: no other may end."""

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
        there = {name for name, _ in processes.marked(self.lab.path)}
        if "postgres" not in there and not self.fails_over:
            services.start_postgres(self.lab)
        if "redis" not in there:
            services.start_redis(self.lab)
        for host in self.lab.hosts:
            if f"worker-{host.name}" not in there:
                self.services.append(fleet.start_worker(self.lab, host))
        if "controller" not in there:
            self.services.append(fleet.start_controller(self.lab))

    def ended_by_themselves(self) -> list[Process]:
        """Workers and controllers that ended without being killed; each is listed once."""
        gone = [process for process in self.services if not process.alive]
        self.services = [process for process in self.services if process not in gone]
        return [process for process in gone if process not in self.killed]


@contextmanager
def raised(*, with_standby: bool = False) -> Iterator[Stage]:
    """A new lab for the time of a `with` block; this process is pointed at it."""
    kind = LabWithStandby if with_standby else Lab
    more = {"DROVER_WEBHOOK_KEY": factories.WEBHOOK_KEY}
    limits = {"host-patience": f"{PATIENCE_S:g}s"}
    with (
        labs.temporary(settings=labs.BRISK | more, limits=limits, namespaces=True, prefix="dc", kind=kind) as lab,
        slow_receiver() as webhook,
    ):
        launcher.let_be_told(lab)
        if isinstance(lab, LabWithStandby):
            standby.start(lab)
        factories.receiver()
        stage = Stage(lab, webhook)
        for found in (stage.worker(SOURCE), stage.worker(DESTINATION), stage.controller()):
            stage.services.append(min(found, key=lambda process: process.started))  # its children carry the same mark
        with stage.connect() as connection:
            connection.execute(TELL)
        yield stage
