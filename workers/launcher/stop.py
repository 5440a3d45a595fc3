"""`python -m workers.launcher.stop GUEST`: ask the guest to power off, and wait until its QEMU has ended.

What `drover-guest@GUEST.service` calls when it is stopped, also when the host shuts down. systemd ends what is left
after its own time limit.
"""

import json
import socket
import sys

from workers.launcher.run import launch_file, worker_folder

PATIENCE_S = 120.0


def main(guest: str) -> int:
    """0: it has ended; 1: it has not, or could not be asked."""
    try:
        _power_down(json.loads(launch_file(guest, worker_folder()).read_text())["qmp"])
    except (OSError, ValueError) as error:
        print(f"{guest} could not be asked to power off: {error}", file=sys.stderr)
        return 1
    return 0


def _power_down(qmp: str) -> None:
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(PATIENCE_S)
        monitor.connect(qmp)
        lines = monitor.makefile("r")
        lines.readline()  # its greeting
        for command in ("qmp_capabilities", "system_powerdown"):
            monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")
        for _ in lines:  # until it hangs up
            pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
