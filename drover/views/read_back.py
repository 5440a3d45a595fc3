"""What is shown of a job, a drain, a roll or a plan, from its JSON document: the other way round than `serializers`.

Who has a document alone, as from the HTTP API, shows it in the same words as who has its rows. The rows that are made
here belong to no database; they have what the document has.
"""

from datetime import datetime, timedelta

from drover.views.drain_queries import DrainShot, Row
from drover.views.plans import PlanShot
from drover.views.queries import Snapshot
from drover.views.rolls import HostRow, RollShot
from models.base import Document
from models.documents import AllowedHosts, Downtime, Estimate, Health, MigrationOptions, Proof, RamProgress
from models.drain import (
    Drain,
    DrainGuest,
    DrainKind,
    DrainState,
    GuestState,
    PlanApproval,
    SubmittedPlan,
)
from models.job import Disk, Event, Job, JobState, Side, Step, StepState
from models.roll import HookRun, Roll, RollHost, RollHostState, RollState
from workflows.drain.plan_file import PlanFile


def job_shot(document: Document) -> Snapshot:
    """From the document of a job."""
    names = ("id", "guest", "source", "destination", "error", "wait_reason", "cancel_requested", "hold", "seed")
    job = Job(
        **{name: document[name] for name in names},
        state=JobState(document["state"]),
        options=MigrationOptions.model_validate(document["options"]),
        steps=[_step(step) for step in document["steps"]],
        disks=[_disk(disk) for disk in document["disks"]],
        ram=_ram(document["ram"]),
        downtime=Downtime(ms=document["downtime_ms"], phases=document["downtime_phases"]),
        estimate=estimate(document["estimate"]),
        health=document["health"] and Health.model_validate(document["health"]),
        proof=document["proof"] and Proof.model_validate(document["proof"]),
        created_at=_moment(document["created_at"]),
        started_at=_moment(document["started_at"]),
        progress_at=_moment(document["progress_at"]),
        committed_at=_moment(document["committed_at"]),
        finished_at=_moment(document["finished_at"]),
    )
    return Snapshot(job=job, at=_read_at(document))


def drain_shot(document: Document) -> DrainShot:
    """From the document of a drain."""
    names = ("id", "host", "error", "wait_reason", "selector")
    drain = Drain(
        **{name: document[name] for name in names},
        kind=DrainKind(document["kind"]),
        state=DrainState(document["state"]),
        allowed_hosts=AllowedHosts(to=document["to"], exclude=document["exclude"]),
        started_at=_moment(document["started_at"]),
        finished_at=_moment(document["finished_at"]),
    )
    rows = [_row(guest) for guest in document["guests"]]
    return DrainShot(drain, rows, _read_at(document), document["max_outgoing"])


def roll_shot(document: Document) -> RollShot:
    """From the document of a roll."""
    created_at, finished_at = (_moment(document[name]) for name in ("created_at", "finished_at"))
    roll = Roll(
        **{name: document[name] for name in ("id", "max_unavailable", "error")},
        state=RollState(document["state"]),
        created_at=created_at,
        finished_at=finished_at,
    )
    at = finished_at or created_at  # nothing that is shown of a document needs a later one
    assert at is not None
    return RollShot(roll, list(map(_host_row, document["hosts"])), document["wait_reason"], at)


def plan_shot(document: Document) -> PlanShot:
    """From the document of a plan."""
    row = None
    if document["id"] is not None:
        names = ("id", "digest", "submitted_by", "withdrawn_by", "applied_by")
        row = SubmittedPlan(**{name: document[name] for name in names}, drain_id=document["drain"])
        row.submitted_at = datetime.fromisoformat(document["submitted_at"])
    approvals = tuple(PlanApproval(by=one["by"], at=_moment(one["at"])) for one in document["approvals"])
    return PlanShot(PlanFile.of(document), row, approvals, document["approvals_wanted"])


def estimate(document: Document | None) -> Estimate | None:
    """From what is told of an estimate."""
    if document is None:
        return None
    return Estimate.model_validate({name: value for name, value in document.items() if name != "total_s"})


def event(document: Document) -> Event:
    """From what is told of an event."""
    return Event(**document | {"at": _moment(document["at"])})


def _read_at(document: Document) -> datetime:
    """When the rows were read: what has not ended tells how long it has taken until then."""
    begun = _moment(document["started_at"])
    if begun is None:
        return datetime.fromisoformat(document["created_at"])
    return begun + timedelta(seconds=document["total_s"])


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _step(document: Document) -> Step:
    names = ("seq", "name", "host", "attempts", "error")
    return Step(
        **{name: document[name] for name in names},
        side=Side(document["side"]),
        state=StepState(document["state"]),
        started_at=_moment(document["started_at"]),
        finished_at=_moment(document["finished_at"]),
    )


def _disk(document: Document) -> Disk:
    names = ("index", "format", "source_path", "destination_path", "bytes_total", "bytes_copied")
    return Disk(
        **{name: document[name] for name in names},
        bytes_first=document["bytes_size"],
        ready_at=_moment(document["ready_at"]),
    )


def _ram(document: Document | None) -> RamProgress | None:
    if document is None:
        return None
    names = {"total": "bytes_total", "transferred": "bytes_transferred", "remaining": "bytes_remaining"}
    kept = ("bytes_per_s", "passes", "throttle_percent", "downtime_limit_ms")
    told = {name: document[of] for name, of in names.items()} | {name: document[name] for name in kept}
    return RamProgress.model_validate(told)


def _row(document: Document) -> Row:
    names = ("guest", "source", "destination", "reason", "refused_by")
    guest = DrainGuest(
        **{name: document[name] for name in names}, state=GuestState(document["state"]), job_id=document["job"]
    )
    state = document["job_state"]
    job = None if state is None else Job(state=JobState(state), wait_reason=document["reason"])
    return Row(guest, job, document["bytes_total"], document["bytes_copied"], document["eta_s"])


def _host_row(document: Document) -> HostRow:
    names = ("host", "reason", "error")
    host = RollHost(
        **{name: document[name] for name in names},
        state=RollHostState(document["state"]),
        since=_moment(document["since"]),
        drain_id=document["drain"],
        return_id=document["return"],
    )
    run = document["hook_run"]
    ended = run and HookRun(ended_at=_moment(run["ended_at"]), exit_code=run["exit_code"])
    return HostRow(host, None, ended, None)
