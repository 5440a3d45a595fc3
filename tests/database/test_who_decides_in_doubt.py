"""Where one host alone cannot tell who owns a guest, or what is on it is not to be touched, a step stops there."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func

from drover.errors import Committed, Fatal, NeverRan, Unknown
from models.documents import MigrationOptions, Switchover
from models.job import Direction, Side
from tests.step_contexts import claimed, done, ran_here
from workers.process import processes
from workers.step import Context
from workers.steps import STEPS
from workflows.migration.links import StepName

pytestmark = pytest.mark.usefixtures("database")

SENDS_RAM = (StepName.MIGRATE_RAM, Side.SOURCE)
BEFORE_THE_CRASH = "11111111-2222-3333-4444-555555555555/1/42/7"
"""A QEMU of an earlier boot."""


def journal(ctx: Context, *events: str) -> None:
    """What the switchover process of the attempt wrote, as far as that is on disk."""
    lines = "".join(json.dumps({"event": event, "at": 0.0}) + "\n" for event in events)
    ctx.directory.switch_journal(ctx.claim.side, 1).write_text(lines)


def handing_over(folder: Path, process: str, *, kept: bool = False) -> Context:
    """The source is to roll the sending of RAM back, whose cutover had begun."""
    attempt: dict[str, Any] = {
        "switchover": Switchover(attempt=1),
        "cutover_begun_at": func.now(),
        "kept_by_source": kept,
    }
    return claimed(folder, SENDS_RAM, Direction.ROLLBACK, process=process, **attempt)


@pytest.mark.parametrize("told", [(), ("started", "migrating")], ids=["a lost journal", "one that was cut short"])
def test_a_host_that_went_down_while_it_handed_a_guest_over_does_not_decide_alone(
    tmp_path: Path, told: tuple[str, ...]
) -> None:
    ctx = handing_over(tmp_path, BEFORE_THE_CRASH)
    if told:
        journal(ctx, *told)
    with pytest.raises(Unknown, match=r"one went down while it handed web over.*drover reconcile"):
        done(ctx)


@pytest.mark.parametrize("kept", ["keeping", "kept"])
def test_where_its_journal_says_that_the_guest_went_on_it_is_the_sources(tmp_path: Path, kept: str) -> None:
    ctx = handing_over(tmp_path, BEFORE_THE_CRASH)
    journal(ctx, "started", "migrating", kept)
    done(ctx)


def test_a_journal_of_this_boot_is_whole(tmp_path: Path) -> None:
    me = processes.process(os.getpid())
    assert me is not None
    ctx = handing_over(tmp_path, processes.identity(me))
    journal(ctx, "started", "migrating")
    done(ctx)


def test_an_operator_who_says_that_the_source_owns_it_is_obeyed(tmp_path: Path) -> None:
    done(handing_over(tmp_path, BEFORE_THE_CRASH, kept=True))


def test_what_was_handed_over_is_not_rolled_back(tmp_path: Path) -> None:
    ctx = handing_over(tmp_path, BEFORE_THE_CRASH)
    journal(ctx, "started", "migrating", "continuing", "run")
    with pytest.raises(Committed, match="handed the guest over already"):
        done(ctx)


@pytest.mark.parametrize(("ran", "raised"), [(True, Unknown), (False, NeverRan)])
def test_a_dead_qemu_leaves_the_guest_to_the_source_only_if_it_was_never_told_to_run(
    tmp_path: Path, ran: bool, raised: type[Exception]
) -> None:
    attempt: dict[str, Any] = {"switchover": Switchover(attempt=1), "committed_at": func.now()}
    ctx = claimed(tmp_path, (StepName.CUTOVER, Side.DESTINATION), Direction.DO, **attempt)
    if ran:
        ran_here(ctx)
    with pytest.raises(raised, match=r"died"):
        done(ctx)


def test_where_the_record_of_what_the_guest_wrote_is_gone_there_is_no_proof_and_the_text_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    verified = MigrationOptions(verify=True)
    link = (StepName.COMPARE_IMAGES, Side.DESTINATION)
    ctx = claimed(tmp_path, link, Direction.DO, committed_at=func.now(), options=verified)
    with pytest.raises(Fatal, match=r"cannot be compared any more.*drover job resolve \d+ --owner destination"):
        asyncio.run(STEPS[link].verify(ctx))


def test_a_qemu_in_which_the_guest_may_run_is_not_ended(tmp_path: Path) -> None:
    ctx = claimed(tmp_path, (StepName.START_NBD, Side.DESTINATION), Direction.ROLLBACK)
    ran_here(ctx)
    waiting = processes.spawn(ctx.directory.mark("incoming"), ["sleep", "300"], tmp_path / "log")
    try:
        with pytest.raises(Fatal, match="may be running on the destination already"):
            done(ctx)
        assert waiting.alive
    finally:
        waiting.kill()


def test_a_source_ends_nothing_while_the_guest_is_recorded_there(tmp_path: Path) -> None:
    ctx = claimed(tmp_path, (StepName.CLEANUP, Side.SOURCE), Direction.DO, committed_at=func.now())
    journal(ctx, "started", "continuing", "run")
    (tmp_path / "here.raw").touch()
    with pytest.raises(Fatal, match="web is not known to live on two"):
        done(ctx)
    assert (tmp_path / "here.raw").exists()
