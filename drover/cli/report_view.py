"""Reports of jobs and drains, as HTML or as JSON on stdout."""

import typer

from drover.cli import output
from drover.cli.backend import api, by_api, operations
from drover.extras import require
from drover.operations import Reported


def printed(kind: Reported, number: int, *, as_html: bool, as_json: bool) -> None:
    """Print the report of a job or a drain."""
    if as_html and as_json:
        raise typer.BadParameter("choose one of --html and --json")
    if as_json:
        output.emit(operations().report(kind, number))
    else:
        print(_page(kind, number))  # escaped by the templates


def _page(kind: Reported, number: int) -> str:
    if by_api():
        return api().report_page(kind, number)
    require("console", "a report")
    from drover.console import report

    return report.page(kind, number)
