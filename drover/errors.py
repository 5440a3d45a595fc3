"""The errors of Drover. Each class decides what may be done next.

DroverError
├── Unreachable          a service did not answer: look what came of it
├── PreconditionFailed   nothing was touched: report it to the caller (exit code 2)
│   ├── WrongField       a field of a submission is missing or wrong
│   ├── NotThere         there is nothing of that number or name
│   ├── NotProven        nobody knows who asks
│   ├── NotPermitted     who asks may not do that
│   ├── Unavailable      no answer came: the same request may succeed later
│   └── HostRefused      a host that was asked refused, or failed to look
├── StepError            a step did not bring its effect about
│   ├── Transient        try again later (`chain.BeginAnew`: from an earlier step)
│   ├── Fatal            trying again cannot help: roll back the job
│   ├── Committed        the destination owns the guest already: only forward
│   ├── NeverRan         the destination's QEMU is dead and never ran: back to the source
│   └── Unknown          it is unknown who owns the guest: an operator must decide
├── UnreadableDocument   another process wrote what this one cannot read: upgrade it
└── LeaseLost            another worker may be at work here: change nothing more
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any


class DroverError(Exception):
    """Base class of all errors that Drover raises on purpose."""


class Unreachable(DroverError):
    """A service that this process works by does not answer: nobody knows what came of a request that was on its way."""


class PreconditionFailed(DroverError):
    """A request was refused before anything was changed; the text names what to do."""


class WrongField(PreconditionFailed):
    """A field of a submission is missing or wrong. Commands call it by its option.

    Args:
        field: its name, with which the sentence begins.
        what: the rest of the sentence.
    """

    def __init__(self, field: str, what: str) -> None:
        super().__init__(field + what)
        self.field = field
        self.what = what


class NotThere(PreconditionFailed):
    """There is nothing of that number or name."""


class NotProven(PreconditionFailed):
    """Who asks has not proven who that is."""


class NotPermitted(PreconditionFailed):
    """Who asks may not do that."""


class Unavailable(PreconditionFailed):
    """No answer came from broker, host or worker. The same request may succeed later."""


class NoBroker(Unavailable):
    """The broker cannot be reached, or refuses; what it said is the cause."""


class HostRefused(PreconditionFailed):
    """A host refused a question.

    Args:
        message: the host's reason.
        host: the host that refused.
        failed: it could not look: the error there is no answer to the question.
        checks: what is against it (`models.preflight.Check`), if a guest is refused.
    """

    def __init__(self, message: str, *, host: str, failed: bool = False, checks: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.host = host
        self.failed = failed
        self.checks = tuple(checks)


class UnreadableDocument(DroverError):
    """What another process wrote is of a later version, or does not match its type."""


class StepError(DroverError):
    """A step could not bring its effect about."""


class Transient(StepError):
    """Trying again may help.

    Args:
        message: one sentence for the job's record.
        retry_in: how long to wait at least; None takes the usual back-off.
    """

    def __init__(self, message: str, *, retry_in: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_in = retry_in


class Fatal(StepError):
    """Trying again cannot help; the job is rolled back."""


class Committed(StepError):
    """Rolling back found that the source has handed the guest over: the job goes forward instead."""


class NeverRan(StepError):
    """The source handed the guest over, but the destination's QEMU died before it ran: roll back after all."""


class Unknown(StepError):
    """It is unknown which side owns the guest; nothing more is done before an operator has decided."""


class LeaseLost(DroverError):
    """The worker no longer holds the claim on its step."""
