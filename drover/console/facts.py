"""What the pages of a job, a drain and a roll show, and their reports."""

from typing import Any

from drover.views import (
    curves,
    drain_queries,
    drain_sentences,
    estimates,
    plans,
    progress,
    queries,
    rolls,
    sentences,
    serializers,
    timeline,
)


def of_job(job_id: int) -> dict[str, Any]:
    """Everything about one job.

    Raises:
        PreconditionFailed: there is no such job.
    """
    shot = queries.snapshot(job_id)
    job = shot.job
    phases = serializers.downtime_phases(job)
    return {
        "shot": shot,
        "job": job,
        "now": shot.at,
        "headline": sentences.headline(job),
        "verdict": sentences.verdict(shot) if shot.ended else job.wait_reason or "",
        "downtime": sentences.downtime(job),
        "remark": sentences.remark,
        "took": lambda step: queries.elapsed_s(step.started_at, step.finished_at or shot.at),
        "bars": progress.Progress().bars(shot),
        "phases": phases,
        "paused_ms": sum(phases.values()),
        "estimate": estimates.of_job(job),
        "comparison": sentences.comparison(shot),
        "copy_rate": estimates.copy_rate(job, shot.at),
        "copy_limit": estimates.copy_limit(job),
        "timeline": timeline.of_job(job, shot.at),
        "line": timeline.line(job, queries.attempts([job_id])[job_id], shot.at),
        "charts": curves.charts(queries.samples(job_id)),
        "looked_at": sentences.looked_at(job),
        "events": queries.events(job_id),
        "commands": sentences.ways_out(job) if queries.may_go_home(job_id) else sentences.commands(job),
    }


def of_drain(drain_id: int) -> dict[str, Any]:
    """Everything about one drain.

    Raises:
        PreconditionFailed: there is no such drain.
    """
    shot = drain_queries.snapshot(drain_id)
    return {
        "shot": shot,
        "drain": shot.drain,
        "plan": plans.followed_by(drain_id),
        "now": shot.at,
        "headline": drain_sentences.headline(shot),
        "verdict": drain_sentences.verdict(shot) if shot.ended else None,
        "timeline": timeline.of_drain(shot),
        "rate": estimates.drain_rate(shot),
        "limit": estimates.drain_limit(shot),
        "commands": drain_sentences.commands(shot.drain),
    }


def of_roll(roll_id: int) -> dict[str, Any]:
    """Everything about one roll.

    Raises:
        PreconditionFailed: there is no such roll.
    """
    shot = rolls.snapshot(roll_id)
    return {
        "shot": shot,
        "roll": shot.roll,
        "now": shot.at,
        "headline": rolls.headline(shot),
        "verdict": rolls.verdict(shot) if shot.ended else None,
        "timeline": timeline.of_roll(shot),
        "hook": rolls.hook(shot.roll),
        "commands": rolls.commands(shot.roll),
    }


def of_plan(number: int) -> dict[str, Any]:
    """Everything about one plan that was submitted.

    Raises:
        NotThere: there is no such plan.
    """
    shot = plans.snapshot(number)
    differences = plans.document(shot)["differences"]
    return {
        "shot": shot,
        "headline": plans.headline(shot),
        "standing": plans.standing(shot),
        "remark": lambda move: plans.remark(move, differences),
        "commands": plans.commands(shot),
    }
