"""Who may do what through the API and the console."""

import enum
from datetime import datetime

from sqlalchemy import BigInteger, Identity, LargeBinary, String, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, by_value


class Scope(enum.StrEnum):
    """What somebody may do; each includes those before it."""

    READ = "read"
    OPERATE = "operate"  # submit, hold, release, cancel, retry moves and drains
    APPROVE = "approve"  # decide what nobody can prove: who owns a guest, which key is a host's

    def includes(self, other: "Scope") -> bool:
        """Whoever may this may that."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


class ApiToken(Base):
    """What a program proves itself with. The token itself is stored nowhere."""

    __tablename__ = "api_token"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    user: Mapped[str] = mapped_column(String(48))
    """Whose it is; the events of a job name this user."""
    scope: Mapped[Scope] = mapped_column(by_value(Scope))
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    """SHA-256 of the token. It has 256 random bits, so that nobody finds it by trying."""
    made_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    ends_at: Mapped[datetime | None]
    """From then on it is refused; None: until it is revoked."""
    used_at: Mapped[datetime | None]
    """The last time, to the minute."""
    revoked_at: Mapped[datetime | None]


class ConsoleUser(Base):
    """What somebody may do in the console whom a reverse proxy names; whoever has no row may read."""

    __tablename__ = "console_user"

    name: Mapped[str] = mapped_column(String(48), primary_key=True)
    scope: Mapped[Scope] = mapped_column(by_value(Scope))
