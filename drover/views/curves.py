"""Curves of a job's rates over time, for the console and reports. No I/O."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from drover.views.timeline import Axis
from models.sample import MOST, Sample

HEIGHT = 100
MARGIN = 3
"""A line at the edge is seen in all of its width."""
APART = timedelta(seconds=10)
"""Between samples that are further apart than this, and than a few usual pauses between them, nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One figure over time."""

    word: str
    look: str
    highest_per_s: int
    strokes: Sequence[str]
    """Points as SVG writes them, of each time for which it is known."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What is sent, and what the guest changes meanwhile."""

    of: str
    axis: Axis
    highest_per_s: int
    """The upper edge."""
    curves: Sequence[Curve]


def charts(samples: Sequence[Sample]) -> list[Chart]:
    """Of disks and RAM, as far as more than one sample tells of them. They are in the order of time."""
    disks = [sample for sample in samples if not sample.of_ram]
    ram = [sample for sample in samples if sample.of_ram]
    each = ("disks", disks, "copied", "written anew by the guest"), ("RAM", ram, "sent", "changed by the guest")
    return [_chart(*one) for one in each if len(one[1]) > 1]


def _chart(of: str, samples: Sequence[Sample], sent: str, changed: str) -> Chart:
    axis = Axis(begins=samples[0].at, ends=samples[-1].at)
    figures = {
        (sent, "used"): [sample.sent_per_s for sample in samples],
        (changed, "promised"): [sample.changed_per_s for sample in samples],
    }
    highest = max(map(max, figures.values()))
    places, known = [axis.place(sample.at) for sample in samples], list(_known(axis, samples))
    curves = []
    for (word, look), rates in figures.items():
        points = [f"{x:g},{_height(rate, highest):g}" for x, rate in zip(places, rates, strict=True)]
        strokes = [" ".join(points[one]) for one in known]
        curves.append(Curve(word=word, look=look, highest_per_s=max(rates), strokes=strokes))
    return Chart(of=of, axis=axis, highest_per_s=highest, curves=curves)


def _height(rate: int, highest: int) -> float:
    return round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * max(rate, 0) / max(highest, 1), 2)


def _known(axis: Axis, samples: Sequence[Sample]) -> Iterator[slice]:
    """The samples that follow each other without a gap."""
    apart, begun = max(APART, 10 * (axis.ends - axis.begins) / MOST), 0
    for number in range(1, len(samples) + 1):
        if number == len(samples) or samples[number].at - samples[number - 1].at > apart:
            yield slice(begun, number)
            begun = number
