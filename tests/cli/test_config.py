"""`drover config` and `drover fleet`: what is so on this machine and in the fleet, and what to do about it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from drover.settings import settings
from models.database import transaction
from tests.cli.support import document, drover
from tests.factories import limits


def checked(code: int = 0) -> dict[str, tuple[str, str]]:
    """{what was looked at: (status, message)}; the broker of these tests is never there."""
    settings.cache_clear()
    found = drover("config", "check", "--json")
    assert found.exit_code == code, found.output
    return {one["name"]: (one["status"], one["message"]) for one in json.loads(found.stdout)["checks"]}


def test_each_thing_is_told_with_what_to_do(hypervisor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked(code=1)
    assert found["settings"] == ("ok", "all are valid")
    assert found["database"][0] == found["controller"][0] == found["qemu"][0] == "ok"
    assert found["broker"][0] == "problem"
    assert "is Redis running" in found["broker"][1]
    assert "hunter2" not in found["broker"][1]
    assert found["DROVER_DIRECTORY"] == ("ok", f"{hypervisor / 'DIRECTORY'} can be written")
    assert found["DROVER_ADDRESS"][0] == "warning", "no other machine reaches a loopback address"


@pytest.mark.parametrize(
    ("variable", "value", "name", "said"),
    [
        ("DROVER_ADDRESS", "192.0.2.1", "DROVER_ADDRESS", "192.0.2.1 is no address of this machine"),
        ("DROVER_GUEST_ROOT", "/no/such/folder", "DROVER_GUEST_ROOT", "/no/such/folder does not exist: create it"),
        ("PATH", "/nowhere", "qemu", "qemu-system-x86_64, qemu-img, qemu-storage-daemon not found: install"),
        ("DROVER_LEASE_TTL_S", "0", "settings", "DROVER_LEASE_TTL_S is '0': allowed is 1 to 600 s"),
    ],
)
def test_what_is_wrong_is_a_problem(
    hypervisor: Path, variable: str, value: str, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    status, message = checked(code=1)[name]
    assert status == "problem"
    assert message.startswith(said)


def test_a_mistyped_variable_and_one_that_became_a_limit_are_warnings(
    hypervisor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROVER_LEASE_TTL", "20")
    monkeypatch.setenv("DROVER_MAX_MOVES", "40")
    settings.cache_clear()
    told = drover("config", "check").stdout
    assert "warning: settings: DROVER_LEASE_TTL is unknown to Drover" in told
    assert "warning: limits: DROVER_MAX_MOVES=40 is ignored" in told
    assert "`drover fleet set max-moves=40` sets it" in told


def test_an_old_schema_is_a_problem(hypervisor: Path) -> None:
    with transaction() as session:
        newest = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(text("UPDATE alembic_version SET version_num = '0006'"))
    try:
        status, message = checked(code=1)["database"]
    finally:
        with transaction() as session:
            session.execute(text("UPDATE alembic_version SET version_num = :newest"), {"newest": newest})
    assert status == "problem"
    assert "at revision 0006" in message
    assert "run `drover db upgrade`" in message


def test_the_settings_in_effect_are_shown_without_passwords(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_WEBHOOK_SECRET", "hunter3")
    monkeypatch.setenv("DROVER_WEBHOOK_KEY", "hunter4" * 5)
    monkeypatch.setenv("DROVER_HEARTBEAT_S", "7")
    result = drover("config", "show", "--json")
    rows = {row["variable"]: row for row in json.loads(result.stdout)["settings"]}
    assert rows["DROVER_HEARTBEAT_S"] == {"variable": "DROVER_HEARTBEAT_S", "value": "7", "from": "environment"}
    assert rows["DROVER_LEASE_TTL_S"] == {"variable": "DROVER_LEASE_TTL_S", "value": "15", "from": "default"}
    assert rows["DROVER_BROKER_URL"]["value"] == "redis://:***@127.0.0.1:1/0"
    assert "hunter" not in result.output + drover("config", "show").output
    assert os.environ["DROVER_WEBHOOK_SECRET"] == "hunter3"


def test_limits_are_shown_and_changed(database: None) -> None:
    before = document("fleet", "show")["limits"]
    assert (before["max_moves"], before["retention_s"], before["bandwidth_bytes_per_s"]) == (10, 86400.0, 0)
    changed = document("fleet", "set", "max-moves=12", "bandwidth=100M/s", "retention=48h")
    assert changed["before"] == before
    now: dict[str, Any] = document("fleet", "show")["limits"]
    assert (now["max_moves"], now["retention_s"], now["bandwidth_bytes_per_s"]) == (12, 172800.0, 10**8)
    assert drover("fleet", "set", "max-moves=14").stdout == "max-moves is 14 now (before: 12)\n"
    assert "100.0 MB/s" in drover("fleet", "show").stdout
    assert drover("fleet", "set", "retention=1 h 30 min").stdout == "retention is 1 h 30 min now (before: 2 d)\n"
    assert re.search(r"retention +1 h 30 min +0 s to 3650 d", drover("fleet", "show").stdout)
    told = "signed-submissions is no now (before: yes)\n"
    assert drover("fleet", "set", "signed-submissions=no").stdout == told
    assert document("fleet", "set", "plan-approvals=1", "signed-submissions=yes")["limits"]["signed_submissions"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("max-outgoing=0", "max-outgoing cannot be 0: allowed is 1 to 1000"),
        ("max-movez=2", "there is no limit 'max-movez': there are max-outgoing,"),
        ("max-moves", "'max-moves' is no LIMIT=VALUE"),
        ("max-moves=", "'max-moves=' is no LIMIT=VALUE"),
        ("max-moves=2 max_moves=3", "max-moves is given twice"),
        ("retention=soon", "'soon' is not a duration"),
        ("retention=24", "24 has no unit: write 24h for hours"),
        ("retention=1h30", "'1h30' is not a duration"),
        ("retention=4000d", "retention cannot be 4000 d: allowed is 0 s to 3650 d"),
        ("bandwidth=fast", "'fast' is not a rate"),
        ("signed-submissions=maybe", "signed-submissions cannot be maybe: allowed is yes or no"),
    ],
)
def test_a_wrong_limit_is_refused(database: None, words: str, said: str) -> None:
    result = drover("fleet", "set", *words.split())
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_host_has_a_bandwidth_of_its_own_until_it_is_taken_back(database: None) -> None:
    limits(bandwidth_bytes_per_s=10**8)
    found = document("host", "set", "hv1", "--bandwidth", "10M/s", "--retention", "7d")
    own = {"bandwidth_bytes_per_s": 10**7, "bandwidth_hours": [], "retention_s": 604800.0}
    assert found == {"name": "hv1", **own, "labels": {}}
    assert "hv1 has its own bandwidth: 10.0 MB/s" in drover("fleet", "show").stdout
    assert drover("host", "set", "hv1", "--bandwidth", "").stdout == (
        "hv1: bandwidth as the fleet, retention 7 d, labels none\n"
    )
    assert document("fleet", "show")["hosts"] == [{"host": "hv1", "limit": "retention", "value": 604800.0}]
    for words, said in ((("--retention", "24"), "24 has no unit"), (("--timezone", "Europe/Berlin"), "no time in it")):
        refused = drover("host", "set", "hv1", *words)
        assert (refused.exit_code, said in refused.stderr) == (2, True), refused.output
    unknown = drover("host", "set", "hv9", "--bandwidth", "10M/s")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
