"""Files and folders that somebody else may have a hand in: opened without following what they put there.

The folder of a guest may belong to the user that its QEMU runs as, and a worker is root. So each part of a path is
opened relative to the one above it, and no symbolic link is followed but one of root's or of this worker's own user: by
these an operator puts a guest root on another disk. What is done in a folder is done through its descriptor.

`openat2` knows no such exception, and the kept library for it (libpathrs) is in no distribution that Drover runs on.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drover.errors import Fatal

MOST_LINKS = 40
"""In one path, as for the kernel."""
SEARCH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
AT_ONCE = os.O_NONBLOCK
"""A pipe in the place of a file would keep whoever opens it waiting for its other end, without end."""
BLOCK = 512
"""Unit of `st_blocks`, stat(2)."""
PRIVATE, PRIVATE_FOLDER, GUESTS_FOLDER = 0o600, 0o700, 0o755


class UnsafePath(Fatal):
    """A path leads where somebody else decides, or out of where it belongs. Nothing was touched."""


def below(root: Path, path: str) -> Path:
    """A path that came from elsewhere, if it lies below this folder by its words.

    Raises:
        UnsafePath: it does not.
    """
    there = Path(path)
    if not there.is_relative_to(root) or there == root or ".." in there.parts or "\0" in path:
        raise UnsafePath(f"{path} does not lie below this host's guest root {root}: it is not touched")
    return there


def place(path: str, root: Path, folders: Iterable[Path]) -> Path:
    """Likewise below this folder or one of the others. Errors as for `below`."""
    above = next((folder for folder in folders if Path(path).is_relative_to(folder)), root)
    return below(above, path)


@contextmanager
def folder(path: Path, *, make: bool = False) -> Iterator[int]:
    """A descriptor of a folder, for a `with` block: the `dir_fd` of what is done there.

    Raises:
        UnsafePath: somebody else's link is on the way.
        FileNotFoundError: it is not there, and was not to be made.
    """
    if not path.is_absolute() or ".." in path.parts:
        raise UnsafePath(f"{path} is no plain absolute path: it is not touched")
    here, left, links = os.open("/", SEARCH), [*reversed(path.parts[1:])], 0
    try:
        while left:
            part = left.pop()
            below_it = _open(part, here, make=make)
            try:
                leads_to = _folders_target(below_it, path)
            except BaseException:
                os.close(below_it)
                raise
            if leads_to is None:
                os.close(here)
                here = below_it
                continue
            os.close(below_it)
            left += reversed(Path(leads_to).parts)
            if (links := links + 1) > MOST_LINKS:
                raise UnsafePath(f"{path} has too many symbolic links in it: it is not touched")
        yield here
    finally:
        os.close(here)


def _open(part: str, above: int, *, make: bool) -> int:
    try:
        return os.open(part, SEARCH, dir_fd=above)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(part, GUESTS_FOLDER, dir_fd=above)
    return os.open(part, SEARCH, dir_fd=above)


def _folders_target(descriptor: int, path: Path) -> str | None:
    """Where a link on the way to a path leads; None for a folder."""
    target = _target(descriptor)
    if target is None and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "a part of it is no folder", str(path))
    return target


def _target(descriptor: int) -> str | None:
    """Where an open link leads, which only root or the worker's own user may have made; None: it is no link."""
    status = os.fstat(descriptor)
    if not stat.S_ISLNK(status.st_mode):
        return None
    target = os.readlink("", dir_fd=descriptor)
    if status.st_uid not in {0, os.geteuid()}:
        link = Path(f"/proc/self/fd/{descriptor}").readlink()
        raise UnsafePath(
            f"{link} is a symbolic link to {target} that belongs to user {status.st_uid}: only links of root's or of "
            f"the worker's own user are followed; nothing was touched. `chown -h root {link}` if it is right"
        )
    return target


def opened(path: Path, flags: int, *, make_folders: bool = False) -> int:
    """A descriptor of a file or block device; one that is made is its owner's alone from the first instant.

    Raises:
        UnsafePath: it is a symbolic link or no file, or somebody else's link is on the way.
        OSError: as for `os.open`.
    """
    with folder(path.parent, make=make_folders) as parent:
        _look_first(path, parent)
        try:
            descriptor = os.open(path.name, flags | AT_ONCE | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UnsafePath(f"{path} is a symbolic link: it is not followed") from error
            if error.errno == errno.ENXIO:
                raise UnsafePath(_no_file(path)) from error
            raise
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(descriptor)
        raise UnsafePath(_no_file(path))
    os.set_blocking(descriptor, not flags & AT_ONCE)
    return descriptor


def nameless(path: Path) -> int:
    """A descriptor of a new file in a folder that has no name there: it is gone with its descriptor.

    Raises:
        UnsafePath: somebody else's link is on the way.
        OSError: none can be made.
    """
    with folder(path) as parent:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, PRIVATE, dir_fd=parent)


def _look_first(path: Path, parent: int) -> None:
    """To open some devices is enough to have an effect: a watchdog restarts the host."""
    with suppress(FileNotFoundError):
        mode = os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISLNK(mode)):
            raise UnsafePath(_no_file(path))


def _no_file(path: Path) -> str:
    return f"{path} is a pipe, a socket or a device where a file should be: it is not opened, nothing was touched"


def target(path: Path) -> str | None:
    """Where a link leads; None: it is none, or nothing is there.

    Raises:
        UnsafePath: it is somebody else's link, or one is on the way.
    """
    with suppress(FileNotFoundError, NotADirectoryError), folder(path.parent) as parent:
        descriptor = os.open(path.name, SEARCH, dir_fd=parent)
        try:
            return _target(descriptor)
        finally:
            os.close(descriptor)
    return None


def followed(path: Path) -> Path:
    """Where a path leads: itself, unless it is a symbolic link. Errors as for `target`."""
    for _ in range(MOST_LINKS):
        leads_to = target(path)
        if leads_to is None:
            return path
        path = Path(os.path.normpath(path.parent.resolve() / leads_to))
    raise UnsafePath(f"{path} has too many symbolic links in it: it is not touched")


def make_folder(path: Path, mode: int, uid: int, gid: int) -> None:
    """Make a folder that is not there yet, in one that is.

    Raises:
        FileExistsError: something is there.
        UnsafePath: somebody else's link is on the way.
    """
    with folder(path.parent) as parent:
        os.mkdir(path.name, PRIVATE_FOLDER, dir_fd=parent)
        made = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.fchown(made, uid, gid)
            os.fchmod(made, mode)
        finally:
            os.close(made)


def make_pipe(path: Path, mode: int, uid: int, gid: int) -> None:
    """Make a named pipe that is not there yet. Errors as for `make_folder`."""
    with folder(path.parent) as parent:
        os.mkfifo(path.name, PRIVATE, dir_fd=parent)
    with held(path) as made:
        if not stat.S_ISFIFO(os.fstat(made).st_mode):
            raise UnsafePath(f"{path} was made as a pipe, and somebody put something else there: it is not touched")
        give(made, uid, gid)
        named(made).chmod(mode)


@contextmanager
def held(path: Path) -> Iterator[int]:
    """A descriptor of whatever is there now, not opened, a link not followed; for a `with` block.

    Raises:
        UnsafePath: somebody else's link is on the way.
        FileNotFoundError: nothing is there.
    """
    with folder(path.parent) as parent:
        there = os.open(path.name, SEARCH, dir_fd=parent)
    try:
        yield there
    finally:
        os.close(there)


def named(descriptor: int) -> Path:
    """A path of what is held, whatever is put in its place."""
    return Path(f"/proc/self/fd/{descriptor}")


def give(descriptor: int, uid: int, gid: int) -> None:
    """Give somebody what is held."""
    os.chown(named(descriptor), uid, gid)


def status(path: Path) -> os.stat_result | None:
    """Of what is there, a link not followed; None: there is nothing.

    Raises:
        UnsafePath: somebody else's link is on the way.
    """
    with suppress(FileNotFoundError, NotADirectoryError), folder(path.parent) as parent:
        return os.stat(path.name, dir_fd=parent, follow_symlinks=False)
    return None


def taken_bytes(of: os.stat_result) -> int:
    """What it takes of its file system; a block device takes nothing."""
    return 0 if stat.S_ISBLK(of.st_mode) else of.st_blocks * BLOCK


def unlink(path: Path) -> None:
    """Delete a file. If it does not exist, nothing happens. Errors as for `status`."""
    with suppress(FileNotFoundError), folder(path.parent) as parent:
        os.unlink(path.name, dir_fd=parent)


def link(path: Path, name: str) -> None:
    """Give a file a further name in its folder.

    Raises:
        FileExistsError: something has that name.
    """
    with folder(path.parent) as parent:
        os.link(path.name, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)


def rename(path: Path, name: str) -> None:
    """Give a file another name in its folder. Errors as for `status`."""
    with folder(path.parent) as parent:
        os.rename(path.name, name, src_dir_fd=parent, dst_dir_fd=parent)


def move(path: Path, name: str) -> None:
    """Likewise, unless something else has that name. Done again after dying half-way, it ends. Errors as for `link`."""
    try:
        link(path, name)
    except FileExistsError:
        here, there = status(path), status(path.with_name(name))
        if here is None or there is None or not os.path.samestat(here, there):
            raise
    unlink(path)


def remove_if_empty(path: Path) -> None:
    """Delete a folder that nothing is in; any other stays."""
    with suppress(OSError, UnsafePath), folder(path.parent) as parent:
        os.rmdir(path.name, dir_fd=parent)


def private(path: Path, flags: int) -> int:
    """A descriptor of a file in the worker's own folder, made if need be: nobody else can ever read it."""
    private_folder(path.parent)
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)


def private_folder(path: Path) -> None:
    """Make a folder of the worker's own, and those above it that are missing."""
    for part in (*reversed(path.parents), path):
        if not part.is_dir():
            with suppress(FileExistsError):
                part.mkdir(PRIVATE_FOLDER)


def write_durably(path: Path, text: str) -> None:
    """Replace a small file of the worker's own so that after a crash either the old or the new content is there."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)  # of a process that died; it may be an earlier version's, which others can read
    with os.fdopen(private(draft, os.O_WRONLY | os.O_EXCL), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames and new files in a folder survive a crash of the host."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
