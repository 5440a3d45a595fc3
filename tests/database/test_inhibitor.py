"""What keeps a guest's launcher at the source from starting it again, where the administrator's program tells it.

Or where nobody knows it any more.
"""

import asyncio
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import func, select

from drover.errors import Fatal, Transient
from drover.settings import settings
from models.database import transaction
from models.event_action import EventAction
from models.job import Direction, Event, JobState, Side
from models.launcher import Launcher, LauncherKind
from tests import factories
from tests.documents import inspection
from tests.helpers import until
from tests.step_contexts import claimed
from workers.images import retention
from workers.launcher import found, inhibitor, keep_out, systemd
from workers.process import processes
from workers.process.processes import Process
from workers.step import Context
from workers.steps import cleanup, cutover
from workers.switchover import supervisor
from workers.trust import held_plan
from workflows.migration.links import StepName


@pytest.fixture
def ctx(database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Of a job that has told a launcher in version 0 of the record, and goes back."""
    monkeypatch.setenv("DROVER_POLICY", str(tmp_path / "policy.toml"))
    monkeypatch.setenv("DROVER_DIRECTORY", str(tmp_path / "drover"))
    _policy(tmp_path, f'echo "$@ $DROVER_JOB" >{tmp_path}/told')
    settings.cache_clear()
    for name in ("one", "two"):
        factories.host(name)
    factories.guest("web", "one")
    claim = factories.claim(settings(), factories.job("web", "two", state=JobState.RUNNING), 0)
    made = Context(claim=claim, settings=settings())
    made.directory.path.mkdir(parents=True, exist_ok=True)
    _record(made).write_text('{"kind": "supervisor", "unit": "sh"}')
    return made


def _policy(folder: Path, script: str) -> None:
    program = folder / "launcher"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (folder / "policy.toml").write_text(f'launcher = "{program}"\n')


def _record(ctx: Context) -> Path:
    return inhibitor._record(ctx).path


def test_the_program_is_told_once_that_the_guest_stays(ctx: Context, tmp_path: Path) -> None:
    asyncio.run(inhibitor.lift(ctx))
    assert (tmp_path / "told").read_text() == f"again web {ctx.job.id}\n"
    assert not _record(ctx).exists()
    (tmp_path / "told").unlink()
    asyncio.run(inhibitor.lift(ctx))
    assert not (tmp_path / "told").exists()
    assert _sentences(ctx) == ["sh is told that web stays on one: it may start it again, as before"]


def test_what_launched_a_guest_is_told_to_keep_still_each_time_and_the_job_says_so_once(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _record(ctx).unlink()
    shell = Launcher(kind=LauncherKind.SUPERVISOR, name="sh", pid=7, stays="sh may start it again")
    monkeypatch.setattr(found, "launcher_of", lambda process: shell)
    monkeypatch.setattr(Context, "source_alive", True)
    monkeypatch.setattr(Context, "source_process", None)
    for _ in range(2):
        (tmp_path / "told").unlink(missing_ok=True)
        assert asyncio.run(inhibitor.inhibit(ctx)) == shell
        assert (tmp_path / "told").read_text() == f"still web {ctx.job.id}\n"
    assert _sentences(ctx) == ["sh (pid 7) is told not to start web on one any more"]


def _sentences(ctx: Context) -> list[str]:
    with transaction() as session:
        told = select(Event.sentence).where(Event.job_id == ctx.job.id, Event.action == EventAction.LAUNCHER)
        return list(session.scalars(told.order_by(Event.id)))


def test_a_program_that_fails_is_tried_again(ctx: Context, tmp_path: Path) -> None:
    _policy(tmp_path, "echo no such guest; exit 3")
    with pytest.raises(Transient, match=r"again web failed \(status 3\): no such guest"):
        asyncio.run(inhibitor.lift(ctx))
    assert _record(ctx).exists()


def test_a_program_that_the_policy_no_longer_names_is_asked_for(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("")
    with pytest.raises(Fatal, match=f"name it again in the policy there, then `drover job retry {ctx.job.id}`"):
        asyncio.run(inhibitor.lift(ctx))
    assert _record(ctx).exists()


def test_where_the_launcher_has_ended_no_image_can_be_made_in_the_place_of_the_former_one(
    database: None, tmp_path: Path
) -> None:
    """By a line of cron, or by what looks whether the guest runs."""
    ctx = claimed(tmp_path, (StepName.CLEANUP, Side.SOURCE), Direction.DO, committed_at=func.now())
    image = tmp_path / "here.raw"
    cleanup._hold_back(ctx, Launcher(kind=LauncherKind.NOBODY))
    assert subprocess.run(
        ["qemu-img", "create", "-q", "-f", "raw", str(image), "1M"], stderr=subprocess.DEVNULL
    ).returncode
    assert _sentences(ctx) == [
        "what started web on one has ended, and may be called again: folders in the place of the former images keep it "
        "from starting web a second time"
    ]
    assert keep_out.launcher_left(ctx.settings, image) is None, "it may come back at any time"
    keep_out.clear(ctx.settings, image)
    assert not image.exists()


def test_images_leave_the_place_where_an_unknown_launcher_finds_them_once_this_host_has_let_the_guest_go(
    database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rows say of a guest that is off moves none."""
    ctx = claimed(tmp_path, (StepName.CUTOVER, Side.SOURCE), Direction.DO, committed_at=func.now())
    unknown = ctx.source.model_copy(update={"launcher": Launcher(kind=LauncherKind.NOBODY)})
    held_plan.hold(ctx.directory.path, ctx.plan.model_copy(update={"source": unknown}))
    ctx._held = None
    image = tmp_path / "here.raw"
    image.write_text("what the guest wrote")
    ctx.directory.source_images.add({str(image): image.stat().st_ino})
    cutover._keep_launcher_out(ctx)
    assert image.is_file()
    monkeypatch.setattr(supervisor, "let_go", lambda ctx: True)
    for _ in range(2):
        cutover._keep_launcher_out(ctx)
        assert image.is_dir()
        assert retention.now_at(ctx, image).read_text() == "what the guest wrote"
    assert len(_sentences(ctx)) == 1
    retention.put_back(ctx)
    assert image.is_file()


def test_scripts_that_were_halted_go_on_if_the_guest_stays(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = Launcher(kind=LauncherKind.UNIT, name="web.service")
    _record(ctx).write_text('{"kind": "unit", "unit": "web.service"}')
    with subprocess.Popen(["sh", "-c", "sleep 100; true"], start_new_session=True) as started:
        script = processes.process(started.pid)
        assert script is not None
        [qemu] = until("it has started its child", lambda: processes.children(script))
        mine = {script.pid, qemu.pid}
        monkeypatch.setattr(found, "_units_cgroup", lambda process: "/web.service" if process.pid in mine else None)
        monkeypatch.setattr(systemd, "take_away", lambda *paths: None)
        monkeypatch.setattr(Context, "source_process", qemu)
        monkeypatch.setattr(Context, "source", inspection())
        try:
            inhibitor.halt_scripts(ctx, unit)
            until("it is halted", lambda: _state(script) == "T")
            asyncio.run(inhibitor.lift(ctx))
            until("it goes on", lambda: _state(script) == "S")
        finally:
            started.kill()
            qemu.kill()


def _state(process: Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("restart", "after"),
    [
        ("always", {"success", "exit-code", "signal"}),
        ("on-failure", {"exit-code", "signal"}),
        ("on-abort", {"signal"}),
        ("on-success", {"success"}),
        ("no", set()),
        (None, set()),
    ],
)
def test_a_unit_whose_guest_ended_meanwhile_is_started_if_systemd_would_have_done_that(
    monkeypatch: pytest.MonkeyPatch, restart: str | None, after: set[str]
) -> None:
    launcher = Launcher(kind=LauncherKind.UNIT, name="web.service", restart=restart, wanted=False)
    started = set()
    for result in ("success", "exit-code", "signal"):
        monkeypatch.setattr(systemd, "properties", lambda *_, result=result: {"Result": result})
        if inhibitor._would_start_it("web.service", launcher, booted=False):
            started.add(result)
    assert started == after
    assert not inhibitor._would_start_it("web.service", launcher, booted=True), "it is not started at boot"
    wanted = launcher.model_copy(update={"wanted": True})
    assert inhibitor._would_start_it("web.service", wanted, booted=True)
