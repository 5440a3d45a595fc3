"""Programs of a host's administrator that run at certain points of a move: for bridges, DNS, load balancers, alerts.

They lie in `POINT.d` below the policy's folder, in `sets/SET/POINT.d` for moves that want that set, and in
`guests/GUEST/POINT.d` for one guest. They run in this order, those of one folder in the order of their names. A name
says how its program runs:

    50-dns               as the worker, its failure counts
    50-dns@nobody        as that user
    50-dns.warn          its failure is told, nothing else

One that ended well is not run again at that point. One that was running when its worker died is: it must not mind.
"""

import asyncio
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from drover import words
from drover.errors import Fatal, StepError, Transient
from models.event_action import EventAction
from models.hook import HookCall, HookDisk
from models.job import Direction
from workers import files, programs
from workers.disks.held_up import Remarks
from workers.files import write_durably
from workers.step import Context
from workers.trust import policy

NAME = re.compile(r"[0-9A-Za-z][\w.-]*?(?:@(?P<user>[a-z_][\w-]*))?(?P<warn>\.warn)?")
LONG_S = 3.0
"""A move says that it waits for a program which works for longer."""
GUESTS = "guests"
SETS = "sets"


class Point(StrEnum):
    """When they run, on both hosts."""

    BEFORE_COPY = "before-copy"
    """Nothing was made or copied yet."""
    BEFORE_SWITCHOVER = "before-switchover"
    """The disks are in sync, the RAM follows; at the destination once for each attempt at that."""
    AFTER_SWITCHOVER = "after-switchover"
    """The guest runs at the destination."""
    AFTER_ROLLBACK = "after-rollback"
    """The guest stays at the source, and what was made is gone; only where something was begun."""
    AFTER_CLEANUP = "after-cleanup"
    """Nothing of the job is left but the guest."""


@dataclass(frozen=True, kw_only=True)
class Hook:
    """One program."""

    path: Path
    user: str | None
    warns: bool
    """Its failure stops nothing."""


def of(point: Point, folder: Path, guest: str, wanted: str | None = None) -> list[Hook]:
    """Those of the host, then those of the set that is wanted, then those of the guest.

    Raises:
        Fatal: one could have been put there, or changed, by others than root; its name says nothing; or there is no
            such set.
    """
    if why := missing(folder, wanted):
        raise Fatal(why)
    places = [folder, *([folder / SETS / wanted] if wanted else []), folder / GUESTS / guest]
    return [hook for place in places for hook in _in(place / f"{point}.d", folder)]


def missing(folder: Path, wanted: str | None) -> str | None:
    """That there is no such set of hooks, as a sentence; None if there is, or none is wanted."""
    if wanted is None or (folder / SETS / wanted).is_dir():
        return None
    there = sorted(path.name for path in (folder / SETS).glob("*/"))
    alike = words.did_you_mean(wanted, there)
    return f"there is no set of hooks {wanted}: {alike}no folder {folder / SETS / wanted}"


def _in(folder: Path, root: Path) -> Iterator[Hook]:
    if not folder.is_dir():
        return
    for above in (folder, *folder.parents):
        if above.is_relative_to(root):
            _only_roots(above)
    for path in sorted(folder.iterdir()):
        if path.is_file() and os.access(path, os.X_OK):
            _only_roots(path.resolve())
            yield _hook(path)


def _hook(path: Path) -> Hook:
    found = NAME.fullmatch(path.name)
    if found is None:
        raise Fatal(f"the hook {path} has a name that says nothing: letters, digits, dots and dashes are wanted")
    return Hook(path=path, user=found["user"], warns=bool(found["warn"]))


def _only_roots(path: Path) -> None:
    """Neither it nor a folder above it is for others to change, or to put something else in its place."""
    for each in (path, *path.resolve().parents):
        status = each.stat()
        sticky = each != path and status.st_mode & stat.S_ISVTX  # as in /tmp, what is root's stays where it is
        if status.st_uid not in {0, os.geteuid()} or (status.st_mode & 0o022 and not sticky):
            raise Fatal(f"the hook's {each} could be changed by others than root: `chown root` it and `chmod go-w` it")


async def run(ctx: Context, point: Point) -> None:
    """Run what has not ended well at this point yet. After a rollback only where the job was more than a row here.

    Raises:
        Fatal: one failed before the point of no return: the job is rolled back.
        Transient: one failed, and the job cannot go back: it is tried again.
    """
    if point is Point.AFTER_ROLLBACK and ctx.held is None:
        return
    found = {each: _of(ctx, each) for each in (Point if point is Point.BEFORE_COPY else [point])}
    done = _Done(ctx, point)
    for hook in found[point]:
        if str(hook.path) not in done.paths:
            await _one(ctx, point, hook)
            done.add(hook)


def finished(ctx: Context, point: Point) -> bool:
    """All have ended well, or there are none."""
    paths = _Done(ctx, point).paths
    return all(str(hook.path) in paths for hook in _of(ctx, point))


def _of(ctx: Context, point: Point) -> list[Hook]:
    return of(point, policy.of(ctx.settings).hooks, ctx.job.guest, ctx.job.options.hooks)


async def _one(ctx: Context, point: Point, hook: Hook) -> None:
    ctx.guard()
    begun, most_s = time.monotonic(), policy.of(ctx.settings).file.hook_s
    works = (
        f"{point} on {ctx.settings.host}: {hook.path} works, for up to {words.duration(most_s)}; the move waits for it"
    )
    remarks = Remarks(ctx)
    told_later = asyncio.get_running_loop().call_later(LONG_S, remarks.tell, works)
    try:
        ended = await programs.run(
            hook.path,
            environment=_environment(ctx, point),
            told=json.dumps(_call(ctx, point).json_object()).encode(),
            user=hook.user,
            timeout_s=most_s,
        )
    finally:
        told_later.cancel()
    remarks.tell(None)
    took = time.monotonic() - begun
    told = f"{point} on {ctx.settings.host}: {hook.path} took {took:.1f} s and {ended.how}"
    ctx.tell(EventAction.HOOK if ended.ok else EventAction.WARNING, told)
    if not ended.ok and not hook.warns:
        raise _error(ctx, point, told)


def _error(ctx: Context, point: Point, told: str) -> StepError:
    before = point in {Point.BEFORE_COPY, Point.BEFORE_SWITCHOVER} and ctx.claim.direction is Direction.DO
    return Fatal(told) if before else Transient(told)


def _environment(ctx: Context, point: Point) -> dict[str, str]:
    job = ctx.job
    return {
        "DROVER_HOOK": point,
        "DROVER_SIDE": ctx.claim.side,
        "DROVER_GUEST": job.guest,
        "DROVER_JOB": str(job.id),
        "DROVER_ATTEMPT": str(ctx.claim.token),
        "DROVER_SOURCE": job.source,
        "DROVER_DESTINATION": job.destination,
    }


def _call(ctx: Context, point: Point) -> HookCall:
    job, plan = ctx.job, ctx.plan if ctx.job.plan is not None else None
    return HookCall(
        hook=point.value,
        side=ctx.claim.side.value,
        guest=job.guest,
        job=job.id,
        attempt=ctx.claim.token,
        source=job.source,
        destination=job.destination,
        uuid=plan.source.uuid if plan is not None else None,
        reason=job.error,
        disks=tuple(
            HookDisk(
                index=disk.index,
                source_path=disk.source_path,
                destination_path=disk.destination_path,
                bytes_size=disk.virtual_size_bytes,
            )
            for disk in (plan.disks if plan is not None else ())
        ),
    )


class _Done:
    """Which have ended at a point, in a file of the job's folder on this host."""

    def __init__(self, ctx: Context, point: Point) -> None:
        name = f"{point}-{ctx.job.epoch}" if point is Point.BEFORE_SWITCHOVER else point
        self.file = ctx.directory.path / f"hooks-{name}.json"
        self.paths: list[str] = json.loads(self.file.read_text()) if self.file.exists() else []

    def add(self, hook: Hook) -> None:
        self.paths.append(str(hook.path))
        files.private_folder(self.file.parent)
        write_durably(self.file, json.dumps(self.paths))
