"""Log lines: one for each thing that happened, with the host, job, guest, step and attempt that it happened to.

A log call has the message only. The fields are bound once, by `about`, for all that is called within; asyncio tasks
keep them. A thread starts without them: give it its work through `carrying`.

It is the standard library's `logging`, because the switchover processes must start fast: asyncio imports it anyway.
With structlog they need 115 instead of 57 ms of CPU until they begin, with python-json-logger 66 (Python 3.11).
"""

import enum
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, ParamSpec, TypeVar

from drover.escaping import escaped, escaped_lines, json_text

P = ParamSpec("P")
T = TypeVar("T")

ALWAYS = ("host", "job", "guest", "step", "attempt")
"""Fields of every JSON line; null where they are not known."""
SOMETIMES = (
    *("direction", "drain", "roll", "action", "by"),
    *("outcome", "seconds", "downtime_ms", "pid", "trace"),
)
"""Fields of only those lines that have a value for them. docs/reference/logging.md explains them all."""
FIELDS = ALWAYS + SOMETIMES
IN_WORDS = ("outcome", "seconds", "downtime_ms", "trace")
"""Fields that text lines do not show: the message has them, or only programs use them."""

OURS = ("bench", "drover", "lab", "migrations", "models", "workers", "workflows")
FOR_EACH_TASK = ("celery.app.trace", "celery.worker.strategy")
"""Celery writes two lines for each message. Ours have more, so Celery's are written at DEBUG."""

LONGEST = 20_000
"""Characters of a message, and of a traceback."""
LEVEL, FORMAT, ABOUT = "DROVER_LOG_LEVEL", "DROVER_LOG_FORMAT", "DROVER_LOG_ABOUT"
"""Variables of the environment. The last is for processes that are started by ours, see `handed_on`."""

SECRET = "***"  # nosec B105 # noqa: S105 - what is shown instead
_MASKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(://[^\s:@/]*:)\S+@"), rf"\1{SECRET}@"),  # the password of a URL
    (re.compile(r"\b[0-9a-f]{24,}\b"), SECRET),  # nonces and keys of ours, also in the name of an export
    (
        re.compile(
            r"""(?i)((?<![-\w])["']?(?:password|passwd|passphrase|secret)["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s,;&}]+)"""
        ),
        rf"\1{SECRET}",
    ),
    (re.compile(r"(\bdata=)[^\s,]+"), rf"\1{SECRET}"),  # of QEMU's `-object secret`
)


class Format(enum.StrEnum):
    """What a line looks like."""

    TEXT = "text"
    JSON = "json"


class Level(enum.StrEnum):
    """The least that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Chosen = TypeVar("Chosen", Format, Level)
_about: ContextVar[Mapping[str, object]] = ContextVar("about", default=MappingProxyType({}))
_process: dict[str, object] = {}
"""Fields that hold for the whole process, its threads too."""


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Put these fields on every line that is written within, beside those that hold already."""
    before = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(before)


def carrying(work: Callable[P, T]) -> Callable[P, T]:
    """The same work for another thread, with the fields of this context. It can be called once at a time."""
    context = copy_context()

    def run(*arguments: P.args, **named: P.kwargs) -> T:
        return context.run(work, *arguments, **named)

    return run


def trace_of(traceparent: str | None) -> dict[str, object]:
    """The field by which a line is found in a trace, from what is kept with a job."""
    return {"trace": traceparent.split("-")[1]} if traceparent else {}


def configure(host: str, **fields: object) -> None:
    """Write the lines of this process to stderr as the environment selects, and put these fields on all of them.

    Ours and Celery's are written from the chosen level on, those of other libraries from WARNING on.
    """
    _process.clear()
    _process.update(fields, host=host)
    _install(_chosen(FORMAT, Format.TEXT))
    _choose_levels(logging.getLevelNamesMapping()[_chosen(LEVEL, Level.INFO).upper()])
    logging.captureWarnings(capture=True)
    sys.excepthook, threading.excepthook = _unexpected, _unexpected_in_thread


def _chosen(variable: str, default: Chosen) -> Chosen:
    """A wrong value gives the default: the command line refuses one, and a running process must not stop for it."""
    try:
        return type(default)(os.environ.get(variable, default).lower())
    except ValueError:
        return default


def configured() -> bool:
    """Whether this process has a log. A command has none: its messages go to its user."""
    return bool(_process)


def _install(form: Format) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form is Format.JSON else TextLines())
    handler.set_name("drover")
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if other.get_name() != handler.get_name()), handler]


def _choose_levels(number: int) -> None:
    at_least_warning = max(number, logging.WARNING)
    logging.getLogger().setLevel(at_least_warning)
    for name in (*OURS, "celery"):
        logging.getLogger(name).setLevel(number)
    for name in FOR_EACH_TASK:
        logging.getLogger(name).setLevel(number if number < logging.INFO else at_least_warning)


def handed_on(**fields: object) -> dict[str, str]:
    """Variables with which a process that this one starts logs as this one does, with its fields and these."""
    about = json.dumps({**_process, **_about.get(), **fields}, default=str)
    return {name: os.environ[name] for name in (LEVEL, FORMAT) if name in os.environ} | {ABOUT: about}


def configure_as_told() -> None:
    """Apply these variables, in that process."""
    configure(**{"host": "", **json.loads(os.environ.get(ABOUT, "{}"))})


def _unexpected(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger(__name__).critical("this process ends because of an error", exc_info=(kind, error, traceback))


def _unexpected_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        name = args.thread.name if args.thread else "unknown"
        told = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger(__name__).error("the thread %s ends because of an error", name, exc_info=told)


def masked(text: str) -> str:
    """The text without passwords, keys and nonces."""
    for pattern, instead in _MASKS:
        text = pattern.sub(instead, text)
    return text


class Seldom(logging.Filter):
    """For a logger of lines that whoever reaches a queue can cause: so many at once, then one each second, which tells
    how many were left out. Else they would fill the disk.
    """

    AT_ONCE = 100

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.may, self.at, self.left_out = float(self.AT_ONCE), 0.0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        with self.lock:
            self.may, self.at = min(self.may + max(record.created - self.at, 0.0), self.AT_ONCE), record.created
            if self.may < 1:
                self.left_out += 1
                return False
            self.may -= 1
            more, self.left_out = self.left_out, 0
        if more:
            record.msg, record.args = f"{record.getMessage()} ({more} lines before it were left out)", None
        return True


class _Lines(logging.Formatter):
    """What both formats have in common."""

    def message(self, record: logging.LogRecord) -> str:
        """Without what nobody else may read, and no longer than `LONGEST`."""
        return _cut(masked(record.getMessage()))

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Those that are known, in the order of `FIELDS`: of the call, of the block, of the process."""
        known = {**_process, **_about.get(), **record.__dict__}
        return {name: known[name] for name in FIELDS if known.get(name) is not None}

    def error(self, record: logging.LogRecord) -> str:
        """The traceback, or nothing."""
        parts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        return _cut(masked("\n".join([*parts, *([self.formatStack(record.stack_info)] if record.stack_info else [])])))


class TextLines(_Lines):
    """For people: `TIME LEVEL HOST [FIELDS] MESSAGE`; a traceback follows on lines of its own, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """What cannot be printed is escaped, so that no message can forge a line."""
        fields = {name: value for name, value in self.fields(record).items() if name not in IN_WORDS}
        host = fields.pop("host", "-")
        shown = " ".join(f"{name}={escaped(value)}" for name, value in fields.items())
        message = f"{f'[{shown}] ' if shown else ''}{escaped(self.message(record))}"
        line = f"{_time(record)} {record.levelname:<7} {escaped(host)} {message}"
        error = self.error(record)
        return f"{line}\n{escaped_lines(error)}" if error else line


class JsonLines(_Lines):
    """For machines: one JSON object a line, tracebacks within."""

    def format(self, record: logging.LogRecord) -> str:
        """The fields of `ALWAYS` are always there."""
        line: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower()}
        line |= dict.fromkeys(ALWAYS) | self.fields(record)
        line |= {"message": self.message(record), "logger": record.name, "thread": record.threadName}
        if error := self.error(record):
            line["error"] = error
        return json_text(line, default=str)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} and {len(text) - LONGEST} characters more"


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
