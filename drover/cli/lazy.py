"""Subcommands that are imported when they run: the list has only their names and one line of help each.

`drover --help` and the shell's completion would else import all of Drover, SQLAlchemy and Celery with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import takewhile
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group


@dataclass(frozen=True)
class Lazy:
    """Where a subcommand is, and how it is listed."""

    target: str
    """`module:attribute`; the attribute is a `typer.Typer` with one command, or with a callback and several."""
    help: str
    panel: str

    def load(self) -> TyperCommand | TyperGroup:
        """Import it."""
        module, attribute = self.target.split(":")
        offered = getattr(import_module(module), attribute)
        assert isinstance(offered, typer.Typer)
        made = get_group(offered) if offered.registered_callback else get_command(offered)
        assert isinstance(made, TyperCommand | TyperGroup)
        return made


class Listed(TyperCommand):
    """A placeholder for a subcommand until it runs."""

    def __init__(self, name: str, of: Lazy) -> None:
        super().__init__(name, help=of.help, rich_help_panel=of.panel)
        self.of = of


class LazyGroup(TyperGroup):
    """A group whose subcommands are in a table."""

    table: ClassVar[Mapping[str, Lazy]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, lazy in self.table.items():
            self.add_command(Listed(name, lazy))

    def get_params(self, ctx: Any) -> Any:
        return _decided(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, Listed):
            command = command.of.load()
        if command is not None:
            _decided(command.get_params(ctx))
            _refuse_twice(command, rest)
        return name, command, rest


def _refuse_twice(command: Any, words: Sequence[str]) -> None:
    """Of an option that is given twice the last one would count, and nobody would be told of the first."""
    while isinstance(command, TyperGroup) and words:
        named = command.commands.get(words[0])
        command, words = (command.commands.get("submit"), words) if named is None else (named, words[1:])
    given = [word.partition("=")[0] for word in takewhile(lambda word: word != "--", words)]
    for one in command.params if isinstance(command, TyperCommand) else ():
        names = {name for name in (*one.opts, *one.secondary_opts) if name in given}
        twice = len(names) > 1 or (not getattr(one, "is_flag", True) and sum(map(given.count, names)) > 1)
        if twice and not getattr(one, "multiple", False):
            raise typer.BadParameter(f"{', '.join(sorted(names))} is given more than once: leave one out")


def _decided(parameters: list[Any]) -> list[Any]:
    """`--help` and its like, which no command gets, are false if not given.

    For Typer they are None, about which it asks pydantic: a quarter of the time that a command's help takes.
    """
    for one in parameters:
        if one.type_descriptor.annotation is bool and one.default is None and not one.expose_value:
            one.default = False
    return parameters


class ShortForSubmit(TyperGroup):
    """`drover drain HOST` is short for `drover drain submit HOST`, and likewise for other groups."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {*ctx.help_option_names, "--help"}:
            args = ["submit", *args]
        return super().parse_args(ctx, args)
