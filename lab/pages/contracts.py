"""The page of what travels between processes, from the models."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import workflows.tasks  # noqa: F401 - with it all tables are known
from lab.pages.markdown import one_line, table
from models.base import Base
from models.columns import Typed
from models.contracts import Part, Versioned
from models.hook import HookCall
from models.host_rpc import QUESTIONS, Refusal
from models.job_folder import ClosedImages, RecordedNodes, SlowedWrites
from models.launch_file import LaunchFile
from models.launcher import Inhibition
from models.plan import ExecutionOrder
from models.streams import StreamAccess
from workers.proof.protocol import Answer, Question
from workflows.submissions import Cancellation, DrainMove, DrainSubmission, MigrationSubmission, RollSubmission

SUBMISSIONS = (MigrationSubmission, DrainSubmission, RollSubmission, Cancellation, DrainMove)
INTRODUCTION = """\
# Contracts between processes

`make docs` writes this page from the models; do not edit it.

What travels between processes, or stands in a JSON column, is a document with a type and a version. It is validated
where it enters. A reader upgrades what an earlier version wrote and refuses what a later one did, in one sentence. A
document without `version` is of version 0: Drover 0.1 wrote none. A field that older readers may overlook is added
without a new version; anything else raises the version and comes with a function that upgrades older documents
(`UPGRADES` of the type).

The parameters of the switchover processes are in `workers/switchover/parameters.py`: a plain dataclass, because
these processes must start fast. The worker validates them when it writes them, the process checks their version.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *_submissions(), *_columns(), *_questions(), *_types()])


def _submissions() -> Iterator[str]:
    yield "## Submissions\n"
    yield (
        "Sent as named arguments of a task to the queue `drover.control`; the command line uses the same types. A "
        "field that is missing, unknown, or of a wrong type or range is refused in one sentence that names it. The "
        "refusal is kept under `idempotency_key`. What has no key that can be used is logged and dropped. Who sends a "
        "task may add `signature`, see [cli.md](cli.md#who-may-submit).\n"
    )
    for kind in SUBMISSIONS:
        yield from section(kind, values=True)


def _columns() -> Iterator[str]:
    yield "## JSON columns\n"
    yield table(("column", "document"), ((f"`{name}`", _link(kind)) for name, kind in _typed_columns()))
    yield ""


def _typed_columns() -> Iterator[tuple[str, type[Versioned]]]:
    for stored in Base.metadata.sorted_tables:
        for column in stored.columns:
            if isinstance(column.type, Typed):
                yield f"{stored.name}.{column.name}", column.type.kind


def _questions() -> Iterator[str]:
    yield "## Questions to a host\n"
    yield f"The row of `host_request` holds both. A host that cannot answer gives the reason in a {_link(Refusal)}.\n"
    rows = ((f"`{kind}`", _link(question), _link(question.answer)) for kind, question in QUESTIONS.items())
    yield table(("kind", "question", "answer"), rows)
    yield ""


def _types() -> Iterator[str]:
    yield "## Documents\n"
    roots: list[type[Versioned]] = [kind for _, kind in _typed_columns()]
    for question in QUESTIONS.values():
        roots += [question, question.answer]
    found: dict[str, type[BaseModel]] = {}
    roots += [Refusal, HookCall, Question, Answer, StreamAccess, ExecutionOrder, LaunchFile, Inhibition]
    roots += [SlowedWrites, RecordedNodes, ClosedImages]
    for root in roots:
        _collect(root, found)
    for name in sorted(found):
        yield from section(found[name], values=False)


def _collect(kind: type[BaseModel], found: dict[str, type[BaseModel]]) -> None:
    if kind.__name__ in found:
        return
    found[kind.__name__] = kind
    for field in kind.model_fields.values():
        for inner in _parts(field.annotation):
            _collect(inner, found)


def _parts(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for argument in get_args(annotation):
        yield from _parts(argument)


def section(kind: type[BaseModel], *, values: bool) -> Iterator[str]:
    """What a document holds. `values`: they are described at the fields, else told by their types."""
    version = f" Version {kind.latest()}." if issubclass(kind, Versioned) else ""
    yield f"### {kind.__name__}\n"
    yield f"{one_line(inspect.getdoc(kind) or '')}{version}\n"
    fields = {name: field for name, field in kind.model_fields.items() if name != "version"}
    if not fields:
        return
    notes = docstrings(kind)
    told = {name: (field.description or "") if values else _type(field.annotation) for name, field in fields.items()}
    if not values:
        notes = {name: field.description or "" for name, field in fields.items()} | notes
    rows = ((f"`{name}`", told[name], _default(field), notes.get(name, "")) for name, field in fields.items())
    yield table(("field", "value", "default", "what it is"), rows)
    yield ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default in (None, (), {}) or isinstance(default, BaseModel):
        return ""
    shown = default if isinstance(default, tuple) else (default,)
    return ", ".join(f"`{one}`" if one != "" else '`""`' for one in shown)


def _type(annotation: Any) -> str:
    """Of a field, for a reader of JSON: what `Annotated` adds is left out."""
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return _type(arguments[0])
    if kind in {Union, UnionType}:
        return " or ".join(_type(one) for one in arguments if one is not type(None))
    if kind is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if kind is tuple and ... not in arguments:
        return f"[{', '.join(map(_type, arguments))}]"
    if kind in {tuple, list}:
        return f"list of {_type(arguments[0])}"
    if kind is dict:
        return f"object: {_type(arguments[0])} to {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return _link(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{one.value}`" for one in annotation)
    return f"`{getattr(annotation, '__name__', annotation)}`"


def docstrings(kind: type, root: type = Part) -> dict[str, str]:
    """The string below each field of the class and of those that it and `root` are between."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, root) or "[" in base.__name__:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, note in zip(body.body, body.body[1:], strict=False):
            match field, note:
                case ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)]), ast.Expr(text):
                    found[name] = one_line(ast.literal_eval(text))
    return found


def _link(kind: type[BaseModel]) -> str:
    return f"[{kind.__name__}](#{kind.__name__.lower()})"
