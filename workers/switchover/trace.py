"""The downtime as spans, made from the record of the switchover afterwards: its processes load nothing for it."""

from collections.abc import Iterator, Mapping

from drover import tracing
from models.job import DOWNTIME_PHASES

BEFORE_RUN = DOWNTIME_PHASES[: DOWNTIME_PHASES.index("check")]
AFTER_RUN = DOWNTIME_PHASES[DOWNTIME_PHASES.index("check") : DOWNTIME_PHASES.index("messages")]


def record(traceparent: str | None, resumed: Mapping[str, object]) -> None:
    """`resumed` is the last line of the source's journal: fields that it lacks were not measured."""
    match resumed:
        case {"stopped_at": float(stopped_at), "resumed_at": float(resumed_at), "phases": Mapping() as phases}:
            downtime = tracing.record("downtime", traceparent, stopped_at, resumed_at, ms=resumed["downtime_ms"])
            for name, begun, ended in spans(phases, stopped_at, resumed_at):
                tracing.record(name, downtime, begun, ended)


def spans(phases: Mapping[str, float], stopped_at: float, resumed_at: float) -> Iterator[tuple[str, float, float]]:
    """Name, begin and end of each phase, in seconds since 1970 by the source's clock.

    The source's phases follow each other from STOP on, the destination's lead up to RESUME; between them is `run` on
    its way.
    """
    at = stopped_at
    for name in BEFORE_RUN:
        if name in phases:
            yield name, at, (at := at + phases[name] / 1000)
    begin_there = resumed_at - sum(phases.get(name, 0.0) for name in AFTER_RUN) / 1000
    if "messages" in phases:
        yield "messages", at, max(at, begin_there)
    at = begin_there
    for name in AFTER_RUN:
        if name in phases:
            yield name, at, (at := at + phases[name] / 1000)
