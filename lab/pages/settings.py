"""The page of every setting and every limit of the fleet."""

from collections.abc import Iterator

from pydantic.fields import FieldInfo

from drover import words
from drover.cli.fleet_view import shown
from drover.settings import (
    CONSOLE,
    CONTROLLER,
    EVERYBODY,
    FLOWER,
    FORMER_VARIABLES,
    OTHER_VARIABLES,
    WORKER,
    allowed,
    amount,
    variables,
)
from lab.pages.markdown import table
from models.fleet import Limits
from workflows.fleet_limits import OF_ONE_HOST, reach


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


INTRODUCTION = """\
# Settings

Made by `make docs` from `drover/settings.py` and `models/fleet.py`: do not edit.

A process reads its settings from its environment when it starts. One that is missing or out of range stops the start
with a sentence. `drover config check` lists what is wrong on a machine, `drover config show` what is in effect.
"""
READERS = {
    EVERYBODY: "Every process",
    WORKER: "Workers",
    CONTROLLER: "Controllers",
    CONSOLE: "The console",
    FLOWER: "Flower",
}
LIMITS = """
## Limits of the fleet

One row of the database, changed by `drover fleet set max-moves=12 bandwidth=100M/s` while everything runs; a
change takes effect within seconds. `drover fleet show` shows them. `drover host set HOST --bandwidth 100M/s
--retention 7d` gives one host its own. An image that was set aside is kept for the time that was in effect then.
"""
FORMER = """
## Former variables

These were settings of each process before they became limits of the fleet. `drover db upgrade` takes over the values of
its own environment, once, when it makes the row. From then on they are ignored; a worker or controller that finds one
with another value logs a warning when it starts, with the command that sets it.
"""
OTHERS = """
## Other variables
"""


def _lines() -> Iterator[str]:
    yield INTRODUCTION.rstrip()
    for reader, title in READERS.items():
        yield f"\n## {title}\n"
        yield table(("variable", "default", "what it is"), _variables(reader))
    yield LIMITS
    yield table(("limit", "default", "what it is"), _limits())
    yield FORMER
    yield table(("variable", "limit"), ((f"`{name}`", f"`{limit}`") for name, limit in FORMER_VARIABLES.items()))
    yield OTHERS
    yield table(("variable", "what it is"), ((f"`{name}`", about) for name, about in OTHER_VARIABLES.items()))


def _limits() -> Iterator[tuple[str, ...]]:
    for name, field in Limits.model_fields.items():
        own = " A host may have its own." if name in OF_ONE_HOST else ""
        yield f"`{words.option(name)}`", shown(name, field.default), f"{field.description}{own}{_range(reach(name))}"


def _range(said: str) -> str:
    return f" Allowed: {said}." if said else ""


def _variables(reader: str) -> Iterator[tuple[str, ...]]:
    for name, (_, field) in variables().items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra["read_by"] == reader:
            unit = str(extra["unit"])
            reached = f"{allowed(field)} {unit}".strip()
            yield f"`{name}`", _default(field, unit), f"{field.description}{_range(reached)}"


def _default(field: FieldInfo, unit: str) -> str:
    if field.is_required():
        return "required"
    told = amount(field.default)
    if unit and told:
        return f"{told} {unit}"
    return f"`{told}`" if told else "empty"
