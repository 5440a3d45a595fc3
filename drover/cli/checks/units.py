"""The units of systemd that keep services and guests going."""

from collections.abc import Iterator

from drover.cli.checks.check import Check, ok, warning
from workers.launcher import systemd, units

WORKER, CONTROLLER = "drover-worker.service", "drover-controller.service"
ASKED = ("LoadState", "ActiveState", "UnitFileState", "KillMode", "NeedDaemonReload")


def of_hypervisor() -> Iterator[Check]:
    """The worker's, and the template of guests."""
    if not systemd.booted():
        found = "systemd does not run here: guests that come here are processes of the worker"
        yield ok("units", f"{found}, and something else has to start it")
        return
    known = systemd.properties(WORKER, ASKED)
    yield from _service(WORKER, known)
    if known.get("LoadState") == "loaded" and known.get("KillMode") != "process":
        found = f"{WORKER} has KillMode={known.get('KillMode')}: to restart it would end guests and moves"
        yield Check("units", "problem", found, "install deploy/systemd/drover-worker.service")
    if units.available():
        yield ok("units", "drover-guest@.service is installed: each guest that comes here gets a unit")
    else:
        found = "drover-guest@.service is not installed: guests that come here are processes of the worker"
        yield warning("units", found, "install deploy/systemd/drover-guest@.service and `systemctl daemon-reload`")


def of_control_node() -> Iterator[Check]:
    """The unit of the controller."""
    if systemd.booted():
        yield from _service(CONTROLLER, systemd.properties(CONTROLLER, ASKED))
    else:
        yield ok("units", "systemd does not run here: something else has to start the controller")


def _service(unit: str, known: dict[str, str]) -> Iterator[Check]:
    if known.get("LoadState") != "loaded":
        fix = f"install deploy/systemd/{unit} and `systemctl enable --now {unit}`"
        yield warning("units", f"{unit} is not installed: nothing starts it at boot", fix)
    elif known.get("ActiveState") != "active":
        fix = f"`systemctl enable --now {unit}`; `journalctl --unit {unit}` says why it ended"
        yield warning("units", f"{unit} does not run ({known.get('ActiveState')})", fix)
    elif known.get("UnitFileState") not in {"enabled", "enabled-runtime"}:
        yield warning("units", f"{unit} is not started at boot", f"`systemctl enable {unit}`")
    elif known.get("NeedDaemonReload") == "yes":
        fix = f"`systemctl daemon-reload && systemctl restart {unit}`"
        yield warning("units", f"{unit} was changed since it was loaded", fix)
    else:
        yield ok("units", f"{unit} runs, and is started at boot")
