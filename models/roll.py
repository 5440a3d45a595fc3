"""A roll takes hosts out one after the other for maintenance: drain, hook, wait until it is healthy, return.

The drains and returns are those of `models.drain`. Nothing of a roll is held in memory, so any controller may carry it
on.
"""

from datetime import datetime, timedelta

from sqlalchemy import BigInteger, ForeignKey, Identity, Interval, String, Text, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column, object_session, relationship

from models import decision_log
from models.base import Base, by_value, now
from models.columns import Typed
from models.documents import AllowedHosts, Hook, HostBefore, MigrationOptions
from models.transitions import ROLL, ROLL_HOST
from models.transitions import RollHostState as RollHostState
from models.transitions import RollState as RollState
from models.webhook import Delivery, Notification, RollHostNews, RollNews

OUTPUT_KEPT = 4000
"""Characters of the end of a hook's output that are kept."""


class Roll(Base):
    """A request to take hosts out for maintenance in their turn."""

    __tablename__ = "roll"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    state: Mapped[RollState] = mapped_column(by_value(RollState), default=RollState.RUNNING)
    since: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    """When it came into this state."""
    max_unavailable: Mapped[int]
    """So many of its hosts may be out at a time, whatever the cause."""
    hook: Mapped[Hook] = mapped_column(Typed(Hook))
    back_within: Mapped[timedelta] = mapped_column(Interval)
    """A host that is not healthy this long after its hook has failed."""
    allowed_hosts: Mapped[AllowedHosts] = mapped_column(Typed(AllowedHosts), default=AllowedHosts)
    """Of its drains. Likewise the next."""
    options: Mapped[MigrationOptions] = mapped_column(Typed(MigrationOptions), default=MigrationOptions)
    submitted_with: Mapped[int | None] = mapped_column(BigInteger)
    """See `Job.submitted_with`; whoever resumes it lends theirs."""
    webhook: Mapped[str | None] = mapped_column(Text)
    """The address that gets a webhook whenever it, or one of its hosts, comes into another state."""
    wait_reason: Mapped[str | None] = mapped_column(Text)
    """Why it does not go on although nothing is wrong: one sentence."""
    error: Mapped[str | None] = mapped_column(Text)
    """What has failed, so that it pauses."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]

    hosts: Mapped[list["RollHost"]] = relationship(order_by="RollHost.position", back_populates="roll")

    def move(self, session: Session, to: RollState) -> None:
        """Change the state by the table of rolls. The caller holds the row's lock.

        Raises:
            IllegalTransition: the table has no such transition.
        """
        self.state, self.wait_reason, self.since = ROLL.apply(self.state, to), None, now(session)
        self.finished_at = self.since if to.ended else None
        decision_log.add(session, f"roll {self.id} is {to} now{f': {self.error}' if self.error else ''}", roll=self.id)
        self.announce(session, f"roll.{to}")

    def announce(self, session: Session, event: str, host: str | None = None) -> None:
        """Queue a webhook about what has just happened, to it or to one of its hosts, if that was asked for."""
        if self.webhook is None:
            return
        hosts = tuple(
            RollHostNews(host=row.host, state=row.state, reason=row.reason, error=row.error) for row in self.hosts
        )
        about = RollNews(id=self.id, state=self.state, error=self.error, host=host, hosts=hosts)
        body = Notification(event=event, at=now(session), roll=about)
        session.add(Delivery(url=self.webhook, roll_id=self.id, body=body))


class RollHost(Base):
    """One host of a roll. `position` is its turn. Hold the roll's lock to change it."""

    __tablename__ = "roll_host"

    roll_id: Mapped[int] = mapped_column(ForeignKey("roll.id", ondelete="CASCADE"), primary_key=True)
    host: Mapped[str] = mapped_column(ForeignKey("host.name"), primary_key=True)
    position: Mapped[int]
    state: Mapped[RollHostState] = mapped_column(by_value(RollHostState), default=RollHostState.WAITING)
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    """When it came into this state, or was tried in it again."""
    drain_id: Mapped[int | None] = mapped_column(ForeignKey("drain.id"))
    """What empties it."""
    return_id: Mapped[int | None] = mapped_column(ForeignKey("drain.id"))
    """What brings its guests home."""
    hook_run_id: Mapped[int | None] = mapped_column(ForeignKey("hook_run.id"))
    """The run of the hook that counts."""
    before: Mapped[HostBefore | None] = mapped_column(Typed(HostBefore))
    """As it was when that was asked for."""
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it waits, or what goes on."""
    error: Mapped[str | None] = mapped_column(Text)
    """What has failed in this state."""

    roll: Mapped[Roll] = relationship(back_populates="hosts")

    def move(self, to: RollHostState, reason: str | None = None) -> None:
        """Change the state by the table of a roll's hosts.

        Raises:
            IllegalTransition: the table has no such transition.
        """
        self.state = ROLL_HOST.apply(self.state, to)
        self.reason, self.error, self.since = reason, None, func.clock_timestamp()
        if (session := object_session(self)) is not None:
            decision_log.add(session, f"{self.host} is {to} now{f': {reason}' if reason else ''}", roll=self.roll_id)
            self.roll.announce(session, f"roll.host.{to}", self.host)


class HookRun(Base):
    """One run of a roll's hook for one host.

    A controller asks for it by this row and starts a process for it, which takes the row and writes what becomes of the
    hook. A run that nobody has taken is asked for anew; one that was taken is repeated only on an operator's word.
    """

    __tablename__ = "hook_run"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    roll_id: Mapped[int] = mapped_column(ForeignKey("roll.id", ondelete="CASCADE"), index=True)
    host: Mapped[str] = mapped_column(ForeignKey("host.name"))
    asked_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    machine: Mapped[str | None] = mapped_column(String(255))
    """The control node on which it runs. Likewise the next."""
    pid: Mapped[int | None]
    begun_at: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]
    """When its process last said that it lives."""
    ended_at: Mapped[datetime | None]
    exit_code: Mapped[int | None]
    """Null with an end: it was not started."""
    output: Mapped[str | None] = mapped_column(Text)
    """The end of what it wrote, or why it was not started."""


OPENED_BY_NOBODY = (RollHostState.DRAINING, RollHostState.IN_HOOK, RollHostState.COMING_BACK)
"""While a roll has a host in such a state it may be rebooted at any moment: no guest may come."""


def taken_out_by(session: Session, host: str) -> str | None:
    """Why nobody may open this host now, as a sentence; None if somebody may."""
    going = Roll.state.not_in([state for state in RollState if state.ended])
    held = select(RollHost).join(Roll).where(RollHost.host == host, RollHost.state.in_(OPENED_BY_NOBODY), going)
    row = session.scalar(held.limit(1))
    if row is None:
        return None
    return f"roll {row.roll_id} has taken {host} out, it is {row.state}: `drover roll cancel {row.roll_id}` first"
