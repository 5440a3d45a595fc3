"""Files that a command reads, or writes in the place of former ones."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drover.errors import PreconditionFailed


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Whatever is done with a file that somebody has named.

    Raises:
        PreconditionFailed: it is not one with which that can be done.
    """
    try:
        yield
    except OSError as error:
        raise PreconditionFailed(f"{path} cannot be used: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PreconditionFailed(f"{path} cannot be used: it is no text in UTF-8") from error


def replace(path: Path, text: str) -> None:
    """In one piece; owner and mode stay, a new file is for its owner alone."""
    from workers.files import write_durably

    with named(path):
        former = path.stat() if path.exists() else None
        write_durably(path, text)
        if former is not None:
            os.chown(path, former.st_uid, former.st_gid)
            path.chmod(former.st_mode & 0o777)


def read(path: Path) -> str:
    """The text of such a file."""
    with named(path):
        return path.read_text()


def passwords(path: Path, new: str | None, *, settle: bool = False) -> list[str]:
    """Write a new password above the former one, so that the latter counts as well, or with `settle` the newest alone.

    Returns those that count, the newest first.
    """
    known = read(path).split() if path.exists() else []
    wanted = known if new is None else [new, *known[:1]]
    wanted = wanted[:1] if settle else wanted
    if wanted != known:
        replace(path, "".join(f"{password}\n" for password in wanted))
    return wanted
