"""What a guest needs besides its disks: told by its digest, sent, verified, put into place, taken back."""

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drover.errors import Fatal
from drover.settings import StreamSecurity
from models.plan import FileKind, NeededFile, NeededFolder, PlannedFile
from models.preflight import Verdict
from tests import documents, factories
from tests.qmp_guest import image
from workers import files
from workers.media import destination, digests, listing, placing, protocol, receiver, sender
from workers.media.destination import Differs
from workers.media.parameters import Incoming, ReceiverParameters
from workers.media.receiver import Receiver
from workers.media.sender import Gone, Way
from workers.process import accounts
from workers.process.processes import Process, process
from workers.qemu.disks import ReadOnlyImage
from workers.qemu.needed_files import named_files
from workers.step import JobDirectory
from workers.streams import local
from workers.trust import policy

MIB = 1 << 20
SECRETS = {"key": b"hunter2"}
"""What stands on the guest's command line."""


def test_a_digest_is_what_sha256sum_prints(tmp_path: Path) -> None:
    file = tmp_path / "seed.iso"
    file.write_bytes(os.urandom(3 * MIB + 5))
    said = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
    assert digests.of(file, digests.PLAIN, tmp_path) == f"sha256:{said}"


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "base.img"
    file.write_bytes(b"one" * MIB)
    os.utime(file, (1, 1))
    monkeypatch.setattr(digests, "SETTLED_S", 0)
    first = digests.of(file, digests.PLAIN, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(digests, "computed", lambda *_: pytest.fail("it was read again"))
        assert digests.of(file, digests.PLAIN, tmp_path) == first
    with file.open("r+b") as opened:
        opened.write(b"two")
    os.utime(file, (1, 1))  # nobody hides a change by setting its time back
    assert digests.of(file, digests.PLAIN, tmp_path) != first


def test_a_large_file_does_not_hold_a_host_up_and_is_known_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, go_on, read = tmp_path / "base.img", threading.Event(), digests.computed
    file.write_bytes(b"x")
    os.utime(file, (1, 1))
    monkeypatch.setattr(digests, "computed", lambda *which: go_on.wait() and read(*which))
    with pytest.raises(digests.StillRead, match=r"base.img .* try again in a moment"):
        digests.of(file, digests.PLAIN, tmp_path, wait_s=0.01)
    go_on.set()
    assert digests.of(file, digests.PLAIN, tmp_path, wait_s=20).startswith("sha256:")


def test_an_overlay_is_the_same_wherever_its_backing_file_lies(tmp_path: Path) -> None:
    for folder in ("a", "elsewhere"):
        (tmp_path / folder).mkdir()
        image(tmp_path / folder / "base", "qcow2", "8M")
    overlay = image(tmp_path / "o", "qcow2", "8M", "-b", str(tmp_path / "a" / "base"), "-F", "qcow2")
    before = digests.of(overlay, digests.OVERLAY, tmp_path)
    rebase = ["qemu-img", "rebase", "-u", "-F", "qcow2", "-b", str(tmp_path / "elsewhere" / "base"), str(overlay)]
    subprocess.run(rebase, check=True)
    assert digests.of(overlay, digests.OVERLAY, tmp_path) == before
    subprocess.run(["qemu-io", "-c", "write -P 7 1M 64k", str(overlay)], check=True, capture_output=True)
    assert digests.of(overlay, digests.OVERLAY, tmp_path) != before


def test_the_digest_of_a_secret_gives_nothing_away_and_is_another_each_time(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_bytes(b"hunter2")
    one, other = (digests.of(secret, digests.SECRET, tmp_path) for _ in range(2))
    assert one != other
    assert hashlib.sha256(b"hunter2").hexdigest() not in one
    assert digests.equal(secret, one, tmp_path)
    assert digests.equal(secret, other, tmp_path)
    secret.write_bytes(b"hunter3")
    assert not digests.equal(secret, one, tmp_path)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("-kernel", "/f"), FileKind.KERNEL),
        (("-initrd", "/f"), FileKind.KERNEL),
        (("-dtb", "/f"), FileKind.KERNEL),
        (("-bios", "/f"), FileKind.FIRMWARE),
        (("-machine", "q35,firmware=/f"), FileKind.FIRMWARE),
        (("-device", "virtio-net-pci,romfile=/f"), FileKind.FIRMWARE),
        (("-device", '{"driver":"e1000","romfile":"/f"}'), FileKind.FIRMWARE),
        (("-option-rom", "/f"), FileKind.FIRMWARE),
        (("-fw_cfg", "name=opt/x,file=/f"), FileKind.DATA),
        (("-smbios", "file=/f"), FileKind.DATA),
        (("-acpitable", "file=/f"), FileKind.DATA),
        (("-boot", "splash=/f"), FileKind.DATA),
        (("-object", "secret,id=s,file=/f"), FileKind.SECRET),
        (("-object", '{"qom-type":"secret","id":"s","file":"/f"}'), FileKind.SECRET),
        (("-object", "tls-creds-x509,id=t,dir=/f,endpoint=server"), FileKind.SECRET),
        (("-object", "authz-list-file,id=a,filename=/f"), FileKind.DATA),
        (("-global", "virtio-net-pci.romfile=/f"), FileKind.FIRMWARE),
    ],
)
def test_files_that_qemu_reads_are_known_by_their_option(words: tuple[str, str], kind: FileKind) -> None:
    assert [(named.kind, named.path) for named in named_files(["qemu", *words])] == [(kind, "/f")]


@pytest.mark.parametrize(
    "words",
    [
        ("-append", "init=/f"),
        ("-bios", "bios-256k.bin"),
        ("-object", "rng-random,id=r,filename=/dev/urandom"),
        ("-chardev", "socket,id=c,path=/f"),
        ("-device", "virtio-blk-pci,drive=d,serial=/f"),
    ],
)
def test_what_is_no_file_to_be_read_is_left_alone(words: tuple[str, str]) -> None:
    assert list(named_files(["qemu", *words])) == []


# --- what the destination says ---


@dataclass
class Hosts:
    """Two guest roots, and the settings of the host of the second."""

    folder: Path

    def __post_init__(self) -> None:
        self.ours = factories.offline(
            host="two", directory=self.folder / "drover", guest_root=self.folder / "two", policy=self.folder / "policy"
        )
        for part in ("one", "two", "drover"):
            (self.folder / part).mkdir()

    def needed(self, content: bytes, **fields: object) -> NeededFile:
        """A file of the guest on the first host."""
        path = Path(str(fields.pop("path", self.folder / "one" / "seed.iso")))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        kind = fields.get("kind", FileKind.MEDIUM)
        assert isinstance(kind, FileKind)
        common: dict[str, object] = {
            "kind": kind,
            "path": str(path),
            "size_bytes": len(content),
            "digest": digests.of(path, listing.form(kind, None, None), self.folder / "drover"),
            "mode": 0o640,
            "owner": "root",
            "group": "root",
        }
        return NeededFile.model_validate(common | fields)

    def looked_up(self, *needed: NeededFile) -> tuple[tuple[PlannedFile, ...], list[str]]:
        """What the second host says of them."""
        rules = policy.of(self.ours)
        seen = documents.inspection(files=needed)
        planned = destination.planned_files(seen, str(self.folder / "one"), self.ours, rules)
        found, against = destination.looked_up(planned, self.ours, rules, "web")
        return found, [check.sentence for check in against]


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


def test_a_missing_file_is_copied_and_an_equal_one_used(hosts: Hosts) -> None:
    needed = hosts.needed(b"cloud")
    (file,), problems = hosts.looked_up(needed)
    assert (file.destination_path, file.there, problems) == (str(hosts.folder / "two" / "seed.iso"), False, [])
    Path(file.destination_path).write_bytes(b"cloud")
    (file,), problems = hosts.looked_up(needed)
    assert (file.there, problems) == (True, [])


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (FileKind.BACKING, "`--chain flatten`"),
        (FileKind.FIRMWARE, "install the same version of its package"),
        (FileKind.MEDIUM, "eject the medium"),
        (FileKind.SECRET, "move it away"),
    ],
)
def test_another_file_at_its_place_is_refused_by_name_and_stays(hosts: Hosts, kind: FileKind, remedy: str) -> None:
    theirs = hosts.folder / "two" / "seed.iso"
    theirs.write_bytes(b"other")
    _, (sentence,) = hosts.looked_up(hosts.needed(b"cloud", kind=kind))
    assert str(theirs) in sentence
    assert remedy in sentence
    assert theirs.read_bytes() == b"other"


def test_a_file_outside_of_the_folders_for_guests_is_not_copied(hosts: Hosts) -> None:
    needed = hosts.needed(b"code", path=hosts.folder / "usr" / "code.fd", kind=FileKind.FIRMWARE)
    Path(needed.path).unlink()
    _, (sentence,) = hosts.looked_up(needed)
    assert needed.path in sentence
    assert needed.digest in sentence


def test_firmware_that_has_another_name_here_is_used_where_it_lies(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = hosts.needed(b"code", path=hosts.folder / "usr" / "OVMF_CODE.fd", kind=FileKind.FIRMWARE)
    Path(needed.path).unlink()
    package = hosts.folder / "two" / "edk2"
    package.mkdir()
    (package / "x64.fd").write_bytes(b"code")
    monkeypatch.setattr(destination, "FIRMWARE", (package,))
    (file,), problems = hosts.looked_up(needed)
    assert (file.destination_path, file.there, problems) == (str(package / "x64.fd"), True, [])


def test_a_secret_never_goes_over_the_network_in_plain_text(hosts: Hosts) -> None:
    hosts.ours = hosts.ours.model_copy(update={"streams": StreamSecurity.PLAIN})
    needed = hosts.needed(b"key", kind=FileKind.SECRET)
    _, (sentence,) = hosts.looked_up(needed)
    assert "plain text" in sentence
    (hosts.folder / "two" / "seed.iso").write_bytes(b"key")
    assert hosts.looked_up(needed)[1] == []


def test_a_link_of_somebody_elses_is_not_followed(hosts: Hosts) -> None:
    there = hosts.folder / "two" / "seed.iso"
    there.symlink_to(hosts.folder / "one" / "seed.iso")
    os.lchown(there, 65534, 65534)
    _, (sentence,) = hosts.looked_up(hosts.needed(b"cloud"))
    assert "symbolic link" in sentence


# --- the copy ---


@dataclass
class Copy:
    """A receiver of one job, reached by a socket that behaves like the source's end of the streams."""

    hosts: Hosts
    job: int
    stack: ExitStack
    incoming: dict[str, Incoming]
    crashes: bool = False
    """It is a process, as it always is outside of tests."""

    def __post_init__(self) -> None:
        self.directory = JobDirectory.of(self.job, self.hosts.ours)
        self.directory.path.mkdir(parents=True)
        self.far = self.hosts.folder / f"{self.job}.far"
        self.near = self.hosts.folder / f"{self.job}.near"
        if self.crashes:
            self.receiver = self._start()
            self.stack.callback(lambda: self.receiver.kill())  # noqa: PLW0108 - it may be another by then
        else:
            threading.Thread(target=Receiver(self._told(local.listen(self.far).detach())).run, daemon=True).start()
        listening = self.stack.enter_context(closing(local.listen(self.near)))
        threading.Thread(target=self._carry, args=(listening,), daemon=True).start()

    def _told(self, listening: int) -> ReceiverParameters:
        return ReceiverParameters(
            job=self.job,
            listening=listening,
            manifest=str(self.directory.files.path),
            directory=str(self.hosts.ours.directory),
            guest_root=str(self.hosts.ours.guest_root),
            incoming=self.incoming,
        )

    def _start(self) -> Process:
        with local.listen(self.far) as listening:
            self._told(listening.fileno()).save(self.directory.path / "receiver.json")
            child = subprocess.Popen(
                [sys.executable, "-m", "workers.media", str(self.directory.path / "receiver.json")],
                pass_fds=[listening.fileno()],
            )
        threading.Thread(target=child.wait, daemon=True).start()
        started = process(child.pid)
        assert started is not None
        return started

    def restart(self) -> None:
        """As after a crash."""
        self.receiver.kill()
        self.receiver = self._start()

    def _carry(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(str(self.far))
                near.sendall(b"ok\n")
            except OSError:
                near.close()
                far.close()
                continue
            threading.Thread(target=_relay, args=(near, far), daemon=True).start()

    def send(self, file: PlannedFile, told: list[object] | None = None) -> None:
        """Have it be there."""
        said = [] if told is None else told

        async def rate() -> int:
            return 0

        async def copied(count: int) -> None:
            said.append(count)

        async def busy() -> None:
            said.append("busy")

        way = Way(socket=self.near, rate=rate, copied=copied, busy=busy, secret=SECRETS.__getitem__)
        asyncio.run(sender.send(0, file, way))


def _relay(near: socket.socket, far: socket.socket) -> None:
    with near, far:
        back = threading.Thread(target=_pour, args=(far, near), daemon=True)
        back.start()
        _pour(near, far)
        back.join()


def _pour(into: socket.socket, out: socket.socket) -> None:
    try:
        while piece := into.recv(1 << 16):
            out.sendall(piece)
    except OSError:
        pass
    finally:
        for end in (into, out):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def copy_of(
    hosts: Hosts, stack: ExitStack, file: PlannedFile, job: int = 1, *, crashes: bool = False, **fields: object
) -> Copy:
    incoming = Incoming(
        path=file.destination_path,
        size_bytes=file.size_bytes,
        digest=file.digest,
        mode=file.mode,
        uid=os.geteuid(),
        gid=os.getegid(),
        format=None,
        backing=None,
        backing_format=None,
    )
    return Copy(hosts, job, stack, {"0": replace(incoming, **fields)}, crashes)  # type: ignore[arg-type]


def a_file(hosts: Hosts, content: bytes) -> PlannedFile:
    (file,), problems = hosts.looked_up(hosts.needed(content))
    assert not problems
    return file


def test_a_file_arrives_with_its_content_mode_and_holes(hosts: Hosts, stack: ExitStack) -> None:
    source = hosts.folder / "one" / "seed.iso"
    file = a_file(hosts, os.urandom(MIB) + bytes(40 * MIB) + os.urandom(MIB + 3))
    subprocess.run(["fallocate", "-d", source], check=True)
    copy_of(hosts, stack, file).send(file)
    there = Path(file.destination_path)
    assert there.read_bytes() == source.read_bytes()
    assert there.stat().st_mode & 0o777 == 0o640
    assert there.stat().st_blocks * 512 < 10 * MIB
    assert [entry.name for entry in there.parent.iterdir()] == ["seed.iso"]


def test_a_copy_that_was_cut_off_goes_on_where_it_was(hosts: Hosts, stack: ExitStack) -> None:
    file, told = a_file(hosts, os.urandom(20 * MIB)), list[object]()
    copy = copy_of(hosts, stack, file, crashes=True)

    class CutOff(list[object]):
        def append(self, count: object) -> None:
            if count == 10 * MIB:
                copy.restart()
            super().append(count)

    with pytest.raises(Gone):
        copy.send(file, CutOff())
    assert not Path(file.destination_path).exists()
    copy.send(file, told)
    assert Path(file.destination_path).read_bytes() == Path(file.source_path).read_bytes()
    assert told[0] != MIB


def test_a_destination_that_says_nothing_more_ends_the_copy_and_one_that_is_at_work_does_not(
    hosts: Hosts, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a_file(hosts, b"cloud")
    monkeypatch.setattr(protocol, "SILENCE_S", 1.0)
    monkeypatch.setattr(receiver, "BEAT_S", 0.1)
    told, over, read = list[object](), threading.Event(), digests.computed
    copy = copy_of(hosts, stack, file)
    monkeypatch.setattr(digests, "computed", lambda *which: over.wait(2.0) or read(*which))
    copy.send(file, told)  # it verified for longer than that
    silent = stack.enter_context(closing(local.listen(hosts.folder / "silent")))
    copy.near = hosts.folder / "silent"
    threading.Thread(target=_say_ok, args=(silent, over), daemon=True).start()
    with pytest.raises(Gone, match="said nothing for 1 s"):
        copy.send(file)
    over.set()


def _say_ok(listening: socket.socket, over: threading.Event) -> None:
    peer, _ = listening.accept()
    with peer:
        peer.sendall(b"ok\n")
        over.wait(60)


def test_what_is_not_the_announced_file_is_not_put_into_place(hosts: Hosts, stack: ExitStack) -> None:
    file = a_file(hosts, b"cloud")
    Path(file.source_path).write_bytes(b"other")
    copy = copy_of(hosts, stack, file)
    with pytest.raises(Fatal, match="it changed at the source"):
        copy.send(file)
    assert list(Path(file.destination_path).parent.iterdir()) == []


def test_a_file_that_came_there_meanwhile_is_not_overwritten(hosts: Hosts, stack: ExitStack) -> None:
    file = a_file(hosts, b"cloud")
    copy = copy_of(hosts, stack, file)
    Path(file.destination_path).write_bytes(b"mine")
    with pytest.raises(Fatal, match="another file is at"):
        copy.send(file)
    assert Path(file.destination_path).read_bytes() == b"mine"


def test_nothing_is_written_outside_of_the_guest_root(hosts: Hosts, stack: ExitStack) -> None:
    file = a_file(hosts, b"cloud")
    copy = copy_of(hosts, stack, file, path=str(hosts.folder / "outside"))
    with pytest.raises(Fatal, match="does not lie below this host's guest root"):
        copy.send(file)
    assert not (hosts.folder / "outside").exists()


def test_ten_moves_at_once_copy_a_shared_file_once(hosts: Hosts, stack: ExitStack) -> None:
    file = a_file(hosts, os.urandom(8 * MIB))
    copies = [copy_of(hosts, stack, file, job) for job in range(1, 11)]
    told: list[list[object]] = [[] for _ in copies]
    threads = [threading.Thread(target=one.send, args=(file, said)) for one, said in zip(copies, told, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    counts = [[count for count in said if count != "busy"] for said in told]
    assert sorted(map(len, counts)) == [0] * 9 + [8]
    assert Path(file.destination_path).read_bytes() == Path(file.source_path).read_bytes()


def test_what_a_job_brought_is_taken_back_with_it(hosts: Hosts, stack: ExitStack) -> None:
    file = a_file(hosts, b"cloud")
    copy = copy_of(hosts, stack, file)
    copy.send(file)
    assert placing.take_back(copy.directory, hosts.ours.directory) == []
    assert list(hosts.ours.guest_root.iterdir()) == []


def test_what_was_there_before_is_never_taken_back(hosts: Hosts, stack: ExitStack) -> None:
    file = a_file(hosts, b"cloud")
    Path(file.destination_path).write_bytes(b"cloud")
    copy = copy_of(hosts, stack, file)
    copy.send(file)
    placing.take_back(copy.directory, hosts.ours.directory)
    assert Path(file.destination_path).read_bytes() == b"cloud"


def test_what_another_move_relies_on_stays(hosts: Hosts, stack: ExitStack) -> None:
    file = a_file(hosts, b"cloud")
    copy = copy_of(hosts, stack, file)
    copy.send(file)
    other = JobDirectory.of(2, hosts.ours)
    other.path.mkdir()
    plan = documents.plan().model_copy(update={"destination": documents.destination_plan(files=(file,))})
    (other.path / "plan.json").write_text(plan.model_dump_json())
    assert placing.take_back(copy.directory, hosts.ours.directory) == [Path(file.destination_path)]
    assert Path(file.destination_path).exists()


def test_what_a_process_was_started_with_stays(hosts: Hosts, stack: ExitStack) -> None:
    file = a_file(hosts, b"cloud")
    copy = copy_of(hosts, stack, file)
    copy.send(file)
    holder = subprocess.Popen([sys.executable, "-c", "input()", file.destination_path], stdin=subprocess.PIPE)
    try:
        assert placing.take_back(copy.directory, hosts.ours.directory) == [Path(file.destination_path)]
    finally:
        holder.communicate(b"\n")


def test_a_file_that_is_gone_or_a_folder_below_the_guest_root_is_told(hosts: Hosts) -> None:
    root = hosts.folder / "two"
    (root / "run").mkdir(mode=0o750)
    argv = ["qemu", "-object", f"secret,id=s,file={root}/gone.key", "-pidfile", f"{root}/run/pid"]
    me = process(os.getpid())
    assert me is not None
    found = listing.listed(argv, me, (), (), (f"{root}/run/qmp",), hosts.ours, "keep")
    [against] = found.checks
    assert "gone.key" in against.sentence
    assert "put it back" in against.sentence
    assert {(folder.path, folder.mode) for folder in found.folders.values()} == {(str(root / "run"), 0o750)}


def test_modules_for_a_multiboot_kernel_are_files_of_their_own(hosts: Hosts) -> None:
    root = hosts.folder / "two"
    names = [f"{root}/{name}" for name in ("vmlinuz", "init,rd", "a,b c")]
    for name in names:
        Path(name).write_bytes(b"x")
    me = process(os.getpid())
    assert me is not None

    def found(initrd: str) -> listing.Listing:
        return listing.listed(["qemu", "-initrd", initrd], me, (), (), (), hosts.ours, "keep")

    assert [*found(f"{names[0]} console=hvc0,{root}/init,,rd").files] == names[:2]
    assert [*found(names[2]).files] == names[2:]  # one file, whatever is in its name
    [against] = found(f"{names[0]} quiet,initrd.img").checks
    assert "initrd.img, a kernel of the guest, is relative to an unknown directory" in against.sentence


def test_firmware_that_was_replaced_under_the_guest_is_warned_of_and_a_medium_refused(hosts: Hosts) -> None:
    me = process(os.getpid())
    assert me is not None
    verdicts = {}
    for kind in (FileKind.FIRMWARE, FileKind.MEDIUM):
        path = hosts.folder / "two" / kind
        path.write_bytes(b"new")  # this process has not opened it
        image = ReadOnlyImage(kind=kind, qdev="x", path=str(path), format="raw")
        found = listing.listed(["qemu"], me, (), (image,), (), hosts.ours, "keep")
        verdicts[kind] = [(check.verdict, str(path) in found.files) for check in found.checks]
    assert verdicts == {FileKind.FIRMWARE: [(Verdict.WARN, True)], FileKind.MEDIUM: [(Verdict.REFUSE, False)]}


def test_a_folder_is_known_with_its_mode_and_owner_and_made_so(hosts: Hosts) -> None:
    seen = documents.inspection(
        folders=(NeededFolder(path=str(hosts.folder / "one" / "d"), mode=0o2750, owner="nobody", group="nogroup"),)
    )
    (folder,) = destination.planned_folders(seen, str(hosts.folder / "one"), hosts.ours)
    assert (folder.path, folder.mode) == (str(hosts.folder / "two" / "d"), 0o2750)
    hosts.ours.policy.write_text('users = ["nobody"]')
    hosts.ours.policy.chmod(0o644)
    assert placing.owner_of(folder, policy.of(hosts.ours)) == accounts.ids("nobody", "nogroup")


def test_a_named_pipe_is_told_and_made(hosts: Hosts) -> None:
    root = hosts.folder / "two"
    os.mkfifo(root / "console.in", 0o640)
    me = process(os.getpid())
    assert me is not None
    found = listing.listed(["qemu", "-serial", f"pipe:{root}/console"], me, (), (), (), hosts.ours, "keep")
    [pipe] = found.folders.values()
    assert (pipe.path, pipe.mode, pipe.pipe) == (f"{root}/console.in", 0o640, True)
    files.make_pipe(root / "made", pipe.mode, os.geteuid(), os.getegid())
    assert ((root / "made").is_fifo(), (root / "made").stat().st_mode & 0o777) == (True, 0o640)


def test_a_file_of_a_user_whom_the_policy_does_not_know_is_the_workers(hosts: Hosts) -> None:
    file = a_file(hosts, b"cloud").model_copy(update={"owner": "nobody", "group": "nogroup"})
    assert destination.owner(file, policy.of(hosts.ours)) == (os.geteuid(), os.getegid())


def test_an_unreadable_or_foreign_file_is_a_difference_and_no_crash(hosts: Hosts) -> None:
    file = a_file(hosts, b"cloud")
    Path(file.destination_path).mkdir()
    with pytest.raises(Differs):
        destination.is_there(file, hosts.ours)
