"""First moments, windows and repetitions, in time zones whose clocks change."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from drover.errors import PreconditionFailed
from models import documents
from workflows import schedule
from workflows.schedule import Window

BERLIN = "Europe/Berlin"
NIGHT = documents.Window(start="22:00", end="04:00", timezone=BERLIN)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "opens", "closes"),
    [
        ("2026-11-23T12:00", "2026-11-23T21:00", "2026-11-24T03:00"),
        ("2026-11-23T21:00", "2026-11-23T21:00", "2026-11-24T03:00"),
        ("2026-11-24T02:59", "2026-11-23T21:00", "2026-11-24T03:00"),
        ("2026-11-24T03:00", "2026-11-24T21:00", "2026-11-25T03:00"),
        ("2026-03-28T20:00", "2026-03-28T21:00", "2026-03-29T02:00"),  # an hour is missing in this night
        ("2026-10-24T19:00", "2026-10-24T20:00", "2026-10-25T03:00"),  # and this one has one more
    ],
)
def test_a_window_over_midnight_keeps_to_the_clock_on_the_wall(now: str, opens: str, closes: str) -> None:
    assert Window.of(NIGHT).at_or_after(utc(now)) == (utc(opens), utc(closes))


@pytest.mark.parametrize(
    ("hours", "now", "opens", "closes"),
    [
        ("02:30-03:15", "2026-03-28T12:00", "2026-03-29T01:00", "2026-03-29T01:15"),
        ("01:30-02:30", "2026-03-28T12:00", "2026-03-29T00:30", "2026-03-29T01:00"),
        ("02:15-02:45", "2026-03-28T12:00", "2026-03-30T00:15", "2026-03-30T00:45"),
        ("02:30-03:15", "2026-10-24T12:00", "2026-10-25T00:30", "2026-10-25T02:15"),
        ("02:15-02:45", "2026-10-24T12:00", "2026-10-25T00:15", "2026-10-25T00:45"),
        ("02:15-02:45", "2026-10-25T01:20", "2026-10-26T01:15", "2026-10-26T01:45"),
    ],
)
def test_a_window_in_the_hour_that_is_missing_or_comes_twice_never_opens_outside_its_times(
    hours: str, now: str, opens: str, closes: str
) -> None:
    assert Window.parse(hours, BERLIN).at_or_after(utc(now)) == (utc(opens), utc(closes))


@pytest.mark.parametrize(
    ("now", "takes_s", "why", "for_good"),
    [
        ("2026-11-23T22:00", 3600, None, False),
        ("2026-11-23T12:00", 3600, "opens at 2026-11-23 21:00 UTC", False),
        ("2026-11-24T02:30", 3600, "would not end before its window 22:00-04:00 Europe/Berlin closes at 03:00", False),
        (
            "2026-11-23T22:00",
            7 * 3600,
            "it takes about 7 h and its window 22:00-04:00 Europe/Berlin lasts 6 h",
            True,
        ),
    ],
)
def test_nothing_begins_that_cannot_end_in_its_window(
    now: str, takes_s: float, why: str | None, for_good: bool
) -> None:
    found = schedule.obstacle(utc(now), takes_s, window=NIGHT)
    if why is None:
        assert found is None
    else:
        assert found is not None
        assert why in found.why
        assert found.of("job", 13) == f"{found.why}; `drover job set 13 --window ''` has it go on at any time"
        assert found.for_good is for_good


@pytest.mark.parametrize("hours", ["02:15-02:45", "22:00-03:00"])
def test_what_is_too_long_for_the_night_in_which_an_hour_is_missing_waits_for_the_next_one(hours: str) -> None:
    window = schedule.window(hours, BERLIN)
    takes_s = Window.of(window).lasts_s - 60
    found = schedule.obstacle(utc("2026-03-28T23:00"), takes_s, window=window)
    assert found is not None
    assert not found.for_good, found.why
    assert schedule.obstacle(Window.of(window).at_or_after(utc("2026-03-29T12:00"))[0], takes_s, window=window) is None


def test_nothing_begins_before_its_time() -> None:
    at = utc("2026-11-24T21:00")
    found = schedule.obstacle(utc("2026-11-24T20:59"), 1, not_before=at)
    assert found is not None
    assert found.why == "it begins at 2026-11-24 21:00 UTC"
    assert found.of("drain", 7) == "it begins at 2026-11-24 21:00 UTC; `drover drain cancel 7` withdraws it"
    assert schedule.obstacle(at, 1, not_before=at) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("22:00", "2026-11-23T21:00"),
        ("9:30", "2026-11-24T08:30"),
        ("2026-11-25T22:00", "2026-11-25T21:00"),
        ("2026-11-25T22:00+00:00", "2026-11-25T22:00"),
    ],
)
def test_moments(text: str, expected: str) -> None:
    assert schedule.moment(text, BERLIN, utc("2026-11-23T12:00")) == utc(expected)


def test_repetitions_keep_to_the_clock_on_the_wall() -> None:
    saturdays = schedule.recurrence("0 22 * * 6", BERLIN)
    first = schedule.following(saturdays, utc("2026-03-20T12:00"))
    second = schedule.following(saturdays, first)
    third = schedule.following(saturdays, second)
    assert [one.astimezone(UTC) for one in (first, second, third)] == [
        utc("2026-03-21T21:00"),
        utc("2026-03-28T21:00"),
        utc("2026-04-04T20:00"),
    ]


@pytest.mark.parametrize(
    ("read", "words", "said"),
    [
        (Window.parse, ("22:00", BERLIN), "a window like 22:00-04:00"),
        (Window.parse, ("22:00-25:00", BERLIN), "a window like 22:00-04:00"),
        (Window.parse, ("22:00-22:00", BERLIN), "has no length"),
        (Window.parse, ("22:00-04:00", "Mars/Olympus"), "there is no time zone 'Mars/Olympus'"),
        (schedule.moment, ("soon", BERLIN, utc("2026-11-23T12:00")), "write 22:00 or"),
        (schedule.moment, ("2020-01-01T00:00", BERLIN, utc("2026-11-23T12:00")), "has passed"),
        (schedule.recurrence, ("every day", BERLIN), "five fields"),
        (schedule.recurrence, ("0 0 31 2 *", BERLIN), "five fields"),
    ],
)
def test_what_is_not_understood_is_refused_with_what_to_write(
    read: Callable[..., object], words: tuple[object, ...], said: str
) -> None:
    with pytest.raises(PreconditionFailed, match=said):
        read(*words)
