"""Limits of the fleet: one row, changed by `drover fleet set` while everything runs. A host may differ in two of them.

Each decision reads the row in its own transaction, so that a change takes effect at the next decision.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, CheckConstraint, Interval, ScalarSelect, func, select, true
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, mapped_column

from models.base import Base
from models.host import Host

SLOWEST_BYTES_PER_S = 1 << 16
"""What each mirror gets at least, however many share the budget."""


def _none_or_enough(bytes_per_s: int) -> int:
    if 0 < bytes_per_s < SLOWEST_BYTES_PER_S:
        raise ValueError(f"0 (no limit) or at least {SLOWEST_BYTES_PER_S} bytes/s is wanted")
    return bytes_per_s


Bandwidth = Annotated[int, AfterValidator(_none_or_enough), Field(ge=0, le=10**13)]
LONGEST_RETENTION = timedelta(days=3650)
Retention = Annotated[timedelta, Field(ge=timedelta(0), le=LONGEST_RETENTION)]


class Limits(BaseModel):
    """The values of the row. Defaults, ranges and descriptions are defined only here."""

    model_config = ConfigDict(frozen=True, from_attributes=True, extra="forbid")

    max_outgoing: int = Field(default=2, ge=1, le=1000, description="Moves that leave one host at the same time.")
    max_incoming: int = Field(default=2, ge=1, le=1000, description="Moves that arrive at one host at the same time.")
    max_moves: int = Field(
        default=10, ge=1, le=100_000, description="Moves under way at the same time, over all hosts."
    )
    max_held: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="Moves of one source host whose disks are kept in sync ahead at the same time. Each keeps a thread "
        "of its worker busy, so it must be below `DROVER_CONCURRENCY` of every worker.",
    )
    stalled_after: timedelta = Field(
        default=timedelta(minutes=10),
        ge=timedelta(seconds=10),
        le=timedelta(days=30),
        description="A move without any progress for this long goes on, but no longer counts against the limits above. "
        "One whose RAM changes as fast as it is sent asks an operator for this long, then its disks are kept in sync.",
    )
    host_patience: timedelta = Field(
        default=timedelta(minutes=5),
        ge=timedelta(seconds=5),
        le=timedelta(days=1),
        description="A job waits this long for a host that is silent; then it is rolled back, or an operator is asked. "
        "A copy without progress whose destination cannot be reached is given up after this, too.",
    )
    bandwidth_bytes_per_s: Bandwidth = Field(
        default=0,
        description="Budget of each host for all moves that leave it, disks and RAM together; 0: no limit.",
    )
    plan_approvals: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Users that must have approved a plan of a drain, besides the one who applies it: 1 is four eyes.",
    )
    signed_submissions: bool = Field(
        default=True,
        description="Submissions by task name are taken only if they are signed with a token, see "
        "[cli.md](cli.md#who-may-submit).",
    )
    retention: Retention = Field(
        default=timedelta(hours=24),
        description="How long the images that a guest left behind are kept on its former host, counted from its move.",
    )


class FleetLimits(Base):
    """The row. There is exactly one: a revision of the schema inserts it, nothing deletes it."""

    __tablename__ = "fleet_limits"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint("least(max_outgoing, max_incoming, max_moves, max_held) >= 1", name="something_may_move"),
        CheckConstraint(
            "stalled_after > interval '0' AND host_patience > interval '0' AND retention >= interval '0' "
            "AND bandwidth_bytes_per_s >= 0",
            name="no_negative_amounts",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    max_outgoing: Mapped[int]
    max_incoming: Mapped[int]
    max_moves: Mapped[int]
    max_held: Mapped[int]
    stalled_after: Mapped[timedelta] = mapped_column(Interval)
    host_patience: Mapped[timedelta] = mapped_column(Interval)
    bandwidth_bytes_per_s: Mapped[int] = mapped_column(BigInteger)
    retention: Mapped[timedelta] = mapped_column(Interval)
    plan_approvals: Mapped[int] = mapped_column(default=0, server_default="0")
    signed_submissions: Mapped[bool] = mapped_column(default=True, server_default=true())
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())


def limits(session: Session) -> Limits:
    """The limits as they are now. Ranges are checked by `change`, not here: a newer version may allow more."""
    row = session.scalars(select(FleetLimits)).one()
    return Limits.model_construct(**{name: getattr(row, name) for name in Limits.model_fields})


def value(column: InstrumentedAttribute[Any]) -> ScalarSelect[Any]:
    """A limit as part of a statement, so that reading it is no statement of its own."""
    return select(column).scalar_subquery()


def retention_of(session: Session, host: str, of_move_s: float | None = None) -> timedelta:
    """How long one host keeps what a guest left behind: as its move has it, by the host's own rule, or the fleet's."""
    if of_move_s is not None:
        return timedelta(seconds=of_move_s)
    own: ScalarSelect[Any] = select(Host.retention).where(Host.name == host).scalar_subquery()
    kept_for: timedelta = session.scalars(select(func.coalesce(own, value(FleetLimits.retention)))).one()
    return kept_for
