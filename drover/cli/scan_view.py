"""How the QEMUs of a host are shown, as text or as JSON."""

from drover.cli import output
from drover.words import count
from models.base import Document
from models.launcher import Launcher


def listed(found: Document, *, as_json: bool) -> None:
    """Print a line for each QEMU, and below why some cannot be moved or adopted."""
    if as_json:
        output.emit(found)
        return
    host, qemus = found["host"], found["qemus"]
    if not qemus:
        output.note(f"no QEMU runs on {host}")
        return
    titles = ("PID", "NAME", "UUID", "USER", "LAUNCHED BY", "MONITORS", "GUEST", "CAN BE MOVED")
    output.table(titles, map(_row, qemus))
    for one in qemus:
        named = f" ({one['name']})" if one["name"] else ""
        for why in (*one["reasons"], *filter(None, [one["not_adoptable"]])):
            output.say(f"pid {one['pid']}{named}: {why}")
    free = [one for one in qemus if one["adoptable_as"] is not None]
    if free:
        many = count(len(free), "QEMU can be adopted", "QEMUs can be adopted")
        output.note(f"{many}: `drover guest scan --host {host} --adopt`")


def _row(one: Document) -> tuple[object, ...]:
    monitors = ", ".join(map(_monitor, one["monitors"]))
    launched_by, movable = Launcher.read(one["launcher"]).sentence, "yes" if one["movable"] else "no"
    return one["pid"], one["name"], one["uuid"], one["user"], launched_by, monitors, one["guest"], movable


def _monitor(monitor: Document) -> str:
    kind, holder = "" if monitor["qmp"] else "human, ", monitor["held_by"]
    return f"{monitor['address']} ({kind}{f'held by {holder}' if holder else 'free'})"
