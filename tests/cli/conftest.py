"""A database with two hosts and a guest, and stand-ins for what hosts answer."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from drover.errors import PreconditionFailed
from lab import fleet
from lab.directory import Lab
from models.contracts import Versioned
from models.database import engine, transaction
from models.documents import HostFacts
from models.guest import Guest
from models.host import Host
from models.host_rpc import Inspect, Question
from tests import documents, factories
from tests.cli.support import NO_BROKER, point_at
from tests.helpers import until
from workflows import guests, leader_election
from workflows.migration import preflight


@pytest.fixture(scope="session")
def database_url(database_lab: Lab) -> str:
    """The tests' Postgres, whatever is in it."""
    return database_lab.environment["DROVER_DATABASE_URL"]


@pytest.fixture
def bare(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is pointed at the database, whatever is in it, and at no broker."""
    point_at(monkeypatch, DROVER_DATABASE_URL=database_url, DROVER_BROKER_URL=NO_BROKER)
    with fleet.celery_configured():
        yield


@pytest.fixture
def database(without_controller: None) -> Iterator[None]:
    """The newest schema, and nothing in it but two hosts and a guest on the first; somebody acts as the controller."""
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        until("the lock of the test before is gone", lambda: leader_election.acquire(connection))
        yield
        connection.execute(text("SELECT pg_advisory_unlock_all()"))


@pytest.fixture
def without_controller(bare: None) -> None:
    """The same, but nobody acts."""
    factories.empty_database()
    with transaction() as session:
        now = datetime.now(tz=UTC)
        for name, beat in (("hv1", now), ("hv2", now), ("gone", now - timedelta(hours=1))):
            facts = HostFacts(cpus=8, memory_bytes=16 << 30, qemu="QEMU emulator version 10.0.2")
            host = Host(
                name=name,
                address="10.0.0.1",
                guest_root="/",
                incarnation=name,
                heartbeat_at=beat,
                facts=facts,
                public_key="a key",
            )
            session.add(host)
        session.flush()
        session.add(Guest(name="web", host="hv1", qmp="/run/web.sock"))


@pytest.fixture
def hypervisor(database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All is well but the broker."""
    for name in ("DIRECTORY", "GUEST_ROOT"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"DROVER_{name}", str(tmp_path / name))
    monkeypatch.setenv("DROVER_HOST", "hv1")
    monkeypatch.setenv("DROVER_ADDRESS", "127.0.0.2")
    return tmp_path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the hosts' answers; a string or an error is a refusal."""
    inspection = documents.inspection(
        pid=42, exe="/usr/bin/qemu-system-x86_64", argv=("qemu", "-object", "secret,data=hunter2"), accel="kvm",
        machine_type="pc-q35-10.0", memory_bytes=1 << 30, cpus=2,
    ).json_object()  # fmt: skip
    inspection["disks"][0] |= {"format": "qcow2", "path": "/g/web.qcow2", "virtual_size_bytes": 1 << 30}
    planned = documents.destination_plan(qmp="/run/web.sock", warnings=("the link is slow",)).json_object()
    planned["disks"][0] |= {"format": "qcow2", "source_path": "/g/web.qcow2", "virtual_size_bytes": 1 << 30}
    planned["disks"][0] |= {"destination_path": "/h/web.qcow2"}
    said: dict[str, Any] = {"inspect": inspection, "plan_destination": planned}

    def ask(_host: str, question: Question[Any]) -> Versioned:
        if isinstance(said[question.kind], Exception):
            raise said[question.kind]
        if isinstance(said[question.kind], str):
            raise PreconditionFailed(said[question.kind])
        asked = {"qmp": question.qmp} if isinstance(question, Inspect) else {}  # by the monitor that was named
        return question.answer.read(said[question.kind] | asked)

    monkeypatch.setattr(guests, "ask", ask)
    monkeypatch.setattr(preflight, "ask", ask)
    return said
