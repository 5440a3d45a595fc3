"""The page of every command with its options, and the part about exit codes of the page about the command line."""

from collections.abc import Iterator, Mapping
from typing import Any

from drover.cli.exit_codes import ExitCode
from drover.cli.root import Root
from lab.man import metavar, plain
from lab.pages.contracts import docstrings
from lab.pages.markdown import one_line, replaced, table

INTRODUCTION = """\
# Commands

`make docs` writes this page from the commands, as `drover COMMAND --help` and the manual pages; do not edit it. What
scripts rely on, and how commands work together, is in [cli.md](cli.md). Every command takes
`--output table|wide|json|yaml`, a list also `--output COLUMN,COLUMN`.
"""


def page() -> str:
    """The whole page."""
    commands = dict(_commands())
    rows = ((f"[`{words}`](#{words.replace(' ', '-')})", _first(command.help)) for words, command in commands.items())
    sections = (line for words, command in commands.items() for line in _section(words, command))
    return "\n".join([INTRODUCTION, table(("command", "does"), rows), *sections]) + "\n"


def codes(text: str) -> str:
    """The page about the command line, with the exit codes as they are now."""
    notes = docstrings(ExitCode, ExitCode)
    rows = ((str(int(code)), notes[code.name]) for code in ExitCode)
    return replaced(text, "exit codes", table(("code", "means"), rows))


def _commands() -> Iterator[tuple[str, Any]]:
    for name, lazy in Root.table.items():
        command = lazy.load()
        below: Mapping[str, Any] = getattr(command, "commands", {})
        if not below:
            yield f"drover {name}", command
        for inner, sub in below.items():
            yield f"drover {name} {inner}", sub


def _first(text: str) -> str:
    """The first paragraph of a help, without its full stop."""
    return one_line(plain(text).partition("\n\n")[0]).rstrip(".")


def _section(words: str, command: Any) -> Iterator[str]:
    needed = [one for one in command.params if one.required or one.param_type_name == "argument"]
    yield f"\n## {words}\n"
    yield f"`{' '.join([words, *map(_written, needed)])}`: {plain(command.help)}\n"
    rows = [(f"`{_written(one)}`", _told(one)) for one in command.params if one.opts != ["--json"]]
    if rows:
        yield table(("option", "what it is"), rows)
    lines = (command.epilog or "").splitlines()[1:]
    if lines:
        yield "\n".join(["\n```sh", *(plain(line).removeprefix("$ ") for line in lines), "```"])


def _written(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return metavar(parameter)
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {metavar(parameter)}"


def _told(parameter: Any) -> str:
    default = parameter.show_default
    if default is True and not parameter.is_flag and parameter.default:
        default = getattr(parameter.default, "value", parameter.default)
    said = f" Default: {default}." if isinstance(default, str | int | float) and not isinstance(default, bool) else ""
    return f"{one_line(plain(parameter.help or ''))}{said}"
