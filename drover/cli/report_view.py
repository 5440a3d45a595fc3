"""Reports of jobs and drains, as HTML or as JSON on stdout."""

from collections.abc import Callable

import typer

from drover.cli import output
from drover.extras import require
from models.base import Document


def of_job(job_id: int, *, as_html: bool, as_json: bool) -> None:
    """Print the report of a job."""
    require("console", "a report")
    from drover.console import report

    _print(lambda: report.job_as_html(job_id), lambda: report.job_as_json(job_id), as_html=as_html, as_json=as_json)


def of_drain(drain_id: int, *, as_html: bool, as_json: bool) -> None:
    """Print the report of a drain."""
    require("console", "a report")
    from drover.console import report

    pages = (lambda: report.drain_as_html(drain_id), lambda: report.drain_as_json(drain_id))
    _print(*pages, as_html=as_html, as_json=as_json)


def _print(html: Callable[[], str], document: Callable[[], Document], *, as_html: bool, as_json: bool) -> None:
    if as_html and as_json:
        raise typer.BadParameter("choose one of --html and --json")
    if as_json:
        output.emit(document())
    else:
        print(html())  # escaped by the templates
