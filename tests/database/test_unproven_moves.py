"""A copy that cannot be proven, because the hosts do not reach each other, holds no move up for good."""

from pathlib import Path
from typing import NoReturn

import pytest

from drover.errors import Transient
from drover.metrics import gauges
from drover.settings import settings
from drover.views import sentences
from models.base import now
from models.database import transaction
from models.documents import MigrationOptions
from models.guest import Guest
from models.job import Direction, Event, Job, JobState, Side
from tests import factories
from tests.step_contexts import claimed, done
from workers.step import Context
from workers.steps import STEPS, compare_images
from workflows.migration.links import BeginAnew, StepName

pytestmark = pytest.mark.usefixtures("database")
LINK = (StepName.COMPARE_IMAGES, Side.SOURCE)
WHY = "no answer within 3 s"


@pytest.fixture
def cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    async def nobody_answers(_: Context) -> NoReturn:
        raise Transient(WHY)

    monkeypatch.setattr(compare_images, "_compared", nobody_answers)
    return claimed(tmp_path, LINK, Direction.DO, options=MigrationOptions(verify=True))


def test_it_is_tried_again_at_first(cut_off: Context) -> None:
    with pytest.raises(BeginAnew, match=WHY):
        done(cut_off)
    assert factories.load(cut_off.job.id).proof is not None
    assert not factories.load(cut_off.job.id).way_back_needed


def test_in_the_end_the_move_goes_on_without_and_keeps_the_former_images(cut_off: Context) -> None:
    cut_off.claim.attempt = STEPS[LINK].attempts
    done(cut_off)
    with transaction() as session:
        job = session.get_one(Job, cut_off.job.id)
        assert job.proof is not None
        assert sentences.proof(job.proof) == f"not proven: {WHY}"
        assert job.way_back_needed
        [told] = session.query(Event).where(Event.action == "warning")
        assert "the copy of web is not proven: no answer within 3 s. It runs on two, and one keeps" in told.sentence
        job.state, session.get_one(Guest, "web").host = JobState.DONE, "two"
    with transaction() as session:
        metrics = {metric.name: metric for metric in gauges.of_hosts(session, now(session), settings())}
    [alarm] = metrics["drover_guest_unwell"].samples
    assert (alarm.labels["guest"], alarm.labels["reason"]) == ("web", "not proven")
