"""What the exit codes of `drover` mean. Scripts rely on them: never reuse one."""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.job import JobState


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1  # unexpectedly: a service cannot be reached, or a bug of ours
    REFUSED = 2  # bad input or usage; nothing was changed
    ROLLED_BACK = 3  # the job was rolled back: the guest stays at the source; or a drain has left some, or would
    NEEDS_OPERATOR = 4
    STOPPED_WATCHING = 5  # the job goes on


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
