"""The command's root: its subcommands, and the one place where errors become words and exit codes."""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.rich_utils import rich_format_error

from drover.cli import (
    database,
    drains,
    exit_codes,
    gc,
    guests,
    hosts,
    jobs,
    migration,
    output,
    plugins,
    reconcile,
    services,
)
from drover.cli.errors import fault
from drover.cli.exit_codes import ExitCode
from drover.cli.options import block, examples

MOVING, RUNNING = "Moving guests", "Running Drover"
HELP = {"help_option_names": ["-h", "--help"]}


class Root(TyperGroup):
    """Our subcommands and those of other packages."""

    def list_commands(self, ctx: Any) -> list[str]:
        ours = super().list_commands(ctx)
        return ours + [name for name in plugins.found() if name not in ours]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in plugins.found():
            self.commands[cmd_name] = plugins.load(plugins.found()[cmd_name])
        return super().get_command(ctx, cmd_name)

    def main(self, args: Sequence[str] | None = None, *others: Any, **more: Any) -> NoReturn:
        words = list(sys.argv[1:] if args is None else args)
        more["standalone_mode"] = False
        try:
            answer = super().main(words, *others, **more)
            sys.stdout.flush()
        except BrokenPipeError:  # `drover ... | head`: who reads has enough; say nothing, not even at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            answer = ExitCode.DONE
        except Exception as error:
            answer = _report(error, as_json="--json" in words, debug="--debug" in words)
        sys.exit(int(answer) if isinstance(answer, int) else ExitCode.DONE)


def _report(error: Exception, *, as_json: bool, debug: bool) -> ExitCode:
    found = fault(error)
    if debug:
        traceback.print_exception(error)
    if isinstance(error, typer.TyperException):
        rich_format_error(error)  # type: ignore[arg-type] # with the usage line and a hint at --help
    else:
        output.note(f"error: {found.message}")
    if as_json:
        output.emit({"error": {"code": found.code, "message": found.message}})
    return found.exit_code


app = typer.Typer(
    cls=Root,
    name="drover",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings=HELP,
    pretty_exceptions_enable=False,
    epilog=block("Exit codes", *exit_codes.TABLE),
)


def _print_version(asked: bool) -> None:
    if asked:
        output.say(f"drover {version('drover')}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Move running QEMU guests, local disks included, between hosts that share no storage.

    The environment says where things are: DROVER_DATABASE_URL and DROVER_BROKER_URL.
    """


app.command(
    rich_help_panel=MOVING,
    epilog=examples(
        "drover migrate web --to hv2 --wait",
        "drover migrate web --to hv2 --dry-run",
        "drover migrate web --to hv2 --bandwidth 100M/s --max-downtime-ms 50",
        "drover migrate web --to hv2 --idempotency-key nightly-42 --json",
    ),
)(migration.migrate)
app.add_typer(drains.app, name="drain", rich_help_panel=MOVING)
app.command(
    "return", rich_help_panel=MOVING, epilog=examples("drover return hv1 --dry-run", "drover return hv1 --wait")
)(drains.bring_home)
app.command("reconcile", rich_help_panel=MOVING, epilog=examples("drover reconcile", "drover reconcile web --json"))(
    reconcile.reconcile_guests
)
app.command(
    "gc", rich_help_panel=MOVING, epilog=examples("drover gc --dry-run", "drover gc", "drover gc --host hv2 --json")
)(gc.collect_garbage)
app.add_typer(jobs.app, name="job", rich_help_panel=MOVING)
app.add_typer(guests.app, name="guest", rich_help_panel=MOVING)
app.add_typer(hosts.app, name="host", rich_help_panel=MOVING)
app.add_typer(database.app, name="db", rich_help_panel=RUNNING)
app.command(rich_help_panel=RUNNING, epilog=examples("drover worker --host hv1", "DROVER_HOST=hv1 drover worker"))(
    services.worker
)
app.command(rich_help_panel=RUNNING, epilog=examples("drover controller"))(services.controller)


def main() -> None:
    """Entry point of the `drover` script."""
    app()
