"""Whoever is asked before a drain moves a guest, and what they answered."""

import enum
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, by_value
from models.columns import Typed
from models.documents import Notice


class Answer(enum.StrEnum):
    """Whether the guest may be moved now."""

    YES = "yes"
    NO = "no"
    NONE = "none"  # nothing that could be understood within the deadline
    OVERRULED = "overruled"  # an operator has it moved anyway


class GuestNotice(Base):
    """One question whether a guest of a drain may be moved now. A row without an answer is a question under way."""

    __tablename__ = "guest_notice"
    __table_args__ = (Index("ix_guest_notice_drain_id", "drain_id", "guest"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    drain_id: Mapped[int] = mapped_column(ForeignKey("drain.id", ondelete="CASCADE"))
    guest: Mapped[str] = mapped_column(String(128))
    source: Mapped[str] = mapped_column(String(64))
    destination: Mapped[str] = mapped_column(String(64))
    notice: Mapped[Notice] = mapped_column(Typed(Notice))
    """Who is asked, and how."""
    asked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    answer: Mapped[Answer | None] = mapped_column(by_value(Answer))
    answered_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)
    """Of a no; or why there is no answer; or who overrules."""
    not_before: Mapped[datetime | None]
    """It is not asked again before."""
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"))
    """The job that followed; its events tell of it."""

    @property
    def sentence(self) -> str:
        """What was answered, for people. No I/O."""
        why = f": {self.reason}" if self.reason else ""
        if self.answer is Answer.OVERRULED:
            return f"{self.reason} has {self.guest} moved whatever {self.notice} says"
        if self.answer is Answer.NONE:
            return f"{self.notice} did not say whether {self.guest} may be moved now{why}"
        return f"{self.notice} says {self.answer} to moving {self.guest} now{why}"
