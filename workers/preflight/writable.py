"""Whether a guest's QEMU could make, write and read here what its command line names: logs, sockets, memory, files.

At its start it did so as somebody, in folders that were there, and perhaps found a log that was made for it, or had
files opened for it.
"""

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.plan import DestinationPlan, Execution, PlannedFile, PlannedFolder
from models.preflight import Check
from workers.media import destination
from workers.preflight import checks
from workers.process import accounts
from workers.process.environment import handed_on
from workers.qemu.permissions import written
from workers.trust.policy import HostPolicy

WRITE = 0o3
"""In a folder: to make files, and to enter."""
READ, ENTER = 0o4, 0o1


@dataclass(frozen=True)
class _User:
    """As whom it would run here."""

    uid: int
    gid: int
    groups: Sequence[int]

    def kept_from(self, paths: Iterable[Path], test: str) -> set[str]:
        """Those of which test(1) says no, as the kernel decides, access lists and all."""
        script = f'for path; do test -{test} "$path" || printf "%s\\0" "$path"; done'
        groups = f"--groups={','.join(map(str, self.groups))}" if self.groups else "--clear-groups"
        as_user = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", groups, "sh", "-c", script, "sh"]
        done = subprocess.run([*as_user, *map(str, paths)], env=handed_on(), capture_output=True, text=True, check=True)
        return set(done.stdout.split("\0")) - {""}

    def may(self, made: PlannedFile | PlannedFolder, right: int, rules: HostPolicy) -> bool:
        """What is made like that of the guest's host."""
        owner = destination.owner(made, rules)
        if owner is None:
            return True  # refused for that
        in_group = owner[1] in {self.gid, *self.groups}
        bits = made.mode >> 6 if owner[0] == self.uid else made.mode >> 3 if in_group else made.mode
        return bits & right == right


def missing(plan: DestinationPlan, wanted: Execution | None, rules: HostPolicy, root: Path) -> list[Check]:
    """What it could not make, write or read; below the guest root all folders are made."""
    made = [each.path for each in written(plan.argv) if not each.read]
    found = [
        checks.files.NO_FOLDER.found(f"{path}: there is no folder {Path(path).parent} here")
        for path in made
        if not Path(path).is_relative_to(root) and not Path(path).parent.exists()
    ]
    if wanted is None or wanted.user == "root" or os.geteuid() != 0:
        return found
    ids = accounts.ids(wanted.user, wanted.group)
    if ids is None:
        return found  # refused for that
    user = _User(*ids, [there for name in wanted.groups if (there := accounts.group_id(name)) is not None])
    seen = f"{wanted.user}, as whom its QEMU runs, may not"
    closed, unreadable = dict.fromkeys(_closed(made, plan, user, rules)), dict.fromkeys(_unreadable(plan, user, rules))
    found += [checks.process.NOT_WRITABLE.found(f"{path}: {seen} make or write that here") for path in closed]
    return found + [checks.process.NOT_READABLE.found(f"{path}: {seen} read that here") for path in unreadable]


def _closed(made: Sequence[str], plan: DestinationPlan, user: _User, rules: HostPolicy) -> Iterator[str]:
    """Those that its user may not make or write."""
    here = {path: judged for path in made if (judged := _judged(Path(path))).exists()}
    closed = user.kept_from(dict.fromkeys(here.values()), "w")
    yield from (path for path, judged in here.items() if str(judged) in closed)
    planned = {folder.path: folder for folder in plan.folders}
    for path in made:
        folder = planned.get(str(Path(path).parent))
        if path not in here and folder is not None and not user.may(folder, WRITE, rules):
            yield path


def _unreadable(plan: DestinationPlan, user: _User, rules: HostPolicy) -> Iterator[str]:
    """Its files, and the folders on the way to them and to its images, that its user may not read or enter."""
    there = [Path(file.destination_path) for file in plan.files if file.there]
    made = [file for file in plan.files if not file.there]
    yield from sorted(user.kept_from(there, "r"))
    yield from (file.destination_path for file in made if not user.may(file, READ, rules))
    paths = [*(file.destination_path for file in made), *(disk.destination_path for disk in plan.disks)]
    above = {parent for path in paths for parent in Path(path).parents}
    yield from sorted(user.kept_from((parent for parent in above if parent.is_dir()), "x"))
    for folder in plan.folders:
        if Path(folder.path) in above and not Path(folder.path).exists() and not user.may(folder, ENTER, rules):
            yield folder.path


def _judged(path: Path) -> Path:
    """What has to be writable: a log that is there, else the folder, also around a dead socket: QEMU replaces it."""
    return path if path.exists() and not path.is_socket() else path.parent
