"""A roll is carried on from rows alone: each call here could be in another process, without anything in memory."""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select, update

from drover.errors import PreconditionFailed
from drover.metrics import gauges
from drover.settings import Settings
from models.access import Scope
from models.database import transaction
from models.documents import Hook, HostFacts, SeenQemu, SeenQemus
from models.drain import Drain, DrainGuest, DrainKind, DrainState, GuestState
from models.guest import Guest
from models.host import Host, HostState
from models.job import Job
from models.roll import HookRun, Roll, RollHost, RollState
from models.webhook import Delivery
from tests import factories
from tests.factories import GB, guest, host, job, ours
from workflows import access, capacity, hosts
from workflows.drain import commands as drains
from workflows.drain import reconciler as drain_reconciler
from workflows.drain.planner import DrainRequest, guests_of
from workflows.roll import commands, hooks, reconciler
from workflows.roll.commands import RollRequest

pytestmark = pytest.mark.usefixtures("database")

NAMES = ("one", "two", "three")
HOOK = "upgrade"
QEMU = "QEMU emulator version 10.0.2"


@pytest.fixture(autouse=True)
def fleet(database: None) -> None:
    fleet_of_three()


def fleet_of_three() -> None:
    """The first host has a guest."""
    for name in NAMES:
        host(name, facts=HostFacts(qemu=QEMU))
    guest("web", "one")


@pytest.fixture(autouse=True)
def node(tmp_path: Path) -> Settings:
    """A control node with a hook, which no test here runs."""
    folder = tmp_path / "hooks"
    folder.mkdir(mode=0o755)
    program = folder / HOOK
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return ours(hooks=folder)


def submit(*names: str, token: int | None = None, **how: Any) -> int:
    return commands.submit(RollRequest(hosts=names or NAMES, hook=Hook(argv=(HOOK,)), **how), token).id


def advance(roll_id: int, node: Settings) -> list[int]:
    """One look of a controller; returns the runs of hooks that it starts."""
    with transaction() as session:
        return reconciler.advance(session, session.get_one(Roll, roll_id, with_for_update=True), node)


def shown(roll_id: int) -> Roll:
    with transaction() as session:
        roll = session.get_one(Roll, roll_id)
        _ = roll.hosts
    return roll


def states(roll_id: int) -> dict[str, str]:
    return {row.host: row.state.value for row in shown(roll_id).hosts}


def row_of(roll_id: int, name: str = "one") -> RollHost:
    [row] = [row for row in shown(roll_id).hosts if row.host == name]
    return row


def end_drain(drain_id: int | None, state: DrainState = DrainState.DONE) -> None:
    """As its reconciler would, once its moves have ended."""
    with transaction() as session:
        drain = session.get_one(Drain, drain_id)
        if drain.state is DrainState.QUEUED:
            drains.begin(session, drain)
        if state is DrainState.DONE:
            home = drain.kind is DrainKind.RETURN
            elsewhere = next(name for name in NAMES if name != drain.host)
            for turn, moved in enumerate(guests_of(session, drain.kind, drain.host)):
                row = {"guest": moved.name, "position": turn, "source": moved.host, "state": GuestState.MOVED}
                drain.guests.append(DrainGuest(**row))
                moved.host = drain.host if home else elsewhere
            session.get_one(Host, drain.host).state = HostState.ACTIVE if home else HostState.MAINTENANCE
        if state is DrainState.CANCELLED:
            drain.move(session, DrainState.CANCELLING)
        drain.error = "a guest is left" if state is DrainState.INCOMPLETE else None
        drain.move(session, state)


def looked(name: str, *qemus: SeenQemu) -> None:
    """Its worker has just looked for QEMUs."""
    with transaction() as session:
        seen = {"qemus": SeenQemus(qemus=qemus), "qemus_at": func.clock_timestamp()}
        session.execute(update(Host).where(Host.name == name).values(seen))


def started_anew(name: str, **columns: Any) -> None:
    """Its worker, perhaps after a reboot."""
    changed = {"incarnation": f"{name}-{os.urandom(4).hex()}", "heartbeat_at": func.clock_timestamp()}
    with transaction() as session:
        session.execute(update(Host).where(Host.name == name).values(changed | columns))


def emptied(roll_id: int, node: Settings, name: str = "one") -> list[int]:
    """Bring a roll to where it asks for a host's hook; returns that."""
    advance(roll_id, node)
    advance(roll_id, node)
    end_drain(row_of(roll_id, name).drain_id)
    looked(name)
    advance(roll_id, node)
    return advance(roll_id, node)


def hooked(roll_id: int, node: Settings, code: int | None = 0, name: str = "one", output: str = "") -> None:
    """Likewise to where the hook has ended, and the roll has seen it."""
    [run] = emptied(roll_id, node, name)
    assert hooks.take(run) is not None
    hooks.end(run, code, output)
    advance(roll_id, node)


def test_a_look_asks_for_the_room_of_the_fleet_once_however_many_hosts_it_has(
    node: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, asked, real = submit(), [], capacity.rooms

    def rooms(*arguments: Any, **more: Any) -> dict[str, capacity.Room]:
        asked.append(arguments)
        return real(*arguments, **more)

    monkeypatch.setattr(capacity, "rooms", rooms)
    advance(number, node)
    assert len(asked) == 1


def test_a_host_is_drained_then_the_hook_runs_then_its_guests_come_home_and_the_next_one_begins(node: Settings) -> None:
    number = submit()
    advance(number, node)
    assert states(number) == {"one": "draining", "two": "waiting", "three": "waiting"}
    hooked(number, node)
    assert states(number)["one"] == "coming_back"
    started_anew("one")
    advance(number, node)
    advance(number, node)
    assert states(number) == {"one": "returning", "two": "waiting", "three": "waiting"}
    end_drain(row_of(number).return_id)
    advance(number, node)
    assert states(number) == {"one": "done", "two": "draining", "three": "waiting"}
    assert shown(number).wait_reason is not None


def test_a_host_that_waits_for_others_begins_once_more_may_be_out(node: Settings) -> None:
    number = submit()
    advance(number, node)
    advance(number, node)
    assert row_of(number, "two").reason == (
        "it waits for one: no more than 1 host may be out at a time; "
        f"`drover roll set {number} --max-unavailable 2` lets another be out"
    )
    commands.change(number, 2)
    advance(number, node)
    assert states(number) == {"one": "draining", "two": "draining", "three": "waiting"}
    commands.cancel(number)
    for _ in range(3):
        advance(number, node)
    with pytest.raises(PreconditionFailed, match="has ended"):
        commands.change(number, 3)


def test_each_step_of_a_roll_is_told_by_a_webhook_and_a_failure_with_its_reason(node: Settings) -> None:
    factories.receiver()
    number = submit("one", webhook="http://127.0.0.1:9/rolls")
    hooked(number, node, code=1, output="no space left")
    commands.resume(number)
    [again] = advance(number, node)
    assert hooks.take(again) is not None
    hooks.end(again, 0, "")
    advance(number, node)
    started_anew("one")
    advance(number, node)
    advance(number, node)
    end_drain(row_of(number).return_id)
    advance(number, node)
    with transaction() as session:
        told = [one.body for one in session.scalars(select(Delivery).order_by(Delivery.id))]
    assert [one.event for one in told] == [
        "roll.running",
        "roll.host.draining",
        "roll.host.in_hook",
        "roll.paused",
        "roll.running",
        "roll.host.coming_back",
        "roll.host.returning",
        "roll.host.done",
        "roll.done",
    ]
    news = [one.roll for one in told]
    assert all(one is not None and one.id == number for one in news)
    assert [one.host for one in news if one] == [None, "one", "one", None, None, "one", "one", "one", None]
    paused = told[3].json_object()
    assert "no space left" in paused["roll"]["error"]
    assert paused["roll"]["hosts"][0]["state"] == "in_hook"
    assert set(paused) == {"version", "event", "at", "roll"}


def test_a_roll_whose_webhook_may_go_nowhere_is_refused(node: Settings) -> None:
    with pytest.raises(PreconditionFailed, match="drover webhook allow"):
        submit("one", webhook="http://127.0.0.1:9/rolls")


def test_a_scrape_tells_how_far_rolls_are_and_which_have_failed(node: Settings) -> None:
    number = submit("one", "two")
    hooked(number, node, code=1)
    with transaction() as session:
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in gauges.of_rolls(session)
            for sample in family.samples
        }
    assert found["drover_rolls", "paused"] == 1
    assert found["drover_roll_hosts", str(number), "in_hook"] == 1
    assert found["drover_roll_hosts", str(number), "waiting"] == 1
    assert found["drover_roll_failed", str(number)] == 1
    assert found["drover_roll_waiting", str(number), "paused: `drover roll resume #`"] == 1
    commands.cancel(number)
    advance(number, node)
    with transaction() as session:
        ended = {family.name: family.samples for family in gauges.of_rolls(session)}
    assert not ended["drover_roll_hosts"]


def test_a_roll_is_done_when_every_host_is(node: Settings) -> None:
    number = submit("two")
    hooked(number, node, name="two")
    started_anew("two")
    for _ in range(3):
        advance(number, node)
    assert states(number) == {"two": "done"}
    assert shown(number).state is RollState.DONE
    with transaction() as session:
        assert session.get_one(Host, "two").state is HostState.ACTIVE, "without guests it is just opened"


def _in_hook(number: int, node: Settings) -> None:
    advance(number, node)
    advance(number, node)
    end_drain(row_of(number).drain_id)
    looked("one")
    advance(number, node)


def _returning(number: int, node: Settings) -> None:
    hooked(number, node)
    started_anew("one")
    advance(number, node)


BEGUN: dict[str, Callable[[int, Settings], Any]] = {
    "waiting": lambda *_: None,
    "draining": advance,
    "in_hook": _in_hook,
    "returning": _returning,
}
"""How a roll comes to where it is about to begin something."""


@pytest.mark.parametrize("state", BEGUN)
def test_a_roll_begins_nothing_more_once_its_token_was_revoked_until_somebody_lends_theirs(
    node: Settings, state: str
) -> None:
    token, _ = access.add("ada", Scope.OPERATE, None)
    number = submit("one", token=token.id)
    BEGUN[state](number, node)
    access.revoke(token.id)
    runs = advance(number, node)
    roll = shown(number)
    assert (roll.state, states(number), runs) == (RollState.PAUSED, {"one": state}, [])
    assert (row_of(number).return_id, (row_of(number).drain_id is None)) == (None, state in {"waiting", "draining"})
    assert f"token {token.id} of ada" in str(roll.error)
    assert f"was revoked: `drover roll resume {number}`" in str(roll.error)
    commands.resume(number)
    runs = advance(number, node)
    row = row_of(number)
    begun = {"waiting": row.state != state, "draining": row.drain_id, "in_hook": runs, "returning": row.return_id}
    assert shown(number).state is RollState.RUNNING
    assert begun[state]


@pytest.mark.parametrize(("begin", "kind"), [(advance, "drain"), (_returning, "return")])
def test_a_drain_and_a_return_of_a_roll_that_wait_end_once_its_token_was_revoked_and_others_follow(
    node: Settings, begin: Callable[[int, Settings], Any], kind: str
) -> None:
    token, _ = access.add("ada", Scope.OPERATE, None)
    number = submit("one", token=token.id)
    begin(number, node)
    advance(number, node)
    access.revoke(token.id)
    first = _newest_drain()
    with transaction() as session:
        drain_reconciler.advance(session, session.get_one(Drain, first.id, with_for_update=True), node)
    stopped = _newest_drain()
    assert (stopped.id, stopped.kind.value, stopped.state) == (first.id, kind, DrainState.CANCELLED)
    assert f"was revoked: `drover {kind} one` submits it anew" in str(stopped.error)
    advance(number, node)
    other, _ = access.add("bob", Scope.OPERATE, None)
    commands.resume(number, other.id)
    advance(number, node)
    following = _newest_drain()
    assert (following.id > first.id, following.submitted_with) == (True, other.id)


def _newest_drain() -> Drain:
    with transaction() as session:
        return session.scalars(select(Drain).order_by(Drain.id.desc()).limit(1)).one()


def test_a_drain_that_is_under_way_goes_on_by_the_token_of_who_resumes_its_roll(node: Settings) -> None:
    token, _ = access.add("ada", Scope.OPERATE, None)
    number = submit("one", token=token.id)
    advance(number, node)
    advance(number, node)
    access.revoke(token.id)
    advance(number, node)
    assert _newest_drain().submitted_with == token.id
    commands.resume(number)
    assert (_newest_drain().submitted_with, shown(number).submitted_with) == (None, None)


def test_a_roll_goes_on_whose_token_was_replaced_by_another(node: Settings) -> None:
    token, _ = access.add("ada", Scope.OPERATE, None)
    number = submit("one", token=token.id)
    access.revoke(token.id, keep_submitted=True)
    advance(number, node)
    assert states(number) == {"one": "draining"}


@pytest.mark.parametrize("ended", [DrainState.INCOMPLETE, DrainState.CANCELLED])
def test_a_drain_that_did_not_empty_its_host_pauses_the_roll_and_resume_tries_it_again(
    node: Settings, ended: DrainState
) -> None:
    number = submit()
    advance(number, node)
    advance(number, node)
    first = row_of(number).drain_id
    end_drain(first, ended)
    advance(number, node)
    paused = shown(number)
    assert paused.state is RollState.PAUSED
    assert f"one: drain {first} " in str(paused.error)
    assert advance(number, node) == []
    assert states(number) == {"one": "draining", "two": "waiting", "three": "waiting"}
    commands.resume(number)
    advance(number, node)
    again = row_of(number).drain_id
    assert (again == first) is (ended is DrainState.INCOMPLETE), "what was cancelled is begun anew"
    with transaction() as session:
        assert not session.get_one(Drain, again).state.ended
    assert shown(number).error is None


def test_a_hook_that_fails_pauses_the_roll_with_its_last_line_and_is_run_again_only_when_it_is_resumed(
    node: Settings,
) -> None:
    number = submit()
    hooked(number, node, code=3, output="fetching\nno space left\n")
    assert shown(number).state is RollState.PAUSED
    assert f"its hook ended with 3 on {hooks.machine()}: no space left" in str(shown(number).error)
    assert advance(number, node) == []
    commands.resume(number)
    [again] = advance(number, node)
    assert hooks.take(again) is not None


def test_a_hook_runs_once_however_often_its_process_is_started(node: Settings) -> None:
    number = submit()
    [run] = emptied(number, node)
    assert hooks.take(run) is not None
    assert hooks.take(run) is None
    assert advance(number, node) == []


def test_a_hook_whose_process_never_came_up_is_asked_for_anew_and_the_late_process_gets_nothing(node: Settings) -> None:
    number = submit()
    [run] = emptied(number, node)
    with transaction() as session:
        session.get_one(HookRun, run).asked_at -= hooks.TAKEN_WITHIN
    [again] = advance(number, node)
    assert again != run
    assert hooks.take(run) is None
    assert hooks.take(again) is not None


def test_a_hook_of_which_nothing_is_heard_is_not_run_a_second_time_without_an_operator(node: Settings) -> None:
    number = submit()
    [run] = emptied(number, node)
    assert hooks.take(run) is not None
    with transaction() as session:
        session.execute(update(HookRun).values(seen_at=HookRun.seen_at - hooks.SILENT))
    assert advance(number, node) == []
    assert "whether its hook still works is not known" in str(shown(number).error)
    hooks.end(run, 0, "")  # it did, and its database was away
    commands.resume(number)
    advance(number, node)
    assert states(number)["one"] == "coming_back"


@pytest.mark.parametrize(
    ("now_there", "said"),
    [
        (lambda: guest("late", "one"), "1 guest is on one again: late"),
        (lambda: set_state("one", HostState.ACTIVE), "no longer in maintenance"),
        (lambda: looked("one", SeenQemu(process="1", pid=77, name="db")), "pid 77 on one (db) is a QEMU that is no"),
        (lambda: unfinished_job_from("one"), "still has something on one"),
    ],
)
def test_no_hook_runs_on_a_host_that_has_something_on_it(node: Settings, now_there: Any, said: str) -> None:
    number = submit()
    advance(number, node)
    advance(number, node)
    end_drain(row_of(number).drain_id)
    looked("one")
    advance(number, node)
    now_there()
    assert advance(number, node) == []
    assert said in str(shown(number).error)


def set_state(name: str, state: HostState) -> None:
    with transaction() as session:
        session.get_one(Host, name).state = state


def unfinished_job_from(name: str) -> None:
    """Of a guest that runs elsewhere: its cleanup is left to be done."""
    number = job("web", "three", state="running")
    with transaction() as session:
        session.get_one(Job, number).source = name


def test_a_host_is_not_handed_to_the_hook_before_its_worker_has_looked_for_other_qemus(node: Settings) -> None:
    number = submit()
    looked("one")
    advance(number, node)
    advance(number, node)
    end_drain(row_of(number).drain_id)
    advance(number, node)
    assert states(number)["one"] == "draining"
    assert "has yet to say that no other QEMU runs there" in str(shown(number).wait_reason)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "has not been started anew since its hook began"),
        ({"incarnation": "new", "heartbeat_at": func.clock_timestamp() - timedelta(hours=1)}, "one is silent since"),
        ({"incarnation": "new", "facts": HostFacts()}, "one has no QEMU"),
        ({"incarnation": "new", "facts": HostFacts(qemu="QEMU emulator version 8.2.9")}, "with an older QEMU"),
        ({"incarnation": "new", "guest_memory_bytes": GB // 2}, "web has no room on one"),
        ({"incarnation": "new", "public_key": "another"}, "shows another key than before"),
    ],
)
def test_a_host_that_is_not_healthy_again_in_time_pauses_the_roll_and_one_that_comes_late_is_taken_after_resume(
    node: Settings, found: dict[str, Any], said: str
) -> None:
    usual = {"facts": HostFacts(qemu=QEMU), "guest_memory_bytes": 8 * GB}
    with transaction() as session:
        session.execute(update(Host).values(**usual, trusted_key="a key"))
    number = submit()
    [run] = emptied(number, node)
    if found:
        with transaction() as session:
            session.execute(update(Host).where(Host.name == "one").values(found))
    assert hooks.take(run) is not None
    hooks.end(run, 0, "")
    advance(number, node)
    advance(number, node)
    assert said in str(shown(number).wait_reason)
    with transaction() as session:
        session.get_one(RollHost, (number, "one")).since -= timedelta(hours=1)
    advance(number, node)
    assert shown(number).state is RollState.PAUSED
    assert "it was not healthy within 30 min" in str(shown(number).error)
    started_anew("one", **usual, public_key="a key")
    commands.resume(number)
    advance(number, node)
    assert states(number)["one"] == "returning"


def test_a_paused_roll_begins_nothing_and_what_it_began_is_found_when_it_is_resumed(node: Settings) -> None:
    number = submit()
    advance(number, node)
    advance(number, node)
    commands.pause(number)
    end_drain(row_of(number).drain_id)
    looked("one")
    assert advance(number, node) == []
    assert states(number)["one"] == "draining"
    commands.resume(number)
    advance(number, node)
    assert states(number)["one"] == "in_hook"


def test_a_cancelled_roll_ends_its_drain_and_leaves_the_other_hosts_alone(node: Settings) -> None:
    number = submit()
    advance(number, node)
    advance(number, node)
    drain_id = row_of(number).drain_id
    with transaction() as session:
        drains.begin(session, session.get_one(Drain, drain_id))
    commands.cancel(number)
    advance(number, node)
    assert states(number) == {"one": "draining", "two": "left", "three": "left"}
    assert f"one: drain {drain_id} is cancelling, 0 of" in str(shown(number).wait_reason)
    with transaction() as session:
        assert session.get_one(Drain, drain_id).state is DrainState.CANCELLING
        session.get_one(Drain, drain_id).move(session, DrainState.CANCELLED)
    advance(number, node)
    assert shown(number).state is RollState.CANCELLED
    assert "the host is cordoned: `drover return one`" in str(row_of(number).reason)


def test_a_hook_that_works_is_left_to_its_end_when_the_roll_is_cancelled(node: Settings) -> None:
    number = submit()
    [run] = emptied(number, node)
    assert hooks.take(run) is not None
    commands.cancel(number)
    advance(number, node)
    assert states(number)["one"] == "in_hook"
    assert re.search(
        r"one: its hook has worked for .*: the roll ends once that has ended", str(shown(number).wait_reason)
    )
    hooks.end(run, 0, "")
    advance(number, node)
    assert states(number)["one"] == "left"
    assert "in maintenance" in str(row_of(number).reason)


def test_a_host_that_is_away_for_another_reason_counts_against_those_that_may_be_out(node: Settings) -> None:
    number = submit()
    set_state("two", HostState.CORDONED)
    advance(number, node)
    assert states(number)["one"] == "waiting"
    assert "two: no more than 1 host may be out at a time" in str(shown(number).wait_reason)
    set_state("two", HostState.ACTIVE)
    advance(number, node)
    assert states(number)["one"] == "draining"


def test_nobody_opens_a_host_that_the_hook_may_reboot_at_any_moment(node: Settings) -> None:
    number = submit()
    emptied(number, node)
    with pytest.raises(PreconditionFailed, match=f"roll {number} has taken one out, it is in_hook"):
        hosts.uncordon("one")
    asked = drains.submit(DrainRequest(kind=DrainKind.RETURN, host="one"))
    with transaction() as session:
        waiting = session.get_one(Drain, asked.id)
        drain_reconciler.advance(session, waiting, node)
        assert waiting.state is DrainState.QUEUED
        assert waiting.wait_reason is not None
        assert f"roll {number} has taken one out" in waiting.wait_reason


def test_a_hook_that_is_missing_is_found_before_any_host_is_emptied(node: Settings) -> None:
    (node.hooks / HOOK).rename(node.hooks / f"{HOOK}-now")
    number = submit()
    advance(number, node)
    assert states(number)["one"] == "waiting"
    assert f"the hook {node.hooks / HOOK} cannot be run on {hooks.machine()}" in str(shown(number).error)
    assert f"did you mean {HOOK}-now? the folder has {HOOK}-now" in str(shown(number).error)


def test_a_hook_that_others_could_have_written_is_refused(node: Settings) -> None:
    (node.hooks / HOOK).chmod(0o777)
    with pytest.raises(PreconditionFailed, match="could be written by others than root"):
        hooks.program(Hook(argv=(HOOK,)), node)


@pytest.mark.parametrize("name", ["/bin/sh", "./upgrade", "..", ""])
def test_a_hook_is_named_and_never_a_path(name: str) -> None:
    with pytest.raises(PreconditionFailed, match="is no name of a hook"):
        commands.submit(RollRequest(hosts=("one",), hook=Hook(argv=(name,))))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no host is named"),
        (("one", "one"), "named more than once: one"),
        (("nowhere",), "there is no host 'nowhere'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_changed(names: Any, said: str) -> None:
    with pytest.raises(PreconditionFailed, match=said):
        commands.submit(RollRequest(hosts=names, hook=Hook(argv=(HOOK,))))
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Roll)) == 0


def test_a_host_is_in_one_roll_at_a_time_and_a_closed_one_in_none() -> None:
    number = submit("one", "two")
    with pytest.raises(PreconditionFailed, match=f"roll {number} has two already"):
        submit("two", "three")
    set_state("three", HostState.MAINTENANCE)
    with pytest.raises(PreconditionFailed, match="three takes no guest, it is in maintenance"):
        submit("three")


class Weather(RuleBasedStateMachine):
    """A roll with whatever may happen around it, in any order."""

    node: Settings
    most: int

    @initialize(most=st.integers(1, 2))
    def begin(self, most: int) -> None:
        factories.empty_database()
        fleet_of_three()
        self.most, self.number = most, submit(max_unavailable=most)

    def rows(self) -> list[RollHost]:
        return list(shown(self.number).hosts)

    @rule()
    def look(self) -> None:
        for run in advance(self.number, self.node):
            hooks.take(run)

    @rule()
    def look_and_die_before_the_hook_is_started(self) -> None:
        advance(self.number, self.node)

    @rule(ended=st.sampled_from([DrainState.DONE, DrainState.DONE, DrainState.INCOMPLETE, DrainState.CANCELLED]))
    def drains_end(self, ended: DrainState) -> None:
        with transaction() as session:
            going = session.scalars(select(Drain.id).where(Drain.state.in_(["queued", "running"]))).all()
        for drain_id in going:
            end_drain(drain_id, ended)

    @rule()
    def workers_look(self) -> None:
        for name in NAMES:
            looked(name)

    @rule(code=st.sampled_from([0, 0, 1]))
    def hooks_end(self, code: int) -> None:
        with transaction() as session:
            going = session.scalars(select(HookRun.id).where(HookRun.begun_at.is_not(None), HookRun.ended_at.is_(None)))
            runs = going.all()
        for run in runs:
            hooks.end(run, code, "")

    @rule(name=st.sampled_from(NAMES))
    def worker_starts_anew(self, name: str) -> None:
        started_anew(name)

    @rule(name=st.sampled_from(NAMES))
    def worker_falls_silent(self, name: str) -> None:
        with transaction() as session:
            session.get_one(Host, name).heartbeat_at -= timedelta(hours=1)

    @precondition(lambda self: shown(self.number).state is RollState.RUNNING)
    @rule()
    def pause(self) -> None:
        commands.pause(self.number)

    @precondition(lambda self: shown(self.number).state is RollState.PAUSED)
    @rule()
    def resume(self) -> None:
        commands.resume(self.number)

    @invariant()
    def no_more_are_out_than_may_be(self) -> None:
        if hasattr(self, "number"):
            assert sum(row.state.out for row in self.rows()) <= self.most

    @invariant()
    def no_hook_works_on_a_host_with_a_guest(self) -> None:
        if hasattr(self, "number"):
            with transaction() as session:
                working = select(HookRun.host).where(HookRun.begun_at.is_not(None), HookRun.ended_at.is_(None))
                assert not session.scalars(select(Guest.name).where(Guest.host.in_(working))).all()


def test_never_more_hosts_are_out_than_may_be_whatever_happens_in_whatever_order(node: Settings) -> None:
    Weather.node = node
    run_state_machine_as_test(
        Weather,
        settings=hypothesis_settings(
            max_examples=5, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
