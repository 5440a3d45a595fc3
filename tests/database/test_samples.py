"""How fast a job's disks and RAM are copied is kept when progress is recorded: so often, and so many times."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from drover.errors import LeaseLost
from drover.settings import settings
from models.base import now
from models.database import transaction
from models.documents import RamProgress
from models.job import JobState
from models.sample import MOST, Rates, Sample
from tests import factories
from workflows.migration import claims
from workflows.migration.claims import Claim

DISKS = Rates(of_ram=False, sent_per_s=7.6, changed_per_s=2.0)
RAM = Rates(of_ram=True, sent_per_s=9, changed_per_s=1)


@pytest.fixture
def claim(database: None) -> Claim:
    for name in ("one", "two"):
        factories.host(name)
    factories.guest("web", "one")
    return factories.claim(settings(), factories.job("web", "two", state=JobState.RUNNING), 0)


def kept(*, of_ram: bool = False) -> list[Sample]:
    with transaction() as session:
        return list(session.scalars(select(Sample).where(Sample.of_ram == of_ram).order_by(Sample.at)))


def older(by: timedelta) -> None:
    with transaction() as session:
        session.execute(update(Sample).values(at=Sample.at - by))


def test_disks_and_ram_have_samples_from_their_first_second_on(claim: Claim) -> None:
    claims.progress(claim, settings())
    assert kept() == []
    for _ in range(2):
        claims.progress(claim, settings(), DISKS)
        claims.note(claim, RAM, ram=RamProgress())
    of_disks, of_ram = kept(), kept(of_ram=True)
    assert [(one.sent_per_s, one.changed_per_s) for one in of_disks] == [(8, 2)] * 2
    assert [(one.sent_per_s, one.changed_per_s) for one in of_ram] == [(9, 1)] * 2


def test_later_samples_are_kept_no_more_often_than_every_two_seconds(claim: Claim) -> None:
    claims.progress(claim, settings(), DISKS)
    older(timedelta(seconds=30))
    for _ in range(2):
        claims.progress(claim, settings(), DISKS)
    assert len(kept()) == 2
    older(timedelta(seconds=2))
    claims.progress(claim, settings(), DISKS)
    assert len(kept()) == 3


def test_a_job_has_no_more_samples_than_may_be_however_long_it_takes(claim: Claim) -> None:
    pause = timedelta(seconds=10)
    with transaction() as session:
        begun = now(session) - MOST * pause
        places = {MOST // 2: begun + MOST // 2 * pause - timedelta(seconds=3)}
        times = [places.get(number, begun + number * pause) for number in range(MOST)]
        session.add_all(Sample(job_id=claim.job_id, of_ram=False, at=at, sent_per_s=1, changed_per_s=1) for at in times)
    claims.progress(claim, settings(), DISKS)
    found = kept()
    assert [sample.at for sample in found[:-1]] == [at for at in times if at not in places.values()]
    assert found[-1].sent_per_s == 8
    older(timedelta(seconds=1))
    claims.progress(claim, settings(), DISKS)
    assert [sample.at for sample in kept()] == [sample.at - timedelta(seconds=1) for sample in found], "not yet"
    claims.note(claim, RAM, ram=RamProgress())
    assert len(kept(of_ram=True)) == 1


def test_whoever_lost_the_claim_writes_no_sample(claim: Claim) -> None:
    claim.token -= 1
    with pytest.raises(LeaseLost):
        claims.note(claim, RAM, ram=RamProgress())
    with pytest.raises(LeaseLost):
        claims.progress(claim, settings(), DISKS)
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Sample)) == 0
