"""The worker finds its switchover processes, also those of an earlier worker."""

import asyncio
import os
import select
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.job import Job, Side
from tests import factories
from tests.helpers import until
from workers.process import processes
from workers.step import Context
from workers.steps import migrate_ram
from workers.switchover import __main__ as switch
from workers.switchover import parameters, supervisor
from workers.switchover.journal import JournalState
from workers.switchover.parameters import SourceParameters


def _context(folder: Path) -> Context:
    claim = factories.offline_claim(Job(id=1), "migrate_ram", Side.SOURCE, lasts_s=60)
    return Context(claim=claim, settings=factories.offline(directory=folder))


def _order(folder: Path) -> SourceParameters:
    return SourceParameters(
        qmp=str(folder / "qmp"),
        ram=str(folder / "ram"),
        switchover=str(folder / "switchover"),
        images=[],
        journal=str(folder / "jobs" / "1" / "switch-source-7.jsonl"),
        mirrors=[],
        nodes=[],
        live=True,
        max_downtime_ms=1,
        bandwidth_bytes_per_s=0,
        deadline_s=1,
        devices=[],
    )


@pytest.fixture
def slow_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    context = _context(tmp_path)
    context.directory.path.mkdir(parents=True)
    processes.make_names_secret(context.directory.path)
    yield context
    for process in processes.find_below(context.directory.path):
        process.kill()


@pytest.mark.usefixtures("slow_python")
def test_one_that_has_not_said_a_word_yet_is_known_to_the_next_worker_and_can_be_ended(
    context: Context, tmp_path: Path
) -> None:
    supervisor.start(context, 7, _order(tmp_path))
    after = _context(tmp_path)
    assert supervisor.attempts(after) == [7]
    started = supervisor.running(after, 7)
    assert started is not None
    assert started.alive
    asyncio.run(supervisor.kill_all(after))
    assert not started.alive


@pytest.mark.usefixtures("slow_python")
def test_a_prepared_one_is_no_attempt_and_is_ended_with_the_others(context: Context) -> None:
    supervisor.prepare(context)
    [prepared] = processes.find_below(context.directory.path)
    assert supervisor.attempts(context) == []
    supervisor.prepare(context)
    assert processes.find_below(context.directory.path) == [prepared], "one is enough"
    asyncio.run(supervisor.kill_all(context))
    assert not prepared.alive


def test_a_prepared_one_begins_when_it_is_ordered_to(context: Context, tmp_path: Path) -> None:
    context.claim.token = 3
    supervisor.prepare(context)
    [prepared] = processes.find_below(context.directory.path)
    context.claim.token = 9
    supervisor.start(context, 7, _order(tmp_path))
    assert supervisor.running(context, 7) == prepared
    until("its journal has ended", lambda: supervisor.journal_state(context, 7).ended)
    started = supervisor.journal_state(context, 7).last("started")
    assert started is not None
    assert started["pid"] == prepared.pid


def test_a_prepared_one_sees_its_order_even_if_whoever_wrote_it_died_before_it_said_so(
    context: Context, tmp_path: Path
) -> None:
    supervisor.prepare(context)
    order = context.directory.parameters_file(Side.SOURCE, context.claim.token)
    until("it waits", lambda: order.with_suffix(".bell").exists())
    order.with_suffix(".bell").unlink()
    supervisor.start(context, 7, _order(tmp_path))
    until("its journal has ended", lambda: supervisor.journal_state(context, 7).ended)


def test_a_prepared_one_waits_as_long_again_when_another_is_asked_for(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, clock = context.directory.parameters_file(Side.SOURCE, context.claim.token), SimpleNamespace(s=0.0)
    monkeypatch.setattr(supervisor, "_prepared", lambda _: context.claim.token)
    monkeypatch.setattr(parameters, "time", SimpleNamespace(monotonic=lambda: clock.s))
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(parameters.comes, order, patience_s=60.0)
        until("it waits", lambda: order.with_suffix(".bell").exists())
        for clock.s in (50.0, 100.0):
            supervisor.prepare(context)
            until("it looked", lambda: waiting.done() or _silent(order.with_suffix(".bell")))
        order.touch()
        assert waiting.result()


def _silent(bell: Path) -> bool:
    with FileIO(os.open(bell, os.O_RDWR | os.O_NONBLOCK)) as pipe:
        return not select.select([pipe], [], [], 0)[0]


def test_where_the_prepared_one_died_another_is_started(context: Context, tmp_path: Path) -> None:
    context.claim.token = 3
    supervisor.prepare(context)
    [prepared] = processes.find_below(context.directory.path)
    prepared.kill()
    context.claim.token = 9
    supervisor.start(context, 7, _order(tmp_path))
    assert supervisor.running(context, 7) is not None
    until("its journal has ended", lambda: supervisor.journal_state(context, 7).ended)


def test_a_prepared_one_that_no_order_comes_for_ends_without_a_word(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "PATIENCE_S", 0.01)
    monkeypatch.setattr(sys, "argv", ["switch", "source", str(tmp_path / "never")])
    switch.main()
    assert supervisor.journal_state(context, 7).lines == ()


@pytest.mark.parametrize(
    ("events", "alive", "decides"),
    [
        (["continuing"], False, True),
        (["continuing"], True, False),
        (["pre-switchover"], False, False),
        (["continuing", "keeping"], False, False),
        (["continuing", "keeping", "kept"], False, False),
    ],
)
def test_the_destination_decides_only_about_a_guest_that_never_went_on_at_the_source(
    events: list[str], alive: bool, decides: bool
) -> None:
    """What it holds of a guest that went on, and died later, is out of date."""
    told = JournalState(tuple({"event": event} for event in events))
    ctx = SimpleNamespace(source_alive=alive)
    assert migrate_ram._died_after_ending_mirrors(ctx, told) is decides  # type: ignore[arg-type]
