"""What the controller that leads leaves for the next one."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base


class Controller(Base):
    """One row, once a controller has led."""

    __tablename__ = "controller"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    looked_at: Mapped[datetime]
    """When the one that leads last looked at the jobs."""
