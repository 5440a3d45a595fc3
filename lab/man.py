"""Manual pages, from the commands themselves: `python -m lab.man FOLDER` writes `drover.1` and one for each command."""

import re
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from drover.cli import exit_codes
from drover.cli.root import Root, app

MARKUP = re.compile(r"(?<!\\)\[/?[a-z]+\]")
"""Of rich, which terminals show as bold and the like."""


def pages() -> dict[str, str]:
    """{file name: manual page in roff}."""
    root = typer.main.get_command(app)
    made = {"drover.1": "\n".join(_root(root)) + "\n"}
    for name, lazy in Root.table.items():
        made[f"drover-{name}.1"] = "\n".join(_command(f"drover {name}", lazy.load(), lazy.help)) + "\n"
    return made


def _root(root: Any) -> Iterator[str]:
    yield from _head("drover", "moves running QEMU guests between hosts that share no storage")
    yield from (".SH SYNOPSIS", r"\fBdrover\fR \fICOMMAND\fR ...")
    yield from (".SH DESCRIPTION", _text(root.help))
    yield from (".SH COMMANDS",)
    for name, lazy in Root.table.items():
        yield from (".TP", rf"\fBdrover\-{_text(name)}\fR(1)", _text(lazy.help))
    yield from _options(root)
    yield from (".SH EXIT STATUS",)
    for line in exit_codes.TABLE:
        code, _, meaning = line.strip().partition(" ")
        yield from (".TP", rf"\fB{_text(code)}\fR", _text(meaning))


def _command(words: str, command: Any, summary: str) -> Iterator[str]:
    yield from _head(words.replace(" ", "-"), summary)
    below: Mapping[str, Any] = getattr(command, "commands", {})
    if not below:
        yield from _one(words, command, ".SH")
    for name, sub in below.items():
        yield rf".SH {_text(f'{words} {name}').upper()}"
        yield from _one(f"{words} {name}", sub, ".SS")
    yield from (".SH SEE ALSO", r"\fBdrover\fR(1)")


def _one(words: str, command: Any, section: str) -> Iterator[str]:
    """Synopsis, description, options and examples of one command."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    named = " ".join(rf"\fI{_text(metavar(one))}\fR" for one in arguments)
    yield from (f"{section} SYNOPSIS", rf"\fB{_text(words)}\fR {named} [\fIOPTIONS\fR]".replace("  ", " "))
    yield from (f"{section} DESCRIPTION", _text(command.help))
    yield from _options(command, section)
    title, *lines = (command.epilog or "").splitlines() or [""]
    if lines:
        yield from (f"{section} {_text(title).upper()}", ".nf", *map(_text, lines), ".fi")


def _options(command: Any, section: str = ".SH") -> Iterator[str]:
    if command.params:
        yield f"{section} OPTIONS"
    for parameter in command.params:
        names = ", ".join(parameter.opts) if parameter.param_type_name == "option" else metavar(parameter)
        value = "" if parameter.param_type_name == "argument" or parameter.is_flag else f" {metavar(parameter)}"
        yield from (".TP", rf"\fB{_text(names)}\fR{_text(value)}", _text(parameter.help))


def metavar(parameter: Any) -> str:
    """What stands for the value of an argument or option."""
    kind = parameter.type_descriptor.annotation
    several = isinstance(kind, type) and issubclass(kind, Enum)
    choices = [one.value for one in kind] if several else get_args(kind) if get_origin(kind) is Literal else []
    return str(parameter.metavar or "|".join(choices) or parameter.name.upper())


def _head(name: str, summary: str) -> Iterator[str]:
    yield f'.TH "{name.upper()}" 1 "" "Drover {version("drover")}" "Drover"'
    yield from (".SH NAME", rf"{_text(name)} \- {_text(summary)}")


def plain(text: str | None) -> str:
    """Without what rich shows as bold and the like."""
    return MARKUP.sub("", text or "").replace(r"\[", "[")


def _text(text: str | None) -> str:
    """In roff no line begins with a dot or a quote by chance, and a dash is one that can be copied."""
    escaped = plain(text).replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE).replace("\n\n", "\n.PP\n")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for page, content in pages().items():
        (folder / page).write_text(content)
