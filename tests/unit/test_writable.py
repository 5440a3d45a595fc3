"""What a guest's QEMU could not make, write or read at its destination is known before the move."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.plan import DestinationPlan, FileKind, PlannedFile, PlannedFolder
from tests import factories
from workers.preflight import writable
from workers.process import execution
from workers.trust import policy

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user's QEMU needs root")


def found(
    root: Path,
    *words: str,
    user: str = "root",
    folders: tuple[PlannedFolder, ...] = (),
    files: tuple[PlannedFile, ...] = (),
) -> list[str]:
    rules = policy.of(factories.offline(host="two", guest_root=root, policy=Path("/nonexistent")))
    plan = DestinationPlan.model_construct(argv=("qemu", *words), folders=folders, files=files, disks=())
    wanted = execution.plainly().model_copy(update={"user": user, "group": "nogroup", "groups": ()})
    return [check.name for check in writable.missing(plan, wanted, rules, root)]


@pytest.fixture
def seen_by_all() -> Iterator[Path]:
    """A folder of root's; those of pytest nobody else may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_folder_outside_of_the_guest_root_has_to_be_there(tmp_path: Path) -> None:
    root = tmp_path / "guests"
    log = f"file,id=c,path={tmp_path}/log/web.log"
    assert found(root, "-chardev", log) == ["no-folder"]
    (tmp_path / "log").mkdir()
    assert found(root, "-chardev", log, "-pidfile", f"{root}/web/pid") == []


@as_root
def test_a_folder_or_log_that_its_user_may_not_write_is_named(seen_by_all: Path) -> None:
    seen_by_all.chmod(0o755)
    for above in seen_by_all.parents:
        if above.owner() == "root" and above != Path("/tmp"):  # pytest's folders are for root alone
            above.chmod(above.stat().st_mode | 0o055)
    log, socket = seen_by_all / "log", f"unix:{seen_by_all}/qmp,server=on"
    assert found(seen_by_all, "-qmp", socket, user="nobody") == ["not-writable"]
    assert found(seen_by_all, "-qmp", socket) == []
    log.touch()
    assert found(seen_by_all, "-serial", f"file:{log}", user="nobody") == ["not-writable"]
    log.chmod(0o666)
    assert found(seen_by_all, "-serial", f"file:{log}", user="nobody") == []
    seen_by_all.chmod(0o777)
    assert found(seen_by_all, "-qmp", socket, user="nobody") == []


@as_root
def test_a_folder_that_will_be_made_counts_as_it_will_be(tmp_path: Path) -> None:
    def with_mode(mode: int) -> list[str]:
        folder = PlannedFolder(path=str(tmp_path / "web"), mode=mode, owner="root", group="root")
        return found(tmp_path, "-pidfile", f"{tmp_path}/web/pid", user="nobody", folders=(folder,))

    assert (with_mode(0o755), with_mode(0o777)) == (["not-writable"], [])


@as_root
def test_a_file_that_its_user_may_not_read_is_named_whether_it_is_there_or_will_be_made(seen_by_all: Path) -> None:
    def medium(place: Path, mode: int, *, there: bool) -> list[str]:
        file = PlannedFile(
            kind=FileKind.MEDIUM,
            source_path="/cd.iso",
            destination_path=str(place),
            size_bytes=0,
            digest="",
            mode=mode,
            owner="root",
            group="root",
            there=there,
        )
        return found(seen_by_all, user="nobody", files=(file,))

    (seen_by_all / "cd.iso").touch(0o600)
    assert medium(seen_by_all / "cd.iso", 0o644, there=True) == ["not-readable"]
    (seen_by_all / "cd.iso").chmod(0o644)
    assert medium(seen_by_all / "cd.iso", 0o600, there=True) == []
    assert medium(seen_by_all / "new.iso", 0o600, there=False) == ["not-readable"]
    assert medium(seen_by_all / "new.iso", 0o644, there=False) == []
    (seen_by_all / "closed").mkdir(0o700)
    assert medium(seen_by_all / "closed" / "new.iso", 0o644, there=False) == ["not-readable"]
