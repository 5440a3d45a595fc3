"""The base of all documents: what travels between processes, or stands in a JSON column, as a type with a version.

A document is validated where it enters: `read` upgrades what an earlier version wrote and refuses what a later one did.
A field that older readers may overlook is added without a new version, because they ignore unknown fields.
Anything else raises the version and needs an entry in `UPGRADES`.

Columns that hold documents are in `models.columns`: SQLAlchemy costs half a second of CPU to import, and the processes
of a proof need documents but no database. pydantic costs about 80 ms. The switchover processes start during a move, so
they import none of this, see `workers.switchover.parameters`.
"""

import reprlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError
from pydantic_core import ErrorDetails

from drover.errors import UnreadableDocument
from drover.names import ALLOWED, PATTERN

Item = TypeVar("Item")
Json = dict[str, Any]
"""A JSON object that is not validated yet."""

Many = Annotated[tuple[Item, ...], Strict(False)]
"""A list in JSON. The items are as strict as the rest."""


def of_dataclass(kind: type) -> BeforeValidator:
    """Reads one of `models.plain` from its JSON object: within strict documents pydantic takes an instance alone."""
    return BeforeValidator(lambda told: kind(**told) if isinstance(told, dict) else told)


class Part(BaseModel):
    """A part of a document. It is immutable, and a quoted number is refused where a number is wanted."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    def json_object(self) -> Json:
        """The JSON that is sent and stored."""
        return self.model_dump(mode="json")


class Versioned(Part):
    """A document as a whole. One without a version has version 0: Drover 0.1 wrote none."""

    UPGRADES: ClassVar[Mapping[int, Callable[[Json], Json]]] = {}
    """{version: function that makes a document of the next version of it}; versions not listed kept their shape."""

    version: int = 1

    @classmethod
    @cache
    def latest(cls) -> int:
        """The version that this Drover writes."""
        return int(cls.model_fields["version"].default)

    @classmethod
    def read(cls, document: object) -> Self:
        """Validate what another process wrote.

        Raises:
            UnreadableDocument: a later version wrote it, or it does not match its type.
        """
        try:
            return cls.model_validate(cls.upgraded(document))
        except ValidationError as error:
            raise UnreadableDocument(f"the document {cls.__name__} is not understood: {first_fault(error)}") from error

    @classmethod
    def upgraded(cls, document: object) -> object:
        """The document in the shape of the latest version, not yet validated.

        Raises:
            UnreadableDocument: a later version wrote it.
        """
        if not isinstance(document, Mapping):
            return document
        shape, version = dict(document), _version(document)
        if version > cls.latest():
            raise UnreadableDocument(
                f"the document {cls.__name__} was written in version {version} by a newer Drover, and this one reads "
                f"up to version {cls.latest()}: upgrade this Drover"
            )
        for older in range(version, cls.latest()):
            shape = cls.UPGRADES.get(older, dict)(shape)
        return shape | {"version": cls.latest()}

    def public(self) -> Json:
        """Without the version. This is for output to users, which has a contract of its own."""
        return self.model_dump(mode="json", exclude={"version"})


def _version(document: Mapping[str, Any]) -> int:
    """Version 0 had no such field; in an inspection of version 0 it is the list that makes up QEMU's version.

    One below that is none: a body of the API may say anything, and there would be no end of upgrades.
    """
    version = document.get("version")
    return max(version, 0) if isinstance(version, int) else 0


def first_fault(error: ValidationError) -> str:
    """Which field is wrong and why: one sentence, without a line break."""
    fault = error.errors(include_url=False)[0]
    return sentence(fault, ".".join(str(part) for part in fault["loc"]) or "the whole")


def sentence(fault: ErrorDetails, where: str) -> str:
    """What is wrong there."""
    if fault["type"] in {"missing", "extra_forbidden"}:
        return f"{where} is {'missing' if fault['type'] == 'missing' else 'unknown here'}"
    return f"{where}: {wanted(fault)}, not {shown(fault['input'])}"


_KINDS = {
    "int": "a whole number",
    **dict.fromkeys(("float", "decimal"), "a number"),
    **dict.fromkeys(("list", "tuple", "set", "frozen"), "a list"),
    **dict.fromkeys(("dict", "mapping", "model", "dataclass"), "an object"),
    "bool": "true or false",
    "string": "a text",
}
"""By the first word of an error's type."""
_BOUNDS = {
    "int_parsing_size": "a smaller number",
    "finite_number": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "string_too_short": "{min_length} or more characters",
    "string_too_long": "no more than {max_length} characters",
    "too_short": "{min_length} or more",
    "too_long": "no more than {max_length}",
}


_PATTERNS = {f"^{PATTERN}$": f"a name that has {ALLOWED}", r"^[^\x00]*$": "a text without NUL"}


def wanted(fault: ErrorDetails) -> str:
    """What would be right there; pydantic's own words are for programmers."""
    more, kind = fault.get("ctx", {}), fault["type"]
    more = {name: int(one) if isinstance(one, float) and one.is_integer() else one for name, one in more.items()}
    if "error" in more:
        return str(more["error"]).rstrip(".")
    if "pattern" in more:
        return f"{_PATTERNS.get(more['pattern'], 'a text that ' + more['pattern'] + ' matches')} is wanted"
    form = _BOUNDS.get(kind) or _KINDS.get(kind.partition("_")[0])
    return f"{form.format_map(more)} is wanted" if form else fault["msg"][:1].lower() + fault["msg"][1:]


def shown(value: object) -> str:
    """A value in a message: short and printable, whatever it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a very large {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80

Nested = TypeVar("Nested", bound=Versioned)


def nested(kind: type[Nested]) -> BeforeValidator:
    """Metadata of a field that holds a document with a version of its own: it is upgraded by itself."""
    return BeforeValidator(kind.upgraded)
