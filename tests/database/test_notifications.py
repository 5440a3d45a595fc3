"""Nothing that matters depends on Postgres' notifications: any role may send them, and fill their queue."""

import threading
import time
from contextlib import suppress

import pytest

from drover.broker import health
from drover.controller import loop
from drover.settings import settings
from models import notifications
from models.database import autocommitting, listening, transaction
from models.host import Host
from models.notifications import Channel
from tests import factories

pytestmark = pytest.mark.usefixtures("database")


def test_a_change_is_made_although_nobody_can_be_notified_of_it() -> None:
    factories.host("one")
    with transaction() as session:
        notifications.add(session, Channel.WAKE, "more than Postgres takes, which refuses it" * 1000)
        session.get_one(Host, "one").address = "127.0.0.2"
    with transaction() as session:
        assert session.get_one(Host, "one").address == "127.0.0.2"


def test_who_listens_is_notified_once_the_change_is_made_and_of_none_that_is_rolled_back() -> None:
    with autocommitting() as connection, listening(connection, Channel.WAKE) as wait:
        with suppress(ZeroDivisionError), transaction() as session:
            notifications.add(session, Channel.WAKE, "none")
            raise ZeroDivisionError
        with transaction() as session:
            notifications.add(session, Channel.WAKE, "one")
            assert wait(0) == []
        assert wait(10) == ["one"]


def test_a_controller_that_is_woken_all_the_time_rests_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    stopping = threading.Event()
    monkeypatch.setattr(loop, "STOPPING", stopping)
    monkeypatch.setattr(health, "check_broker", lambda: None)

    def look(_: object) -> None:
        looks.append(time.monotonic())
        if len(looks) == 4:
            stopping.set()

    monkeypatch.setattr(loop, "tick", look)
    loop._act(settings(), lambda _: ["woken"])
    assert looks[-1] - looks[0] >= 3 * loop.LEAST_S
