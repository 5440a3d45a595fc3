"""What a host's policy allows: which programs, users and bridges, and which paths to read, to write and as devices."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from drover.errors import PreconditionFailed
from tests import factories
from workers.trust import policy
from workers.trust.policy import HostPolicy, Policy, PolicyStorage

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices, and files of others")
KEY = "A" * 43 + "="
SOMEBODY = 65534


def rules(guest_root: Path = Path("/srv/guests"), **file: Any) -> HostPolicy:
    return HostPolicy(Policy(**file), factories.offline(host="two", guest_root=guest_root, policy=Path("/nonexistent")))


# --- The file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("", 0o664, "could be written by others"),
        ("", 0o646, "could be written by others"),
        ("folders = [", 0o644, "is no TOML"),
        ('read = ["/usr/share/../../etc"]', 0o644, "an absolute path without"),
        ("folder = []", 0o644, "folder is unknown here"),
        ('folders = ["vm"]', 0o644, "an absolute path"),
        ('[hosts]\none = "x"', 0o644, "the public key of a host is wanted"),
        (f'[hosts]\none = "{KEY}A"', 0o644, "the public key of a host is wanted"),
        ("[checks.web]", 0o644, "one of `command`, `tcp` and `http` is wanted"),
        ('[checks.web]\ntcp = "web:22"\ncommand = "/x"', 0o644, "one of `command`, `tcp` and `http` is wanted"),
        ('[checks.web]\nhttp = "file:///etc/shadow"', 0o644, "checks.web.http"),
    ],
)
def test_a_policy_that_is_not_understood_allows_nothing(tmp_path: Path, text: str, mode: int, why: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(PreconditionFailed, match=why):
        policy.of(factories.offline(policy=file))


@as_root
def test_a_policy_that_belongs_to_somebody_else_allows_nothing(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(f'[hosts]\none = "{KEY}"')
    assert policy.of(factories.offline(policy=file)).file.hosts == {"one": KEY}
    os.chown(file, SOMEBODY, -1)
    with pytest.raises(PreconditionFailed, match="could be written by others than root"):
        policy.of(factories.offline(policy=file))


# --- Programs, users, bridges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "program", "may"),
    [
        (None, "bin/qemu-system-x86_64", True),
        (None, "bin/qemu-kvm", True),
        (None, "link", True),
        (None, "bin/qemu-img", False),
        (None, "other/qemu-kvm", False),
        (("other/qemu-kvm",), "other/qemu-kvm", True),
        (("other/qemu-kvm",), "bin/qemu-kvm", False),
        (("link",), "bin/qemu-kvm", True),
        ((), "bin/qemu-kvm", False),
    ],
)
def test_a_guest_is_run_by_a_named_program_or_without_any_by_a_qemu_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Sequence[str] | None, program: str, may: bool
) -> None:
    for name in ("bin/qemu-system-x86_64", "bin/qemu-kvm", "bin/qemu-img", "other/qemu-kvm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("bin/qemu-kvm")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    listed = None if named is None else tuple(tmp_path / name for name in named)
    assert rules(qemu=listed).may_run(f"{tmp_path}/{program}") is may


@pytest.mark.parametrize(
    ("uid", "name", "may"),
    [(0, "root", True), (1000, "drover", True), (1001, "qemu", True), (1002, "vm", True), (1003, "postgres", False)],
)
def test_a_guest_runs_as_root_as_the_worker_or_as_a_listed_user(
    monkeypatch: pytest.MonkeyPatch, uid: int, name: str, may: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert rules(users=("qemu", "vm")).may_be(uid, name) is may


@pytest.mark.parametrize(("user", "may"), [("root", True), ("qemu", True), ("postgres", False), ("0", False)])
def test_qemu_changes_to_root_or_to_a_listed_user(user: str, may: bool) -> None:
    assert rules().may_name(user) is may


@pytest.mark.parametrize(("listed", "may"), [(None, True), (("br0", "br1"), True), (("br1",), False), ((), False)])
def test_a_guest_is_on_a_listed_bridge_or_without_a_list_on_any(listed: Sequence[str] | None, may: bool) -> None:
    assert rules(bridges=listed).may_join("br0") is may


@pytest.mark.parametrize(("program", "may"), [("/x", True), ("/x/y", False), ("/y/../x", False), ("x", False)])
def test_qemu_starts_a_program_that_is_listed_as_it_is_written(program: str, may: bool) -> None:
    assert rules(programs=(Path("/x"),)).may_start(program) is may


# --- Paths ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With a folder of guests, one that only links lead to, and links from each into the other."""
    for name in ("guests", "firmware", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "guests/out").symlink_to("../elsewhere")
    (tmp_path / "guests/own").symlink_to("../drover")
    (tmp_path / "elsewhere/in").symlink_to("../guests")
    (tmp_path / "linked").symlink_to("guests")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("guests/web/disk", "write"),
        ("linked/web/disk", "write"),
        ("guests", "write"),
        ("firmware/file", "read"),
        ("firmware", "read"),
        ("elsewhere/file", None),
        ("elsewhere/in/web", None),
        ("guests/out/file", None),
        ("guests/../guests/web", None),
        ("guests/web/../../elsewhere", None),
        ("guestsX/web", None),
    ],
)
def test_a_path_counts_as_it_is_written_and_where_its_links_lead(root: Path, path: str, may: str | None) -> None:
    here = rules(root / "guests", folders=(root / "guests", root / "linked"), read=(root / "firmware",))
    assert here.may_write(f"{root}/{path}") is (may == "write")
    assert here.may_read(f"{root}/{path}") is (may is not None)


def test_a_path_that_depends_on_where_the_worker_runs_is_in_no_folder(root: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(root / "guests")
    here = rules(root / "guests", devices=(root / "guests",))
    assert not any(may("web") for may in (here.may_write, here.may_read, here.may_connect, here.may_have))


def test_the_workers_own_folder_and_policy_are_no_place_for_guests(root: Path) -> None:
    ours = factories.offline(host="two", guest_root=root, directory=root / "drover", policy=root / "p.toml")
    here = policy.of(ours)
    assert here.may_write(f"{root}/web")
    for own in ("drover/known_hosts.json", "drover", "p.toml", "guests/own/known_hosts.json"):
        assert not here.may_write(f"{root}/{own}")
        assert not here.may_read(f"{root}/{own}")


def test_a_guest_root_of_everything_leaves_the_systems_folders_out() -> None:
    here = rules(Path("/"))
    assert all(map(here.may_write, ("/data/vm/a", "/home/vm/a", "/var/lib/libvirt/images/a", "/run/qemu/a")))
    assert not any(map(here.may_write, ("/etc/cron.d/a", "/run/systemd/a", "/root/a", "/var/spool/cron/a", "/var")))


def test_a_folder_of_the_system_that_is_named_is_included() -> None:
    here = rules(folders=(Path("/var"), Path("/etc/guests")))
    assert all(map(here.may_write, ("/var/a", "/etc/guests/a")))
    assert not here.may_write("/etc/a")


@pytest.mark.parametrize("path", ["/run/web.qmp", "/var/run/web.pid"])
def test_sockets_right_in_run_are_allowed_where_guests_may_be_everywhere(path: str) -> None:
    assert rules(Path("/")).may_write(path)
    assert not any(map(rules(Path("/")).may_write, ("/run/nologin", f"{path}.d", f"{path}/x")))
    assert not rules().may_write(path)


def test_folders_that_are_named_are_all_there_are() -> None:
    here = rules(Path("/"), folders=(Path("/vm"),))
    assert here.may_write("/vm/a")
    assert not any(map(here.may_write, ("/data/vm/a", "/var/lib/libvirt/images/a", "/run/web.qmp")))


def test_of_the_storages_only_folders_are_folders_for_files(root: Path) -> None:
    kept = PolicyStorage(driver="folder", place=str(root / "guests"))
    made = PolicyStorage(driver="hook", place=str(root / "elsewhere"), program=Path("/x"))
    here = rules(storages={"kept": kept, "made": made})
    assert here.may_write(f"{root}/guests/web")
    assert not here.may_write(f"{root}/elsewhere/file")


@pytest.mark.parametrize(("path", "may"), [("guests/sock", True), ("guests/out/file", False), ("elsewhere/x", False)])
def test_a_guest_is_connected_to_listed_sockets_alone(root: Path, path: str, may: bool) -> None:
    assert rules(root, sockets=(root / "guests",)).may_connect(f"{root}/{path}") is may
    assert not rules(root).may_connect(f"{root}/{path}")


@as_root
@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("guests/listed", True),
        ("dev/vda", True),
        ("dev/group/vdb", True),
        ("dev/group/not-yet", True),
        ("dev/alias", True),
        ("guests/link-to-listed", True),
        ("guests/link-to-named", True),
        ("guests/link-into-folder", True),
        ("elsewhere/link-to-named", False),
        ("guests/link-to-other", False),
        ("elsewhere/other", False),
        ("elsewhere/not-yet", False),
        ("guests/other", False),
        ("dev/file", False),
        ("dev/group/../vda", False),
        ("dev/group/../../elsewhere/not-yet", False),
    ],
)
def test_a_guest_has_listed_block_devices_alone(root: Path, path: str, may: bool) -> None:
    (root / "dev/group").mkdir(parents=True)
    (root / "dev/file").touch()
    for name in ("dev/vda", "dev/group/vdb", "guests/other", "guests/listed", "elsewhere/other", "elsewhere/mapped"):
        os.mknod(root / name, stat.S_IFBLK | 0o600, os.makedev(7, 255))
    for link, target in [
        *(("dev/alias", "../elsewhere/mapped"), ("guests/link-to-named", "../dev/vda")),
        *(("guests/link-to-listed", "../elsewhere/mapped"), ("elsewhere/link-to-named", "../dev/vda")),
        *(("guests/link-to-other", "../elsewhere/other"), ("guests/link-into-folder", "../dev/group/vdb")),
    ]:
        (root / link).symlink_to(target)
    listed = ("dev/vda", "dev/group", "dev/file", "dev/alias", "guests/listed")
    here = rules(root / "guests", devices=tuple(root / name for name in listed))
    assert here.may_have(f"{root}/{path}") is may
    assert here.may_write(f"{root}/{path}") or not may
