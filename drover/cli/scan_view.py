"""How the QEMUs of a host are shown, as text or as JSON."""

from collections.abc import Sequence

from drover.cli import output
from drover.words import count
from models.base import Document
from models.host_rpc import FoundMonitor
from workflows.guest_scan import Finding


def listed(host: str, findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print a line for each QEMU, and below why some cannot be moved or adopted."""
    if as_json:
        output.emit({"host": host, "qemus": [_document(one) for one in findings]})
        return
    if not findings:
        output.note(f"no QEMU runs on {host}")
        return
    titles = ("PID", "NAME", "UUID", "USER", "LAUNCHED BY", "MONITORS", "GUEST", "CAN BE MOVED")
    output.table(titles, map(_row, findings))
    for one in findings:
        for why in (*one.reasons, *filter(None, [one.unnamed])):
            output.say(f"pid {one.qemu.pid}{f' ({one.qemu.name})' if one.qemu.name else ''}: {why}")
    free = [one for one in findings if one.name is not None]
    if free:
        many = count(len(free), "QEMU can be adopted", "QEMUs can be adopted")
        output.note(f"{many}: `drover guest scan --host {host} --adopt`")


def _row(one: Finding) -> tuple[object, ...]:
    qemu = one.qemu
    monitors = ", ".join(map(_monitor, qemu.monitors))
    movable = "no" if one.reasons else "yes"
    return qemu.pid, qemu.name, qemu.uuid, qemu.user, qemu.launcher.sentence, monitors, one.guest, movable


def _monitor(monitor: FoundMonitor) -> str:
    kind = "" if monitor.qmp else "human, "
    return f"{monitor.address} ({kind}{f'held by {monitor.held_by}' if monitor.held_by else 'free'})"


def _document(one: Finding) -> Document:
    qemu = one.qemu.model_dump(mode="json")
    launcher = one.qemu.launcher.public()
    return qemu | {
        "launcher": launcher,
        "guest": one.guest,
        "movable": not one.reasons,
        "reasons": list(one.reasons),
        "adoptable_as": one.name,
        "not_adoptable": one.unnamed,
    }
