"""The environment of the programs that a worker starts.

Not its own: that holds the addresses and passwords of database and broker, and a moved guest's QEMU would carry them
for its whole life.
"""

import os
import re

ALLOWED = re.compile(
    r"PATH|LD_LIBRARY_PATH"  # a QEMU of one's own
    r"|HOME|USER|LOGNAME|XDG_[A-Z_]+|TMPDIR"  # where programs look for, and leave, their files
    r"|LANG|LANGUAGE|LC_[A-Z]+|TZ"
    r"|MALLOC_[A-Z_]+|GLIBC_TUNABLES"
    r"|PYTHON[A-Z0-9_]*|VIRTUAL_ENV"  # for switchover processes
)
"""Names of the variables that are handed on, and nothing else is."""


def handed_on() -> dict[str, str]:
    """What of this process's environment the programs get that it starts."""
    return {name: value for name, value in os.environ.items() if ALLOWED.fullmatch(name)}
