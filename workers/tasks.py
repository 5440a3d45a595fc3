"""The Celery tasks of a host: `drover.step.NAME`, `drover.rollback.NAME`, `drover.host.answer`. All thin."""

import logging
from typing import Any

from celery import Task
from celery.exceptions import Ignore

from drover.broker.app import app
from drover.errors import StepError
from drover.settings import settings
from models.job import Direction
from workers import executor, host_rpc
from workers.announcing import Announcer
from workers.registration import incarnation
from workers.steps import STEPS
from workflows.migration import claims
from workflows.migration.chain import task_name

log = logging.getLogger(__name__)


def _register(name: str, direction: Direction) -> None:
    @app.task(name=task_name(direction, name), bind=True, throws=(StepError,), ignore_result=True)
    def run_step(self: Task[Any, Any], *, job_id: int, seq: int, epoch: int) -> None:
        claim = claims.claim(
            job_id=job_id,
            seq=seq,
            name=name,
            epoch=epoch,
            direction=direction,
            host=settings().host,
            owner=incarnation(),
            settings=settings(),
        )
        if claim is None:
            if log.isEnabledFor(logging.DEBUG):
                about = {"job": job_id, "step": name, "direction": direction}
                log.debug("ignores a message: %s", claims.why_not(job_id, seq, epoch, settings().host), extra=about)
            raise Ignore

        executor.run(STEPS[claim.name, claim.side], claim, settings(), Announcer(self))


for _name in sorted({name for name, _ in STEPS}):
    for _direction in Direction:
        _register(_name, _direction)


@app.task(name="drover.host.answer", ignore_result=True)
def answer(*, request_id: int) -> None:
    """Answer a question that was put to this host."""
    host_rpc.answer(request_id, settings())
