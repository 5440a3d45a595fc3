"""The program that works on an empty host: asked for by a row, run on a control node, its end read from the row.

It runs where a controller runs, not on the host: it may reboot the host, and what is in the database must never decide
what runs there as root. Only programs that the control node's administrator has put into one folder can be named.
"""

import os
import stat
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from drover import words
from drover.errors import PreconditionFailed
from drover.settings import Settings
from drover.words import clock
from models.base import now
from models.controller import wake
from models.database import transaction
from models.documents import Hook
from models.roll import OUTPUT_KEPT, HookRun, Roll, RollHost

BEAT_S = 5.0
"""How often the process of a hook says that it lives."""
SILENT = timedelta(seconds=60)
"""After this time without a word nobody can tell whether the hook still works."""
TAKEN_WITHIN = timedelta(seconds=20)
"""A run that no process has taken after this time is asked for anew."""


def check_name(hook: Hook) -> None:
    """A hook is named, never found by a path.

    Raises:
        PreconditionFailed: its name is a path, or missing.
    """
    name = hook.argv[0] if hook.argv else ""
    if not name or "/" in name or name in {".", ".."} or "\0" in "".join(hook.argv):
        raise PreconditionFailed(
            f"{name!r} is no name of a hook: name a program that lies in the folder DROVER_HOOKS of every control node"
        )


def program(hook: Hook, ours: Settings) -> Path:
    """Where the hook is on this control node.

    Raises:
        PreconditionFailed: it is not there, or others than its administrator could have written it.
    """
    check_name(hook)
    path = ours.hooks / hook.argv[0]
    for each in (ours.hooks, path):
        try:
            found = each.stat()
        except OSError as error:
            why = f"{error.strerror}: {_those_that_are_there(path)}"
            raise PreconditionFailed(f"the hook {path} cannot be run on {machine()}: {why}") from error
        if found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
            raise PreconditionFailed(
                f"{each} on {machine()} could be written by others than root: `chown root` it and `chmod go-w` it"
            )
    if not stat.S_ISREG(found.st_mode) or not os.access(path, os.X_OK):
        raise PreconditionFailed(f"the hook {path} on {machine()} is no program: `chmod +x` it")
    return path


def _those_that_are_there(path: Path) -> str:
    """Whatever can be listed of the hook's neighbours."""
    readable = os.access(path.parent, os.R_OK | os.X_OK)
    names = sorted(one.name for one in path.parent.iterdir()) if readable else []
    return f"{words.did_you_mean(path.name, names)}the folder has {', '.join(names) or 'none'}"


def machine() -> str:
    """The name of this control node."""
    return os.uname().nodename


def ask(session: Session, row: RollHost) -> HookRun:
    """Write down that the hook is to be run now; a process is started for it after the commit."""
    run = HookRun(roll_id=row.roll_id, host=row.host)
    session.add(run)
    session.flush()
    row.hook_run_id = run.id
    return run


def is_lost(session: Session, run: HookRun) -> bool:
    """It was taken, and nobody can tell whether it still works."""
    return run.ended_at is None and run.seen_at is not None and run.seen_at < now(session) - SILENT


def was_not_taken(session: Session, run: HookRun) -> bool:
    """Its process has not come up: another one may be started, since this one can take it no more."""
    if run.ended_at is not None or run.begun_at is not None or run.asked_at > now(session) - TAKEN_WITHIN:
        return False
    open_run = (HookRun.id == run.id) & HookRun.begun_at.is_(None)
    given_up = {"ended_at": func.clock_timestamp(), "output": "its process did not come up"}
    return session.scalar(update(HookRun).where(open_run).values(given_up).returning(HookRun.id)) is not None


def failure(session: Session, run: HookRun) -> str | None:
    """Why it has not done its work, as a sentence; None if it has, or still works."""
    if is_lost(session, run):
        return (
            f"whether its hook still works is not known: pid {run.pid} on {run.machine} has reported nothing since "
            f"{run.seen_at:%H:%M:%S %Z}; look there, and resume once it has ended"
        )
    if run.ended_at is None or run.exit_code == 0:
        return None
    last = next((line for line in reversed((run.output or "").splitlines()) if line.strip()), "it wrote nothing")
    if run.exit_code is None:
        return f"its hook did not run: {last}"
    return f"its hook ended with {run.exit_code} on {run.machine}: {last}"


def progress(session: Session, run: HookRun) -> str:
    """What goes on."""
    if run.begun_at is None:
        return "its hook is being started"
    lasted = (now(session) - run.begun_at).total_seconds()
    return f"its hook has worked for {clock(lasted)}, as pid {run.pid} on {run.machine}"


def take(run_id: int) -> tuple[HookRun, Roll] | None:
    """For the process of a hook: the run is its own from now on; None if another one has it, or it was given up."""
    mine = {"machine": machine(), "pid": os.getpid(), "begun_at": func.clock_timestamp()}
    free = (HookRun.id == run_id) & HookRun.begun_at.is_(None) & HookRun.ended_at.is_(None)
    with transaction() as session:
        if session.scalar(update(HookRun).where(free).values(mine | _SEEN).returning(HookRun.id)) is None:
            return None
        run = session.get_one(HookRun, run_id)
        return run, session.get_one(Roll, run.roll_id)


def beat(run_id: int) -> None:
    """For the process of a hook: it lives."""
    with transaction() as session:
        session.execute(update(HookRun).where(HookRun.id == run_id, HookRun.ended_at.is_(None)).values(_SEEN))


def end(run_id: int, exit_code: int | None, output: str) -> None:
    """For the process of a hook: it has ended; without an exit code it was not started, and `output` says why."""
    kept = output.replace("\0", "")[-OUTPUT_KEPT:]
    ended = {"exit_code": exit_code, "output": kept, "ended_at": func.clock_timestamp()}
    with transaction() as session:
        session.execute(update(HookRun).where(HookRun.id == run_id).values(ended | _SEEN))
        wake(session)


_SEEN = {"seen_at": func.clock_timestamp()}
