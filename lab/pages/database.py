"""The page of all tables, and of all events that tell what happened."""

import inspect
import re
from collections.abc import Iterable, Iterator

from sqlalchemy import Column, Enum
from sqlalchemy.dialects import postgresql

import workflows.tasks  # noqa: F401 - with it all tables are known
from lab.pages.contracts import docstrings
from lab.pages.markdown import one_line, table
from models import base
from models.columns import Typed
from models.drain import DrainState
from models.event_action import EventAction
from models.notifications import Channel
from models.roll import RollHostState, RollState
from models.transitions import JobState

INTRODUCTION = """\
# Tables and events

`make docs` writes this page from the models; do not edit it.

All state is in Postgres. Who only looks gets a role by `drover db roles --reader NAME`. Columns are added between
versions, and nothing else is promised of them: scripts rather read the [JSON of the commands](cli.md#json), whose
fields stay. What stands in JSON columns is in [contracts.md](contracts.md), what leads from one state to another in
[states.md](../explanation/states.md).
"""
NONE = re.compile(r"\bNone\b")
JOBS = """\
`action` of the rows of [`event`](#event), and in `drover job explain --json`: the new state of the job
({states}), or one of these.
"""
WEBHOOKS = """
What a [webhook](cli.md#webhooks) is sent about, as its `event`:
"""
CHANNELS = """
Channels of `LISTEN`. A notification only says that there is something to read: any role may send one.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, "## Tables\n", *_tables(), "## Events of a job\n", *_events()]) + "\n"


def _tables() -> Iterator[str]:
    kinds = {mapper.local_table.name: mapper.class_ for mapper in base.Base.registry.mappers}  # type: ignore[attr-defined]
    for name in sorted(kinds):
        notes = docstrings(kinds[name], base.Base)
        yield f"### {name}\n"
        yield f"{one_line(inspect.getdoc(kinds[name]) or '')}\n"
        columns = base.Base.metadata.tables[name].columns
        rows = ((f"`{one.name}`", _type(one), NONE.sub("null", notes.get(one.name, ""))) for one in columns)
        yield table(("column", "type", "what it is"), rows)
        yield ""


def _type(column: Column[object]) -> str:
    parts = ["key" if column.primary_key else "", "or null" if column.nullable else ""]
    if isinstance(column.type, Typed):
        name = column.type.kind.__name__
        kind = f"[{name}](contracts.md#{name.lower()})"
    elif isinstance(column.type, Enum):
        kind = ", ".join(f"`{value}`" for value in column.type.enums)
    else:
        kind = column.type.compile(dialect=postgresql.dialect()).lower()  # type: ignore[no-untyped-call]
    parts += [f"of `{key.target_fullname}`" for key in column.foreign_keys]
    return ", ".join(filter(None, [kind, *parts])).replace(", or null", " or null")


def _events() -> Iterator[str]:
    notes = docstrings(EventAction, EventAction)
    yield JOBS.format(states=", ".join(f"`{state}`" for state in JobState))
    yield table(("action", "what happened"), ((f"`{one}`", notes[one.name]) for one in EventAction))
    yield "\n## Webhooks" + "\n" + WEBHOOKS
    yield table(("event", "when"), _webhooks())
    yield "\n## Notifications" + "\n" + CHANNELS
    notes = docstrings(Channel, Channel)
    yield table(("channel", "what it is"), ((f"`{one}`", notes[one.name]) for one in Channel))


def _webhooks() -> Iterator[tuple[str, str]]:
    yield _named("job.", (state for state in JobState if state.settled)), "a job has ended, or needs an operator"
    yield _named("drain.", (state for state in DrainState if state.ended)), "a drain or return has ended"
    yield _named("roll.", RollState), "a roll came into this state"
    begun = (state for state in RollHostState if state is not RollHostState.WAITING)
    yield _named("roll.host.", begun), "a roll came so far with one host"
    yield "`guest.may_move`", "a policy has somebody asked before a move, see [Notice](cli.md#notice)"


def _named(what: str, states: Iterable[str]) -> str:
    return ", ".join(f"`{what}{state}`" for state in states)
