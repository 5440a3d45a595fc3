"""What the controller that leads leaves for the next one, and how it is woken."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, Session, mapped_column

from models import notifications
from models.base import Base
from models.notifications import Channel


class Controller(Base):
    """One row, once a controller has led."""

    __tablename__ = "controller"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    looked_at: Mapped[datetime]
    """When the one that leads last looked at the jobs."""


def wake(session: Session) -> None:
    """Have the controller look at once, when this transaction has committed."""
    notifications.add(session, Channel.WAKE)
