"""`drover db`: the database's schema."""

import secrets
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from drover.cli import output, own_files
from drover.cli.options import AsJson, duration, examples
from drover.errors import PreconditionFailed

if TYPE_CHECKING:
    import psycopg

app = typer.Typer(no_args_is_help=True, help="The database's schema, and who may do what there.")
Roles = list[str] | None


@app.callback()
def group() -> None:
    """The database's schema, and who may do what there."""


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


@app.command(
    epilog=examples(
        "drover db roles --host hv1 --host hv2 --controller control | su postgres -c 'psql --quiet drover'",
        "drover db roles --host hv1 --password hv1 --into /etc/drover >roles.sql",
    )
)
def roles(
    host: Annotated[Roles, typer.Option(metavar="NAME", help="A worker's role: its host's name.")] = None,
    controller: Annotated[
        Roles, typer.Option(metavar="NAME", help="A role of controllers, the console with --actions and operators.")
    ] = None,
    reader: Annotated[
        Roles, typer.Option(metavar="NAME", help="A role that only looks: lists, the console without --actions.")
    ] = None,
    password: Annotated[
        Roles, typer.Option(metavar="NAME", help="Give this role a new password, which is shown once, on stderr.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write new passwords into NAME.postgres there instead, above the former ones.",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="New passwords end after this time, like 90d.", show_default="never"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the SQL that makes roles, or renews their rights; a superuser of Postgres runs it.

    Each option may be given several times. A role that is not named stays as it is. Nothing is changed by this command.
    """
    from migrations import rights
    from migrations.rights import Purpose

    members = {Purpose.HOST: host or (), Purpose.CONTROLLER: controller or (), Purpose.READER: reader or ()}
    if (into is not None or expires is not None) and not password:
        raise PreconditionFailed("--into and --expires are about new passwords: name a role by --password")
    made = {name: secrets.token_urlsafe(24) for name in password or ()}
    until = None if expires is None else datetime.now(UTC) + duration(expires)
    script = rights.script(members, {name: _verifier(name, text) for name, text in made.items()}, until)
    files = {name: into / f"{name}.postgres" for name in made} if into is not None else {}
    for name, path in files.items():
        own_files.passwords(path, made[name])
    if as_json:
        shown = {"files": {name: str(path) for name, path in files.items()}} if files else {"passwords": made}
        output.emit({"sql": script} | shown)
        return
    for name, text in made.items():
        place = f"the first line of {files[name]}" if name in files else text
        output.note(f"once this has run, the password of {name} is {place}")
    sys.stdout.write(script + "\n")


def _verifier(role: str, password: str) -> str:
    """What Postgres stores of a password; the password itself must not get into its log."""
    from models.database import engine

    with engine().connect() as connection:
        raw = cast("psycopg.Connection", connection.connection.dbapi_connection)
        return raw.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()


def _revision() -> str | None:
    import migrations
    from models.database import engine

    with engine().connect() as connection:
        return migrations.present(connection)
