"""Programs of a host's administrator at certain points of a move."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from drover.errors import Fatal, Transient
from drover.settings import settings
from models.database import transaction
from models.hook import HookCall
from models.job import Event, Job, JobState
from tests import factories
from workers import hooks, programs
from workers.disks.held_up import Remarks
from workers.hooks import Point
from workers.step import Context


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hooks of this host."""
    monkeypatch.setenv("DROVER_POLICY", str(tmp_path / "policy.toml"))
    monkeypatch.setenv("DROVER_DIRECTORY", str(tmp_path / "drover"))
    (tmp_path / "policy.toml").write_text("hook_s = 1\n")
    settings.cache_clear()
    return tmp_path / "hooks"


def hook(folder: Path, name: str, script: str = "exit 0") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def ctx(database: None, folder: Path) -> Context:
    """Of the first step, at the destination."""
    for name in ("one", "two"):
        factories.host(name)
    factories.guest("web", "one")
    claim = factories.claim(settings(), factories.job("web", "two", state=JobState.RUNNING), 0)
    return Context(claim=claim, settings=settings())


def events(job_id: int) -> list[tuple[str, str]]:
    with transaction() as session:
        rows = session.query(Event).where(Event.job_id == job_id).order_by(Event.id)
        return [(row.action, row.sentence) for row in rows if row.action in {"hook", "warning"}]


def run(ctx: Context, point: Point) -> None:
    asyncio.run(hooks.run(ctx, point))


def test_those_of_the_host_run_before_those_of_the_guest_in_the_order_of_their_names(folder: Path) -> None:
    names = ["before-copy.d/20-b@nobody.warn", "before-copy.d/10-a", "guests/web/before-copy.d/05-c.warn"]
    for name in [*names, "guests/db/before-copy.d/01-other", "after-cleanup.d/10-late"]:
        hook(folder, name)
    (folder / "before-copy.d/README").write_text("not to be run")
    found = hooks.of(Point.BEFORE_COPY, folder, "web")
    assert [(it.path.name, it.user, it.warns) for it in found] == [
        ("10-a", None, False),
        ("20-b@nobody.warn", "nobody", True),
        ("05-c.warn", None, True),
    ]
    assert hooks.of(Point.AFTER_ROLLBACK, folder, "web") == []


def test_a_move_says_that_it_waits_for_a_hook_which_works_for_long(
    ctx: Context, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "LONG_S", 0.0)
    path = hook(folder, "before-copy.d/10-a", "sleep 0.5")
    remarks = list[str | None]()
    with monkeypatch.context() as patch:
        patch.setattr(Remarks, "tell", lambda _, remark: remarks.append(remark))
        run(ctx, Point.BEFORE_COPY)
    works = f"before-copy on {settings().host}: {path} works, for up to 1 s; the move waits for it"
    assert remarks == [works, None]


@pytest.mark.parametrize("what", ["before-copy.d/10-a", "before-copy.d", ".", "guests"])
def test_what_others_than_root_could_change_is_not_run(folder: Path, what: str) -> None:
    hook(folder, "before-copy.d/10-a")
    hook(folder, "guests/web/before-copy.d/10-a")
    (folder / what).chmod(0o777)
    with pytest.raises(Fatal, match="could be changed by others than root"):
        hooks.of(Point.BEFORE_COPY, folder, "web")


def test_a_hook_whose_folder_others_could_exchange_is_not_run(folder: Path, tmp_path: Path) -> None:
    theirs = hook(tmp_path / "theirs", "within/10-a")
    (folder / "before-copy.d").mkdir(parents=True)
    (folder / "before-copy.d" / "10-a").symlink_to(theirs)
    assert hooks.of(Point.BEFORE_COPY, folder, "web")
    (tmp_path / "theirs").chmod(0o777)
    with pytest.raises(Fatal, match=r"theirs could be changed by others than root"):
        hooks.of(Point.BEFORE_COPY, folder, "web")


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ("setsid sleep 60 & echo begun", 0, "begun"),
        ("setsid sleep 60 & exec sleep 60", None, "took longer than 2 s and was ended"),
        ("exec cat /dev/zero", None, "took longer than 2 s and was ended"),
        ("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end", 0, "x / end"),
        ("kill -SEGV $$", -11, "it said nothing"),
        ("exec <&-; echo ignores what it is told", 0, "ignores what it is told"),
    ],
)
def test_a_program_ends_when_it_ends_whatever_it_leaves_behind_or_prints(
    tmp_path: Path, script: str, status: int | None, said: str
) -> None:
    program = hook(tmp_path, "program", script)
    ended = asyncio.run(programs.run(program, environment={}, told=b"x" * 200_000, timeout_s=2))
    assert (ended.status, ended.said[-len(said) :]) == (status, said) if status is not None else said in ended.said
    assert len(ended.said) <= programs.LONGEST_SAID
    if status == -11:
        assert "failed (signal 11)" in ended.how


def test_a_fault_of_a_later_hook_is_told_before_anything_is_copied(ctx: Context, folder: Path) -> None:
    hook(folder, "after-cleanup.d/10-a").chmod(0o777)
    with pytest.raises(Fatal, match="after-cleanup"):
        run(ctx, Point.BEFORE_COPY)


def test_a_hook_knows_what_it_is_run_for_and_is_run_once(ctx: Context, folder: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    hook(folder, "before-copy.d/10-a", f"env | grep ^DROVER_ | sort >>{said}; cat >>{said}")
    run(ctx, Point.BEFORE_COPY)
    run(ctx, Point.BEFORE_COPY)
    assert hooks.finished(ctx, Point.BEFORE_COPY)
    *environment, told = said.read_text().splitlines()
    assert environment == [
        f"DROVER_ATTEMPT={ctx.claim.token}",
        "DROVER_DESTINATION=two",
        "DROVER_GUEST=web",
        "DROVER_HOOK=before-copy",
        f"DROVER_JOB={ctx.job.id}",
        "DROVER_SIDE=destination",
        "DROVER_SOURCE=one",
    ]
    call = HookCall.read(json.loads(told))
    assert (call.hook, call.side, call.guest, call.source, call.destination) == (
        *("before-copy", "destination", "web"),
        *("one", "two"),
    )
    [(action, sentence)] = events(ctx.job.id)
    assert action == "hook"
    assert "before-copy" in sentence
    assert "ended well" in sentence


def test_before_the_point_of_no_return_a_failure_ends_the_move_and_a_warning_does_not(
    ctx: Context, folder: Path
) -> None:
    hook(folder, "before-copy.d/10-a.warn", "echo lost its way; exit 3")
    failing = hook(folder, "before-copy.d/20-b", "echo no bridge; exit 1")
    never = hook(folder, "before-copy.d/30-c", "touch $0.ran")
    with pytest.raises(Fatal, match=r"20-b took .* s and failed \(status 1\): no bridge"):
        run(ctx, Point.BEFORE_COPY)
    assert not never.with_name("30-c.ran").exists()
    assert [action for action, _ in events(ctx.job.id)] == ["warning", "warning"]
    assert "lost its way" in events(ctx.job.id)[0][1]
    hook(folder, failing.relative_to(folder).as_posix())
    run(ctx, Point.BEFORE_COPY)
    assert never.with_name("30-c.ran").exists()
    assert len([1 for _, sentence in events(ctx.job.id) if "10-a" in sentence]) == 1, "it has had its turn"


def test_after_it_a_failure_is_tried_again_and_one_that_takes_too_long_is_ended(ctx: Context, folder: Path) -> None:
    hook(folder, "after-switchover.d/10-a", "sleep 60")
    with pytest.raises(Transient, match="took longer than 1 s and was ended"):
        run(ctx, Point.AFTER_SWITCHOVER)
    assert not hooks.finished(ctx, Point.AFTER_SWITCHOVER)


def test_an_attempt_at_the_switchover_that_begins_anew_has_its_hooks_again(ctx: Context, folder: Path) -> None:
    hook(folder, "before-switchover.d/10-a")
    run(ctx, Point.BEFORE_SWITCHOVER)
    assert hooks.finished(ctx, Point.BEFORE_SWITCHOVER)
    ctx.job.epoch += 1
    assert not hooks.finished(ctx, Point.BEFORE_SWITCHOVER)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_hook_runs_as_the_user_that_its_name_says() -> None:
    ended = asyncio.run(programs.run(Path("/usr/bin/id"), "-un", environment={}, user="nobody", timeout_s=10))
    assert (ended.status, ended.said) == (0, "nobody")
    missing = asyncio.run(programs.run(Path("/usr/bin/id"), environment={}, user="nobody-at-all", timeout_s=10))
    assert missing.status is None


def test_without_hooks_nothing_is_written(ctx: Context) -> None:
    for point in Point:
        run(ctx, point)
        assert hooks.finished(ctx, point)
    assert events(ctx.job.id) == []
    assert not ctx.directory.path.exists()
    with transaction() as session:
        assert session.get_one(Job, ctx.job.id).state is JobState.RUNNING


def test_those_of_a_set_run_only_where_a_policy_names_it_and_one_that_is_missing_is_refused(folder: Path) -> None:
    hook(folder, "sets/db/before-copy.d/10-quiesce")
    hook(folder, "guests/web/before-copy.d/20-own")
    assert [it.path.name for it in hooks.of(Point.BEFORE_COPY, folder, "web")] == ["20-own"]
    assert [it.path.name for it in hooks.of(Point.BEFORE_COPY, folder, "web", "db")] == ["10-quiesce", "20-own"]
    assert hooks.of(Point.AFTER_CLEANUP, folder, "web", "db") == []
    with pytest.raises(Fatal, match="there is no set of hooks cache: no folder"):
        hooks.of(Point.BEFORE_COPY, folder, "web", "cache")
    with pytest.raises(Fatal, match=r"there is no set of hooks dbs: did you mean db\? no folder"):
        hooks.of(Point.BEFORE_COPY, folder, "web", "dbs")
