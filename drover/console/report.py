"""Reports: what a page shows, in one HTML file that needs nothing else and can be kept."""

from fastapi.responses import HTMLResponse

from drover.console import facts
from drover.console.rendering import ENVIRONMENT
from drover.operations import Reported


def page(kind: Reported, number: int) -> str:
    """One page about a job or a drain.

    Raises:
        NotThere: there is none of this number.
    """
    shown = facts.of_job(number) if kind == "job" else facts.of_drain(number)
    template = ENVIRONMENT.get_template("report.html")
    return template.render(body=f"{kind}_body.html", title=f"{kind.capitalize()} {number}", in_report=True, **shown)


def file(kind: Reported, number: int) -> HTMLResponse:
    """The page, which a browser keeps as a file: its styles are in it, which no page of the console permits.

    Errors as for `page`.
    """
    named = {"Content-Disposition": f'attachment; filename="drover-{kind}-{number}.html"'}
    return HTMLResponse(page(kind, number), headers=named)
