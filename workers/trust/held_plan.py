"""The plan of a job as this host holds it: proven once, before anything is changed here, then read from its own folder.

The row of the job says what was agreed on. What is done here follows from what the guest's host signed: the source
reads its own statement, the destination derives how the guest would run. A row that says something else is refused.
"""

from pathlib import Path

from drover.errors import Fatal, PreconditionFailed
from drover.settings import Settings
from models.contracts import Json
from models.job import Job, Side
from models.plan import DestinationPlan, Inspection, Plan, PlannedFile
from models.preflight import refusals
from workers.document_file import DocumentFile
from workers.preflight import derivation
from workers.trust import attestation, policy

NAME = "plan.json"
UNTOUCHED = "nothing was done on this host"


def held(folder: Path) -> Plan | None:
    """What this host holds for the job with this folder."""
    return DocumentFile(folder / NAME, Plan).read()


def oldest(jobs: Path) -> float | None:
    """Since when the oldest of the jobs with folders in this one is under way here, in seconds since 1970."""
    return min((path.stat().st_mtime for path in jobs.glob(f"*/{NAME}")), default=None)


def followed(folder: Path, job: Job, side: Side, ours: Settings) -> Plan:
    """What this host holds, or else what it could hold to. Errors as for `proven`."""
    return held(folder) or proven(job, side, ours)


def begin(folder: Path, plan: Plan, side: Side) -> None:
    """Right before anything is changed on this host: from now on the row does not matter.

    Raises:
        Fatal: something that belongs to nobody here would be deleted or overwritten.
    """
    if side is Side.DESTINATION and (problems := derivation.in_the_way(plan.destination)):
        raise Fatal(f"{'; '.join(refusals(problems))}; {UNTOUCHED}")
    hold(folder, plan)


def hold(folder: Path, plan: Plan) -> None:
    """Replace the plan that is held in this folder."""
    DocumentFile(folder / NAME, Plan).write(plan)


def proven(job: Job, side: Side, ours: Settings) -> Plan:
    """The plan in the job's row, as far as this host may follow it.

    Raises:
        Fatal: no host that this one trusts has signed it, this host's policy does not allow it, or the row differs from
            what follows from it.
    """
    if job.plan is None:
        raise Fatal(f"job {job.id} has no plan on record")
    try:
        return _of_source(job, job.plan, ours) if side is Side.SOURCE else _of_destination(job, job.plan, ours)
    except PreconditionFailed as error:
        raise Fatal(f"{ours.host} does not follow the plan of job {job.id}, {UNTOUCHED}: {error}") from error


def _of_source(job: Job, row: Plan, ours: Settings) -> Plan:
    """The guest as this host itself saw it."""
    seen = attestation.proven(row.source, ours, of=ours.host).inspection
    there = {disk.index: disk for disk in row.disks}
    if there.keys() != {disk.index for disk in seen.disks}:
        raise Fatal(_differs(job, ours, "the disks"))
    disks = tuple(
        there[disk.index].model_copy(
            update={
                "device": disk.device,
                "source_path": disk.path,
                "source_device": disk.block_device,
                "virtual_size_bytes": disk.virtual_size_bytes,
            }
        )
        for disk in seen.disks
    )
    planned = row.destination.model_copy(update={"disks": disks, "files": _files_of_source(job, row, seen, ours)})
    return row.model_copy(update={"source": seen, "destination": planned})


def _files_of_source(job: Job, row: Plan, seen: Inspection, ours: Settings) -> tuple[PlannedFile, ...]:
    """What is read here and sent: the guest's own files, whatever the row names."""
    if len(row.destination.files) != len(seen.files):
        raise Fatal(_differs(job, ours, "the files"))
    theirs = ({"source_path": file.path, "size_bytes": file.size_bytes, "secret": file.secret} for file in seen.files)
    both = zip(row.destination.files, theirs, strict=True)
    return tuple(planned.model_copy(update=file) for planned, file in both)


def _of_destination(job: Job, row: Plan, ours: Settings) -> Plan:
    """How the guest is run here by what its host signed."""
    told = attestation.proven(row.source, ours, of=job.source)
    derived, problems = derivation.derive(told, ours, policy.of(ours), job.options.chain, row.layout)
    if problems:
        raise PreconditionFailed("; ".join(refusals(problems)))
    for what, ours_is, row_is in _compared(derived, row.destination):
        if ours_is != row_is:
            raise Fatal(_differs(job, ours, what))
    return row.model_copy(update={"source": told.inspection, "destination": derived})


def _compared(derived: DestinationPlan, row: DestinationPlan) -> tuple[tuple[str, object, object], ...]:
    """All that is acted upon here."""
    return (
        ("the command line", derived.argv, row.argv),
        ("the monitor", derived.qmp, row.qmp),
        ("the pidfile", derived.pidfile, row.pidfile),
        ("the disks", _images(derived), _images(row)),
        ("the files", _files(derived), _files(row)),
        ("the folders", derived.folders, row.folders),
        ("the TPM", derived.tpm, row.tpm),
    )


def _images(plan: DestinationPlan) -> list[Json]:
    return [disk.json_object() for disk in plan.disks]


def _files(plan: DestinationPlan) -> list[Json]:
    """Whether one is there is looked up again."""
    return [file.model_copy(update={"there": False}).json_object() for file in plan.files]


def _differs(job: Job, ours: Settings, what: str) -> str:
    return (
        f"the row of job {job.id} has another plan than the one that {ours.host} derives from what {job.source} signed "
        f"({what}), {UNTOUCHED}: submit the move anew; if no host was upgraded meanwhile, find out who changed the row"
    )
