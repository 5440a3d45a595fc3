"""`drover db`: the database's schema."""

import sys
from contextlib import redirect_stdout

import typer

from drover.cli import output
from drover.cli.options import AsJson, examples
from drover.errors import PreconditionFailed

app = typer.Typer(no_args_is_help=True, help="The database's schema.")


@app.callback()
def group() -> None:
    """The database's schema."""


@app.command(epilog=examples("drover db upgrade"))
def upgrade(as_json: AsJson = False) -> None:
    """Create Drover's tables, or bring them up to date. Doing it twice does no harm."""
    from alembic.util.exc import CommandError

    import migrations

    before = _revision()
    try:
        with redirect_stdout(sys.stderr):  # stdout is for our document
            migrations.upgrade()
    except CommandError as error:
        raise PreconditionFailed(f"the database cannot be upgraded, is it newer than this drover? {error}") from error
    after = _revision()
    if as_json:
        output.emit({"revision_before": before, "revision": after})
    elif before == after:
        output.say(f"the schema is at revision {after} already")
    else:
        output.say(f"the schema is at revision {after} now (before: {before or 'empty'})")


def _revision() -> str | None:
    import migrations
    from models.database import engine

    with engine().connect() as connection:
        return migrations.present(connection)
