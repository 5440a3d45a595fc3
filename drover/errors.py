"""The errors of Drover. Each answers one question: what may be done next?

DroverError
├── PreconditionFailed   nothing was touched: say it to whoever asked (exit code 2)
│   ├── Unavailable      nobody answered: the same request may succeed later
│   └── HostRefused      a host that was asked says no, or failed to look
├── StepError            a step did not bring its effect about
│   ├── Transient        try again later (`chain.BeginAnew`: from an earlier step)
│   ├── Fatal            trying again cannot help: roll back the job
│   ├── Committed        the destination owns the guest already: only forward
│   ├── NeverRan         the destination's QEMU is dead and never ran: back to the source
│   └── Unknown          nobody can tell who owns the guest: a person must decide
├── UnreadableDocument   another process wrote what this one cannot read: upgrade it
└── LeaseLost            somebody else may be at work here: stop touching anything
"""

from datetime import timedelta


class DroverError(Exception):
    """Base class of all errors that Drover raises on purpose."""


class PreconditionFailed(DroverError):
    """A request was refused before anything was changed; the text names what to do."""


class Unavailable(PreconditionFailed):
    """Nobody could be asked: broker, host or worker gave no answer. The same request may succeed later."""


class HostRefused(PreconditionFailed):
    """A host's answer to a question is no.

    Args:
        message: the host's reason.
        host: who said so.
        failed: it could not look at all: something went wrong there, which says nothing of what it was asked about.
    """

    def __init__(self, message: str, *, host: str, failed: bool = False) -> None:
        super().__init__(message)
        self.host = host
        self.failed = failed


class UnreadableDocument(DroverError):
    """What another process wrote is of a later version, or is not what its type says."""


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
    """Rolling back found that the source has let the guest go: the job goes forward instead."""


class NeverRan(StepError):
    """The source let the guest go, but the destination's QEMU is dead and was never let run: roll back after all."""


class Unknown(StepError):
    """It cannot be told which side owns the guest; nothing more is done before a person has looked."""


class LeaseLost(DroverError):
    """The worker no longer holds the claim on its step."""
