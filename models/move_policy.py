"""Policies: how guests with certain labels are moved, unless who asks for a move says otherwise."""

from datetime import datetime

from sqlalchemy import String, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base
from models.columns import Typed
from models.documents import MigrationOptions


class MovePolicy(Base):
    """Values for moves of the guests that a selector names, see `workflows.policies`."""

    __tablename__ = "move_policy"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    selector: Mapped[str | None] = mapped_column(Text)
    """Of guests, see `workflows.selectors`; null: all."""
    priority: Mapped[int] = mapped_column(unique=True)
    """Of two that decide the same about a guest the one of higher priority counts; no two have the same."""
    options: Mapped[MigrationOptions] = mapped_column(Typed(MigrationOptions))
    """Only the fields that are `given` are decided."""
    changed_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), onupdate=func.clock_timestamp())
