"""At the destination: taking the files of one job, and taking back what it brought, unless others use it by now."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from drover import logs
from drover.errors import DroverError, Fatal
from models.plan import PlannedFile, PlannedFolder
from workers import files
from workers.media.destination import Differs, is_there, owner
from workers.media.listing import me
from workers.media.parameters import Incoming, ReceiverParameters
from workers.media.receiver import alone_with, is_draft
from workers.process import processes
from workers.process.processes import Process
from workers.step import Context, JobDirectory
from workers.streams import local
from workers.streams.parameters import FILES
from workers.trust import held_plan, policy

ROLE = "files"


def running(ctx: Context) -> Process | None:
    """The job's process that takes files, if it lives."""
    return processes.one(ctx.directory.mark(ROLE))


def missing(ctx: Context) -> tuple[int, ...]:
    """The places in the plan of the files that are not here.

    Raises:
        Fatal: another file is where one of them belongs.
    """
    try:
        return tuple(
            place for place, file in enumerate(ctx.destination.files) if not is_there(file, ctx.settings, wait_s=None)
        )
    except Differs as error:
        raise Fatal(str(error)) from error


def missing_folders(ctx: Context) -> list[PlannedFolder]:
    """Those of the plan that are not there, and named pipes, where the policy lets guests write."""
    rules = policy.of(ctx.settings)
    return [
        folder
        for folder in ctx.destination.folders
        if not os.path.lexists(folder.path) and rules.may_write(folder.path)
    ]


def make_folders(ctx: Context) -> None:
    """Make them."""
    rules, manifest = policy.of(ctx.settings), ctx.directory.files
    for folder in missing_folders(ctx):
        path = Path(folder.path)
        ctx.guard()
        if not folder.pipe:
            manifest.made_folder(path)  # a pipe is worth nothing: it may stay
        make = files.make_pipe if folder.pipe else files.make_folder
        with suppress(FileExistsError):
            make(files.below(ctx.settings.guest_root, folder.path), folder.mode, *owner_of(folder, rules))


def owner_of(made: PlannedFile | PlannedFolder, rules: policy.HostPolicy) -> tuple[int, int]:
    """User and group that it gets."""
    return owner(made, rules) or me()


async def start(ctx: Context) -> None:
    """Start the process that takes files."""
    await stop(ctx)
    told = {str(place): _incoming(ctx, file) for place, file in enumerate(ctx.destination.files)}
    with local.listen(ctx.directory.socket(FILES)) as listening:
        parameters = ReceiverParameters(
            job=ctx.job.id,
            listening=listening.fileno(),
            manifest=str(ctx.directory.files.path),
            directory=str(ctx.settings.directory),
            guest_root=str(ctx.settings.guest_root),
            incoming=told,
        )
        path = ctx.directory.path / "receiver.json"
        parameters.save(path)
        processes.spawn(
            ctx.directory.mark(ROLE),
            [sys.executable, "-m", "workers.media", str(path)],
            ctx.directory.log(ROLE),
            pass_fds=[listening.fileno()],
            environment=logs.handed_on(step="copy_files"),
        )


def _incoming(ctx: Context, file: PlannedFile) -> Incoming:
    uid, gid = owner_of(file, policy.of(ctx.settings))
    formats = {other.destination_path: other.format for other in ctx.destination.files}
    return Incoming(
        path=file.destination_path,
        size_bytes=file.size_bytes,
        digest=file.digest,
        mode=file.mode,
        uid=uid,
        gid=gid,
        format=file.format,
        backing=file.backing,
        backing_format=formats.get(file.backing or ""),
    )


async def stop(ctx: Context) -> None:
    """End that process; what it brought stays. If there is none, nothing happens."""
    ctx.guard()
    await processes.end_all(ctx.directory.mark(ROLE))  # it can be killed at any instant
    ctx.directory.socket(FILES).unlink(missing_ok=True)


def take_back(directory: JobDirectory, worker: Path) -> list[Path]:
    """Delete what the job brought, but not what others use by now. Returns what stays for them."""
    stays = [path for path in directory.files.files() if not take_back_one(path, directory, worker)]
    directory.files.delete_all()  # folders are left in it, and only empty ones are removed
    return stays


def take_back_one(path: Path, directory: JobDirectory, worker: Path) -> bool:
    """Delete a file that the job brought; False: it stays, others use it, and is the job's no more."""
    with alone_with(path, worker):
        if used_by_others(path, directory):
            directory.files.forget(path)
            return False
        if directory.files.owns(path):
            files.unlink(path)
    return True


def drop_drafts(directory: JobDirectory) -> None:
    """Delete what was begun and not put into place, because another job brought that file."""
    for path in directory.files.files():
        if is_draft(path):
            files.unlink(path)


def used_by_others(path: Path, directory: JobDirectory) -> bool:
    """Another job plans with it, or a process has it open or was started with its name."""
    return _planned_by_another(path, directory) or bool(processes.having_open(path)) or _named_by_a_process(path)


def _planned_by_another(path: Path, directory: JobDirectory) -> bool:
    for folder in directory.path.parent.glob("*"):
        with suppress(OSError, ValueError, DroverError):  # that job was cleaned up meanwhile
            plan = held_plan.held(folder) if folder != directory.path else None
            if plan is not None and any(file.destination_path == str(path) for file in plan.destination.files):
                return True
    return False


def _named_by_a_process(path: Path) -> bool:
    wanted = os.fsencode(path)
    return any(wanted in _command_line(pid) for pid in processes.pids() if pid != os.getpid())


def _command_line(pid: int) -> bytes:
    with suppress(OSError):  # it ended meanwhile
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
