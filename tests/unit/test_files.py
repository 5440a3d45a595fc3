"""What somebody else puts into a guest's folder leads Drover nowhere; what Drover makes is its own from the start."""

import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drover.errors import Fatal
from workers import files
from workers.files import UnsafePath
from workers.images import manifest
from workers.images.manifest import Manifest
from workers.preflight import live_command_line
from workers.process import processes
from workers.switchover.journal import Journal
from workers.switchover.parameters import DestinationParameters

SOMEBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to somebody else")


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Whatever a file is made with shows."""
    before = os.umask(0)
    yield
    os.umask(before)


def _theirs(link: Path, target: Path) -> Path:
    link.symlink_to(target)
    os.lchown(link, SOMEBODY, SOMEBODY)
    return link


@as_root
def test_an_image_is_not_made_in_a_folder_that_is_somebody_elses_link(tmp_path: Path) -> None:
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    _theirs(tmp_path / "web", elsewhere)
    made = Manifest(tmp_path / "jobs" / "1" / "created.json")
    with pytest.raises(UnsafePath, match=rf"web.* is a symbolic link to {elsewhere} that belongs to user {SOMEBODY}"):
        made.claim(tmp_path / "web" / "disk0.qcow2")
    with pytest.raises(UnsafePath):
        made.claim(tmp_path / "web" / "deeper" / "disk0.qcow2")
    assert list(elsewhere.iterdir()) == []
    made.delete_all()


@as_root
def test_a_link_of_the_operators_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk2").mkdir()
    (tmp_path / "guests").symlink_to("disk2")
    (tmp_path / "absolute").symlink_to(tmp_path / "guests")
    made = Manifest(tmp_path / "jobs" / "1" / "created.json")
    made.claim(tmp_path / "absolute" / "web" / "disk0.qcow2")
    assert (tmp_path / "disk2" / "web" / "disk0.qcow2").exists()
    made.delete_all()
    assert list((tmp_path / "disk2").iterdir()) == []


@as_root
def test_an_image_whose_folder_became_somebody_elses_link_meanwhile_is_not_deleted(tmp_path: Path) -> None:
    made, image = Manifest(tmp_path / "jobs" / "1" / "created.json"), tmp_path / "web" / "disk0.qcow2"
    made.claim(image)
    (tmp_path / "web").rename(tmp_path / "hidden")
    _theirs(tmp_path / "web", tmp_path / "hidden")
    assert not made.owns(image)
    made.delete_all()
    assert (tmp_path / "hidden" / "disk0.qcow2").exists()


def test_a_link_at_the_place_of_an_image_is_not_taken_for_it(tmp_path: Path) -> None:
    made, image = Manifest(tmp_path / "jobs" / "1" / "created.json"), tmp_path / "web" / "disk0.raw"
    made.claim(image)
    image.rename(tmp_path / "kept")
    image.symlink_to(tmp_path / "kept")
    assert not made.owns(image)
    with pytest.raises(UnsafePath, match="is a symbolic link: it is not followed"):
        manifest.create(image, "raw", 1 << 20, {})


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_a_pipe_or_socket_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path, flags: int) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in ("pipe", "socket"):
            with pytest.raises(UnsafePath, match="where a file should be: it is not opened"):
                files.opened(tmp_path / name, flags)


def test_a_file_is_opened_as_whoever_opens_it_wants_to_wait(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    for flags in (0, os.O_NONBLOCK):
        descriptor = files.opened(tmp_path / "disk", os.O_RDONLY | flags)
        assert os.get_blocking(descriptor) is not bool(flags)
        os.close(descriptor)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UnsafePath, match="too many symbolic links"):
        files.status(tmp_path / "a" / "x")


@pytest.mark.parametrize("path", ["/etc/passwd", "/guests/../etc/passwd", "guests/x", "/guests", "", "/guests/a\0b"])
def test_a_path_of_a_row_that_leaves_the_guest_root_is_refused(path: str) -> None:
    with pytest.raises(UnsafePath, match="does not lie below this host's guest root /guests"):
        files.below(Path("/guests"), path)


def test_a_path_below_the_guest_root_is_taken() -> None:
    assert files.below(Path("/guests"), "/guests/web/disk0.raw") == Path("/guests/web/disk0.raw")
    assert files.below(Path("/"), "/srv/x") == Path("/srv/x")


@pytest.mark.parametrize(
    "options",
    [
        {"data_file": "/etc/passwd"},
        {"backing_file": "/etc/shadow"},
        {"cluster_size": "65536,data_file=/etc/passwd"},
        {"cluster_size": "65536\n"},
    ],
)
def test_an_option_that_names_another_file_makes_no_image(tmp_path: Path, options: dict[str, str]) -> None:
    image = tmp_path / "disk0.qcow2"
    image.touch()
    with pytest.raises(Fatal, match="none that Drover knows"):
        manifest.create(image, "qcow2", 1 << 20, options)
    assert image.stat().st_size == 0


def test_an_image_keeps_its_mode_and_its_inode_when_qemu_img_fills_it(tmp_path: Path, no_umask: None) -> None:
    image = tmp_path / "web" / "disk0.qcow2"
    Manifest(tmp_path / "jobs" / "1" / "created.json").claim(image)
    made = image.stat()
    manifest.create(image, "qcow2", 1 << 20, {"cluster_size": "65536", "compat": "1.1", "lazy_refcounts": "on"})
    assert manifest.virtual_size(image, "qcow2") == 1 << 20
    assert (image.stat().st_ino, stat.S_IMODE(image.stat().st_mode)) == (made.st_ino, 0o600)
    assert manifest.virtual_size(tmp_path / "none", "qcow2") is None


def _modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


def test_whatever_a_worker_writes_down_is_its_own_alone(tmp_path: Path, no_umask: None) -> None:
    jobs = tmp_path / "worker" / "jobs"
    journal = Journal(jobs / "1" / "switch-source-1.jsonl")
    journal.write("started")
    journal._tell_progress()
    Manifest(jobs / "1" / "created.json").claim(jobs / "image")
    ended = processes.spawn(str(jobs / "1" / "x"), ["/bin/true"], tmp_path / "worker" / "guests" / "web.log")
    assert ended.wait(10)
    modes = _modes(tmp_path)
    assert {mode for name, mode in modes.items() if (tmp_path / name).is_dir()} == {0o700}
    assert {mode for name, mode in modes.items() if not (tmp_path / name).is_dir()} == {0o600}


def test_the_parameters_of_a_switchover_are_never_readable_by_others(
    tmp_path: Path, no_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, seen = tmp_path / "jobs" / "1" / "switch-destination-7.json", set[int]()
    order.parent.mkdir(parents=True)
    draft = order.with_name(order.name + ".new")
    draft.write_text("of a process of an earlier version that died")
    draft.chmod(0o644)
    fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.update(stat.S_IMODE(path.stat().st_mode) for path in order.parent.iterdir())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    DestinationParameters(
        qmp="secret", ram="", switchover="", images=[], journal="", nbd_server_qmp="", exports=[], nodes=[], marker=""
    ).save(order)
    assert seen == {0o600}
    assert "secret" in order.read_text()


@as_root
def test_a_folder_that_is_swapped_again_and_again_never_leads_out_of_it(tmp_path: Path) -> None:
    """The race that a check by name would lose."""
    right, wrong, over = tmp_path / "right", tmp_path / "wrong", threading.Event()
    right.mkdir()
    wrong.mkdir()
    (tmp_path / "web").mkdir()

    def swap() -> None:
        while not over.is_set():
            _theirs(tmp_path / "link", wrong)
            (tmp_path / "web").rename(tmp_path / "folder")
            (tmp_path / "link").rename(tmp_path / "web")
            (tmp_path / "web").unlink()
            (tmp_path / "folder").rename(tmp_path / "web")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(2000):
            try:
                os.close(files.opened(tmp_path / "web" / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except (UnsafePath, FileNotFoundError):
                continue
    finally:
        over.set()
        swapping.join()
    assert list(wrong.iterdir()) == []


@pytest.mark.parametrize("put", [os.symlink, os.link])
def test_what_somebody_puts_in_the_place_of_a_pipe_that_was_just_made_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Callable[[Path, Path], None]
) -> None:
    secret, pipe, make = tmp_path / "secret", tmp_path / "console.in", os.mkfifo
    secret.touch(mode=0o600)

    def made_and_swapped(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        pipe.unlink()
        put(secret, pipe)

    monkeypatch.setattr(os, "mkfifo", made_and_swapped)
    with pytest.raises(UnsafePath, match="it is not touched"):
        files.make_pipe(pipe, 0o666, os.geteuid(), os.getegid())
    assert secret.stat().st_mode & 0o777 == 0o600


def test_a_device_that_works_by_being_opened_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, really = [], os.open

    def noted(path: str, *how: int, **more: Any) -> int:
        opened.append(path)
        return really(path, *how, **more)

    monkeypatch.setattr(os, "open", noted)
    with pytest.raises(UnsafePath, match="/dev/null is a pipe, a socket or a device"):
        files.opened(Path("/dev/null"), os.O_RDONLY)
    assert "null" not in opened


@as_root
@pytest.mark.parametrize("kind", ["pipe", "device", "secret", "theirs"])
def test_a_file_for_readconfig_is_read_only_if_its_user_may_and_nothing_of_another_is_told(
    tmp_path: Path, kind: str
) -> None:
    tmp_path.chmod(0o755)
    config = tmp_path / "config"
    if kind == "pipe":
        os.mkfifo(config)
    elif kind == "device":
        config.symlink_to("/dev/null")
    else:
        config.write_text("root:hunter2\n")
        config.chmod(0o600)
        if kind == "theirs":
            os.chown(config, SOMEBODY, SOMEBODY)
    words = ["sh", "-c", "read x", "qemu", "-readconfig", str(config)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, user=SOMEBODY) as started:
        qemu = processes.process(started.pid)
        assert qemu is not None
        [refusal] = live_command_line.read(qemu).checks
        started.communicate()
    assert ("may read" in refusal.seen) is (kind != "theirs")
    assert "hunter2" not in refusal.seen


@as_root
def test_what_is_held_is_given_and_not_what_was_put_in_its_place(tmp_path: Path) -> None:
    (place := tmp_path / "socket").touch()
    with files.held(place) as descriptor:
        place.unlink()
        place.touch()
        files.give(descriptor, SOMEBODY, SOMEBODY)
        assert (os.fstat(descriptor).st_uid, place.stat().st_uid) == (SOMEBODY, os.geteuid())
