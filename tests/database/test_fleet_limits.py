"""Limits of the fleet are a row: changed by a command, in effect at the next decision, the same for all processes."""

import asyncio
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic import command
from sqlalchemy import func, select

import migrations
from drover.cli.options import duration, rate
from drover.errors import PreconditionFailed
from drover.settings import FORMER_VARIABLES, settings
from drover.views import drain_queries
from models import fleet
from models.database import engine, transaction
from models.documents import HostFacts, MigrationOptions
from models.drain import DrainKind
from models.fleet import FleetLimits, Limits
from models.host import Host
from models.job import Job, JobState
from tests import factories
from tests.factories import GB, guest, host, job, prepared
from workers.disks import mirrors
from workers.qemu.block import Mirror
from workflows import fleet_limits
from workflows.drain import commands, planner
from workflows.drain.planner import DrainRequest
from workflows.migration import preflight

pytestmark = pytest.mark.usefixtures("database")


def current() -> Limits:
    with transaction() as session:
        return fleet.limits(session)


def test_the_row_that_the_migration_makes_has_the_documented_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in FORMER_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    command.downgrade(migrations.config(), "0007")
    migrations.upgrade()
    assert current() == Limits()


def test_the_migration_takes_over_what_the_environment_says_and_leaves_out_what_is_no_amount(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command.downgrade(migrations.config(), "0007")
    told = {"MAX_MOVES": "40", "RETENTION_S": "3600", "BANDWIDTH_BYTES_PER_S": "100000000", "MAX_HELD": "0"}
    for name, value in told.items():
        monkeypatch.setenv(f"DROVER_{name}", value)
    monkeypatch.setenv("DROVER_MAX_OUTGOING", "many")
    migrations.upgrade()
    assert current() == Limits(
        **Limits().model_dump() | {"max_moves": 40, "retention": timedelta(hours=1), "bandwidth_bytes_per_s": 10**8}
    )


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"max_outgoing": 0}, "max-outgoing cannot be 0: allowed is 1 to 1000"),
        ({"max_moves": -3}, "max-moves cannot be -3: allowed is 1 to 100000"),
        ({"max_moves": "many"}, "max-moves cannot be many: allowed is 1 to 100000"),
        ({"bandwidth_bytes_per_s": -5}, "bandwidth cannot be -5 bytes/s: allowed is 0 .no limit., or 65536 to"),
        ({"bandwidth_bytes_per_s": 100}, "bandwidth cannot be 100 bytes/s: allowed is 0 .no limit., or 65536 to"),
        ({"retention": timedelta(seconds=-1)}, "retention cannot be -1 s: allowed is 0 s to"),
        ({"host_patience": timedelta(seconds=12)}, "host-patience cannot be 12 s: a host counts as silent after 20 s"),
    ],
)
def test_a_limit_out_of_range_is_refused_and_nothing_is_changed(wanted: dict[str, Any], why: str) -> None:
    with pytest.raises(PreconditionFailed, match=why):
        fleet_limits.change({"max_incoming": 7} | wanted)
    assert current() == Limits()


def test_no_more_moves_may_be_held_than_every_worker_has_threads_for() -> None:
    host("one", facts=HostFacts(concurrency=4))
    with pytest.raises(PreconditionFailed, match="max-held is 8 and one runs 4 steps at a time"):
        fleet_limits.change({"max_held": 8})
    fleet_limits.change({"max_held": 3})
    assert current().max_held == 3


def test_what_one_host_reports_keeps_no_other_limit_as_it_is() -> None:
    host("one", facts=HostFacts(concurrency=0))
    fleet_limits.change({"max_moves": 12})
    assert current().max_moves == 12


def test_a_change_wakes_the_controller() -> None:
    from models.database import autocommitting, listening
    from models.notifications import Channel

    with autocommitting() as connection, listening(connection, Channel.WAKE) as wait:
        fleet_limits.change({"max_moves": 12})
        assert wait(10) == [""]


def context(**options: Any) -> Any:
    """Of the first of the moves that are copied."""
    with transaction() as session:
        found = session.scalars(select(Job).order_by(Job.id)).first()
        assert found is not None
        _ = found.disks
        found.options = MigrationOptions(**options)
    return SimpleNamespace(job=found)


def copying(count: int) -> None:
    for name in ("one", "two"):
        host(name)
    for number in range(count):
        guest(f"g{number}", "one")
        prepared(job(f"g{number}", "two", state=JobState.RUNNING))


def test_the_budget_is_shared_anew_at_the_next_look_of_a_copy_that_is_under_way() -> None:
    copying(2)
    assert mirrors.share(context()) == 0
    fleet_limits.change({"bandwidth_bytes_per_s": 10**8})
    assert mirrors.share(context()) == 5 * 10**7
    fleet_limits.describe_host("one", {"bandwidth_bytes_per_s": 10**7})
    assert mirrors.share(context()) == mirrors.budget(context()) == 5 * 10**6
    assert mirrors.budget(context(bandwidth_bytes_per_s=42)) == 42
    assert mirrors.budget(context(bandwidth_bytes_per_s=10**9)) == 5 * 10**6, "a budget is never exceeded"
    fleet_limits.describe_host("one", {"bandwidth_bytes_per_s": 0})
    assert mirrors.share(context()) == 0, "a host may have no limit though the fleet has one"
    fleet_limits.describe_host("one", {"bandwidth_bytes_per_s": None})
    assert mirrors.share(context()) == 5 * 10**7


def test_qemu_is_told_of_a_changed_budget() -> None:
    copying(1)
    rates: list[int] = []

    class Told:
        async def execute_each(self, _: str, arguments: Any) -> None:
            rates.extend(each["speed"] for each in arguments)

    sizes = {"copied_bytes": 0, "total_bytes": 10 * GB}
    mirror = Mirror(status="running", ready=False, healthy=True, no_room=False, error=None, **sizes)
    monitor: Any = Told()
    bandwidth = mirrors.Bandwidth(context(), monitor)
    for budget in (10**8, 10**8, 2 * 10**7):
        fleet_limits.change({"bandwidth_bytes_per_s": budget})
        asyncio.run(bandwidth.share({"drover-1-0": mirror}))
    assert rates == [10**8, 2 * 10**7]


def test_a_host_keeps_images_as_long_as_the_fleet_or_as_it_alone_was_told() -> None:
    host("one")
    host("two")
    fleet_limits.change({"retention": timedelta(hours=2)})
    fleet_limits.describe_host("two", {"retention": timedelta(days=7)})
    with transaction() as session:
        assert fleet.retention_of(session, "one") == timedelta(hours=2)
        assert fleet.retention_of(session, "two") == timedelta(days=7)


@pytest.mark.parametrize("wanted", [{"bandwidth_bytes_per_s": 5}, {"retention": timedelta(days=-1)}])
def test_what_a_host_has_of_its_own_is_validated(wanted: dict[str, Any]) -> None:
    host("one")
    with pytest.raises(PreconditionFailed, match="cannot be"):
        fleet_limits.describe_host("one", wanted)


def test_a_worker_that_registers_anew_keeps_what_an_operator_set_for_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers import registration

    ours = factories.ours(host="one", directory=tmp_path, guest_root=tmp_path)
    registration.register(ours)
    fleet_limits.describe_host("one", {"bandwidth_bytes_per_s": 10**7})
    registration.register(ours)
    with transaction() as session:
        row = session.get_one(Host, "one")
    assert row.bandwidth_bytes_per_s == 10**7
    assert row.facts.concurrency == ours.concurrency


def test_a_forecast_and_a_list_of_drains_read_the_row_and_not_the_commands_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "movable", lambda *_: {})
    monkeypatch.setattr(preflight, "planned_at", lambda *_, **__: None)
    monkeypatch.setenv("DROVER_MAX_OUTGOING", "1")
    host("one")
    host("two")
    for number in range(4):
        guest(f"g{number}", "one")
    slow = planner.forecast(DrainRequest(kind=DrainKind.DRAIN, host="one")).total_s
    fleet_limits.change({"max_outgoing": 4, "max_incoming": 4})
    assert planner.forecast(DrainRequest(kind=DrainKind.DRAIN, host="one")).total_s == pytest.approx(slow / 2)
    number = commands.submit(DrainRequest(kind=DrainKind.DRAIN, host="one")).id
    assert drain_queries.snapshot(number).max_outgoing == 4


def test_a_variable_that_became_a_limit_is_told_once_with_the_command_that_sets_it() -> None:
    host("one")
    environ = {"DROVER_MAX_MOVES": "40", "DROVER_RETENTION_S": "3600", "DROVER_MAX_HELD": "8"}
    environ |= {"DROVER_BANDWIDTH_BYTES_PER_S": "100000000"}
    told = fleet_limits.warnings(environ, factories.ours(host="one"))
    assert told == [
        "DROVER_BANDWIDTH_BYTES_PER_S=100000000 is ignored: bandwidth is a limit of the fleet now; "
        "`drover host set one --bandwidth 100000000B/s` sets it, then remove the variable",
        "DROVER_MAX_MOVES=40 is ignored: max-moves is a limit of the fleet now; "
        "`drover fleet set max-moves=40` sets it, then remove the variable",
        "DROVER_RETENTION_S=3600 is ignored: retention is a limit of the fleet now; "
        "`drover host set one --retention 3600s` sets it, then remove the variable",
    ]
    assert (duration("3600s"), rate("100000000B/s")) == (timedelta(hours=1), 100_000_000)  # and the commands take it
    fleet_limits.change({"max_moves": 40})
    fleet_limits.describe_host("one", {"retention": timedelta(hours=1), "bandwidth_bytes_per_s": 100_000_000})
    assert fleet_limits.warnings(environ, factories.ours(host="one")) == []


def test_a_worker_with_too_few_threads_for_held_moves_is_told() -> None:
    [told] = fleet_limits.warnings({}, factories.ours(host="one", concurrency=8))
    assert told.startswith("max-held is 8 and one runs 8 steps at a time (DROVER_CONCURRENCY)")


def test_there_is_one_row_and_no_second() -> None:
    from sqlalchemy.exc import IntegrityError

    with pytest.raises(IntegrityError), transaction() as session:
        session.add(FleetLimits(**Limits().model_dump() | {"id": 2}))
    with engine().connect() as connection:
        assert connection.scalar(select(func.count()).select_from(FleetLimits)) == 1
    assert settings().concurrency > Limits().max_held
