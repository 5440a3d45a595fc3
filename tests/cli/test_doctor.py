"""`drover doctor` finds what would be in the way of a job, and names what mends it."""

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from drover.broker.app import CONTROL_QUEUE, UNROUTED_QUEUE
from drover.settings import StreamSecurity, settings
from lab import fleet, services
from lab.directory import Lab
from models.access import Scope
from models.database import autocommitting, transaction
from models.documents import HostFacts
from models.host import Host
from tests import brokers, documents, factories
from tests.certificates import Authority
from tests.cli.support import drover
from workers.launcher import systemd, units
from workers.qemu import program
from workers.qemu.known_bugs import Severity, known_bugs
from workers.trust import attestation, host_key
from workflows import access, receivers

Found = list[dict[str, Any]]
LOADED = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "KillMode": "process"}


def examined(code: int) -> Found:
    """All that is not as it should be."""
    settings.cache_clear()
    result = drover("doctor", "--json")
    assert result.exit_code == code, result.output
    found: Found = json.loads(result.stdout)["checks"]
    return [one for one in found if one["status"] != "ok"]


def one(found: Found, name: str, words: str) -> dict[str, Any]:
    """The finding of this name with these words."""
    (that,) = [each for each in found if each["name"] == name and words in each["message"]]
    return that


@pytest.fixture
def control(database: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """This process is pointed at a Redis of its own, and is no hypervisor."""
    lab = Lab(Path(tempfile.mkdtemp(prefix="dd", dir="/tmp")))
    server = services.start_redis(lab)
    monkeypatch.setenv("DROVER_BROKER_URL", lab.environment["DROVER_BROKER_URL"])
    settings.cache_clear()
    with fleet.celery_configured():
        yield lab
    server.kill()
    shutil.rmtree(lab.path, ignore_errors=True)


def with_certificates(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
    monkeypatch.setenv("DROVER_STREAMS", StreamSecurity.CERTIFICATES)
    for what, path in files.items():
        monkeypatch.setenv(f"DROVER_TLS_{what.upper()}", str(path))


def test_whatever_is_not_well_on_a_hypervisor_has_a_remedy(hypervisor: Path) -> None:
    found = examined(code=1)
    assert [each for each in found if each["fix"] is None] == [one(found, "broker", "is Redis running")]
    assert not [each for each in found if each["status"] == "problem" and each["name"] != "broker"]


def test_bugs_of_the_qemus_here_are_told_with_the_version_that_mends_them(hypervisor: Path) -> None:
    version = program.version("/usr/bin/qemu-system-x86_64")
    assert version is not None
    told = " ".join(each["message"] for each in examined(code=1) if each["name"] == "qemu-bugs")
    for bug in known_bugs(version, "kvm"):
        assert (f"({bug.id}): QEMU " in told) == (bug.severity in {Severity.WARN, Severity.NOTE})


def test_ports_that_others_use_are_told(hypervisor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        monkeypatch.setenv("DROVER_PORTS", str(taken.getsockname()[1]))
        ports = one(examined(code=1), "ports", "0 of 1 ports")
    assert ports["status"] == "problem"
    assert "DROVER_PORTS" in ports["fix"]


def test_a_key_that_others_can_read_is_a_problem(hypervisor: Path) -> None:
    settings.cache_clear()
    host_key.public(settings())
    key = hypervisor / "DIRECTORY" / host_key.NAME
    key.chmod(0o644)
    assert one(examined(code=1), "permissions", "is secret")["fix"] == f"`chmod 0600 {key}`"


@pytest.mark.parametrize(
    ("apart_s", "status", "said"), [(60, "warning", "60.0 s off"), (86_000, "problem", "certificates of moves")]
)
def test_a_clock_that_is_off_is_told(
    hypervisor: Path, apart_s: float, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right: Callable[[], float] = time.time
    monkeypatch.setattr("drover.cli.checks.services.time.time", lambda: right() + apart_s)
    clock = one(examined(code=1), "clock", said)
    assert (clock["status"], "timedatectl" in clock["fix"]) == (status, True)


@pytest.mark.parametrize(
    ("name", "left", "status", "said"),
    [
        ("hv1", timedelta(days=-1), "problem", "hv1.certificate expired at"),
        ("hv1", timedelta(days=9, hours=1), "warning", "hv1.certificate expires in 9 days"),
        ("hv2", timedelta(days=99), "problem", "the certificate of hv1 is for hv2"),
    ],
)
def test_certificates_that_expire_or_are_of_another_host_are_told(
    hypervisor: Path, name: str, left: timedelta, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_certificates(monkeypatch, Authority("root").issue(hypervisor, "hv1", name=name, left=left))
    assert one(examined(code=1), "streams", said)["status"] == status


def test_connections_over_a_network_that_prove_nothing_are_told(
    hypervisor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROVER_DATABASE_URL", "postgresql+psycopg://hv1@192.0.2.1:1/drover?connect_timeout=1")
    monkeypatch.setenv("DROVER_BROKER_URL", "redis://:hunter2@192.0.2.1:1/0")
    monkeypatch.setattr("drover.cli.checks.services.database", lambda: one_problem("database"))
    monkeypatch.setattr("drover.cli.checks.services.broker", lambda: one_problem("broker"))
    found = examined(code=1)
    assert "sslmode=verify-full" in one(found, "database-tls", "192.0.2.1")["fix"]
    assert "rediss://" in one(found, "broker-tls", "192.0.2.1")["fix"]


def one_problem(name: str) -> Any:
    from drover.cli.checks.check import problem

    return problem(name, "it is not asked here")


def test_a_silent_worker_and_one_of_another_machine_are_told(hypervisor: Path) -> None:
    silent = datetime.now(UTC) - timedelta(hours=1)
    with transaction() as session:
        session.execute(update(Host).where(Host.name == "hv1").values(heartbeat_at=silent))
    assert "systemctl restart" in one(examined(code=1), "hosts", "is silent since")["fix"]
    with transaction() as session:
        facts = HostFacts(machine_id="another/boot")
        session.execute(update(Host).where(Host.name == "hv1").values(heartbeat_at=datetime.now(UTC), facts=facts))
    assert one(examined(code=1), "hosts", "another machine serves hv1")["status"] == "problem"


def test_a_key_that_is_not_trusted_is_told(hypervisor: Path) -> None:
    with transaction() as session:
        session.execute(update(Host).where(Host.name == "hv1").values(trusted_key="another key"))
    found = one(examined(code=1), "hosts", "another key")
    assert "drover host trust hv1" in found["fix"]
    assert "hv1 shows another key than before, a key, so that" in found["message"]
    assert drover("host", "trust", "hv1").stdout == "hv1 is trusted by the key a key from now on\n"


@pytest.mark.parametrize(
    ("has", "status", "said"),
    [
        ({"LoadState": "not-found"}, "warning", "is not installed: nothing starts it"),
        ({"ActiveState": "failed"}, "warning", "does not run (failed)"),
        ({"UnitFileState": "disabled"}, "warning", "is not started at boot"),
        ({"KillMode": "control-group"}, "problem", "would end guests"),
        ({"NeedDaemonReload": "yes"}, "warning", "was changed since"),
    ],
)
def test_a_unit_that_would_not_keep_the_worker_going_is_told(
    hypervisor: Path, has: dict[str, str], status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "booted", lambda: True)
    monkeypatch.setattr(units, "available", lambda: True)
    monkeypatch.setattr(systemd, "properties", lambda _unit, _names: LOADED | has)
    found = one(examined(code=1), "units", said)
    assert (found["status"], found["fix"] is not None) == (status, True)


def test_a_control_node_sees_silent_hosts_and_streams_that_do_not_go_together(control: Lab) -> None:
    with transaction() as session:
        for name, streams in (("hv1", StreamSecurity.PLAIN), ("hv2", StreamSecurity.ENCRYPTED)):
            session.execute(update(Host).where(Host.name == name).values(facts=HostFacts(streams=streams)))
    found = examined(code=1)
    assert "`drover doctor`" in one(found, "hosts", "the workers of gone are silent")["fix"]
    assert one(found, "streams", "hv1 has plain, hv2 has encrypted")["status"] == "problem"


def test_a_fleet_that_takes_submissions_from_anybody_is_told(control: Lab) -> None:
    assert not [each for each in examined(code=0) if each["name"] == "submissions"]
    factories.limits(signed_submissions=False)
    assert "signed-submissions=yes" in one(examined(code=0), "submissions", "without a token")["fix"]


def test_messages_that_nobody_takes_and_a_redis_that_drops_some_are_told(control: Lab) -> None:
    with brokers.connected(control) as redis:
        redis.rpush(UNROUTED_QUEUE, "lost")
        redis.rpush(CONTROL_QUEUE, *["waits"] * 100)
        redis.config_set("maxmemory-policy", "allkeys-lru")
        found = examined(code=1)
    assert CONTROL_QUEUE in one(found, "queues", "sent without a queue")["fix"]
    assert one(found, "queues", "100 messages wait in drover.control")["status"] == "warning"
    assert "noeviction" in one(found, "redis", "allkeys-lru")["fix"]


def test_an_old_host_key_and_one_that_a_policy_lists_although_it_was_renewed_are_told(
    hypervisor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = hypervisor / "policy.toml"
    monkeypatch.setenv("DROVER_POLICY", str(policy))
    settings.cache_clear()
    ours = settings()
    host_key.public(ours)
    old = time.time() - timedelta(days=400).total_seconds()
    os.utime(ours.directory / host_key.NAME, (old, old))
    assert "--renew" in one(examined(code=1), "host-key", "the key of hv1 was made on")["fix"]
    assert drover("host", "key", "--renew").exit_code == 0
    assert not [each for each in examined(code=1) if each["name"] == "host-key"]
    there = ours.model_copy(update={"host": "hv2", "directory": hypervisor / "hv2"})
    policy.write_text(f'[hosts]\nhv2 = "{host_key.public(there)}"\n')
    host_key.renew(there)
    attestation.proven(attestation.attested(documents.inspection(), there), settings())
    assert one(examined(code=1), "policy", "lists the former key of hv2")["fix"] == f"list {host_key.public(there)}"


def test_what_expires_on_a_control_node_is_told_with_the_command_that_renews_it(
    control: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("drover.cli.checks.control.ENVIRONMENT", tmp_path / "environment")
    monkeypatch.setenv("DROVER_WEBHOOK_KEY", "n" * 32)
    monkeypatch.setenv("DROVER_WEBHOOK_KEY_FORMER", factories.WEBHOOK_KEY)
    (tmp_path / "hv1.redis").write_text("new\nformer\n")
    factories.receiver()
    access.add("ada", Scope.OPERATE, timedelta(days=9, hours=1))
    with autocommitting() as connection:
        connection.execute(text("CREATE ROLE expiring LOGIN PASSWORD 'x' VALID UNTIL '2020-01-01'"))
        connection.execute(text("CREATE ROLE drover_of_a_test NOLOGIN"))
        connection.execute(text("GRANT drover_of_a_test TO expiring"))
    try:
        found = examined(code=1)
    finally:
        with autocommitting() as connection:
            connection.execute(text("DROP ROLE expiring; DROP ROLE drover_of_a_test"))
    assert "--settle hv1" in one(found, "broker-password", "two passwords of hv1 count")["fix"]
    assert "drover token revoke" in one(found, "tokens", "of ada expires in 9 days")["fix"]
    assert "--password expiring" in one(found, "database-password", "expired at 2020-01-01")["fix"]
    assert f"rotate {factories.LOOPBACK}" in one(found, "webhooks", "DROVER_WEBHOOK_KEY_FORMER has made")["fix"]
    settings.cache_clear()
    receivers.rotate([factories.LOOPBACK], timedelta(0), settings())
    assert "unset it" in one(examined(code=0), "webhooks", "no secret that counts was made with")["fix"]
