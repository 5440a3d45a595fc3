"""`drover db`: the database's schema."""

import sys
from pathlib import Path

import typer
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError

import migrations
from models.database import engine
from models.errors import PreconditionFailed
from workflows.cli import output
from workflows.cli.options import AsJson, examples

app = typer.Typer(no_args_is_help=True, help="The database's schema.")


@app.callback()
def group() -> None:
    """The database's schema."""


@app.command(epilog=examples("drover db upgrade"))
def upgrade(as_json: AsJson = False) -> None:
    """Create Drover's tables, or bring them up to date. Doing it twice does no harm."""
    before = _revision()
    config = Config(stdout=sys.stderr)
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
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
    with engine().connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()
