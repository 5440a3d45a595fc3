"""`python -m tests.all_that_is_written DIRECTORY JOB JOB JOB`: lives of jobs, so that every moment is written once."""

import sys
from datetime import timedelta
from pathlib import Path

from drover.settings import Settings
from models.database import transaction
from models.drain import Drain, DrainKind, DrainState
from models.guest import Guest
from models.host import HostRequest, RequestState, reply
from models.host_rpc import Orphans
from models.job import Direction, Job, Side, Step
from models.transitions import Actor
from tests import documents, factories
from workers.disks import mirrors
from workers.images import retention
from workers.qemu.block import Mirror
from workers.step import Context
from workers.steps.migrate_ram import _Progress
from workers.trust import held_plan
from workflows import receivers
from workflows.migration import claims, jobs

IN_SYNC = Mirror(status="ready", copied_bytes=5, total_bytes=5, ready=True, healthy=True, no_room=False, error=None)
TOLD = "http://127.0.0.1:1/"


def carry_through(ours: Settings, job_id: int) -> None:
    """Every step is done, with what it writes by itself."""
    with transaction() as session:
        count = len(session.get_one(Job, job_id).steps)
    for position in range(count):
        claim = factories.claim(ours, job_id, position)
        ctx = Context(claim=claim, settings=ours)
        held_plan.hold(ctx.directory.path, documents.plan())
        if (claim.name, claim.side) == ("await_sync", Side.SOURCE):
            mirrors.record(ctx, {mirrors.name(job_id, 0): IN_SYNC}, {}, {})
        if (claim.name, claim.side) == ("migrate_ram", Side.SOURCE):
            ctx.note(committed_at=ctx.claim.now())
            _Progress(ctx, 1)._record({"total": 1, "remaining": 0})
        if (claim.name, claim.side) == ("cleanup", Side.SOURCE):
            retention.set_aside(ctx)
            with ctx.record() as (session, job, _):
                session.get_one(Guest, job.guest).lives_on("two", "/q")
        claims.finish(claim)


def go_wrong(ours: Settings, job_id: int) -> None:
    """It is released, tried again, taken over, failed, and goes forward in the end."""
    jobs.release(job_id)
    claims.retry(factories.claim(ours, job_id, 0), "again", timedelta(0))
    factories.claim(ours, job_id, 0)
    with transaction() as session:
        claims.expire(session, Step.owner == "x", "gone", actor=Actor.WORKER, by="test")
    claims.fail(factories.claim(ours, job_id, 0), "it failed")
    claims.go_forward(factories.claim(ours, job_id, 0, Direction.ROLLBACK), "too late")


def main(directory: str, first: str, second: str, third: str) -> None:
    """Three jobs, a refusal, a drain and a question."""
    ours = factories.ours(host="one", directory=Path(directory))
    carry_through(ours, int(first))
    go_wrong(ours, int(second))
    jobs.cancel(int(third))
    factories.receiver()
    receivers.rotate([factories.LOOPBACK], timedelta(0), factories.ours(webhook_key=factories.WEBHOOK_KEY))
    jobs.record_refusal("web-0", "two", "k", "no", by="test", webhook=TOLD)
    with transaction() as session:
        drain = Drain(kind=DrainKind.DRAIN, host="one", state=DrainState.QUEUED, webhook=TOLD)
        request = HostRequest(host="one", kind="inspect", question={})
        session.add_all([drain, request])
        session.flush()
        drain.move(session, DrainState.RUNNING)
        drain.move(session, DrainState.DONE)
        reply(session, request.id, RequestState.ANSWERED, Orphans(finds=(), notes=()))


if __name__ == "__main__":
    main(*sys.argv[1:])
