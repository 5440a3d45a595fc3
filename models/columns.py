"""Columns of the database that hold documents."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy import JSON, Dialect
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

from drover.errors import UnreadableDocument
from models.contracts import Json, Versioned

Kept = TypeVar("Kept", bound=Versioned)
MOST = 1 << 60
"""In what a host tells: with a larger figure nobody could reckon, see revision 0046."""


class Typed(TypeDecorator[Kept], Generic[Kept]):
    """A JSON column whose values are documents.

    Args:
        kind: what the column holds.
        empty: the column is NOT NULL, and `{}` means no document.
        otherwise: makes what counts in the place of a document that cannot be read. For what a host tells that decides
            nothing by itself: its row is read together with those of others, which would be unreadable with it.
    """

    impl = JSON
    cache_ok = True

    def __init__(
        self, kind: type[Kept], *, empty: bool = False, otherwise: Callable[[], Kept | None] | None = None
    ) -> None:
        super().__init__(none_as_null=True)
        self.kind = kind
        self.empty = empty
        self.otherwise = otherwise

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """JSONB where the database has it."""
        postgres = dialect.name == "postgresql"
        return dialect.type_descriptor(JSONB(none_as_null=True) if postgres else JSON(none_as_null=True))

    def process_bind_param(self, value: Kept | None, dialect: Dialect) -> Json | None:
        """What is stored."""
        if value is None:
            return {} if self.empty else None
        if not isinstance(value, self.kind):
            raise TypeError(f"{self.kind.__name__} is wanted, not {type(value).__name__}")
        return value.json_object()

    def process_result_value(self, value: Any, dialect: Dialect) -> Kept | None:
        """What is read.

        Raises:
            UnreadableDocument: a later version wrote it, or it does not match its type.
        """
        if value is None or (self.empty and not value):
            return None
        try:
            if self.otherwise is not None:
                _check_figures(value)
            return self.kind.read(value)
        except UnreadableDocument:
            if self.otherwise is None:
                raise
            return self.otherwise()

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """What is compared with a part of the document is plain JSON."""
        return self.impl_instance.coerce_compared_value(op, value)


def _check_figures(value: Any) -> None:
    if isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            _check_figures(part)
    elif isinstance(value, (int, float)) and abs(value) > MOST:
        raise UnreadableDocument("a figure in it is larger than any can be")


def nothing() -> None:
    """The default of a column that holds no document yet: `{}` where it is NOT NULL, see `Typed`."""
