"""Submissions: what a person or a program asks for, as it arrives. The command line and the tasks use the same types.

A field's description completes the sentence "FIELD is ...", which is what a wrong value is answered with.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Annotated, Any, Literal, ParamSpec, Self, TypeGuard, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, AnyHttpUrl, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.config import JsonDict

from drover.errors import PreconditionFailed, WrongField
from drover.names import ALLOWED, CONTROL, GuestName, HostName
from models.contracts import Many, Part, shown
from models.documents import (
    DECIDED_BY_POLICIES,
    DOWNTIME_MS,
    LADDER,
    MOST_DOWNTIME_MS,
    SLOWEST_WRITES,
    VERIFY_BYTES_PER_S,
    AllowedHosts,
    Ladder,
    Measure,
    MigrationOptions,
    Recurrence,
)
from models.fleet import LONGEST_RETENTION, SLOWEST_BYTES_PER_S
from models.plan import Chain, Layout
from models.storage import MOST_THIN_FACTOR
from workflows import policies, schedule
from workflows.selectors import Selector
from workflows.submit_options import SubmitOptions

P = ParamSpec("P")
Meant = TypeVar("Meant")
LARGEST = 2**31 - 1
"""That an integer column holds."""
LONGEST = 128
"""The length of keys, as in their columns."""
LONGEST_HOST = 253
LONGEST_RETENTION_S = LONGEST_RETENTION.total_seconds()
HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
OLD_NAMES = {"max_blackout_ms": "max_downtime_ms"}
"""Field names of Drover 0.1, still taken in this release."""


def _printable(text: str) -> str:
    """Neither the database nor a terminal takes other characters."""
    if not text.isprintable():
        raise ValueError("it has characters that cannot be printed")
    return text


def is_address(url: object) -> TypeGuard[str]:
    """A message can be sent there: an http or https URL with a host, in printable characters without spaces."""
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port, _URL.validate_python(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and is_host(parts.hostname or "")


def is_host(text: str) -> bool:
    """A host's name in small letters, or an address. Nothing else: a refusal names it in a command for the shell."""
    try:
        ip_address(text)
    except ValueError:
        return len(text) <= LONGEST_HOST and HOST.fullmatch(text) is not None
    return "%" not in text  # as in fe80::1%eth0


def _address(url: str) -> str:
    if not is_address(url):
        raise ValueError("it is no address")
    return url


Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST), AfterValidator(_printable)]
Address = Annotated[str, AfterValidator(_address)]
_TEXT: TypeAdapter[str] = TypeAdapter(Text)
_URL = TypeAdapter(AnyHttpUrl)
TEXT = f"a text of 1 to {LONGEST} printable characters"
NAME = f"a name that has {ALLOWED}"
HOST_NAME = f"{NAME}, and is not `{CONTROL}`"
HOST_NAMES = f"a list of names of hosts, each of which has {ALLOWED}"
FLAG = "true or false"
NO_POSTCOPY = "postcopy is none: neither host could go on alone with a guest whose RAM is on both"
LADDER_SAYS = f"a list of {', '.join(Measure)}, each once, in the order in which they are tried ({NO_POSTCOPY})"
A_YEAR_S = 366 * 86400.0
SOME_SECONDS = "a number of seconds above 0, of a year at the most"
WHOLE_NUMBER = f"a whole number from {-LARGEST} to {LARGEST}"
MILLISECONDS = f"a whole number of milliseconds from 1 to {MOST_DOWNTIME_MS}"
BYTES_PER_S = (
    f"a whole number of bytes per second: 0, or from {SLOWEST_BYTES_PER_S} to {2**63 - 1} (100 MB/s are 100000000)"
)
DowntimeMs = Annotated[int, Field(ge=1, le=MOST_DOWNTIME_MS, description=MILLISECONDS)]


def _quick_enough(rate: int) -> int:
    """Less than what each mirror gets at least is a rate whose unit was forgotten."""
    if 0 < rate < SLOWEST_BYTES_PER_S:
        raise ValueError(f"{BYTES_PER_S} is wanted")
    return rate


RATES = {"anyOf": [{"const": 0}, {"minimum": SLOWEST_BYTES_PER_S}]}
Rate = Annotated[
    int,
    Field(ge=0, le=2**63 - 1, description=BYTES_PER_S, json_schema_extra=cast("JsonDict", RATES)),
    AfterValidator(_quick_enough),
]


class Message(Part):
    """What arrives as the named arguments of a task, or as the options of a command."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Validate it.

        Raises:
            PreconditionFailed: a field is missing, unknown or wrong; one sentence names it.
        """
        fields = {_name_now(name, said): value for name, value in said.items()}
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise cls._refusal(error, fields) from error

    @classmethod
    def _refusal(cls, error: ValidationError, fields: Mapping[str, Any]) -> PreconditionFailed:
        """What is wrong with the first field that is."""
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = str(fault["loc"][0])
        known = cls.model_fields.get(name)
        if known is None:
            return PreconditionFailed(f"{shown(name)} is unknown here; the fields are {', '.join(cls.model_fields)}")
        if name not in fields:
            return WrongField(name, f" is missing: it is {known.description}")
        return WrongField(name, f" is {known.description}, not {shown(fields[name])}")


class Submission(Message):
    """The fields of every submission. What is left out policies decide, then the defaults; what is named counts."""

    version: int = Field(1, ge=1, le=1, description="the version of the submission's fields, 1")
    idempotency_key: Text | None = Field(None, description=TEXT)
    """Identifies the submission: when it arrives again, nothing changes."""
    max_downtime_ms: DowntimeMs = DOWNTIME_MS
    """The target downtime. `max_blackout_ms`, its name in Drover 0.1, is taken as well."""
    most_downtime_ms: int = Field(
        0, ge=0, le=MOST_DOWNTIME_MS, description=f"a whole number of milliseconds from 0 to {MOST_DOWNTIME_MS}"
    )
    """To what the target may be raised if RAM changes as fast as it is sent; 0: it is not raised."""
    bandwidth_bytes_per_s: Rate = 0
    """0: the host's budget."""
    launcher_stays: bool = Field(False, description=FLAG)
    """Move guests although their launcher, which cannot be told not to, may start them again at the source."""
    verify: bool = Field(False, description=FLAG)
    """Compare both sides of each disk after the switchover, before the source's images are let go."""
    verify_bytes_per_s: Rate = VERIFY_BYTES_PER_S
    """What is read on either host for that; 0: no limit."""
    retention_s: float | None = Field(
        None, ge=0, le=LONGEST_RETENTION_S, description=f"a number of seconds from 0 to {LONGEST_RETENTION_S:.0f}"
    )
    """How long former images are kept; without it as their host or the fleet keeps them."""
    ladder: Ladder = Field(LADDER, description=LADDER_SAYS)
    """What is done about a guest that changes its RAM, or writes to its disks, as fast as they are sent."""
    slowest_writes_bytes_per_s: int = Field(
        SLOWEST_WRITES, ge=1 << 16, le=2**63 - 1, description=f"a whole number of bytes per second from {1 << 16}"
    )
    """With `slow-writes` in the ladder: a guest may always write this to each disk."""
    chain: Chain = Field("keep", description="keep or flatten")
    """What becomes of backing files: the destination has them as well, or the images hold all by themselves."""
    priority: int = Field(0, ge=-LARGEST, le=LARGEST, description=WHOLE_NUMBER)
    """Moves of higher priority begin first."""
    at: Text | None = Field(None, description="a text like 22:00 or 2026-11-24T22:00")
    """Not before."""
    window: Text | None = Field(None, description="a text like 22:00-04:00")
    """The hours of every day: nothing begins that would not end within them by estimate."""
    window_end: Literal["wait", "rollback"] = Field("wait", description="`wait` or `rollback`")
    """When the window closes before the switchover of a move: it waits in sync for the next one, or is rolled back."""
    timezone: Text = Field("UTC", description="a text like Europe/Berlin")
    """In which `at`, `window` and `every` are meant."""
    hold: bool = Field(False, description=FLAG)
    """Copy the disks and keep them in sync; the RAM follows after `drover job release`."""
    seed_now: bool = Field(False, description=FLAG)
    """Copy the disks at once; only RAM and switchover wait for `at` and `window`."""
    webhook: Address | None = Field(None, description="an address like https://HOST/PATH")
    """The address that gets a webhook about the end."""

    def options(self) -> MigrationOptions:
        """How guests are to be moved.

        Raises:
            PreconditionFailed: that contradicts itself.
        """
        options = MigrationOptions(
            max_downtime_ms=self.max_downtime_ms,
            most_downtime_ms=self.most_downtime_ms,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
            window_end=self.window_end,
            launcher_stays=self.launcher_stays,
            verify=self.verify,
            verify_bytes_per_s=self.verify_bytes_per_s,
            retention_s=self.retention_s,
            ladder=self.ladder,
            slowest_writes_bytes_per_s=self.slowest_writes_bytes_per_s,
            chain=self.chain,
            given=tuple(sorted(self.named)),
        )
        policies.check(options)
        return options

    @property
    def named(self) -> frozenset[str]:
        """What somebody named of all that policies may decide."""
        said = self.model_fields_set & DECIDED_BY_POLICIES
        return frozenset(name for name in said if getattr(self, name) is not None)

    def submit_options(self) -> SubmitOptions:
        """When it may begin and go on, and which address gets the webhook.

        Raises:
            PreconditionFailed: a time, window or zone is not understood, or has passed.
        """
        not_before = self._not_before(datetime.now(UTC))
        schedule.refuse_idle_zone(self.timezone, self.window, not_before)
        window = _named("window", schedule.window, self.window, self.timezone) if self.window else None
        if self.window_end == "rollback" and window is None:
            raise WrongField("window_end", " is what follows at the end of a window: name the window, or leave it out")
        if self.seed_now and not (window or not_before):
            raise WrongField("seed_now", " needs a time for the rest: a window, or a time to begin at")
        return SubmitOptions(
            priority=self.priority,
            not_before=not_before,
            window=window,
            hold=self.hold,
            seed=self.seed_now,
            webhook=self.webhook,
        )

    def _not_before(self, now: datetime) -> datetime | None:
        return _named("at", schedule.moment, self.at, self.timezone, now) if self.at else None


class MigrationSubmission(Submission):
    """`drover migrate`, and the task `drover.job.submit`: move a guest to another host."""

    thin_factor: float | None = Field(
        None, ge=1, le=MOST_THIN_FACTOR, description=f"a number from 1 to {MOST_THIN_FACTOR:g}"
    )
    """How far the destination's storage may be over-committed for this move; without it as it is set there."""
    layout: Layout = Field(
        Layout(),
        description="an object that says where disks are made there: absolute paths without `..`, names of storages, "
        "formats raw or qcow2",
    )
    """Where, and as what, its disks are made at the destination."""

    drop_snapshots: bool = Field(False, description=FLAG)
    """Move it although its images hold internal snapshots: those stay in the former images, for as long as these are
    kept.
    """

    guest: GuestName = Field(description=NAME)
    to: HostName | None = Field(None, description=HOST_NAME)
    """The host that it is to be moved to."""
    back: bool = Field(False, description=FLAG)
    """Instead of `to`: to the host that it came from."""

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Validate it. Errors as for every message; and one of `to` and `back` is wanted."""
        asked = super().read(said)
        if asked.back and asked.to is not None:
            raise WrongField("back", " is to where the guest came from: name no host besides, or leave it out")
        if not asked.back and asked.to is None:
            raise WrongField("to", f" is missing: it is {HOST_NAME}; without it `back` is true")
        return asked

    def options(self) -> MigrationOptions:
        """How the guest is to be moved."""
        names = ("thin_factor", "layout", "drop_snapshots")
        return super().options().model_copy(update={name: getattr(self, name) for name in names})


class DrainSubmission(Submission):
    """`drover drain` and `drover return`, and the tasks `drover.drain.submit` and `drover.drain.return`."""

    host: HostName = Field(description=HOST_NAME)
    """The host that is emptied, or whose guests are brought home."""
    to: Many[HostName] = Field((), description=HOST_NAMES)
    """Only these take guests; an empty list: all."""
    exclude: Many[HostName] = Field((), description=HOST_NAMES)
    """These take no guest."""
    selector: Text | None = Field(None, description="a text like tier=db,!pinned")
    """Only guests that it selects by their labels; without it all."""
    every: Text | None = Field(None, description="a text like '0 22 * * 6'")
    """When it is repeated; the first time is the next of these, unless `at` is given."""

    def allowed_hosts(self) -> AllowedHosts:
        """Where its guests may go."""
        return AllowedHosts(to=self.to, exclude=self.exclude)

    def selected(self) -> str | None:
        """Its selector.

        Raises:
            PreconditionFailed: that is not understood.
        """
        _named("selector", Selector.read, self.selector)
        return self.selector

    def recurrence(self) -> Recurrence | None:
        """When it is repeated.

        Raises:
            PreconditionFailed: that is not understood.
        """
        return _named("every", schedule.recurrence, self.every, self.timezone) if self.every else None

    def _not_before(self, now: datetime) -> datetime | None:
        repeated = self.recurrence()
        return super()._not_before(now) or (schedule.following(repeated, now) if repeated else None)


class RollSubmission(Message):
    """`drover roll`: take hosts out for maintenance in their turn."""

    version: int = Field(1, ge=1, le=1, description="the version of the submission's fields, 1")
    hosts: Many[HostName] = Field((), description=HOST_NAMES)
    """In their turn."""
    selector: Text | None = Field(None, description="a text like rack=r1,!spare")
    """Instead of `hosts`: all that it selects by their labels, by name."""
    hook: str = Field(description="a text: the name of a hook, and its arguments")
    """A program in the folder DROVER_HOOKS of the control nodes, with its arguments as a shell would read them."""
    hook_timeout_s: float = Field(3600.0, gt=0, le=A_YEAR_S, description=SOME_SECONDS)
    """The hook is ended after this time."""
    max_unavailable: int = Field(1, ge=1, le=LARGEST, description=f"a whole number from 1 to {LARGEST}")
    """So many of these hosts may be out at a time, whatever the cause."""
    back_within_s: float = Field(1800.0, gt=0, le=A_YEAR_S, description=SOME_SECONDS)
    """The roll pauses if a host is not healthy this long after its hook."""
    to: Many[HostName] = Field((), description=HOST_NAMES)
    """Only these take guests; an empty list: all."""
    exclude: Many[HostName] = Field((), description=HOST_NAMES)
    """These take no guest."""
    max_downtime_ms: DowntimeMs | None = Field(None, description=MILLISECONDS)
    """Of each move, likewise the next; what is left out policies decide, then the defaults."""
    bandwidth_bytes_per_s: Rate | None = Field(None, description=BYTES_PER_S)
    webhook: Address | None = Field(None, description="an address like https://HOST/PATH")
    """The address that gets a webhook whenever the roll or one of its hosts comes into another state."""

    def argv(self) -> tuple[str, ...]:
        """The hook and its arguments.

        Raises:
            PreconditionFailed: they cannot be told apart, or there is none.
        """
        words = tuple(_named("hook", _words, self.hook))
        if not words:
            raise WrongField("hook", " is the name of a hook, and empty: name a program")
        return words


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise PreconditionFailed(f"{text!r} cannot be split into words: {error}") from error


class Cancellation(Message):
    """The task `drover.job.cancel`: have a job rolled back."""

    job_id: int = Field(ge=1, le=2**63 - 1, description="the number of a job")


class DrainMove(Message):
    """The task `drover.drain.move`, which the controller sends: submit the job of a guest whose turn it is."""

    drain_id: int = Field(ge=1, le=2**63 - 1, description="the number of a drain")
    guest: GuestName = Field(description=NAME)


def named_only(unnamed: Sequence[object], said: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a message, which all have names.

    Raises:
        PreconditionFailed: some have none.
    """
    if unnamed:
        raise PreconditionFailed(f"an argument has no name: write NAME={shown(unnamed[0])}")
    return said


def is_text(value: object) -> TypeGuard[str]:
    """It may be a name or a key."""
    return _is(_TEXT, value)


def key_of(said: Mapping[str, Any]) -> str | None:
    """The idempotency key of whatever was submitted, or None when it has none that can be used."""
    key = said.get("idempotency_key")
    return key if is_text(key) else None


def _is(kind: TypeAdapter[str], value: object) -> bool:
    try:
        kind.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _name_now(name: str, said: Mapping[str, Any]) -> str:
    """The present name of a field; with both names the old one is refused as unknown."""
    now = OLD_NAMES.get(name, name)
    return name if now in said else now


def _named(field: str, understood: Callable[P, Meant], *said: P.args, **more: P.kwargs) -> Meant:
    """The value of a field; a refusal names the field."""
    try:
        return understood(*said, **more)
    except PreconditionFailed as error:
        raise WrongField(field, f": {error}") from error
