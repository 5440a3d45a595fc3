"""Submissions that were refused and name no guest or host, so that neither a job nor a drain can be kept of them."""

from datetime import datetime
from typing import Literal

from sqlalchemy import String, Text, delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base

Kind = Literal["job", "drain"]
"""Each has keys of its own."""
MOST = 10_000
"""Are kept: whoever reaches the queue can have them written under keys without end."""


class RefusedSubmission(Base):
    """Why nothing came of a submission. It does not use its key up: the row goes when a later one is taken."""

    __tablename__ = "refused_submission"

    kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(String(128), primary_key=True)
    error: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


def keep(session: Session, kind: Kind, idempotency_key: str, error: str) -> None:
    """Write down why, in place of an earlier refusal under the same key, and of those that are too many."""
    session.merge(RefusedSubmission(kind=kind, idempotency_key=idempotency_key, error=error, at=func.clock_timestamp()))
    session.flush()
    newest = select(RefusedSubmission.at).order_by(RefusedSubmission.at.desc()).offset(MOST).limit(1).scalar_subquery()
    session.execute(delete(RefusedSubmission).where(RefusedSubmission.at <= newest))


def forget(session: Session, kind: Kind, idempotency_key: str) -> None:
    """A later submission with this key has a record of its own."""
    of_key = (RefusedSubmission.kind == kind) & (RefusedSubmission.idempotency_key == idempotency_key)
    session.execute(delete(RefusedSubmission).where(of_key))


def why(session: Session, kind: Kind, idempotency_key: str) -> str | None:
    """Why the submission with this key was refused; None if none was."""
    found = session.get(RefusedSubmission, (kind, idempotency_key))
    return found.error if found is not None else None
