"""What commands have decided, for the log of the controller that leads, see `models.decision_log`."""

from sqlalchemy import BigInteger, Identity, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Document


class Said(Base):
    """A sentence that no controller has logged yet."""

    __tablename__ = "said"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    level: Mapped[int]
    sentence: Mapped[str] = mapped_column(Text)
    fields: Mapped[Document]
    """Of the log's line, see `drover.logs.FIELDS`."""
