"""The planner, from numbers to who goes where."""

from typing import Any

import pytest

from models.fleet import Limits
from tests.factories import GB
from workflows.capacity import Room, Size
from workflows.drain.placement import Candidate, DrainPlan, Resident, plan
from workflows.estimate import Speed
from workflows.timetable import total_s


def room(host: str, memory: float = 8, **columns: Any) -> Room:
    return Room(host=host, memory_bytes=memory * GB, **columns)


def rooms(*made: Room) -> dict[str, Room]:
    return {one.host: one for one in made}


def guest(name: str, memory: float = 1, disk: float = 10, **how: Any) -> Candidate:
    size = Size(cpus=1, memory_bytes=int(memory * GB), disk_bytes=int(disk * GB))
    return Candidate(name=name, source="one", size=size, **how)


def where(made: DrainPlan) -> dict[str, str]:
    return {placement.candidate.name: placement.destination for placement in made.placements}


def test_the_load_is_spread_over_the_hosts_largest_guest_first() -> None:
    made = plan([guest("s", 1), guest("l", 4), guest("m", 2)], rooms(room("two"), room("three")), [])
    assert [placement.candidate.name for placement in made.placements] == ["l", "m", "s"]
    assert where(made) == {"l": "three", "m": "two", "s": "two"}
    assert made.left == {}


def test_higher_priority_goes_before_size() -> None:
    made = plan([guest("large", 4), guest("urgent", 1, priority=1)], rooms(room("two")), [])
    assert [placement.candidate.name for placement in made.placements] == ["urgent", "large"]


def test_a_guest_that_fits_nowhere_is_left_and_told_why_host_by_host() -> None:
    made = plan(
        [guest("huge", 9), guest("web")],
        rooms(room("two"), room("three", closed="it is cordoned"), room("four", silent=True), room("one")),
        [],
    )
    assert where(made) == {"web": "two"}
    assert made.left == {
        "huge": "no host takes it: four is silent (is its worker down?): start it there; three takes no guest: it is "
        "cordoned (`drover host uncordon three` opens it); "
        "two has 8.0 GB of memory left for guests, 1.0 GB too little "
        "(move a guest away from it, or raise DROVER_GUEST_MEMORY_BYTES there)"
    }


def test_hosts_are_filled_up_where_spreading_would_leave_a_guest_over() -> None:
    guests = [guest("a", 2, 30), guest("b", 2, 20), guest("c", 4, 10)]
    made = plan(guests, rooms(room("two", 4), room("three", 4)), [])
    assert made.left == {}
    assert where(made)["a"] == where(made)["b"] != where(made)["c"]


def test_only_the_named_hosts_are_used_and_never_the_excluded_ones() -> None:
    hosts = rooms(room("two", 4), room("three", 5), room("four", 6))
    assert where(plan([guest("web")], hosts, [], to=["two", "three"])) == {"web": "three"}
    assert where(plan([guest("web")], hosts, [], exclude=["four"])) == {"web": "three"}
    assert where(plan([guest("web")], hosts, [], to=["two"], exclude=["two"])) == {}


def test_guests_of_one_group_go_to_one_host_or_stay_together() -> None:
    pair = [guest("a", 3, affinity="shop"), guest("b", 3, affinity="shop")]
    assert set(where(plan(pair, rooms(room("two", 8), room("three", 5)), [])).values()) == {"two"}
    assert set(plan(pair, rooms(room("two", 5), room("three", 5)), []).left) == {"a", "b"}


def test_a_group_goes_where_its_other_guests_are() -> None:
    made = plan(
        [guest("a", affinity="shop")], rooms(room("two", 4), room("three", 8)), [Resident(host="two", affinity="shop")]
    )
    assert where(made) == {"a": "two"}


def test_guests_that_are_to_be_kept_apart_never_share_a_host() -> None:
    replicas = [guest(name, anti_affinity="db") for name in "abc"]
    made = plan(replicas, rooms(room("two"), room("three"), room("four")), [Resident(host="four", anti_affinity="db")])
    assert sorted(where(made).values()) == ["three", "two"]
    assert "four has a guest of the group 'db'" in next(iter(made.left.values()))


def test_what_was_planned_before_holds_as_long_as_it_can() -> None:
    hosts = rooms(room("two", 4), room("three", 8))
    assert where(plan([guest("web", preferred="two")], hosts, [])) == {"web": "two"}
    refused = guest("web", preferred="two", refused_by={"two": "two cannot take web: no room"})
    assert where(plan([refused], hosts, [])) == {"web": "three"}


def test_what_was_planned_for_a_host_waits_while_it_is_silent_and_goes_elsewhere_once_it_is_lost() -> None:
    silent = rooms(room("two", 4, silent=True), room("three", 8))
    assert where(plan([guest("web", preferred="two"), guest("db")], silent, [])) == {"web": "two", "db": "three"}
    lost = rooms(room("two", 4, silent=True, lost=True), room("three", 8))
    assert where(plan([guest("web", preferred="two")], lost, [])) == {"web": "three"}


def test_planning_again_after_some_have_moved_changes_nothing() -> None:
    guests = [guest(f"g{number}", 1 + number % 3, number) for number in range(12)]
    hosts = rooms(room("two", 20), room("three", 13), room("four", 9))
    whole = plan(guests, hosts, [])
    for placement in whole.placements[:5]:
        hosts[placement.destination].reserve(placement.candidate.size)
    rest = plan(guests[0:0] + [placement.candidate for placement in whole.placements[5:]], hosts, [])
    assert where(rest) == {name: host for name, host in where(whole).items() if name in where(rest)}


def limits(**how: Any) -> Limits:
    return Limits(**how)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"max_outgoing": 1}, 40),
        ({"max_outgoing": 2}, 20),
        ({"max_outgoing": 9, "max_incoming": 1}, 20),
        ({"max_outgoing": 9, "max_incoming": 9}, 10),
        ({"max_outgoing": 9, "max_incoming": 9, "max_moves": 3}, 20),
    ],
)
def test_the_total_time_follows_from_the_limits(how: dict[str, int], expected: float) -> None:
    made = plan([guest(name) for name in "abcd"], rooms(room("two"), room("three")), [])
    reckoned = Speed(disk_bytes_per_s=2 * GB, ram_bytes_per_s=GB / 4, fixed_s=1)
    assert total_s(made.placements, reckoned, limits(**how)) == pytest.approx(expected)


def test_by_a_plan_guests_go_in_its_order_to_its_targets_whatever_their_size_and_group() -> None:
    made = plan(
        [
            guest("large", 4, only="two", turn=2, affinity="pair"),
            guest("small", 1, only="three", turn=1, affinity="pair"),
        ],
        rooms(room("two"), room("three")),
        [],
    )
    assert [(one.candidate.name, one.destination) for one in made.placements] == [("small", "three"), ("large", "two")]


def test_a_guest_whose_target_by_plan_is_full_is_left_and_not_sent_elsewhere() -> None:
    made = plan([guest("web", 4, only="two")], rooms(room("two", 2), room("three")), [])
    assert made.left == {
        "web": "by the plan it goes to two or nowhere: two has 2.0 GB of memory left for guests, 2.0 GB too little "
        "(move a guest away from it, or raise DROVER_GUEST_MEMORY_BYTES there)"
    }
