"""What a process reads from its environment: every `DROVER_*` variable with its unit, default and range.

The environment names the process, its machine and the services it connects to. Limits of the whole fleet are rows
of the database, which a command changes while everything runs: see `models.fleet`. docs/reference/settings.md is
generated from this module.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from drover.errors import PreconditionFailed
from drover.listening import only_here
from drover.logs import Format, Level
from drover.names import host_name

PREFIX = "DROVER_"
DATABASE_FORM = "postgresql+psycopg://USER@HOST/NAME"
BROKER_FORM = "redis://HOST/0, rediss://HOST/0, redis+socket:///PATH or sentinel://A:26379;sentinel://B:26379"

SHORTEST_KEY = 32
"""Whoever reads the database can try keys out: a word of a person would be found."""

LEVELS = "`, `".join(Level)
EVERYBODY, WORKER, CONTROLLER, CONSOLE, FLOWER = "everybody", "worker", "controller", "console", "flower"

API_URL, API_TOKEN = "DROVER_API_URL", "DROVER_API_TOKEN"  # nosec B105 # names of variables

OTHER_VARIABLES = {
    API_URL: "address of a console, like https://drover.example.org: the command line works by its API, and needs "
    "neither database nor broker, see [cli.md](cli.md#from-another-machine)",
    API_TOKEN: "what `drover token add` has printed, for that API",
    "DROVER_LAB_DIR": "folder of the lab that `drover lab` works on",
    "DROVER_GUEST": "what a program of the administrator's is told: about which guest; set by Drover alone",
    "DROVER_JOB": "likewise: for which job; set by Drover alone",
    "DROVER_ATTEMPT": "likewise: the number of the attempt; set by Drover alone",
    "DROVER_HOOK": "likewise: at which point of the move; set by Drover alone",
    "DROVER_SIDE": "likewise: on which of its two hosts; set by Drover alone",
    "DROVER_SOURCE": "likewise: where the guest was; set by Drover alone",
    "DROVER_DESTINATION": "likewise: where it goes; set by Drover alone",
    "DROVER_SOCKET": "what a program that opens taps is told: the number of its descriptor; set by Drover alone",
    "DROVER_LOG_ABOUT": "fields of the log of a process that Drover started; set by Drover alone",
    "DROVER_MIGRATION_NET": "first three numbers of the migration network of docker-compose.yml",
    "DROVER_ROLL": "what the hook of a roll is told: the roll's number; set by Drover alone",
    "DROVER_ROLL_ADDRESS": "likewise: the host's address",
    "DROVER_ROLL_HOST": "likewise: the host",
    "DROVER_ROLL_RUN": "likewise: the number of the run",
    "DROVER_PROCESS": "mark of a process that Drover started; set by Drover alone",
    "DROVER_TEST_SAVED_GUESTS": "folder that the processes of one test run share",
}
"""Variables of this name that are no settings."""

FORMER_VARIABLES = {
    "DROVER_BANDWIDTH_BYTES_PER_S": "bandwidth",
    "DROVER_HOST_PATIENCE_S": "host-patience",
    "DROVER_MAX_HELD": "max-held",
    "DROVER_MAX_INCOMING": "max-incoming",
    "DROVER_MAX_MOVES": "max-moves",
    "DROVER_MAX_OUTGOING": "max-outgoing",
    "DROVER_RETENTION_S": "retention",
    "DROVER_STALLED_AFTER_S": "stalled-after",
}
"""Settings of earlier versions, each with the name that it has in `drover fleet set` now."""


class StreamSecurity(StrEnum):
    """How the streams between two hosts are protected."""

    ENCRYPTED = "encrypted"
    CERTIFICATES = "certificates"
    PLAIN = "plain"


@dataclass(frozen=True)
class PortRange:
    """From the first to the last port, both included."""

    first: int
    last: int

    @classmethod
    def read(cls, text: object) -> Self:
        """`49152-49215`, or one port."""
        if isinstance(text, cls):
            return text
        first, _, last = str(text).partition("-")
        if not (_is_port(first) and _is_port(last or first) and 1024 <= int(first) <= int(last or first)):
            raise ValueError("FIRST-LAST is wanted, like 49152-49215, of ports from 1024 to 65535")
        return cls(int(first), int(last or first))

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def _variable(
    name: str, default: Any = ..., *, about: str, unit: str = "", read_by: str = EVERYBODY, **limits: Any
) -> Any:
    """A field, with its text in the table of settings."""
    return Field(
        default,
        validation_alias=PREFIX + name,
        description=about,
        json_schema_extra={"unit": unit, "read_by": read_by},
        **limits,
    )


def _seconds(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return timedelta(seconds=float(str(value)))
    except (ValueError, OverflowError) as error:
        raise ValueError("not a number of seconds") from error


def _database_url(url: str) -> str:
    if not _is_database(url):
        raise ValueError(f"write it as {DATABASE_FORM}, with several servers as ...@/NAME?host=A,B&port=5432,5432")
    query = parse_qs(urlsplit(url).query)
    hosts, ports = (",".join(query.get(name, ())).split(",") for name in ("host", "port"))
    if len(ports) not in {1, len(hosts)}:
        raise ValueError(f"it names {len(hosts)} servers and {len(ports)} ports: name one port for each server")
    if not all(_is_port(port) for port in ports if port):
        raise ValueError("a port in it is no number from 1 to 65535")
    return url


def _is_database(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    return parts.scheme == "postgresql+psycopg" and "," not in parts.netloc


def _has_password(url: str) -> bool:
    """Of an URL that is valid; of several servers' each has it."""
    parts = urlsplit(url.split(";")[0])
    return parts.password is not None or "password" in parse_qs(parts.query)


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 1 << 16


def _broker_url(url: str) -> str:
    servers = url.split(";")
    if len(servers) > 1 and not all(server.startswith("sentinel://") for server in servers):
        raise ValueError("only Sentinels may be several, each as sentinel://HOST:26379")
    if not all(map(_is_server, servers)):
        raise ValueError(f"write it as {BROKER_FORM}")
    return url


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.scheme == "redis+socket":
        return parts.path.startswith("/")
    database = parts.path.strip("/")
    return parts.scheme in {"redis", "rediss", "sentinel"} and bool(host) and (not database or database.isdecimal())


def _host_name(text: str) -> str:
    return text and host_name(text)


def _address(address: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]+", address):
        try:
            IPv6Address(address)
        except ValueError:
            raise ValueError("an IP address or a host name is wanted, without a port") from None
    return address


def _metrics_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if address and not (host and _is_port(port)):
        raise ValueError("ADDRESS:PORT is wanted, e.g. 127.0.0.1:9464 or [::]:9464")
    return address


def _key(key: str) -> str:
    if key and len(key) < SHORTEST_KEY:
        raise ValueError(f"at least {SHORTEST_KEY} characters are wanted: `openssl rand -base64 32` makes a key")
    return key


def _https(url: str) -> str:
    parts = urlsplit(url)
    safe = parts.scheme == "https" or (parts.scheme == "http" and only_here(parts.hostname or ""))
    if url and not (safe and parts.hostname and not parts.query and not parts.username):
        raise ValueError("an address like https://id.example.org is wanted")
    return url


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("an absolute path is wanted")
    return path


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]
Folder = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """How this process reaches the others, and where its host keeps guests."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        case_sensitive=True,
        env_ignore_empty=True,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
    )

    database_url: Annotated[str, AfterValidator(_database_url)] = _variable(
        "DATABASE_URL",
        about=f"Postgres: `{DATABASE_FORM}`; with a standby `...@/NAME?host=A,B&port=5432,5432"
        "&target_session_attrs=read-write`.",
    )
    broker_url: Annotated[str, AfterValidator(_broker_url)] = _variable(
        "BROKER_URL",
        about="Redis: `redis://HOST/0`, `rediss://...`, `redis+socket:///PATH`, or all Sentinels: "
        "`sentinel://A:26379;sentinel://B:26379`.",
    )
    database_password_file: Path | None = _variable(
        "DATABASE_PASSWORD_FILE",
        None,
        about="File with the password for Postgres, read for each new connection. Of several, one a line, the first "
        "that counts is taken, see [tls-and-keys.md](../how-to/tls-and-keys.md#postgres).",
    )
    broker_password_file: Path | None = _variable(
        "BROKER_PASSWORD_FILE",
        None,
        about="File whose first line is the password for Redis, read for each new connection: `NAME.redis` as `drover "
        "broker acl` makes it.",
    )
    broker_master: str = _variable(
        "BROKER_MASTER",
        "mymaster",
        about="The Sentinels' name of the Redis master; read only where the URL names Sentinels.",
    )
    host: Annotated[str, AfterValidator(_host_name)] = _variable(
        "HOST", "", read_by=WORKER, about="Name of the hypervisor that this worker serves; empty on control nodes."
    )
    address: Annotated[str, AfterValidator(_address)] = _variable(
        "ADDRESS",
        "127.0.0.1",
        read_by=WORKER,
        about="Address on which this host listens for disk and RAM streams: its address in the migration network.",
    )
    ports: Annotated[PortRange, NoDecode, BeforeValidator(PortRange.read)] = _variable(
        "PORTS",
        PortRange(49152, 49215),
        read_by=WORKER,
        about="Ports on which this host listens for the streams of moves, one port for each move that arrives: "
        "`FIRST-LAST`. Busy ones are skipped.",
    )
    streams: StreamSecurity = _variable(
        "STREAMS",
        StreamSecurity.ENCRYPTED,
        read_by=WORKER,
        about="`encrypted`: with certificates that Drover makes for each move; `certificates`: with those of the next "
        "three; `plain`: neither encrypted nor protected. All hosts need the same.",
    )
    tls_certificate: Path | None = _variable(
        "TLS_CERTIFICATE",
        None,
        read_by=WORKER,
        about="PEM file with this host's certificate, which names it (DROVER_HOST) as an alternative name.",
    )
    tls_key: Path | None = _variable("TLS_KEY", None, read_by=WORKER, about="PEM file with its key, without password.")
    tls_authority: Path | None = _variable(
        "TLS_AUTHORITY",
        None,
        read_by=WORKER,
        about="PEM file with the authorities behind all hosts' certificates.",
    )
    directory: Folder = _variable(
        "DIRECTORY",
        Path("/var/lib/drover"),
        read_by=WORKER,
        about="Where this host keeps sockets, journals and logs of the jobs under way.",
    )
    guest_root: Folder = _variable(
        "GUEST_ROOT",
        Path("/"),
        read_by=WORKER,
        about="Folder below which images, sockets and logs of guests lie; it is mapped onto the other host's.",
    )
    start_unasked: bool = _variable(
        "START_UNASKED",
        False,
        read_by=WORKER,
        about="Guests are started at boot without asking the database whether they live elsewhere by now: for hosts "
        "whose guests serve that database.",
    )
    policy: Folder = _variable(
        "POLICY",
        Path("/etc/drover/policy.toml"),
        read_by=WORKER,
        about="File of this host's administrator that says what may run here, see "
        "[security.md](../explanation/security.md).",
    )
    concurrency: int = _variable(
        "CONCURRENCY",
        16,
        read_by=WORKER,
        ge=2,
        le=1000,
        about="Steps that the worker runs at the same time; they mostly wait. The fleet's `max-held` must be below.",
    )
    guest_cpus: int = _variable(
        "GUEST_CPUS",
        0,
        read_by=WORKER,
        ge=0,
        le=1_000_000,
        about="Virtual CPUs that guests may have on this host together; 0: sixteen for each CPU of the machine.",
    )
    guest_memory_bytes: int = _variable(
        "GUEST_MEMORY_BYTES",
        0,
        unit="bytes",
        read_by=WORKER,
        ge=0,
        le=10**18,
        about="Memory that guests may have on this host together; 0: all memory of the machine.",
    )
    guest_disk_bytes: int = _variable(
        "GUEST_DISK_BYTES",
        0,
        unit="bytes",
        read_by=WORKER,
        ge=0,
        le=10**18,
        about="What the disks of guests may hold on this host together; 0: all of the guest root's file system and "
        "of the policy's storages.",
    )
    lease_ttl: Seconds = _variable(
        "LEASE_TTL_S",
        timedelta(seconds=15),
        unit="s",
        read_by=WORKER,
        ge=timedelta(seconds=1),
        le=timedelta(minutes=10),
        about="Another worker may take a claim over that was not renewed for this long.",
    )
    lease_margin: Seconds = _variable(
        "LEASE_MARGIN_S",
        timedelta(seconds=3),
        unit="s",
        read_by=WORKER,
        ge=timedelta(seconds=0.5),
        le=timedelta(minutes=5),
        about="A worker stops acting this long before its lease ends; at most half of `DROVER_LEASE_TTL_S`.",
    )
    heartbeat: Seconds = _variable(
        "HEARTBEAT_S",
        timedelta(seconds=5),
        unit="s",
        ge=timedelta(seconds=0.5),
        le=timedelta(minutes=1),
        about="How often a worker writes its heartbeat; its host counts as silent after four times that. "
        "The same value everywhere.",
    )
    watch: Seconds = _variable(
        "WATCH_S",
        timedelta(seconds=3),
        unit="s",
        read_by=WORKER,
        ge=timedelta(0),
        le=timedelta(minutes=10),
        about="For how long a guest that has arrived is watched before it counts as well, see docs/how-to/checks.md.",
    )
    look: Seconds = _variable(
        "LOOK_S",
        timedelta(seconds=1),
        unit="s",
        read_by=WORKER,
        ge=timedelta(0),
        le=timedelta(minutes=1),
        about="How long a host measures what a guest writes and changes of its RAM, to estimate a move; 0: not at all. "
        "A way back does not wait for it.",
    )
    republish_after: Seconds = _variable(
        "REPUBLISH_AFTER_S",
        timedelta(seconds=10),
        unit="s",
        read_by=CONTROLLER,
        ge=timedelta(seconds=1),
        le=timedelta(minutes=10),
        about="A step that was published and not picked up for this long is published again.",
    )
    hooks: Folder = _variable(
        "HOOKS",
        Path("/etc/drover/hooks"),
        read_by=CONTROLLER,
        about="Folder of the control node's administrator with the programs that `drover roll --hook` and `drover "
        "policy set --notice` may name. The same ones on all control nodes.",
    )
    oidc_issuer: Annotated[str, AfterValidator(_https)] = _variable(
        "OIDC_ISSUER",
        "",
        read_by=CONSOLE,
        about="OpenID Connect provider with which people sign in, see "
        "[console-users.md](../how-to/console-users.md#they-sign-in); empty: they do not. The next five are needed "
        "with it.",
    )
    oidc_client_id: str = _variable("OIDC_CLIENT_ID", "", read_by=CONSOLE, about="What the provider calls the console.")
    oidc_client_secret: str = _variable(
        "OIDC_CLIENT_SECRET", "", read_by=CONSOLE, about="What the console proves itself with there."
    )
    oidc_claim: str = _variable(
        "OIDC_CLAIM",
        "roles",
        read_by=CONSOLE,
        about="Claim with somebody's roles: `drover-read`, `drover-operate`, `drover-approve`.",
    )
    console_url: Annotated[str, AfterValidator(_https)] = _variable(
        "CONSOLE_URL", "", read_by=CONSOLE, about="Address by which browsers call the console."
    )
    console_key: Annotated[str, AfterValidator(_key)] = _variable(
        "CONSOLE_KEY",
        "",
        read_by=CONSOLE,
        about="Signs the cookies of those who have signed in, at least 32 characters: `openssl rand -base64 32` makes "
        "one. The same for all consoles of one address.",
    )
    webhook_key: Annotated[str, AfterValidator(_key)] = _variable(
        "WEBHOOK_KEY",
        "",
        read_by=CONTROLLER,
        about="What the secrets of all receivers of webhooks are made with, at least 32 characters; without it none is "
        "sent. The same on all control nodes: `openssl rand -base64 32` makes one.",
    )
    webhook_key_former: Annotated[str, AfterValidator(_key)] = _variable(
        "WEBHOOK_KEY_FORMER",
        "",
        read_by=CONTROLLER,
        about="The key before, as long as secrets that were made with it are in use.",
    )
    webhook_secret: str = _variable(
        "WEBHOOK_SECRET",
        "",
        read_by=CONTROLLER,
        about="Signs messages also as Drover 0.1 did (`X-Drover-Signature`); unset it when no receiver looks at that.",
    )
    flower_password_file: Path | None = _variable(
        "FLOWER_PASSWORD_FILE",
        None,
        read_by=FLOWER,
        about="File that says who may look at Flower: `USER:PASSWORD`, one a line, read for each request.",
    )
    metrics_address: Annotated[str, AfterValidator(_metrics_address)] = _variable(
        "METRICS_ADDRESS",
        "",
        unit="ADDRESS:PORT",
        read_by=CONTROLLER,
        about="Where a controller answers Prometheus; empty: nowhere.",
    )

    log_level: Level = _variable("LOG_LEVEL", Level.INFO, about=f"Lines are written from this level on: `{LEVELS}`.")
    log_format: Format = _variable("LOG_FORMAT", Format.TEXT, about="`text`, or `json`: one JSON object a line.")

    @model_validator(mode="after")
    def _lease_outlives_its_margin(self) -> Self:
        if 2 * self.lease_margin > self.lease_ttl:
            raise ValueError(
                f"DROVER_LEASE_MARGIN_S is {amount(self.lease_margin)} and DROVER_LEASE_TTL_S is "
                f"{amount(self.lease_ttl)}: the margin may be at most half of the lease"
            )
        return self

    @model_validator(mode="after")
    def _certificates_are_named(self) -> Self:
        given = (self.tls_certificate, self.tls_key, self.tls_authority)
        if self.streams is StreamSecurity.CERTIFICATES and None in given:
            raise ValueError(
                "DROVER_STREAMS is certificates: DROVER_TLS_CERTIFICATE, DROVER_TLS_KEY and DROVER_TLS_AUTHORITY are "
                "needed as well"
            )
        return self

    @model_validator(mode="after")
    def _a_password_has_one_place(self) -> Self:
        for name, url, file in (
            ("DATABASE", self.database_url, self.database_password_file),
            ("BROKER", self.broker_url, self.broker_password_file),
        ):
            if file is not None and _has_password(url):
                raise ValueError(
                    f"DROVER_{name}_PASSWORD_FILE is set, and DROVER_{name}_URL has a password: take it out of the URL"
                )
        return self

    @model_validator(mode="after")
    def _people_can_sign_in(self) -> Self:
        needed = ("oidc_client_id", "oidc_client_secret", "oidc_claim", "console_url", "console_key")
        missing = [f"{PREFIX}{name.upper()}" for name in needed if not getattr(self, name)]
        if self.oidc_issuer and missing:
            raise ValueError(f"DROVER_OIDC_ISSUER is set: {', '.join(missing)} are needed as well")
        return self

    @property
    def host_timeout(self) -> timedelta:
        """A host that was silent for this long counts as unreachable."""
        return 4 * self.heartbeat


SECRETS = {
    "DROVER_CONSOLE_KEY",
    "DROVER_OIDC_CLIENT_SECRET",
    "DROVER_WEBHOOK_KEY",
    "DROVER_WEBHOOK_KEY_FORMER",
    "DROVER_WEBHOOK_SECRET",
}


def variables() -> dict[str, tuple[str, FieldInfo]]:
    """{variable: (attribute, field)}, in the order of the table."""
    return {str(field.validation_alias): (name, field) for name, field in Settings.model_fields.items()}


def amount(value: object) -> str:
    """A value as it is written in the environment."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.3f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def allowed(field: FieldInfo) -> str:
    """The range of a number, in words; empty for anything else."""
    ends = [getattr(mark, end, None) for end in ("ge", "le") for mark in field.metadata]
    low_high = [amount(end) for end in ends if end is not None]
    return " to ".join(low_high)


def masked(variable: str, value: str) -> str:
    """A value without the passwords in it."""
    if variable in SECRETS:
        return "***" if value else ""
    if "URL" not in variable:
        return value
    without = ";".join(re.sub(r"://([^:/?@]*):.*@", r"://\1:***@", part) for part in value.split(";"))
    return re.sub(r"(password=)[^&;]*", r"\1***", without)


@cache
def settings() -> Settings:
    """The settings of this process.

    Raises:
        PreconditionFailed: a variable is missing or out of range.
    """
    try:
        return Settings()
    except ValidationError as error:
        first, *others = sentences(error)
        more = f" (and {len(others)} more: `drover config check` lists them)" if others else ""
        raise PreconditionFailed(first + more) from None


def problems() -> list[str]:
    """All that is wrong with the settings of this process, one sentence each."""
    try:
        Settings()
    except ValidationError as error:
        return sentences(error)
    return []


def sentences(error: ValidationError) -> list[str]:
    """One sentence for each fault: the variable, its value, and what is allowed."""
    return [_sentence(fault) for fault in error.errors(include_url=False)]


def _sentence(fault: ErrorDetails) -> str:
    if not fault["loc"]:
        return str(fault["ctx"]["error"])  # of several variables
    variable = str(fault["loc"][0])
    if fault["type"] == "missing" and os.environ.get(API_URL):
        return (
            f"this is not done by the API that {API_URL} names, and {variable} is not set: enter it on a control node"
        )
    if fault["type"] == "missing":
        return f"{variable} is not set; in a lab run `eval $(drover lab env)`, elsewhere as docs/how-to/deploy.md says"
    _, field = variables()[variable]
    unit = (field.json_schema_extra or {}).get("unit") if isinstance(field.json_schema_extra, dict) else ""
    reach = allowed(field)
    wanted = f"allowed is {reach} {unit}".rstrip() if reach else str(fault.get("ctx", {}).get("error", fault["msg"]))
    return f"{variable} is {masked(variable, os.environ.get(variable, str(fault['input'])))!r}: {wanted}"


def unknown(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that are not settings: mistyped, or of another version."""
    known = {*variables(), *OTHER_VARIABLES, *FORMER_VARIABLES}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def former(environ: Mapping[str, str]) -> dict[str, str]:
    """{variable: its value}: limits of the fleet that are set in the environment, where they have no effect."""
    return {name: environ[name] for name in FORMER_VARIABLES if environ.get(name)}
