"""Claims on real Postgres: one row, one token, one lease; whatever the broker does with the messages."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from drover.errors import LeaseLost
from drover.settings import settings
from drover.views import queries, timeline
from models.database import transaction
from models.documents import HostFacts, NbdServer
from models.guest import Guest
from models.host import Host
from models.job import Attempt, Direction, Disk, Event, Job, JobState, Side, Step, StepState
from models.transitions import Actor, JobEvent
from tests import factories
from tests.factories import happens
from tests.helpers import until
from workers.step import fence
from workflows.migration import claims, jobs, links
from workflows.migration.claims import Claim
from workflows.migration.links import Restart

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def job() -> int:
    """A running job with all its steps."""
    with transaction() as session:
        for name in ("one", "two"):
            session.add(
                Host(
                    name=name,
                    address="127.0.0.1",
                    guest_root="/",
                    incarnation="x",
                    heartbeat_at=func.clock_timestamp(),
                    facts=HostFacts(),
                )
            )
        session.flush()
        session.add(Guest(name="web", host="one", qmp="/qmp"))
        session.flush()
        made = Job(guest="web", source="one", destination="two", steps=links.steps("one", "two"))
        session.add(made)
        session.flush()
        happens(session, made, JobEvent.BEGIN)
        return made.id


def take(job_id: int, seq: int = 1, *, host: str = "two", epoch: int | None = None, **how: Any) -> Claim | None:
    """Claim a step as a worker of that host would, on a message of the present epoch."""
    with transaction() as session:
        epoch = session.get_one(Job, job_id).epoch if epoch is None else epoch
        name = session.get_one(Step, (job_id, seq)).name
    arguments: dict[str, Any] = {"direction": Direction.DO, "owner": f"{host}-1", "settings": settings()} | how
    return claims.claim(job_id=job_id, seq=seq, epoch=epoch, host=host, **({"name": name} | arguments))


def taken(job_id: int, seq: int = 1, **how: Any) -> Claim:
    claim = take(job_id, seq, **how)
    assert claim is not None
    return claim


def states(job_id: int) -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(Step.state).where(Step.job_id == job_id).order_by(Step.seq)))


def finish_up_to(job_id: int, last: int) -> None:
    hosts = {step.seq: step.host for step in links.steps("one", "two")}
    for seq in range(1, last + 1):
        claims.finish(taken(job_id, seq, host=hosts[seq]))


def test_a_second_delivery_of_a_message_is_dropped(job: int) -> None:
    taken(job)
    assert take(job) is None


def test_of_twenty_workers_at_once_one_wins(job: int) -> None:
    won: list[Claim] = []
    barrier = threading.Barrier(20)

    def race() -> None:
        barrier.wait()
        if claim := take(job, epoch=0):
            won.append(claim)

    threads = [threading.Thread(target=race) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_claim_that_had_to_wait_for_another_transaction_sees_the_steps_as_that_left_them(job: int) -> None:
    first = taken(job)
    with ThreadPoolExecutor() as other, claims.fenced(first) as (session, _, step):
        second = other.submit(take, job, 2, epoch=0)
        until("it waits", lambda: session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))
        step.state = StepState.DONE  # of the job's row itself nothing changes
        session.commit()
    assert second.result() is not None


WRITES = {
    "end": claims.finish,
    "note": lambda claim: claims.note(claim, nbd_server=NbdServer(nonce="of a zombie", address="::1", port=1)),
    "progress": lambda claim: claims.progress(claim, settings()),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_had_to_wait_until_the_claim_was_taken_away_is_refused(job: int, write: Callable[[Claim], None]) -> None:
    stale = taken(job)
    with ThreadPoolExecutor() as other, transaction() as session:
        its_claim = Step.owner == "two-1"
        assert claims.expire(session, its_claim, "somebody takes it", actor=Actor.WORKER, by="test") == [job]
        session.flush()
        late = other.submit(write, stale)
        until("it waits", lambda: session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))
        session.commit()
    with pytest.raises(LeaseLost):
        late.result()
    assert states(job)[0] == StepState.PENDING
    with transaction() as session:
        assert not session.get_one(Job, job).nbd_server


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_nothing_is_written_for_a_step_that_its_own_worker_has_ended(job: int, write: Callable[[Claim], None]) -> None:
    ended = taken(job)
    claims.finish(ended)
    with pytest.raises(LeaseLost):
        write(ended)
    with transaction() as session:
        assert not session.get_one(Job, job).nbd_server


@pytest.mark.parametrize(
    "forged",
    [{"seq": 2}, {"host": "one"}, {"epoch": 7}, {"direction": Direction.ROLLBACK}],
    ids=lambda how: next(iter(how)),
)
def test_a_message_for_another_step_host_epoch_or_direction_is_dropped(job: int, forged: dict[str, Any]) -> None:
    assert take(job, **forged) is None
    assert states(job)[0] == StepState.PENDING


def test_a_replayed_message_of_a_finished_step_is_dropped(job: int) -> None:
    claims.finish(taken(job))
    assert take(job, 1) is None


def test_tokens_only_grow(job: int) -> None:
    first = taken(job)
    claims.hand_back(first)
    assert taken(job).token > first.token


def test_a_renewed_lease_lasts_longer(job: int) -> None:
    claim = taken(job)
    before = claim.deadline
    time.sleep(0.01)
    claims.renew(claim, settings())
    assert claim.deadline > before


def test_progress_is_written_for_each_disk_prolongs_the_lease_and_hears_what_was_asked_for_meanwhile(job: int) -> None:
    with transaction() as session:
        for index in range(2):
            paths = {"source_path": f"/s{index}", "destination_path": f"/d{index}"}
            session.add(Disk(job_id=job, index=index, device="d", format="raw", bytes_total=10, **paths))
    claim = taken(job)
    with transaction() as session:
        row = session.get_one(Job, job)
        row.hold, row.cancel_requested = True, True
        session.execute(
            update(Step).values(lease_until=func.clock_timestamp() + timedelta(seconds=1)).where(Step.seq == 1)
        )
    first, second = claim.job.disks
    first.bytes_copied, first.ready_at, second.bytes_copied, second.bytes_total = 10, datetime.now(UTC), 7, 12
    before = claim.deadline
    claims.progress(claim, settings())
    assert (claim.job.hold, claim.cancel_requested, claim.deadline > before) == (True, True, True)
    with transaction() as session:
        disks = session.scalars(select(Disk).order_by(Disk.index)).all()
        assert [(disk.bytes_copied, disk.bytes_total) for disk in disks] == [(10, 10), (7, 12)]
        assert [disk.ready_at is not None for disk in disks] == [True, False]
        is_left = Step.lease_until > func.clock_timestamp() + timedelta(seconds=5)
        assert session.scalar(select(is_left).where(Step.seq == 1))


def test_progress_of_a_lease_that_has_run_out_is_refused(job: int) -> None:
    claim = taken(job)
    with transaction() as session:
        session.execute(update(Step).values(lease_until=func.clock_timestamp()).where(Step.lease_until.is_not(None)))
    with pytest.raises(LeaseLost):
        claims.progress(claim, settings())


def test_a_worker_whose_lease_ran_out_is_fenced_by_its_own_clock_without_the_database(job: int) -> None:
    claim = taken(job, settings=factories.ours(lease_ttl=timedelta(seconds=3), lease_margin=timedelta(seconds=3)))
    with pytest.raises(LeaseLost):
        claim.check()


def _expire_all() -> None:
    with transaction() as session:
        session.execute(update(Step).values(lease_until=func.clock_timestamp()).where(Step.lease_until.is_not(None)))
    with transaction() as session:
        claims.expire(session, claims.overdue(), "it ran out", actor=Actor.CONTROLLER, by="test")


def test_after_its_lease_ran_out_a_worker_can_neither_renew_nor_write_nor_finish(job: int) -> None:
    stale = taken(job)
    _expire_all()
    taken(job, owner="two-2")
    with pytest.raises(LeaseLost):
        claims.renew(stale, settings())
    with pytest.raises(LeaseLost), claims.fenced(stale) as (_, row, _step):
        row.error = "written by a zombie"
    with pytest.raises(LeaseLost):
        claims.finish(stale)
    with transaction() as session:
        assert session.get_one(Job, job).error is None


def test_messages_sent_before_a_claim_ran_out_have_no_effect_any_more(job: int) -> None:
    taken(job)
    _expire_all()
    assert take(job, epoch=0) is None
    assert take(job) is not None


def test_a_worker_that_was_started_anew_takes_its_former_claims_over_at_once(job: int) -> None:
    taken(job, owner="two-1")
    with transaction() as session:
        former = claims.of_earlier_incarnation("two", "two-2")
        claims.expire(session, former, "started anew", actor=Actor.WORKER, by="two-2")
    assert take(job, owner="two-2") is not None


def test_a_step_that_is_tried_again_waits_and_can_go_back_to_an_earlier_step(job: int) -> None:
    finish_up_to(job, 5)
    claims.retry(taken(job, 6, host="one"), "the NBD server is gone", timedelta(0), Restart.NBD_SERVER)
    assert states(job)[:7] == ["done"] * 3 + ["pending"] * 4
    claims.retry(taken(job, 4), "once more", timedelta(hours=1))
    assert take(job, 4) is None


def test_a_job_is_rolled_back_last_step_first_and_only_what_was_begun(job: int) -> None:
    finish_up_to(job, 2)
    claims.fail(taken(job, 3, host="one"), "no")
    assert states(job)[:4] == ["to_roll_back", "to_roll_back", "to_roll_back", "pending"]
    assert take(job, 1, direction=Direction.ROLLBACK) is None
    for seq, host in ((3, "one"), (2, "two"), (1, "two")):
        claims.finish(taken(job, seq, host=host, direction=Direction.ROLLBACK))
    with transaction() as session:
        ended = session.get_one(Job, job)
        assert ended.state is JobState.ROLLED_BACK
        assert ended.error == "copy_files failed: no"


def test_what_a_job_had_done_before_its_rollback_stays_what_it_was(job: int) -> None:
    mirror = links.LINKS.index((links.StepName.MIRROR_DISKS, Side.SOURCE)) + 1
    hosts = {step.seq: step.host for step in links.steps("one", "two")}
    finish_up_to(job, mirror)
    claims.fail(taken(job, mirror + 1, host=hosts[mirror + 1]), "no")
    for seq in range(mirror + 1, 0, -1):
        claims.finish(taken(job, seq, host=hosts[seq], direction=Direction.ROLLBACK))
    tries = queries.attempts([job])[job]
    bars = timeline.line(factories.load(job), tries, datetime.now(UTC)).bars
    assert [bar.part for bar in bars] == ["preparation", "copy", "rollback"]
    assert bars[1].begun == next(each.started_at for each in tries if each.seq == mirror)


def test_past_the_point_of_no_return_a_failure_asks_a_person_and_undoes_nothing(job: int) -> None:
    finish_up_to(job, 8)
    with transaction() as session:
        session.get_one(Job, job).committed_at = func.now()
    claims.fail(taken(job, 9, host="one"), "no")
    with transaction() as session:
        assert session.get_one(Job, job).state is JobState.NEEDS_OPERATOR
    assert "to_roll_back" not in states(job)


def test_rolling_back_that_comes_too_late_turns_the_job_forward_again(job: int) -> None:
    finish_up_to(job, 5)
    claims.fail(taken(job, 6, host="one"), "it died")
    claims.go_forward(taken(job, 6, host="one", direction=Direction.ROLLBACK), "the source has let go")
    assert states(job)[:7] == ["done"] * 6 + ["pending"]
    with transaction() as session:
        assert session.get_one(Job, job).committed_at is not None


def test_a_step_that_was_handed_back_is_rolled_back_too(job: int) -> None:
    claims.hand_back(taken(job))
    jobs.cancel(job)
    assert states(job)[0] == "to_roll_back"


def test_the_last_step_ends_the_job_and_every_attempt_is_on_record(job: int) -> None:
    finish_up_to(job, len(links.LINKS))
    with transaction() as session:
        assert session.get_one(Job, job).state is JobState.DONE
        attempts = session.scalars(select(Attempt).where(Attempt.job_id == job)).all()
        assert [attempt.outcome for attempt in attempts] == ["done"] * len(links.LINKS)
        assert session.scalar(select(func.count()).select_from(Event).where(Event.job_id == job))


def test_a_job_that_has_ended_keeps_no_credentials_not_even_sealed_ones(job: int) -> None:
    claim = taken(job)
    claims.note(claim, nbd_server=NbdServer(nonce="n", address="::1", port=1, sealed="for the source"))
    claims.retry(claim, "once more", timedelta())
    with transaction() as session:
        assert session.get_one(Job, job).nbd_server
    finish_up_to(job, len(links.LINKS))
    with transaction() as session:
        assert session.get_one(Job, job).nbd_server is None


def test_a_step_of_another_name_wins_neither_a_claim_nor_costs_an_attempt(job: int) -> None:
    assert take(job, name="cleanup") is None
    with transaction() as session:
        step = session.get_one(Step, (job, 1))
        assert (step.state, step.attempts, step.token) == (StepState.PENDING, 0, None)
        assert session.scalar(select(func.count()).select_from(Attempt)) == 0
    assert taken(job).attempt == 1


def test_attempts_begin_anew_after_one_that_lasted(job: int) -> None:
    for number in (1, 2):
        claim = taken(job)
        assert claim.attempt == number
        claims.retry(claim, "the link was cut", timedelta())
    claim = taken(job)
    assert claim.attempt == 3
    with transaction() as session:
        session.execute(
            update(Attempt)
            .where(Attempt.token == claim.token)
            .values(started_at=func.clock_timestamp() - timedelta(minutes=6))
        )
    claims.retry(claim, "the link was cut after six minutes", timedelta())
    claim = taken(job)
    assert claim.attempt == 1
    claims.retry(claim, "the link was cut", timedelta())
    assert taken(job).attempt == 2


def test_a_job_that_was_not_begun_is_cancelled_without_any_step(job: int) -> None:
    jobs.cancel(job)
    with transaction() as session:
        assert session.get_one(Job, job).state is JobState.ROLLED_BACK


def test_a_stale_token_is_refused_on_the_host_without_the_database(tmp_path: Path) -> None:
    fence(tmp_path / "fence", 7)
    fence(tmp_path / "fence", 7)
    fence(tmp_path / "fence", 12)
    with pytest.raises(LeaseLost):
        fence(tmp_path / "fence", 7)


def test_an_attempt_after_which_all_begins_anew_counts_however_long_it_took(job: int) -> None:
    """RAM that does not converge is given up after half an hour: it must not be sent again for ever."""
    finish_up_to(job, 4)
    for number in (1, 2, 3):
        claim = taken(job, 5, host="one")
        assert claim.attempt == number
        with transaction() as session:
            session.execute(
                update(Attempt)
                .where(Attempt.token == claim.token)
                .values(started_at=func.clock_timestamp() - timedelta(minutes=30))
            )
        claims.retry(claim, "it did not converge", timedelta(), Restart.NBD_SERVER)
        claims.finish(taken(job, 4, host="two"))
