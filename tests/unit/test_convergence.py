"""RAM that changes as fast as it is sent: which measures are taken, and when."""

import pytest

from models.documents import LADDER, Measure, RamProgress
from workers.convergence import PASSES, STUCK_S, Escalation, Taken

ASKED_S = 300.0


class Sending:
    """An escalation, and a guest whose RAM is sent; a second goes by with each look."""

    def __init__(self, target_ms: int = 300, most_ms: int = 300, measures: tuple[Measure, ...] = LADDER) -> None:
        self.escalation = Escalation("web", 7, target_ms, most_ms, ASKED_S, measures)
        self.at_s, self.passes = 0.0, 2.0

    def go_on(self, seconds: float, needed_ms: int, throttle: int = 0, passes_per_s: float = 1.0) -> list[Taken]:
        """What is done while what is left stays as it is."""
        taken: list[Taken] = []
        for _ in range(int(seconds)):
            self.at_s += 1
            self.passes += passes_per_s
            ram = RamProgress(
                passes=int(self.passes),
                bytes_per_s=10**8,
                expected_downtime_ms=needed_ms,
                throttle_percent=throttle,
            )
            taken += self.escalation.look(ram, self.at_s)
        return taken


def measures(taken: list[Taken]) -> list[Measure]:
    return [one.measure for one in taken]


def test_what_gets_less_from_pass_to_pass_is_left_alone() -> None:
    sending = Sending()
    assert [step for needed in (8000, 6000, 4000, 2000, 1000) for step in sending.go_on(STUCK_S - 1, needed)] == []


def test_what_stays_as_it_is_is_found_within_a_minute_and_an_operator_is_asked_with_the_price() -> None:
    sending = Sending()
    [asked] = sending.go_on(60, 2000)
    assert asked.measure is Measure.ASK
    assert "a pause of about 2501 ms, and 300 ms are allowed" in asked.sentence
    assert "`drover job set 7 --max-downtime-ms 2501`" in asked.sentence
    assert sending.escalation.asks == asked.sentence
    assert sending.escalation.gives_up == ""


def test_the_downtime_limit_is_raised_to_what_is_needed_before_anybody_is_asked() -> None:
    sending = Sending(most_ms=5000)
    [longer] = sending.go_on(60, 2000)[:1]
    assert longer.measure is Measure.LONGER
    assert sending.escalation.limit_ms == 2501


def test_the_downtime_limit_is_never_raised_above_what_the_job_allows() -> None:
    sending = Sending(most_ms=1000)
    assert measures(sending.go_on(2 * STUCK_S + 3, 2000)) == [Measure.LONGER, Measure.ASK]
    assert sending.escalation.limit_ms == 1000


def test_an_operator_who_does_not_answer_is_waited_for_and_then_the_attempt_is_given_up() -> None:
    sending = Sending()
    sending.go_on(STUCK_S + 2, 2000)
    assert sending.go_on(ASKED_S - 2, 2000) == []
    [given_up] = sending.go_on(3, 2000)
    assert given_up.measure is Measure.GIVE_UP
    assert sending.escalation.gives_up.endswith("the guest runs on, its disks are kept in sync")


def test_an_operator_who_allows_more_is_obeyed_and_no_longer_asked() -> None:
    sending = Sending()
    sending.go_on(STUCK_S + 2, 2000)
    sending.escalation.obey(4000, 4000, sending.at_s)
    assert (sending.escalation.limit_ms, sending.escalation.asks) == (4000, None)
    assert sending.go_on(STUCK_S - 1, 2000) == []


def test_a_guest_that_gets_less_while_somebody_is_asked_is_not_given_up() -> None:
    sending = Sending()
    sending.go_on(STUCK_S + 2, 2000)
    assert [step for needed in (1500, 1000, 800) for step in sending.go_on(ASKED_S - 1, needed)] == []


def test_long_passes_are_not_taken_for_no_progress() -> None:
    sending = Sending()
    assert sending.go_on(PASSES * 100 - 2, 2000, passes_per_s=0.01) == []


@pytest.mark.parametrize("needed_ms", [0])
def test_without_an_estimate_of_qemu_nothing_is_decided(needed_ms: int) -> None:
    assert Sending().go_on(600, needed_ms) == []


def test_that_qemu_slows_the_guest_is_said_when_it_begins_and_when_it_hardly_runs() -> None:
    sending = Sending()
    told = [step for percent in (0, 20, 30, 80, 90, 99) for step in sending.go_on(2, 2000, throttle=percent)]
    assert measures(told) == [Measure.SLOW_CPU, Measure.SLOW_CPU]
    assert "by 20 %" in told[0].sentence
    assert "by 90 %" in told[1].sentence


@pytest.mark.parametrize(
    ("ladder", "expected"),
    [
        ((Measure.GIVE_UP,), [Measure.GIVE_UP]),
        ((Measure.ASK, Measure.LONGER, Measure.GIVE_UP), [Measure.ASK, Measure.LONGER, Measure.GIVE_UP]),
        ((Measure.LONGER, Measure.GIVE_UP), [Measure.LONGER, Measure.GIVE_UP]),
        ((Measure.LONGER, Measure.ASK), [Measure.LONGER, Measure.ASK]),
        ((Measure.SLOW_CPU,), []),
    ],
)
def test_only_the_measures_of_the_ladder_are_taken_in_its_order(
    ladder: tuple[Measure, ...], expected: list[Measure]
) -> None:
    sending = Sending(most_ms=600, measures=ladder)
    taken: list[Taken] = []
    while not sending.escalation.gives_up and sending.at_s < 2000:
        taken += sending.go_on(1, 2000)
    assert measures(taken) == expected
    asks = sending.escalation.asks
    assert (asks is not None) is (expected[-1:] == [Measure.ASK]), "who is asked last is asked on"
