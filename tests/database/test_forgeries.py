"""Whoever can write every row and every message has nothing executed, read or removed that a host does not allow."""

import os
from pathlib import Path

import pytest

from tests.forgeries import FORGERIES, Forgery
from tests.stage import QEMU, Stage

pytestmark = pytest.mark.usefixtures("database")


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.what)
def test_a_forgery_has_nothing_executed_changed_or_removed(forgery: Forgery, tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    said = forgery.attempt(stage)
    stage.untouched()
    assert forgery.answer in said


def test_what_nobody_forged_is_followed(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    assert "argv" in stage.asked(stage.signed())
    assert stage.step(stage.job(), 0) == "done"
    assert stage.root("two", "web", "disk.raw").stat().st_size == 1 << 20


def test_what_a_link_to_a_qemu_leads_to_is_started_whatever_it_leads_to_by_then(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    (link := stage.root("two", "qemu")).symlink_to(QEMU)
    made = stage.plan(stage.signed(exe=str(link))).destination
    assert made.argv[0] == made.qemu == os.path.realpath(QEMU)
