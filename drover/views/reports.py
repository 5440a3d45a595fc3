"""What is kept of a job or a drain: its document with all that belongs to it."""

from drover.views import documents, estimates, queries, timeline
from drover.views.serializers import iso
from models.base import Document


def job(job_id: int) -> Document:
    """The job's document, its events, its parts over time, and what was expected of it.

    Raises:
        NotThere: there is no such job. Likewise of the next.
    """
    shot = queries.snapshot(job_id)
    expected = estimates.of_job(shot.job)
    return {
        **documents.job(job_id),
        "at": iso(shot.at),
        "estimate_s": None if expected is None else round(expected.total_s, 1),
        "parts": [
            {"part": bar.part.value, "started_at": iso(bar.begun), "finished_at": iso(bar.ended)}
            for bar in timeline.line(shot.job, shot.at).bars
        ],
        "events": documents.explanation(job_id)["events"],
    }


def drain(drain_id: int) -> Document:
    """The drain's document, and that of each of its jobs."""
    found = documents.drain(drain_id)
    numbers = [guest["job"] for guest in found["guests"] if guest["job"] is not None]
    return {**found, "jobs": [job(number) for number in numbers]}
