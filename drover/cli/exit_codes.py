"""What the exit codes of `drover` mean. Scripts rely on them: never reuse one."""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.job import JobState


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    """Done. `migrate` without `--wait`: the job is queued. `job show`, `list`, `explain`, `cancel`, `retry`: the
    command succeeded, in whatever state the job is."""
    FAILED = 1
    """Failed unexpectedly, for instance because a service cannot be reached; one sentence names it and what to do,
    `drover --debug ...` shows where. `gc`: something is left; stdout has the reason."""
    REFUSED = 2
    """Refused or bad input; nothing was changed."""
    ROLLED_BACK = 3
    """The job was rolled back: the guest stays at the source (`migrate --wait`, `job watch`, `job cancel --wait`, and
    `migrate` with the key of such a job). `drain --wait`, `drain watch`, `return --wait`: some guests are left, or it
    was cancelled. `drain --dry-run`: not all guests can be moved. `roll --wait`, `roll watch`: it was cancelled."""
    NEEDS_OPERATOR = 4
    """The job needs an operator (likewise); of a drain: some guests are left, and at least one of their jobs does; a
    roll pauses because something failed."""
    STOPPED_WATCHING = 5
    """Stopped watching (Ctrl-C or `--timeout`); the job goes on."""
    INTERRUPTED = 130
    """Ctrl-C before there was a job to watch, or in a command that watches nothing."""


TABLE = (
    "0 done",
    "1 failed unexpectedly (a service cannot be reached)",
    "2 refused or bad input, nothing was changed",
    "3 the job was rolled back, the guest stays at the source; a drain has left guests, or would by its dry run",
    "4 the job needs an operator",
    "5 stopped watching, the job goes on",
    "130 interrupted before there was anything to watch",
)


def of_job(state: "JobState") -> ExitCode:
    """The exit code of a command that ends with a job in this state; 0 for a job that goes on."""
    from models.job import JobState

    return {
        JobState.ROLLED_BACK: ExitCode.ROLLED_BACK,
        JobState.NEEDS_OPERATOR: ExitCode.NEEDS_OPERATOR,
    }.get(state, ExitCode.DONE)
