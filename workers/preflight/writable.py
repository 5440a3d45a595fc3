"""Whether a guest's QEMU could make and write here what its command line names: logs, sockets, memory.

At its start it did so as somebody, in folders that were there, and perhaps found a log that was made for it.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.plan import DestinationPlan, Execution, PlannedFolder
from models.preflight import Check
from workers.media import destination
from workers.preflight import checks
from workers.process import accounts
from workers.qemu.permissions import written
from workers.trust.policy import HostPolicy

WRITE = 0o3
"""In a folder: to make files, and to enter."""


def missing(plan: DestinationPlan, wanted: Execution | None, rules: HostPolicy, root: Path) -> list[Check]:
    """What it could not make or write; below the guest root all folders are made."""
    made = [each.path for each in written(plan.argv) if not each.read]
    found = [
        checks.files.NO_FOLDER.found(f"{path}: there is no folder {Path(path).parent} here")
        for path in made
        if not Path(path).is_relative_to(root) and not Path(path).parent.exists()
    ]
    if wanted is None or wanted.user == "root" or os.geteuid() != 0:
        return found
    closed = dict.fromkeys(_closed(made, plan, wanted, rules))
    seen = f"{wanted.user}, as whom its QEMU runs, may not make or write that here"
    return found + [checks.process.NOT_WRITABLE.found(f"{path}: {seen}") for path in closed]


def _closed(made: Sequence[str], plan: DestinationPlan, wanted: Execution, rules: HostPolicy) -> Iterator[str]:
    """Those that its user may not make or write."""
    ids = accounts.ids(wanted.user, wanted.group)
    groups = [there for name in wanted.groups if (there := accounts.group_id(name)) is not None]
    if ids is None:
        return  # refused for that
    here = {path: str(_judged(Path(path))) for path in made if _judged(Path(path)).exists()}
    closed = _not_writable(list(dict.fromkeys(here.values())), *ids, groups)
    yield from (path for path, judged in here.items() if judged in closed)
    planned = {folder.path: folder for folder in plan.folders}
    for path in made:
        folder = planned.get(str(Path(path).parent))
        if path not in here and folder is not None and not _may_write(folder, ids[0], {ids[1], *groups}, rules):
            yield path


def _judged(path: Path) -> Path:
    """What has to be writable: a log that is there, else the folder, also around a dead socket: QEMU replaces it."""
    return path if path.exists() and not path.is_socket() else path.parent


def _not_writable(paths: Sequence[str], uid: int, gid: int, groups: Sequence[int]) -> set[str]:
    """As the kernel decides, access lists and all."""
    script = 'for path; do test -w "$path" || printf "%s\\0" "$path"; done'
    others = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    as_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", others, "sh", "-c", script, "sh", *paths]
    done = subprocess.run(as_user, capture_output=True, text=True, check=True)
    return set(done.stdout.split("\0"))


def _may_write(folder: PlannedFolder, uid: int, groups: set[int], rules: HostPolicy) -> bool:
    """A folder that is made like that of the guest's host."""
    owner = destination.owner(folder, rules)
    if owner is None:
        return True  # refused for that
    bits = folder.mode >> 6 if owner[0] == uid else folder.mode >> 3 if owner[1] in groups else folder.mode
    return bits & WRITE == WRITE
