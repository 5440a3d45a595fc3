"""How guests are shown, as text or as JSON."""

from drover import words
from drover.cli import output
from drover.cli.backend import operations
from models.base import Document
from models.guest import Life
from models.launcher import Launcher
from workflows import guests, selectors


def adopted(guest: Document, *, as_json: bool) -> None:
    """Print that a guest was adopted, and what prevents a move of it."""
    for refusal in guest["inspection"]["refusals"]:
        output.note(f"adopted, but cannot be moved yet: {refusal}")
    for warning in guest["inspection"]["warnings"]:
        output.note(f"warning: {warning}")
    if as_json:
        output.emit(guest)
    else:
        output.say(f"{guest['name']} on {guest['host']} is adopted")


def described(guest: Document, *, as_json: bool) -> None:
    """Print what drains consider about a guest."""
    if as_json:
        output.emit(guest)
        return
    output.say(
        f"{guest['name']}: priority {guest['priority']}, together with {guest['affinity'] or 'nobody'}, "
        f"apart from {guest['anti_affinity'] or 'nobody'}, labels {selectors.shown(guest['labels']) or 'none'}"
    )
    if stays := guest.get("stays"):
        output.say(stays)


def listed(selector: str | None, *, as_json: bool) -> None:
    """Print a line for each guest."""
    rows = operations().guests(selector)
    if as_json:
        output.emit({"guests": rows})
        return
    if not rows and selector:
        output.note(f"no guest is selected by {selector!r}")
    elif not rows:
        output.note("no guest yet: `drover guest adopt NAME --host HOST --qmp SOCKET`")
    titles = ("GUEST", "HOST", "STATE", "JOB", "ADOPTED", "MOVED", "LABELS", "QMP SOCKET")
    output.table(titles, map(_cells, rows))
    for row in rows:
        if row["state"] == Life.TWICE:
            output.note(f"{row['name']} runs twice: {row['twin']}. End one of the two before both write to its data")
        if row["state"] == Life.GONE:
            output.note(f"{row['name']} is gone since {words.moment(row['gone_at'])}. {guests.if_gone(row['name'])}")


def _cells(row: Document) -> tuple[object, ...]:
    times = (words.moment(row["adopted_at"]), words.moment(row["moved_at"]))
    return (row["name"], row["host"], row["state"], row["job_id"], *times, selectors.shown(row["labels"]), row["qmp"])


def show(name: str, *, as_json: bool) -> None:
    """Print what a guest's host reports about it now."""
    document = operations().guest(name)
    if as_json:
        output.emit(document)
    else:
        _print(document)


def _print(document: Document) -> None:
    found = document["inspection"]
    output.say(f"{document['name']} on {document['host']}: {found['runstate']}")
    output.say(f"  QEMU {found['qemu_version']} ({found['accel']}), pid {found['pid']}, {found['machine_type']}")
    output.say(f"  {words.count(found['cpus'], 'CPU')}, {words.size(found['memory_bytes'])} of memory")
    for disk in found["disks"]:
        output.say(
            f"  disk {disk['index']}: {disk['format']}, {words.size(disk['virtual_size_bytes'])}, {disk['path']}"
        )
    if document["launcher"]:
        output.say(f"  launched by {Launcher.read(document['launcher']).sentence}")
    if document["policies"]:
        output.say(f"  by policies its moves have {words.pairs(document['policies'])}")
    if unwell := document.get("unwell"):
        output.say(f"  {unwell['sentence']}:")
        for command in unwell["commands"]:
            output.say(f"    {command['text']}  ({command['effect']})")
    output.say("  can be moved" if document["movable"] else "  cannot be moved now:")
    for refusal in found["refusals"]:
        output.say(f"    - {refusal}")
    for warning in found["warnings"]:
        output.note(f"warning: {warning}")
