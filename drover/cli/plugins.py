"""Subcommands of other packages: entry points of the group `drover.commands`, each a `typer.Typer`.

They are loaded when they are called or listed, so that neither a slow nor a broken one touches the others.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from drover.cli import lazy
from drover.errors import DroverError

GROUP = "drover.commands"
PANEL = "From other packages"


class PluginBroken(DroverError):
    """A package's subcommand cannot be loaded."""


@cache
def found() -> dict[str, EntryPoint]:
    """What other packages offer, by the name of the subcommand."""
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def load(point: EntryPoint) -> TyperCommand | TyperGroup:
    """The subcommand; for a broken one, a command that prints the error."""
    made: TyperCommand | TyperGroup
    try:
        offered = point.load()
        if not isinstance(offered, typer.Typer):
            raise TypeError(f"{point.value} is no typer.Typer")
        made = lazy.made(offered)
    except Exception as error:  # whatever a foreign module does when it is imported
        made = _broken(point, error)
    made.name = point.name
    made.rich_help_panel = PANEL
    return made


def _broken(point: EntryPoint, error: Exception) -> TyperCommand:
    reason = f"{type(error).__name__}: {error}"

    def complain() -> None:
        raise PluginBroken(f"`drover {point.name}` ({point.value}) cannot be loaded: {reason}") from error

    # With any arguments the result is the same.
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    summary = f"(cannot be loaded: {escape(reason)})"
    return TyperCommand(point.name, callback=complain, help=summary, context_settings=anything)
