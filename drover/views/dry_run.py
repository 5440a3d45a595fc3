"""The JSON documents of `drover migrate --dry-run` and `drover roll --dry-run`: docs/reference/cli.md has their fields,
only add.
"""

from drover.views import drain_documents, serializers
from models.base import Document
from models.database import transaction
from models.drain import DrainKind
from workflows import guests, policies
from workflows.drain import planner
from workflows.drain.planner import DrainRequest
from workflows.migration import preflight
from workflows.roll import commands as rolls
from workflows.roll.commands import RollRequest
from workflows.submissions import MigrationSubmission, RollSubmission

DISK_FIELDS = {
    "index",
    "format",
    "source_format",
    "source_path",
    "destination_path",
    "destination_device",
    "volume_of",
    "virtual_size_bytes",
}
FILE_FIELDS = {"kind", "source_path", "destination_path", "size_bytes", "there"}


def migration(asked: MigrationSubmission) -> Document:
    """What the move would copy, and how long it would take; nothing is changed.

    Raises:
        PreconditionFailed: it would be refused.
    """
    row, to = guests.known_guest(asked.guest), guests.destination(asked)
    options = policies.of(row, asked.options(), drained=False)
    planned = preflight.plan(row, to, options, tried=True)
    expected = preflight.estimated(row, to, options, asked.submit_options(), planned)
    looked_at = (*planned.source.checks, *planned.destination.checks)
    return {
        "dry_run": True,
        "guest": row.name,
        "source": row.host,
        "destination": to,
        "ram": planned.destination.ram,
        "memory_bytes": planned.source.memory_bytes,
        "disks": [disk.model_dump(mode="json", include=DISK_FIELDS) for disk in planned.disks],
        "estimate": serializers.estimate_document(expected),
        "files": [file.model_dump(mode="json", include=FILE_FIELDS) for file in planned.destination.files],
        "options": options.public(),
        "way_back": planned.destination.way_back,
        "way_back_bytes": planned.destination.way_back_bytes,
        "no_way_back": planned.destination.no_way_back,
        "warnings": preflight.warnings(planned, options),
        "checks": [check.json_object() for check in looked_at],
    }


def roll(asked: RollSubmission) -> Document:
    """Each host as if it alone were out, which holds as long as one at a time is and all guests come home.

    Raises:
        PreconditionFailed: it would be refused.
    """
    request = RollRequest.of(asked)
    with transaction() as session:
        rolls.check(session, request)
    forecasts = [
        planner.forecast(
            DrainRequest(kind=DrainKind.DRAIN, host=host, where=request.where, options=request.options), tried=True
        )
        for host in request.hosts
    ]
    return {"dry_run": True, "drains": list(map(drain_documents.forecast_document, forecasts))}
