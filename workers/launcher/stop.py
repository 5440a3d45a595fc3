"""`python -m workers.launcher.stop GUEST`: ask the guest to power off, and wait until its QEMU has ended.

What `drover-guest@GUEST.service` calls when it is stopped, also when the host shuts down. systemd ends what is left
after its own time limit. Standard library alone, see `run`.
"""

import json
import os
import socket
import sys
from pathlib import Path

from workers.launcher.run import files_of

PATIENCE_S = 120.0


def main(guest: str) -> int:
    """0: it has ended; 1: it has not, or could not be asked."""
    cold, _incoming = files_of(guest, Path(os.environ.get("DROVER_DIRECTORY", "/var/lib/drover")))
    try:
        return 0 if _powered_down(json.loads(cold.read_text())["qmp"]) else 1
    except (OSError, ValueError) as error:
        print(f"{guest} could not be asked to power off: {error}", file=sys.stderr)
        return 1


def _powered_down(qmp: str) -> bool:
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(PATIENCE_S)
        monitor.connect(qmp)
        lines = monitor.makefile("r")
        lines.readline()  # its greeting
        for command in ("qmp_capabilities", "system_powerdown"):
            monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")
        for _ in lines:  # until it hangs up
            pass
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
