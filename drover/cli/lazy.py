"""Subcommands that are imported when they run: the list has only their names and one line of help each.

`drover --help` and the shell's completion would else import all of Drover, SQLAlchemy and Celery with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
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
        return made(offered)


class Command(TyperCommand):
    """A command that is told each thing once: of two the last would count, and nobody would be told of the first."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        *_, told = self.make_parser(ctx).parse_args(list(args))
        options = [one for one in told if isinstance(one, TyperOption)]
        twice = [one for one in options if options.count(one) > 1 and not one.multiple]
        differing = [one for one in twice if one.secondary_opts or not one.is_flag]
        if differing and not ctx.resilient_parsing:  # else the shell completes
            names = "/".join([*differing[0].opts, *differing[0].secondary_opts])
            raise typer.BadParameter(f"{names} is given more than once: leave one out", ctx=ctx)
        return super().parse_args(ctx, args)


def made(offered: typer.Typer) -> TyperCommand | TyperGroup:
    """What a `typer.Typer` stands for."""
    for one in offered.registered_commands:
        if one.cls is TyperCommand:
            one.cls = Command
    command = get_group(offered) if offered.registered_callback else get_command(offered)
    assert isinstance(command, TyperCommand | TyperGroup)
    return command


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
        return name, command, rest


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
