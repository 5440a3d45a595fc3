"""Maps an exception to the operator's message (one sentence, with what to do) and an exit code."""

import ssl
from dataclasses import dataclass

from kombu.exceptions import OperationalError as BrokerUnreachable
from kombu.utils.url import maybe_sanitize_url
from psycopg import errors as postgres
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, ResponseError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from drover import words
from drover.cli.exit_codes import ExitCode
from drover.errors import DroverError, NoBroker, PreconditionFailed, Unreachable, WrongField
from drover.settings import DATABASE_FORM, settings

ARGUMENTS = {"guest": "GUEST", "host": "HOST", "hosts": "--host", "layout": "--disk, --storage or --format"}
"""{field of a submission: what fills it}, where no option of its name does."""
MEANWHILE = "Guests run on; jobs under way wait and go on by themselves"


@dataclass(frozen=True)
class Fault:
    """Why a command failed."""

    code: str
    """Stable, for programs: refused, usage, unreachable, schema, failed."""
    message: str
    exit_code: ExitCode = ExitCode.FAILED


def fault(error: Exception) -> Fault:
    """The fault behind an exception."""
    if isinstance(error, BrokerUnreachable) or type(error).__module__ == "redis.exceptions":
        return _broker(error)
    if isinstance(error, WrongField):
        typed = ARGUMENTS.get(error.field) or f"--{words.option(error.field)}"
        return _refused(typed + error.what)
    if isinstance(error, NoBroker):  # nothing was changed, but asking again later may help: that is no refusal
        return _broker(error.__cause__)
    if isinstance(error, PreconditionFailed):
        return _refused(str(error))
    if isinstance(error, SQLAlchemyError):
        return _database(error)
    if isinstance(error, ModuleNotFoundError) and error.name == "psycopg2":
        return _refused(f"DROVER_DATABASE_URL names no driver: write it as {DATABASE_FORM}")
    if isinstance(error, Unreachable):
        return Fault("unreachable", str(error))
    if isinstance(error, DroverError):
        return Fault("failed", str(error))
    return Fault("failed", f"{type(error).__name__}: {words.first_line(error)} (`drover --debug ...` shows where)")


def _refused(message: str) -> Fault:
    return Fault("refused", message, ExitCode.REFUSED)


def broker_refuses(error: BaseException | None) -> bool:
    """It answered with a refusal: of the password, of a permission, or of a certificate."""
    while error is not None:
        if isinstance(error, (AuthenticationError, NoPermissionError, ssl.SSLError)):
            return True
        error = error.__cause__ or error.__context__
    return False


def broker_answers(error: BaseException | None) -> BaseException | None:
    """Its error answer instead of the result: it is full, loads data, or has become a replica."""
    while error is not None and not isinstance(error, (ResponseError, BusyLoadingError)):
        error = error.__cause__ or error.__context__
    return error


def _broker(error: BaseException | None) -> Fault:
    url = ";".join(map(maybe_sanitize_url, settings().broker_url.split(";")))  # Sentinels
    if broker_refuses(error):
        return Fault(
            "unreachable",
            f"the broker at {url} refused this process, or was refused by it: check user, password and certificates "
            f"in DROVER_BROKER_URL ({words.first_line(error)})",
        )
    if answer := broker_answers(error):
        return Fault(
            "unreachable",
            f"Redis at {url} takes no messages now ({words.first_line(answer)}): it is full, loads or fails over; see "
            f"its `INFO memory` and `INFO replication`. {MEANWHILE}",
        )
    return Fault(
        "unreachable",
        f"the broker at {url} cannot be reached: is Redis running, and is DROVER_BROKER_URL right? "
        f"({words.first_line(error)}). {MEANWHILE}",
    )


def _database(error: SQLAlchemyError) -> Fault:
    said = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(error, ArgumentError):
        return _refused(f"DROVER_DATABASE_URL is not understood: write it as {DATABASE_FORM}")
    if isinstance(said, (postgres.UndefinedTable, postgres.UndefinedColumn)):
        return Fault("schema", "the database lacks Drover's tables, or has old ones: run `drover db upgrade`")
    if isinstance(said, postgres.InsufficientPrivilege):
        return _refused(
            f"the database does not permit that to this role ({words.first_line(said)}): `drover db roles` gives each "
            "what it needs; the roles of hypervisors are for their workers alone"
        )
    if isinstance(said, postgres.NumericValueOutOfRange):
        return _refused("a number is larger than any that Drover can store; nothing was changed")
    if isinstance(said, postgres.LockNotAvailable):
        return Fault("failed", "another process holds what this needs, nothing was changed: try again in a moment")
    if isinstance(said, postgres.IdleInTransactionSessionTimeout):
        return Fault("failed", "this machine stood still for seconds in between, nothing was changed: try again")
    if isinstance(said, (postgres.DeadlockDetected, postgres.SerializationFailure)):
        return Fault("failed", "other commands were in the way of this one, nothing was changed: try again")
    if isinstance(error, (OperationalError, InterfaceError)):
        url = make_url(settings().database_url).render_as_string(hide_password=True)
        return Fault(
            "unreachable",
            f"the database at {url} cannot be reached: is Postgres running, and is DROVER_DATABASE_URL right? "
            f"({words.first_line(said)}). {MEANWHILE}",
        )
    return Fault(
        "failed", f"the database refused: {words.first_line(said or error)} (`drover --debug ...` shows where)"
    )
