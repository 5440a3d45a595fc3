"""What operators say of guests and hosts: labels, groups, budgets. What is not named stays; null takes it away."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from drover.errors import PreconditionFailed
from models.budget import BandwidthHours
from models.contracts import Many
from models.guest import Guest
from models.host import Host
from workflows import budgets, fleet_limits, guests, schedule
from workflows.guests import NeverDrain
from workflows.submissions import BYTES_PER_S, WHOLE_NUMBER, Message

LABELS = "a list of labels, each as KEY=VALUE or KEY"
GROUP = "the name of a group; an empty text is none"
ZONE = "the name of a time zone, like Europe/Berlin"
LONGEST_S = 10**11
SaidLabels = Annotated[Many[Annotated[str, Field(max_length=256)]], Field(max_length=100, description=LABELS)]
Group = Annotated[str | None, Field(max_length=64, description=GROUP)]
Words = Annotated[str | None, Field(max_length=1000, pattern=r"^[^\x00]*$")]


class Description(Message):
    """Of anything that has labels."""

    labels: SaidLabels = ()
    unlabel: SaidLabels = ()


class GuestDescription(Description):
    """What drains consider about a guest, as for `drover guest set`."""

    priority: Annotated[int | None, Field(gt=-(1 << 31), lt=1 << 31, description=WHOLE_NUMBER)] = None
    affinity: Group = None
    anti_affinity: Group = None
    never_drain: Annotated[Words, Field(description="the reason as a text; an empty one ends it")] = None
    until: Annotated[Words, Field(description="the end of `never_drain`, like 2026-12-01T22:00")] = None
    timezone: Annotated[str, Field(max_length=64, description=ZONE)] = "UTC"

    def apply(self, name: str) -> Guest:
        """Set it.

        Raises:
            PreconditionFailed: there is no such guest, or a part of it makes no sense; nothing was changed.
        """
        return guests.describe(
            name,
            priority=self.priority,
            affinity=self.affinity,
            anti_affinity=self.anti_affinity,
            labels=self.labels,
            unlabel=self.unlabel,
            never_drain=self._never_drain(),
        )

    def _never_drain(self) -> NeverDrain | Literal[""] | None:
        schedule.refuse_idle_zone(self.timezone, self.until)
        if self.never_drain and self.until:
            until = schedule.moment(self.until, self.timezone, datetime.now(UTC))
            return NeverDrain(reason=self.never_drain, until=until)
        if self.never_drain or self.until:
            raise PreconditionFailed(
                "--never-drain REASON and --until TIME go together: who reads it later must know why and how long"
            )
        return "" if self.never_drain == "" else None


class HostDescription(Description):
    """What a host has of its own, as for `drover host set`; null is the fleet's again."""

    bandwidth_bytes_per_s: Annotated[int | None, Field(ge=0, lt=1 << 63, description=BYTES_PER_S)] = None
    bandwidth_hours: Annotated[BandwidthHours | None, Field(description="a rate by the time of day")] = None
    retention_s: Annotated[
        float | None, Field(ge=0, le=LONGEST_S, allow_inf_nan=False, description="a number of seconds")
    ] = None

    def apply(self, name: str) -> Host:
        """Set it.

        Raises:
            PreconditionFailed: there is no such host, or a part of it makes no sense; nothing was changed.
        """
        for hours in self.bandwidth_hours.hours if self.bandwidth_hours is not None else ():
            schedule.Window.of(hours.window)
            if not 0 <= budgets.enough(hours.bytes_per_s) < 1 << 63:
                raise PreconditionFailed(f"bytes_per_s is {BYTES_PER_S}, not {hours.bytes_per_s}")
        wanted = {limit: getattr(self, limit) for limit in self.model_fields_set & fleet_limits.OF_ONE_HOST.keys()}
        if "retention_s" in self.model_fields_set:
            wanted["retention"] = None if self.retention_s is None else timedelta(seconds=self.retention_s)
        return fleet_limits.describe_host(name, wanted, self.labels, self.unlabel)
