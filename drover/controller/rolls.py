"""Carries rolls on, and starts the processes of their hooks."""

import logging
import os
import subprocess
import sys
import threading

from sqlalchemy import select

from drover.settings import Settings
from models.database import transaction
from models.roll import Roll
from workers.process.processes import MARK
from workflows import isolation
from workflows.roll import reconciler

log = logging.getLogger(__name__)


def tick(ours: Settings) -> None:
    """Look at every roll that goes on, once."""
    with transaction() as session:
        ids = session.scalars(select(Roll.id).where(reconciler.unfinished()).order_by(Roll.id)).all()
    isolation.each("carry the roll on", Roll, ids, lambda roll_id: _carry_on(roll_id, ours))


def _carry_on(roll_id: int, ours: Settings) -> None:
    with transaction() as session:
        roll = session.get(Roll, roll_id, with_for_update={"skip_locked": True})
        asked = reconciler.advance(session, roll, ours) if roll is not None else []
        if roll is not None:
            isolation.forget_trouble(roll)
    for run_id in asked:  # after the commit: its process must find the row
        start_hook(run_id)


def start_hook(run_id: int) -> None:
    """Start the process of a hook. It outlives this controller, and writes into the run's row what becomes of it."""
    argv = [sys.executable, "-m", "drover.controller.hook", str(run_id)]
    environment = {name: value for name, value in os.environ.items() if name != MARK}  # that names the controller
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True, env=environment)
    log.info("starts the process of a hook", extra={"pid": child.pid})
    threading.Thread(target=child.wait, name=f"reap {child.pid}", daemon=True).start()
