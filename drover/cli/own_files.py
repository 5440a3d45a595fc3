"""Files that a command writes in the place of former ones."""

import os
from pathlib import Path


def replace(path: Path, text: str) -> None:
    """In one piece; owner and mode stay, a new file is for its owner alone."""
    from workers.files import write_durably

    former = path.stat() if path.exists() else None
    write_durably(path, text)
    if former is not None:
        os.chown(path, former.st_uid, former.st_gid)
        path.chmod(former.st_mode & 0o777)


def passwords(path: Path, new: str | None, *, settle: bool = False) -> list[str]:
    """Write a new password above the former one, so that the latter counts as well, or with `settle` the newest alone.

    Returns those that count, the newest first.
    """
    known = path.read_text().split() if path.exists() else []
    wanted = known if new is None else [new, *known[:1]]
    wanted = wanted[:1] if settle else wanted
    if wanted != known:
        replace(path, "".join(f"{password}\n" for password in wanted))
    return wanted
