"""How guests are shown, as text or as JSON."""

from sqlalchemy import select

from drover.cli import output
from drover.views import documents, serializers
from models.base import Document
from models.database import transaction
from models.guest import Guest, Life
from models.job import Job, unfinished
from models.plan import Inspection
from workflows import guests


def adopted(guest: Guest, inspection: Inspection, *, as_json: bool) -> None:
    """Print that a guest was adopted, and what prevents a move of it."""
    for refusal in inspection.refusals:
        output.note(f"adopted, but cannot be moved yet: {refusal}")
    for warning in inspection.warnings:
        output.note(f"warning: {warning}")
    if as_json:
        output.emit(_document(guest, inspection))
    else:
        output.say(f"{guest.name} on {guest.host} is adopted")


def listed(*, as_json: bool) -> None:
    """Print a line for each guest."""
    rows = documents.guests()
    if as_json:
        output.emit({"guests": rows})
        return
    if not rows:
        output.note("no guest yet: `drover guest adopt NAME --host HOST --qmp SOCKET`")
    names = ("name", "host", "state", "job_id", "adopted_at", "moved_at", "qmp")
    titles = ("GUEST", "HOST", "STATE", "JOB", "ADOPTED", "MOVED", "QMP SOCKET")
    output.table(titles, [[row[name] for name in names] for row in rows])
    for row in rows:
        if row["state"] == Life.TWICE:
            output.note(f"{row['name']} runs twice: {row['twin']}. End one of the two before both write to its data")
        if row["state"] == Life.GONE:
            output.note(
                f"{row['name']} is gone since {row['gone_at']}: start it again, or `drover guest forget {row['name']}`"
            )


def show(name: str, *, as_json: bool) -> None:
    """Print what a guest's host reports about it now."""
    guest = guests.known_guest(name)
    document = _document(guest, guests.inspect(guest))
    if as_json:
        output.emit(document)
    else:
        _print(document)


def _document(guest: Guest, inspection: Inspection) -> Document:
    with transaction() as session:
        job_id = session.scalar(select(Job.id).where(Job.guest == guest.name, unfinished()))
        row = serializers.guest_document(session.get(Guest, guest.name) or guest, job_id)
    found = serializers.inspection_document(inspection)
    return {**row, "movable": not found["refusals"], "inspection": found}


def _print(document: Document) -> None:
    found = document["inspection"]
    output.say(f"{document['name']} on {document['host']}: {found['runstate']}")
    output.say(f"  QEMU {found['qemu_version']} ({found['accel']}), pid {found['pid']}, {found['machine_type']}")
    output.say(f"  {found['cpus']} CPUs, {output.size(found['memory_bytes'])} of memory")
    for disk in found["disks"]:
        output.say(
            f"  disk {disk['index']}: {disk['format']}, {output.size(disk['virtual_size_bytes'])}, {disk['path']}"
        )
    output.say("  can be moved" if document["movable"] else "  cannot be moved now:")
    for refusal in found["refusals"]:
        output.say(f"    - {refusal}")
    for warning in found["warnings"]:
        output.note(f"warning: {warning}")
