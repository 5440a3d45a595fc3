"""Who may do what through the API and the console."""

import enum
from datetime import datetime
from typing import Annotated

from pydantic import Strict
from sqlalchemy import BigInteger, Identity, LargeBinary, String, func
from sqlalchemy.orm import Mapped, mapped_column

from drover.names import HostName
from models.base import Base, by_value
from models.columns import Typed
from models.contracts import Many, Versioned


class Scope(enum.StrEnum):
    """What somebody may do; each includes those before it."""

    READ = "read"
    OPERATE = "operate"  # submit, hold, release, cancel, retry moves and drains
    APPROVE = "approve"  # decide what nobody can prove: who owns a guest, which key is a host's

    def includes(self, other: "Scope") -> bool:
        """Whoever may this may that."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


class Action(enum.StrEnum):
    """What a token that may `operate` can be bound to."""

    SUBMIT = "submit"  # moves: submit, change, release, retry them
    CANCEL = "cancel"  # moves and drains
    DRAIN = "drain"  # drains and returns: submit, pause, resume, change, release them


class Bounds(Versioned):
    """What a token is for, within its scope; what is left empty bounds nothing."""

    actions: Many[Annotated[Action, Strict(False)]] = ()
    """Only these, and to look."""
    hosts: Many[HostName] = ()
    """Guests leave and reach these alone."""
    selector: str | None = None
    """Only guests that it selects by their labels, see `workflows.selectors`."""

    @property
    def any(self) -> bool:
        """There is something that it may not do."""
        return bool(self.actions or self.hosts or self.selector)

    def __str__(self) -> str:
        parts = (
            f"{', '.join(self.actions)} alone" if self.actions else "",
            f"the hosts {', '.join(self.hosts)}" if self.hosts else "",
            f"guests with {self.selector}" if self.selector else "",
        )
        return "; ".join(filter(None, parts))


class ApiToken(Base):
    """What a program proves itself with. The token itself is stored nowhere."""

    __tablename__ = "api_token"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    user: Mapped[str] = mapped_column(String(48))
    """Whose it is; the events of a job name this user."""
    scope: Mapped[Scope] = mapped_column(by_value(Scope))
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    """SHA-256 of the token. It has 256 random bits, so that nobody finds it by trying."""
    bounds: Mapped[Bounds] = mapped_column(Typed(Bounds), default=Bounds, server_default="{}")
    submission_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Public half of the key that its holder signs submissions with, see `workflows.signatures`; none in tokens of
    earlier versions.
    """
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
