"""What the source says of the room at the destination while disks are copied, before that is full."""

import time

from sqlalchemy import select

from models.database import transaction
from models.storage import Storage, holding
from workers.step import Context

EVERY_S = 5.0


class Low:
    """Whether a storage that the job's images lie in gets low; read from its worker's reports every 5 s."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.due_at = 0.0
        self.said: str | None = None

    def sentence(self) -> str | None:
        """What to do about it; None while there is room enough."""
        if time.monotonic() >= self.due_at:
            self.said = self._look()
            self.due_at = time.monotonic() + EVERY_S
        return self.said

    def _look(self) -> str | None:
        with transaction() as session:
            rows = session.scalars(select(Storage).where(Storage.host == self.ctx.job.destination)).all()
        there = {row.name: row for disk in self.ctx.job.disks if (row := holding(rows, disk.destination_path))}
        low = [row for row in there.values() if row.low]
        if not low:
            return None
        which = ", ".join(f"{row.name} ({row.place})" for row in low)
        return (
            f"{self.ctx.job.destination} will soon have no room left in its storage {which}: make room there, or end "
            f"the move with `drover job cancel {self.ctx.job.id}`"
        )
