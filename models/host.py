"""Hosts, and questions put to them."""

import enum
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Interval, String, Text, func, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from models import notifications
from models.base import Base, Document, by_value
from models.budget import BandwidthHours
from models.columns import Typed, nothing
from models.contracts import Versioned
from models.documents import HostFacts, SeenQemus
from models.notifications import Channel


class HostState(enum.StrEnum):
    """What an operator has set for a host."""

    ACTIVE = "active"
    CORDONED = "cordoned"  # takes no guest; those that it has stay
    MAINTENANCE = "maintenance"  # a drain has emptied it; takes no guest
    FORGOTTEN = "forgotten"  # out of service: not shown while its worker is silent; takes no guest


class Host(Base):
    """A hypervisor. Its worker registers it and renews `heartbeat_at`."""

    __tablename__ = "host"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    address: Mapped[str] = mapped_column(String(255))
    guest_root: Mapped[str] = mapped_column(Text)
    incarnation: Mapped[str] = mapped_column(String(64))
    """Changes with each start of the worker; claims of an older incarnation are void."""
    heartbeat_at: Mapped[datetime]
    facts: Mapped[HostFacts] = mapped_column(Typed(HostFacts, otherwise=HostFacts))
    state: Mapped[HostState] = mapped_column(by_value(HostState), server_default=HostState.ACTIVE.value)
    """The default is the database's: a host's role may not write it. Likewise `labels`."""
    guest_cpus: Mapped[int | None]
    """What all guests on it may use together, as its worker reported; null (not reported yet) is no limit."""
    guest_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    guest_disk_bytes: Mapped[int | None] = mapped_column(BigInteger)
    bandwidth_bytes_per_s: Mapped[int | None] = mapped_column(BigInteger)
    """What an operator set for this host alone; null: as the fleet, see `models.fleet`. Likewise the next."""
    retention: Mapped[timedelta | None] = mapped_column(Interval)
    public_key: Mapped[str | None] = mapped_column(String(64))
    """What its worker shows, see `workers.trust.host_key`. Base64."""
    trusted_key: Mapped[str | None] = mapped_column(String(64))
    """What counts, see `workflows.host_keys`."""
    qemus: Mapped[SeenQemus | None] = mapped_column(Typed(SeenQemus, otherwise=nothing))
    """Those that its worker saw running when it last looked; null: it has not yet. Likewise the next."""
    qemus_at: Mapped[datetime | None]
    bandwidth_hours: Mapped[BandwidthHours | None] = mapped_column(Typed(BandwidthHours))
    """Other budgets than `bandwidth_bytes_per_s` in some hours of every day."""
    labels: Mapped[dict[str, str]] = mapped_column(server_default="{}")
    """See `workflows.selectors`; a value may be empty."""


class RequestState(enum.StrEnum):
    """How far a question to a host has come."""

    ASKED = "asked"
    ANSWERED = "answered"
    REFUSED = "refused"  # PreconditionFailed on the host; the reply is a `Refusal`
    FAILED = "failed"  # anything else went wrong


class HostRequest(Base):
    """A question that only a host itself can answer: what is this guest, could that one run here?

    Only the collection of garbage, and starting or stopping a guest, change anything on the host; doing it twice does
    no harm. The row carries question and answer, the broker only the row's id.
    """

    __tablename__ = "host_request"
    __table_args__ = (Index("ix_host_request_state", "state", "created_at"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    host: Mapped[str] = mapped_column(ForeignKey("host.name"))
    kind: Mapped[str] = mapped_column(String(32))
    question: Mapped[Document]
    """By its kind, see `models.host_rpc`; the reply likewise."""
    state: Mapped[RequestState] = mapped_column(by_value(RequestState), default=RequestState.ASKED)
    reply: Mapped[Document | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    answered_at: Mapped[datetime | None]


def reply(session: Session, request_id: int, state: RequestState, told: Versioned) -> None:
    """Store the answer to a question, and notify the process that waits for it."""
    answered = {"state": state, "reply": told.json_object(), "answered_at": func.clock_timestamp()}
    session.execute(update(HostRequest).where(HostRequest.id == request_id).values(answered))
    notifications.add(session, Channel.ANSWERED, str(request_id))
