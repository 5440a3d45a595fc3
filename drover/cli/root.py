"""The command's root: the table of its subcommands, and the only place where errors become messages and exit codes."""

import gc
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, cast

import typer

from drover.cli import backend, exit_codes, output
from drover.cli.exit_codes import ExitCode
from drover.cli.lazy import Lazy, LazyGroup
from drover.cli.options import block
from drover.escaping import escaped, escaped_lines

if TYPE_CHECKING:
    from pydantic import ValidationError

MOVING, RUNNING = "Moving guests", "Running Drover"
OBJECTS = 20_000
"""How many are made before Python looks for cycles among them: by its 700 it looks through all that is imported again
and again, a tenth of the start of a command."""


class Root(LazyGroup):
    """Our subcommands and those of other packages."""

    table: ClassVar[Mapping[str, Lazy]] = {
        "migrate": Lazy(
            "drover.cli.migration:app", "Move a running guest, its disks included, to another host.", MOVING
        ),
        "drain": Lazy("drover.cli.drains:app", "Empty hosts: move all guests of a host elsewhere.", MOVING),
        "return": Lazy(
            "drover.cli.drains:return_app",
            "Bring the guests home that were drained from a host, and let it take guests again.",
            MOVING,
        ),
        "plan": Lazy("drover.cli.plans:app", "Plans of drains: review, edit, submit, approve, apply.", MOVING),
        "roll": Lazy(
            "drover.cli.rolls:app", "Take hosts out for maintenance in their turn: drain, hook, return, next.", MOVING
        ),
        "reconcile": Lazy(
            "drover.cli.reconcile:app", "Ask both hosts of every unfinished job where its guest really runs.", MOVING
        ),
        "gc": Lazy(
            "drover.cli.gc:app",
            "Remove what no unfinished job owns: processes, images, mirrors and directories of jobs that have ended.",
            MOVING,
        ),
        "job": Lazy("drover.cli.jobs:app", "Moves: their progress and their results.", MOVING),
        "guest": Lazy("drover.cli.guests:app", "Guests: running QEMUs that were adopted.", MOVING),
        "host": Lazy("drover.cli.hosts:app", "Hypervisors: each registers itself when its worker starts.", MOVING),
        "storage": Lazy("drover.cli.storages:app", "Where images lie on hosts, and the room there.", MOVING),
        "image": Lazy("drover.cli.images:app", "Images that guests left behind: the way back, and its room.", MOVING),
        "fleet": Lazy("drover.cli.fleet:app", "Limits of the whole fleet, changed while everything runs.", RUNNING),
        "budget": Lazy("drover.cli.budgets:app", "What several moves share: of a link, of the whole fleet.", RUNNING),
        "policy": Lazy("drover.cli.policies:app", "Policies: how guests with certain labels are moved.", RUNNING),
        "webhook": Lazy(
            "drover.cli.webhooks:app", "Who may be told by webhooks, each with a secret of its own.", RUNNING
        ),
        "token": Lazy(
            "drover.cli.tokens:app",
            "Who may use the HTTP API and submit by task name, each with tokens of their own.",
            RUNNING,
        ),
        "config": Lazy("drover.cli.config:app", "Settings of this machine: show them and check them.", RUNNING),
        "doctor": Lazy(
            "drover.cli.doctor:app", "Check this machine for all that a job needs; each fault with its fix.", RUNNING
        ),
        "broker": Lazy("drover.cli.broker:app", "Who may do what in Redis.", RUNNING),
        "db": Lazy("drover.cli.database:app", "The database's schema, and who may do what there.", RUNNING),
        "worker": Lazy(
            "drover.cli.services:worker_app",
            "Serve one hypervisor: run on every host that guests live on, once.",
            RUNNING,
        ),
        "controller": Lazy(
            "drover.cli.services:controller_app",
            "Keep jobs going after any failure: run at least one, several are fine.",
            RUNNING,
        ),
        "console": Lazy(
            "drover.cli.services:console_app",
            "Show the fleet, moves, drains and what waits for a person in a browser.",
            RUNNING,
        ),
        "flower": Lazy(
            "drover.cli.services:flower_app", "Show what the workers do in a browser: Celery's Flower.", RUNNING
        ),
    }

    def list_commands(self, ctx: Any) -> list[str]:
        from drover.cli import plugins

        ours = super().list_commands(ctx)
        return ours + [name for name in plugins.found() if name not in ours]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            from drover.cli import plugins

            if cmd_name in plugins.found():
                self.commands[cmd_name] = plugins.load(plugins.found()[cmd_name])
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=Root,
    name="drover",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    epilog=block("Exit codes", *exit_codes.TABLE),
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

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

    DROVER_DATABASE_URL and DROVER_BROKER_URL in the environment name the database and the broker. Every command takes
    `--output table|wide|json|yaml`, lists also `--output COLUMN,COLUMN`.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `drover` script."""
    gc.set_threshold(OBJECTS)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        words = _formed(words)
        answer = app(words, prog_name="drover", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # `drover ... | head`: the reader has closed the pipe; print nothing, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        answer = ExitCode.DONE
    except Exception as error:
        answer = _report(error, as_json="--json" in words, debug="--debug" in words)
    finally:
        backend.close()
    sys.exit(int(answer) if isinstance(answer, int) else ExitCode.DONE)


def _formed(words: list[str]) -> list[str]:
    """Without `--output FORM`, which every command takes anywhere; JSON and YAML are what `--json` prints.

    Lists take names of columns instead. Elsewhere a wrong one would be found when all is done.
    """
    output.form, output.columns = output.Form.TABLE, ()
    for place, word in enumerate(words):
        name, given, value = word.partition("=")
        if word == "--":
            break
        if name == "--output":
            value = value if given else "".join(words[place + 1 : place + 2])
            rest = [*words[:place], *words[place + (1 if given else 2) :]]
            if value and rest[1:2] == ["list"] and value not in list(output.Form):
                output.columns = value.lower().split(",")
                return rest
            if value not in list(output.Form):
                raise typer.BadParameter(
                    f"--output is one of {', '.join(output.Form)}, and of a list also names of columns with commas "
                    f"between them, not {value!r}"
                )
            output.form = output.Form(value)
            documents = output.form in {output.Form.JSON, output.Form.YAML} and "--json" not in rest
            return [*rest, "--json"] if documents else rest
    return words


def _report(error: Exception, *, as_json: bool, debug: bool) -> ExitCode:
    if debug:
        print(escaped_lines("".join(traceback.format_exception(error)).rstrip()), file=sys.stderr)
    if isinstance(error, typer.TyperException):
        code, message, exit_code = "usage", _misused(error), ExitCode.REFUSED
    else:
        from drover.cli.errors import fault

        found = fault(error)
        code, message, exit_code = found.code, found.message, found.exit_code
    if message:
        output.note(f"error: {message}")
    if as_json:
        output.emit({"error": {"code": code, "message": message, **_checks(error)}})
    return exit_code


def _misused(error: typer.TyperException) -> str:
    """What is wrong with what was typed, as one sentence like all others; nothing where the help was shown instead."""
    error.message = _not_allowed(error.__cause__) or error.message
    said, context, alike = error.format_message(), getattr(error, "ctx", None), getattr(error, "possibilities", None)
    if alike:
        said = f"{error.message}: did you mean {' or '.join(sorted(alike))}?"
    said = said.removeprefix("Invalid value: ").rstrip(".").replace(". Did you", ": did you")
    if said and context is not None:
        said = f"{said}{'' if said.endswith('?') else ';'} see `{context.command_path} --help`"
    return escaped(said[:1].lower() + said[1:])


def _not_allowed(cause: BaseException | None) -> str:
    """What Typer has asked pydantic about, in our words."""
    if type(cause).__name__ != "ValidationError":
        return ""
    from models import contracts

    [fault, *_] = cast("ValidationError", cause).errors(include_url=False)
    allowed = contracts.wanted(fault)
    return allowed if fault["type"] == "value_error" else f"{allowed}, not {contracts.shown(fault['input'])}"


def _checks(error: Exception) -> dict[str, list[dict[str, object]]]:
    """What is against moving a guest, each by itself."""
    found = getattr(error, "checks", ())
    return {"checks": [check.json_object() for check in found]} if found else {}
