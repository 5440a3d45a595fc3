"""What holds a copy up: the step's remark meanwhile, and an event as it begins and as it is over."""

from collections.abc import Iterable

from models.event_action import EventAction
from models.job import Job, record_event
from workers.step import Context


def no_room(job: Job, paths: Iterable[str]) -> str:
    """What only an operator can change, and what is waited for without a limit. By NBD a quota that is used up is no
    room either (`system_errno_to_nbd_errno`).
    """
    return (
        f"{job.destination} has no room left for {', '.join(paths)}: make room there (or raise the quota) and the move "
        f"goes on, or end it with `drover job cancel {job.id}`"
    )


class Remarks:
    """What one step has said of that."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.said: str | None = None

    def tell(self, held_up: str | None, low: str | None = None) -> None:
        """What holds it up now, or what may soon; None: nothing does. It is told once."""
        remark = held_up or low
        if remark == self.said:
            return
        self.said = remark
        action = EventAction.HELD_UP if held_up else EventAction.WARNING if low else EventAction.GOES_ON
        with self.ctx.record() as (session, job, step):
            step.error = remark
            record_event(session, job.id, by=self.ctx.claim.owner, action=action, sentence=remark or "the move goes on")
        self.ctx.remark = remark
