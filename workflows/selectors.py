"""Labels of guests and hosts, and selectors: `tier=db,!pinned` names what has a label and lacks another."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, true, type_coerce
from sqlalchemy.dialects.postgresql import JSONB

from drover import names
from drover.errors import PreconditionFailed

LABEL = re.compile(rf"(?P<key>{names.PATTERN})(=(?P<value>{names.PATTERN})?)?")
TERM = re.compile(
    rf"(?P<not>!)?\s*(?P<key>{names.PATTERN})\s*((?P<operator>!?=)\s*(?P<values>{names.PATTERN}(\s*\|\s*{names.PATTERN})*))?"
)
OWN = "host"
"""Selects a host by its name: `host=hv1|hv2`."""
MOST = 32
"""Labels of one guest or host."""


@dataclass(frozen=True)
class Term:
    """One condition; all of a selector hold together."""

    key: str
    values: tuple[str, ...] = ()
    """One of these; none: any value."""
    negated: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether something with these labels is meant."""
        found = labels.get(self.key) in self.values if self.values else self.key in labels
        return found is not self.negated

    def condition(self, labels: Any) -> ColumnElement[bool]:
        """The same as part of a statement."""
        document = type_coerce(labels, JSONB)
        found: ColumnElement[bool] = document.has_key(self.key)
        if self.values:
            found = and_(found, document[self.key].astext.in_(self.values))
        return ~found if self.negated else found


@dataclass(frozen=True)
class Selector:
    """What is meant by its labels; without terms everything."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def read(cls, text: str | None) -> "Selector":
        """`KEY=VALUE`, `KEY=VALUE|VALUE`, `KEY!=VALUE`, `KEY`, `!KEY`, with commas between them.

        Raises:
            PreconditionFailed: a part is none of these.
        """
        return cls(tuple(_term(part.strip(), text) for part in text.split(","))) if text else cls()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether something with these labels is meant."""
        return all(term.matches(labels) for term in self.terms)

    def includes(self, other: "Selector") -> bool:
        """Whatever the other means this one means as well: the other has all its terms."""
        return set(self.terms) <= set(other.terms)

    def condition(self, labels: Any) -> ColumnElement[bool]:
        """The same as part of a statement, for a column of labels."""
        return and_(true(), *(term.condition(labels) for term in self.terms))


def _term(part: str, whole: str) -> Term:
    found = TERM.fullmatch(part)
    if found is None or (found["not"] and found["operator"]):
        raise PreconditionFailed(
            f"{part!r} in the selector {whole!r} is not understood: write KEY=VALUE, KEY=VALUE|VALUE, KEY!=VALUE, KEY "
            "(has that label) or !KEY (has it not), with commas between them"
        )
    values = tuple(value.strip() for value in found["values"].split("|")) if found["values"] else ()
    return Term(found["key"], values, negated=bool(found["not"]) or found["operator"] == "!=")


def relabelled(labels: Mapping[str, str], added: Iterable[str], removed: Iterable[str]) -> dict[str, str]:
    """The labels with some set, `KEY=VALUE` or `KEY` alone, and some taken away.

    Raises:
        PreconditionFailed: one cannot be a label, is not there to be taken away or is named twice, or there would be
            too many.
    """
    made, named = dict(labels), [text.partition("=")[0] for text in (*added, *removed)]
    if twice := next((key for key in named if named.count(key) > 1), None):
        raise PreconditionFailed(f"the label {twice!r} is named more than once: it is set once, or taken away")
    for key in removed:
        if key not in made:
            raise PreconditionFailed(f"there is no label {key!r} to take away; there are: {shown(made) or 'none'}")
        del made[key]
    for text in added:
        found = LABEL.fullmatch(text)
        if found is None:
            raise PreconditionFailed(
                f"{text!r} is no label: write KEY=VALUE, or KEY alone; each of the two has {names.ALLOWED}"
            )
        if found["key"] == OWN:
            raise PreconditionFailed(f"{OWN} cannot be a label: it selects hosts by their names")
        made[found["key"]] = found["value"] or ""
    if len(made) > MOST:
        raise PreconditionFailed(f"{len(made)} labels are too many: {MOST} are enough")
    return made


def shown(labels: Mapping[str, str]) -> str:
    """As they are written on the command line."""
    return ",".join(f"{key}={value}" if value else key for key, value in sorted(labels.items()))
