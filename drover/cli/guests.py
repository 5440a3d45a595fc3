"""`drover guest`: the guests that Drover was told of."""

from typing import Annotated

import typer
from sqlalchemy import select

from drover.cli import completion, output, serializers
from drover.cli.options import AsJson, GuestName, examples
from models.base import Document
from models.database import transaction
from models.guest import Guest
from models.job import Job, JobState
from workflows import guests

app = typer.Typer(no_args_is_help=True, help="The guests: running QEMUs that Drover was told of.")


@app.callback()
def group() -> None:
    """The guests: running QEMUs that Drover was told of."""


@app.command(epilog=examples("drover guest adopt web --host hv1 --qmp /run/guests/web/qmp.sock"))
def adopt(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the guest.", show_default=False)],
    host: Annotated[
        str, typer.Option(help="The host that it runs on.", autocompletion=completion.hosts, show_default=False)
    ],
    qmp: Annotated[
        str,
        typer.Option(metavar="SOCKET", help="Path of a QMP socket of its QEMU, on that host.", show_default=False),
    ],
    as_json: AsJson = False,
) -> None:
    """Tell Drover of a running QEMU. The guest is looked at, not touched."""
    guest, inspection = guests.adopt(name, host, qmp)
    for refusal in inspection["refusals"]:
        output.note(f"adopted, but cannot be moved yet: {refusal}")
    for warning in inspection["warnings"]:
        output.note(f"warning: {warning}")
    if as_json:
        output.emit(_document(guest, inspection))
    else:
        output.say(f"{name} on {host} is adopted")


@app.command(
    "set", epilog=examples("drover guest set web --priority 5", "drover guest set db1 --anti-affinity db --affinity ''")
)
def describe(
    name: GuestName,
    priority: Annotated[
        int | None, typer.Option(metavar="N", help="Drains move guests of higher priority first.", show_default=False)
    ] = None,
    affinity: Annotated[
        str | None,
        typer.Option(metavar="GROUP", help="Guests of one such group go to one host; '' ends it.", show_default=False),
    ] = None,
    anti_affinity: Annotated[
        str | None,
        typer.Option(metavar="GROUP", help="Guests of one such group share no host; '' ends it.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what drains must know of a guest: its priority, whom it must be with, and whom it must not."""
    guest = guests.describe(name, priority=priority, affinity=affinity, anti_affinity=anti_affinity)
    if as_json:
        output.emit(serializers.guest_document(guest, None))
    else:
        output.say(
            f"{name}: priority {guest.priority}, together with {guest.affinity or 'nobody'}, "
            f"apart from {guest.anti_affinity or 'nobody'}"
        )


@app.command(epilog=examples("drover guest forget web"))
def forget(name: GuestName, as_json: AsJson = False) -> None:
    """No longer know a guest, for instance one that was powered off. The guest itself is not touched."""
    guest = guests.forget(name)
    if as_json:
        output.emit({"forgotten": guest.name, "host": guest.host})
    else:
        output.say(f"{guest.name} on {guest.host} is forgotten")


@app.command("list", epilog=examples("drover guest list", "drover guest list --json"))
def list_guests(as_json: AsJson = False) -> None:
    """List the guests and where they live."""
    query = (
        select(Guest, Job.id)
        .outerjoin(Job, (Job.guest == Guest.name) & Job.state.not_in([JobState.DONE, JobState.ROLLED_BACK]))
        .order_by(Guest.name)
    )
    with transaction() as session:
        rows = [serializers.guest_document(guest, job_id) for guest, job_id in session.execute(query)]
    if as_json:
        output.emit({"guests": rows})
        return
    if not rows:
        output.note("no guest yet: `drover guest adopt NAME --host HOST --qmp SOCKET`")
    names = ("name", "host", "job_id", "adopted_at", "moved_at", "qmp")
    output.table(
        ("GUEST", "HOST", "JOB", "ADOPTED", "MOVED", "QMP SOCKET"), [[row[name] for name in names] for row in rows]
    )


@app.command(epilog=examples("drover guest show web", "drover guest show web --json | jq .inspection.refusals"))
def show(name: GuestName, as_json: AsJson = False) -> None:
    """Ask a guest's host what the guest is now, and whether it could be moved."""
    guest = guests.known_guest(name)
    document = _document(guest, guests.inspect(guest))
    if as_json:
        output.emit(document)
    else:
        _print(document)


def _document(guest: Guest, inspection: Document) -> Document:
    with transaction() as session:
        unfinished = Job.state.not_in([JobState.DONE, JobState.ROLLED_BACK])
        job_id = session.scalar(select(Job.id).where(Job.guest == guest.name, unfinished))
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
