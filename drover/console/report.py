"""Reports: what a page shows, in one file that needs nothing else and can be kept, as HTML or as JSON."""

from drover.console import facts
from drover.console.rendering import ENVIRONMENT
from drover.views import documents, estimates, queries, timeline
from drover.views.serializers import iso
from models.base import Document


def job_as_html(job_id: int) -> str:
    """One page about a job.

    Raises:
        PreconditionFailed: there is no such job. Likewise of the next.
    """
    return _page("job_body.html", title=f"Job {job_id}", **facts.of_job(job_id))


def drain_as_html(drain_id: int) -> str:
    """One page about a drain."""
    return _page("drain_body.html", title=f"Drain {drain_id}", **facts.of_drain(drain_id))


def job_as_json(job_id: int) -> Document:
    """The job's document, its events, its parts over time, and what was expected of it."""
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


def drain_as_json(drain_id: int) -> Document:
    """The drain's document, and that of each of its jobs."""
    drain = documents.drain(drain_id)
    numbers = [guest["job"] for guest in drain["guests"] if guest["job"] is not None]
    return {**drain, "jobs": [job_as_json(number) for number in numbers]}


def _page(body: str, **shown: object) -> str:
    return ENVIRONMENT.get_template("report.html").render(body=body, in_report=True, **shown)
