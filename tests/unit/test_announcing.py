"""What Flower shows of a step at work: nothing of that is the step's business, whatever goes wrong with it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from celery.app.task import Context

from models.documents import MigrationOptions, Pace
from models.job import Disk, Job, JobState
from tests.helpers import until
from workers.announcing import Announcer
from workflows.migration.links import StepName

MB = 10**6


class Flower:
    """Stands for Celery's dispatcher of events, and for the task that they are about."""

    def __init__(self) -> None:
        self.events = self
        self.app = self
        self.request = Context(id="one", hostname="drover@a", kwargsrepr="job 13, link 6 of 15 on a")
        self.told: list[str] = []
        self.frozen = threading.Event()
        self.frozen.set()
        self.error: Exception | None = None

    @contextmanager
    def default_dispatcher(self, hostname: str) -> Iterator["Flower"]:
        yield self

    def send(self, event: str, *, uuid: str, kwargs: str, **_: Any) -> None:
        self.frozen.wait(60)
        if self.error is not None:
            raise self.error
        assert (event, uuid) == ("task-progress", "one")
        self.told.append(kwargs.removeprefix("job 13, link 6 of 15 on a: "))


@pytest.fixture
def flower() -> Iterator[Flower]:
    made = Flower()
    yield made
    made.frozen.set()


@pytest.fixture
def announcer(flower: Flower) -> Announcer:
    task: Any = flower
    return Announcer(task)


def claim(**columns: Any) -> Any:
    """Of a job whose disk is half copied."""
    made = Job(id=13, guest="web", source="a", destination="b", state=JobState.RUNNING, hold=False, seed=False)
    made.options = MigrationOptions(bandwidth_bytes_per_s=10 * MB)
    made.disks = [Disk(index=0, bytes_total=1000 * MB, bytes_first=1000 * MB, bytes_copied=500 * MB)]
    for name, value in columns.items():
        setattr(made, name, value)
    return SimpleNamespace(job=made, name=StepName.AWAIT_SYNC)


LIMITED = claim(pace=Pace(copied_per_s=10.0 * MB, limit_per_s=10 * MB))
SENTENCE = "limited to 10.0 MB/s, 50 s left: `drover job set 13 --bandwidth 0` lifts it"


def test_what_a_step_waits_for_is_shown_meanwhile_and_gone_once_it_has_ended(
    flower: Flower, announcer: Announcer
) -> None:
    announcer.tell(LIMITED, None, 50)
    announcer.end(None)
    assert flower.told == [f"50 %, {SENTENCE}", "50 %"]
    announcer.tell(claim(), "b has no room", 51)
    announcer.end("retry: the NBD server is gone")
    assert flower.told[2:] == ["51 %, b has no room", "51 %, retry: the NBD server is gone"]


def test_a_step_that_waits_for_nothing_says_how_far_it_is_and_no_more(flower: Flower, announcer: Announcer) -> None:
    announcer.tell(claim(), None, 50)
    announcer.end(None)
    until("it is sent", lambda: flower.told == ["50 %"])


def test_it_is_told_of_its_task_from_any_thread(flower: Flower, announcer: Announcer) -> None:
    flower.request = Context()  # as Celery knows it in other threads
    thread = threading.Thread(target=announcer.tell, args=(LIMITED, None, 50))
    thread.start()
    thread.join()
    announcer.end(None)
    assert flower.told[0] == f"50 %, {SENTENCE}"


def test_nothing_that_goes_wrong_reaches_the_step(flower: Flower, announcer: Announcer) -> None:
    class Detached:
        name = StepName.AWAIT_SYNC

        @property
        def job(self) -> Job:
            raise LookupError("not loaded, and there is no session")

    unreadable: Any = Detached()
    announcer.tell(unreadable, None, 50)
    flower.error = ConnectionError("no Redis")
    announcer.tell(LIMITED, None, 50)
    announcer.end("retry: it is tried again")
    assert flower.told == []


def test_a_frozen_redis_holds_up_no_step(flower: Flower, announcer: Announcer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.announcing.LAST_S", 0.01)
    flower.frozen.clear()
    for percent in range(50, 60):
        announcer.tell(LIMITED, None, percent)
    announcer.end(None)
    assert flower.told == []
    flower.frozen.set()
    until("it goes on", lambda: flower.told == [f"50 %, {SENTENCE}", "50 %"])


def test_no_secret_is_shown(flower: Flower, announcer: Announcer) -> None:
    announcer.tell(claim(), f"export drover-{'0a' * 16}-0 is gone\x1b[2J", 50)
    announcer.end(None)
    assert flower.told[0] == r"50 %, export drover-***-0 is gone\x1b[2J"
