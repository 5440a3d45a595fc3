"""Every credential of both hosts and of the controller is renewed, one after the other, in the middle of a copy."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from drover.settings import StreamSecurity
from lab import fleet, services
from lab.directory import Lab, LabHost
from models.database import transaction
from models.host import Host
from models.job import JobState
from tests import brokers, labs, roles
from tests.certificates import Authority
from tests.cli.support import DROVER
from tests.helpers import MIB, Moves, next_heartbeat, stop, until
from workers.process import processes

pytestmark = [pytest.mark.thorough, pytest.mark.guests]

HOSTS = ("host-a", "host-b")
SERVICES = (*HOSTS, services.CONTROLLER)
AUTHORITY = Authority("root")
ROLES = ("--host", "host-a", "--host", "host-b", "--controller", services.CONTROLLER)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where the services have their credentials. Passwords are like their names at first, and are asked for later."""
    for name in SERVICES:
        for service in ("postgres", "redis"):
            (tmp_path / f"{name}.{service}").write_text(f"{name}\n")
    for host in HOSTS:
        AUTHORITY.issue(tmp_path, host)
    return tmp_path


@pytest.fixture
def moves(kept: Path) -> Iterator[Moves]:
    class KeptLab(Lab):
        """Its services have passwords in files, and certificates."""

        def environment_of(self, role: str) -> dict[str, str]:
            theirs = super().environment_of(role)
            return theirs | {
                "DROVER_BROKER_URL": theirs["DROVER_BROKER_URL"].replace(f":{role}@", "@"),
                "DROVER_BROKER_PASSWORD_FILE": str(kept / f"{role}.redis"),
                "DROVER_DATABASE_PASSWORD_FILE": str(kept / f"{role}.postgres"),
            }

        def host_environment(self, host: LabHost) -> dict[str, str]:
            named = {what: str(kept / f"{host.name}.{what}") for what in ("certificate", "key", "authority")}
            files = {f"DROVER_TLS_{what.upper()}": path for what, path in named.items()}
            return super().host_environment(host) | {"DROVER_STREAMS": StreamSecurity.CERTIFICATES} | files

    with labs.temporary(kind=KeptLab) as lab:
        made = Moves(lab)
        yield made
        made.end()


def _drover(lab: Lab, *words: str, on: str | None = None) -> str:
    """A command on a control node as the owner of everything, or on a host."""
    theirs = lab.environment if on is None else lab.host_environment(lab.host(on))
    done = subprocess.run([DROVER, *words], env=os.environ | theirs, capture_output=True, text=True, check=True)
    return done.stdout


def _renew_host_keys(lab: Lab) -> dict[str, str]:
    return {host: _drover(lab, "host", "key", "--renew", on=host).strip() for host in HOSTS}


def _renew_passwords_of_postgres(lab: Lab, kept: Path) -> None:
    """All connections are cut as well, so that new ones are needed."""
    renewed = [word for name in SERVICES for word in ("--password", name)]
    roles.run(lab, _drover(lab, "db", "roles", *ROLES, *renewed, "--into", str(kept)))
    with transaction() as session:
        session.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY(:roles)"),
            {"roles": list(SERVICES)},
        )


def _renew_passwords_of_redis(lab: Lab, kept: Path) -> None:
    """Likewise."""
    acl = lab.redis / "users.acl"
    for change in ("--renew", "--settle"):
        changed = [word for name in SERVICES for word in (change, name)]
        out = str(kept / "users.acl")
        _drover(lab, "broker", "acl", *ROLES, *changed, "--passwords", str(kept), "--out", out)
        lines = Path(out).read_text().splitlines()
        acl.write_text("\n".join(["user default on nopass ~* &* +@all", *lines[1:], ""]))  # this test's own user
        with brokers.connected(lab) as redis:
            client: Any = redis
            client.acl_load()
            for connected in client.client_list():
                if connected["user"] in SERVICES:
                    client.client_kill_filter(_id=connected["id"])


def _restart_worker(moves: Moves, host: str) -> None:
    [worker, *_] = processes.find(moves.lab.mark(f"worker-{host}"))
    stop(worker)
    fleet.start_worker(moves.lab, moves.lab.host(host))
    next_heartbeat(host)


def _keys(column: str) -> dict[str, str | None]:
    with transaction() as session:
        return {host: getattr(session.get_one(Host, host), column) for host in HOSTS}


def test_a_guest_moves_on_while_all_credentials_are_renewed(moves: Moves, kept: Path) -> None:
    lab = moves.lab
    with roles.asked_for_passwords(lab, *SERVICES):
        _renew_passwords_of_postgres(lab, kept)  # those that count so far were never asked for
        guest = moves.boot(fill_mib=16)
        job = moves.submit(guest, "host-b", bandwidth_bytes_per_s=MIB // 4)
        until("the copy runs", lambda: moves.step_is(job.id, "await_sync", "running"))

        keys = _renew_host_keys(lab)
        for host in HOSTS:
            AUTHORITY.issue(kept, host)
        _renew_passwords_of_postgres(lab, kept)
        _renew_passwords_of_redis(lab, kept)
        for host in HOSTS:
            next_heartbeat(host)
        until("the new keys count", lambda: _keys("trusted_key") == keys)
        _restart_worker(moves, "host-a")  # it takes the copy up again; host-b's worker goes on as it is
        until("the copy runs again", lambda: moves.step_is(job.id, "await_sync", "running"))
        now = moves.job(job.id)
        assert (now.state, now.disks[0].ready_at) == (JobState.RUNNING, None), "the copy was over too soon"

        moves.hurry(job.id)
        moves.done(moves.ended(job.id, 240))
        moves.intact(guest, "host-b")
        moves.done(moves.move(guest, "host-a"))  # by the new credentials from its beginning
        moves.intact(guest, "host-a")
