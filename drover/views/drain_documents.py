"""The JSON documents of drains. docs/reference/cli.md has their fields: only add, never rename or drop one."""

from drover.views import plans
from drover.views.drain_queries import DrainShot, Row
from drover.views.queries import delivery
from drover.views.serializers import delivery_document, iso, public, timing_document
from models.base import Document
from models.drain import Drain, GuestState
from workflows import policies
from workflows.drain.planner import Forecast


def forecast_document(forecast: Forecast) -> Document:
    """What a drain would do."""
    return {
        "dry_run": True,
        "kind": forecast.kind.value,
        "host": forecast.host,
        "moves": [
            {
                "guest": move.candidate.name,
                "source": move.candidate.source,
                "destination": move.destination,
                "disk_bytes": move.candidate.size.disk_bytes,
                "memory_bytes": move.candidate.size.memory_bytes,
                "cpus": move.candidate.size.cpus,
                "estimate_s": round(forecast.move_s(move), 1),
                "begins_s": forecast.begins_s(move),
                "policies": policies.by_policies(forecast.options[move.candidate.name]),
            }
            for move in forecast.plan.placements
        ],
        "skipped": [{"guest": guest, "reason": public(why)} for guest, why in sorted(forecast.plan.left.items())],
        "total_s": round(forecast.total_s, 1),
        "estimated_from_moves": forecast.speed.moves,
        "nights": [
            {"opens": iso(night.opens), "guests": list(night.guests), "done_at": iso(night.done_at)}
            for night in forecast.nights
        ],
    }


def drain_document(shot: DrainShot) -> Document:
    """Everything about one drain."""
    drain = shot.drain
    return {
        **drain_summary(shot),
        "guests": [_guest_document(row) for row in shot.rows],
        "submitted_by": drain.submitted_by,
        "selector": drain.selector,
        "to": list(drain.allowed_hosts.to),
        "exclude": list(drain.allowed_hosts.exclude),
        "max_outgoing": shot.max_outgoing,
        "options": drain.options.public(),
        **timing_document(drain),
        "recurrence": drain.recurrence and drain.recurrence.public(),
        "plan": _plan_document(drain) if drain.follows_plan else None,
        "webhook": delivery_document(delivery(drain_id=drain.id)),
    }


def _plan_document(drain: Drain) -> Document | None:
    """The plan that it follows, and who has approved it."""
    plan = plans.followed_by(drain.id)
    if plan is None:
        return None
    return {**plans.summary(plan), "approved_by": [one.by for one in plan.approvals]}


def drain_summary(shot: DrainShot) -> Document:
    """One drain among others."""
    drain = shot.drain
    return {
        "id": drain.id,
        "kind": drain.kind.value,
        "host": drain.host,
        "state": drain.state.value,
        "total": len(shot.rows),
        "moved": shot.count(GuestState.MOVED),
        "skipped": shot.count(GuestState.SKIPPED),
        "eta_s": None if shot.eta_s is None else round(shot.eta_s, 1),
        "total_s": None if shot.total_s is None else round(shot.total_s, 3),
        "wait_reason": public(drain.wait_reason),
        "error": public(drain.error),
        "created_at": iso(drain.created_at),
        "started_at": iso(drain.started_at),
        "finished_at": iso(drain.finished_at),
        "idempotency_key": drain.idempotency_key,
    }


def _guest_document(row: Row) -> Document:
    return {
        "guest": row.guest.guest,
        "state": row.guest.state.value,
        "source": row.guest.source,
        "destination": row.guest.destination,
        "job": row.guest.job_id,
        "job_state": row.job.state.value if row.job else None,
        "bytes_total": row.bytes_total,
        "bytes_copied": row.bytes_copied,
        "eta_s": None if row.eta_s is None else round(row.eta_s, 1),
        "reason": public(row.reason),
        "refused_by": {host: public(why) for host, why in row.guest.refused_by.items()},
    }
