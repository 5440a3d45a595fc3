"""The JSON documents. Their fields are documented in docs/reference/cli.md: only add, never rename or drop one."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from drover.views.queries import Snapshot, elapsed_s
from drover.views.remaining import copy_s
from models.base import Document
from models.documents import Downtime, Estimate
from models.drain import Drain
from models.guest import Guest
from models.host import Host
from models.job import DOWNTIME_PHASES, Disk, Event, Job, JobState, Side, Step
from models.kept_images import KeptImage
from models.plan import Inspection
from models.sample import Sample
from models.webhook import Delivery

SECRET = re.compile(r"\b[0-9a-f]{24,}\b")
"""What nonces and keys look like: QEMU's error messages name exports, and so their nonce."""

INSPECTED = {
    "pid",
    "exe",
    "accel",
    "machine_type",
    "runstate",
    "memory_bytes",
    "cpus",
    "refusals",
    "warnings",
    "checks",
}
"""Parts of an inspection that are shown; the command line may hold passwords."""
INSPECTED_OF_A_DISK = {"index", "device", "format", "path", "virtual_size_bytes"}


def public(text: str | None) -> str | None:
    """A sentence without secrets."""
    return None if text is None else SECRET.sub("<secret>", text)


def iso(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with milliseconds."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds")


def job_document(shot: Snapshot, warnings: Iterable[Event], delivery: Delivery | None = None) -> Document:
    """Everything about one job."""
    job = shot.job
    downtime = job.downtime or Downtime()
    return {
        "id": job.id,
        "guest": job.guest,
        "source": job.source,
        "destination": job.destination,
        "state": job.state.value,
        "steps": [_step(step) for step in job.steps],
        "disks": [_disk(disk) for disk in job.disks],
        "ram": _ram(job),
        "downtime_ms": downtime.ms,
        "downtime_phases": downtime_phases(job),
        "total_s": _rounded(shot.total_s),
        "eta_s": _rounded(shot.eta_s),
        "error": public(job.error),
        "wait_reason": public(job.wait_reason),
        "estimate": estimate_document(job.estimate),
        "took": {name: _rounded(seconds) for name, seconds in took(job).items()},
        "pace": _pace(job),
        "health": None if job.health is None else job.health.public(),
        "proof": None if job.proof is None else job.proof.public(),
        "warnings": [public(event.sentence) for event in warnings],
        "options": job.options.public(),
        "cancel_requested": job.cancel_requested,
        **timing_document(job),
        "drain": job.drain_id,
        "webhook": delivery_document(delivery),
        "created_at": iso(job.created_at),
        "started_at": iso(job.started_at),
        "progress_at": iso(job.progress_at),
        "committed_at": iso(job.committed_at),
        "finished_at": iso(job.finished_at),
        "idempotency_key": job.idempotency_key,
    }


def downtime_phases(job: Job) -> dict[str, float]:
    """The parts of its downtime in their order, in ms; empty while unknown."""
    phases = job.downtime.phases if job.downtime is not None else {}
    return {name: phases[name] for name in DOWNTIME_PHASES if name in phases}


def timing_document(asked: Job | Drain) -> Document:
    """When it may happen, as asked for; what was released is no longer held."""
    return {
        "priority": asked.priority,
        "not_before": iso(asked.not_before),
        "window": asked.window and asked.window.public(),
        "hold": asked.hold,
        "seed": asked.seed,
    }


def delivery_document(delivery: Delivery | None) -> Document | None:
    """State of a webhook's delivery; its address may hold a password and is left out."""
    if delivery is None:
        return None
    return {"state": delivery.state.value, "tries": delivery.tries, "error": public(delivery.error)}


def _step(step: Step) -> Document:
    return {
        "seq": step.seq,
        "name": step.name,
        "host": step.host,
        "side": step.side.value,
        "state": step.state.value,
        "attempts": step.attempts,
        "started_at": iso(step.started_at),
        "finished_at": iso(step.finished_at),
        "duration_s": _rounded(elapsed_s(step.started_at, step.finished_at)),
        "error": public(step.error),
    }


def _disk(disk: Disk) -> Document:
    return {
        "index": disk.index,
        "format": disk.format,
        "source_path": disk.source_path,
        "destination_path": disk.destination_path,
        "bytes_total": disk.bytes_total,
        "bytes_copied": disk.bytes_copied,
        "bytes_size": disk.bytes_size,
        "bytes_done": disk.bytes_done,
        "bytes_left": disk.bytes_left,
        "bytes_rewritten": disk.bytes_rewritten,
        "ready_at": iso(disk.ready_at),
        "retired_path": disk.retired_path,
        "retired_until": iso(disk.retired_until),
    }


def _ram(job: Job) -> Document | None:
    if job.ram is None:
        return None
    return {
        "bytes_total": job.ram.total,
        "bytes_transferred": job.ram.transferred,
        "bytes_remaining": job.ram.remaining,
        "bytes_per_s": job.ram.bytes_per_s,
        "passes": job.ram.passes,
        "throttle_percent": job.ram.throttle_percent,
        "downtime_limit_ms": job.ram.downtime_limit_ms,
    }


def estimate_document(estimate: Estimate | None) -> Document | None:
    """What a move was expected to take."""
    return None if estimate is None else {**estimate.public(), "total_s": round(estimate.total_s, 1)}


def took(job: Job) -> dict[str, float | None]:
    """What of the estimate is known by now, in seconds: the copy of its disks, and its RAM with the switchover.

    Nothing of one that is rolled back: the times of its steps are those of that.
    """
    if job.state in {JobState.ROLLING_BACK, JobState.ROLLED_BACK}:
        return {"copy_s": None, "ram_s": None}
    at_source = {step.name: (step.started_at, step.finished_at) for step in job.steps if step.side is Side.SOURCE}
    return {
        "copy_s": copy_s(job),
        "ram_s": elapsed_s(*at_source.get("migrate_ram", (None, None))),
    }


def _pace(job: Job) -> Document | None:
    """Of its disks, while they are copied."""
    if job.pace is None or job.state.settled:
        return None
    shown = job.pace
    return {
        "copied_bytes_per_s": shown.copied_per_s,
        "written_bytes_per_s": shown.written_per_s,
        "limit_bytes_per_s": shown.limit_per_s,
        "slowed_bytes_per_s": shown.slowed_per_s,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def job_summary(shot: Snapshot) -> Document:
    """One job among others."""
    job = shot.job
    return {
        "id": job.id,
        "guest": job.guest,
        "source": job.source,
        "destination": job.destination,
        "state": job.state.value,
        "step": current_step(job),
        "bytes_total": sum(disk.bytes_total for disk in job.disks),
        "bytes_copied": sum(disk.bytes_copied for disk in job.disks),
        "bytes_size": sum(disk.bytes_size for disk in job.disks),
        "bytes_done": sum(disk.bytes_done for disk in job.disks),
        "downtime_ms": job.downtime and job.downtime.ms,
        "total_s": _rounded(shot.total_s),
        "eta_s": _rounded(shot.eta_s),
        "wait_reason": public(job.wait_reason),
        "error": public(job.error),
        "created_at": iso(job.created_at),
        "started_at": iso(job.started_at),
        "finished_at": iso(job.finished_at),
        "idempotency_key": job.idempotency_key,
    }


def current_step(job: Job) -> str | None:
    """The step that is at work or failed."""
    return next((step.name for step in job.steps if step.state.value in {"running", "rolling_back", "failed"}), None)


def sample_document(sample: Sample) -> Document:
    """How fast a job's disks or RAM were copied and changed at one moment."""
    return {
        "at": iso(sample.at),
        "of": "ram" if sample.of_ram else "disks",
        "sent_bytes_per_s": sample.sent_per_s,
        "changed_bytes_per_s": sample.changed_per_s,
    }


def event_document(event: Event) -> Document:
    """One event of a job."""
    return {"at": iso(event.at), "by": event.by, "action": event.action, "sentence": public(event.sentence)}


def host_document(host: Host, *, is_alive: bool, guests: int) -> Document:
    """One host."""
    return {
        "name": host.name,
        "address": host.address,
        "state": host.state.value,
        "alive": is_alive,
        "heartbeat_at": iso(host.heartbeat_at),
        "guests": guests,
        "guest_root": host.guest_root,
        "cpus": host.facts.cpus,
        "memory_bytes": host.facts.memory_bytes,
        "guest_cpus": host.guest_cpus,
        "guest_memory_bytes": host.guest_memory_bytes,
        "guest_disk_bytes": host.guest_disk_bytes,
        "qemu": host.facts.qemu,
        "labels": host.labels,
    }


def host_state(host: Host) -> Document:
    """What an operator wants of a host."""
    return {"name": host.name, "state": host.state.value}


def host_trusted(host: Host) -> Document:
    """By which key a host is trusted."""
    return host_state(host) | {"key": host.trusted_key}


def host_own(host: Host) -> Document:
    """What a host has of its own, see `drover host set`."""
    hours = host.bandwidth_hours
    return {
        "name": host.name,
        "bandwidth_bytes_per_s": host.bandwidth_bytes_per_s,
        "bandwidth_hours": hours.json_object()["hours"] if hours is not None else [],
        "retention_s": host.retention.total_seconds() if host.retention is not None else None,
        "labels": host.labels,
    }


def kept_image(image: KeptImage) -> Document:
    """One that a guest left behind."""
    return {
        "job": image.job_id,
        "disk": image.index,
        "guest": image.guest,
        "host": image.host,
        "path": image.path,
        "takes_bytes": image.takes_bytes,
        "since": iso(image.since),
        "until": iso(image.until),
        "last_way_back": image.last_way_back,
        "copy": image.copy,
    }


def guest_document(guest: Guest, job_id: int | None) -> Document:
    """One guest, and the job that holds it."""
    return {
        "name": guest.name,
        "host": guest.host,
        "qmp": guest.qmp,
        "adopted_at": iso(guest.adopted_at),
        "moved_at": iso(guest.moved_at),
        "cpus": guest.cpus,
        "memory_bytes": guest.memory_bytes,
        "disk_bytes": guest.disk_bytes,
        "priority": guest.priority,
        "affinity": guest.affinity,
        "anti_affinity": guest.anti_affinity,
        "launcher": guest.launcher and guest.launcher.public(),
        "job_id": job_id,
        "runstate": guest.runstate,
        "gone_at": iso(guest.gone_at),
        "twin": guest.twin,
        "labels": guest.labels,
        "never_drain": guest.never_drain,
        "never_drain_until": iso(guest.never_drain_until),
        "stays": guest.stays(datetime.now(UTC)),
    }


def inspection_document(inspection: Inspection) -> Document:
    """What a host reported about one of its guests."""
    return {
        **inspection.model_dump(mode="json", include=INSPECTED),
        "qemu_version": ".".join(map(str, inspection.qemu_version)),
        "disks": [disk.model_dump(mode="json", include=INSPECTED_OF_A_DISK) for disk in inspection.disks],
    }
