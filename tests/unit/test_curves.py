"""Curves of a job's rates, as the console draws them."""

from datetime import UTC, datetime, timedelta

from drover.views import curves
from models.sample import Sample
from workers.qemu import migration

BEGUN = datetime(2026, 11, 27, 22, 0, tzinfo=UTC)


def samples(*rates: tuple[float, int, int], of_ram: bool = False) -> list[Sample]:
    return [
        Sample(of_ram=of_ram, at=BEGUN + timedelta(seconds=second), sent_per_s=sent, changed_per_s=changed)
        for second, sent, changed in rates
    ]


def test_disks_and_ram_have_a_chart_each_from_their_first_sample_to_their_last() -> None:
    disks, ram = curves.charts(
        samples((0, 0, 0), (5, 100, 10), (10, 50, 0)) + samples((12, 8, 16), (14, 8, 4), of_ram=True)
    )
    assert (disks.of, disks.highest_per_s, [curve.highest_per_s for curve in disks.curves]) == ("disks", 100, [100, 10])
    assert [curve.strokes for curve in disks.curves] == [["0,97 500,3 1000,50"], ["0,97 500,87.6 1000,97"]]
    assert (ram.of, ram.highest_per_s) == ("RAM", 16)
    assert (ram.axis.begins, ram.axis.ends) == (BEGUN + timedelta(seconds=12), BEGUN + timedelta(seconds=14))


def test_there_is_no_chart_of_what_was_seen_less_than_twice() -> None:
    assert curves.charts([]) == []
    assert [chart.of for chart in curves.charts(samples((0, 1, 1), (2, 1, 1)) + samples((3, 1, 1), of_ram=True))] == [
        "disks"
    ]


def test_nothing_is_drawn_where_nothing_is_known() -> None:
    [chart] = curves.charts(samples((0, 1, 1), (2, 1, 1), (98, 1, 1), (100, 1, 1)))
    assert chart.curves[0].strokes == ["0,3 20,3", "980,3 1000,3"]


def test_what_a_guest_changes_of_its_ram_is_counted_in_bytes() -> None:
    reply = {"ram": {"dirty-pages-rate": 100, "page-size": 4096}}
    assert migration.ram_progress(reply)["changed_per_s"] == 409_600
    assert migration.ram_progress({})["changed_per_s"] == 0
