"""The environment of the programs that a worker starts.

It is not the worker's own environment. That holds the addresses and passwords of database and broker, and a moved
guest's QEMU would keep them as long as it runs.
"""

import os
import re

ALLOWED = re.compile(
    r"PATH|LD_LIBRARY_PATH"  # a QEMU outside of the system's folders
    r"|HOME|USER|LOGNAME|XDG_[A-Z_]+|TMPDIR"  # where programs look for, and leave, their files
    r"|LANG|LANGUAGE|LC_[A-Z]+|TZ"
    r"|MALLOC_[A-Z_]+|GLIBC_TUNABLES"
    r"|PYTHON[A-Z0-9_]*|VIRTUAL_ENV"  # for switchover processes
)
"""Names of the only variables that are handed on."""


def handed_on() -> dict[str, str]:
    """The part of this process's environment that the programs it starts get."""
    return {name: value for name, value in os.environ.items() if ALLOWED.fullmatch(name)}
