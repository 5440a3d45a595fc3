"""Whether a guest is well after its move: by QEMU, by its agent, and by the check of its owner."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from drover.settings import Settings
from tests.qmp_guest import QEMU, Start, guests, image
from workers.health import agent, owners_check, watching
from workers.health.watching import Seen
from workers.qemu.monitor import connect
from workers.trust import policy
from workers.trust.policy import GuestCheck

AGENT = ("-chardev", "socket,id=qga,path={path},server=on,wait=off")
CHANNEL = ("-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0")


@pytest.fixture
def start() -> Iterator[Start]:
    with guests() as start:
        yield start


async def _seen(qmp: Path, seconds: float) -> Seen:
    async with connect(qmp) as monitor:
        return await watching.watch(monitor, seconds)


@pytest.mark.guests
def test_a_guest_that_runs_is_well_and_its_addresses_are_announced_once_more(tmp_path: Path, start: Start) -> None:
    image(tmp_path / "disk")
    line = [QEMU, "-display", "none", "-nic", "user,model=virtio", "-drive", f"file={tmp_path}/disk,format=raw"]
    line += [word for name in ("q", "q2") for word in ("-qmp", f"unix:{tmp_path}/{name},server=on,wait=off")]
    start(line, tmp_path / "q")
    seen = asyncio.run(_seen(tmp_path / "q2", 0.6))
    assert (seen.runstate, seen.problems) == ("running", [])


@pytest.mark.guests
def test_a_guest_that_does_not_run_is_not_well(tmp_path: Path, start: Start) -> None:
    line = [QEMU, "-display", "none", "-M", "none", "-S"]
    line += [word for name in ("q", "q2") for word in ("-qmp", f"unix:{tmp_path}/{name},server=on,wait=off")]
    start(line, tmp_path / "q")
    assert asyncio.run(_seen(tmp_path / "q2", 5)).problems == ["it is prelaunch"]


def test_requests_that_failed_and_a_disk_that_stopped_are_told() -> None:
    before = {"rd_operations": 4, "wr_operations": 4, **dict.fromkeys(watching.FAILED, 1)}
    after = before | {"wr_operations": 6, "failed_wr_operations": 3}
    assert list(watching._of_its_disks(before, after)) == ["2 requests of its disks failed"]
    assert list(watching._stopped([{"device": "d0", "io-status": "nospace"}, {"device": "d1"}])) == [
        "its disk d0 has stopped: nospace"
    ]


@contextmanager
def answering(path: Path, *lines: bytes) -> Iterator[None]:
    """Somebody at a socket who, once asked, says these lines; `%d` is the number of the question."""
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            peer, _ = listening.accept()
            with closing(peer), peer.makefile("rb") as said:
                number = json.loads(said.readline().lstrip(b"\xff"))["arguments"]["id"]
                for line in lines:
                    peer.sendall(line.replace(b"%d", b"%d" % number) + b"\n")
                said.read()

        threading.Thread(target=serve, daemon=True).start()
        yield


def test_an_agent_is_found_by_the_command_line_and_asked(tmp_path: Path) -> None:
    path = str(tmp_path / "qga")
    argv = [QEMU, AGENT[0], AGENT[1].format(path=path), *CHANNEL]
    assert agent.socket_of(argv) == path
    assert agent.socket_of(argv[:3]) is None
    assert not asyncio.run(agent.answers(path, 1))
    with answering(Path(path), b'{"return": 3}', b'\xff{"return": 5}', b'\xff{"return": %d}'):
        assert asyncio.run(agent.answers(path, 5))


def test_an_agent_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    with answering(tmp_path / "qga"):
        assert not asyncio.run(agent.answers(str(tmp_path / "qga"), 0.2))


@pytest.mark.parametrize(
    "said", [b"\xff[1]", b"\xff" + b"[" * 50_000, b'\xff{"return": "5"}', b"\xffnull", b"\xff\x00\xfe"]
)
def test_an_agent_that_says_something_else_has_not_answered(tmp_path: Path, said: bytes) -> None:
    with answering(tmp_path / "qga", said):
        assert not asyncio.run(agent.answers(str(tmp_path / "qga"), 0.3))


class Page(BaseHTTPRequestHandler):
    """Well at `/well`, else not."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well?a=1" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def page() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def failure(check: GuestCheck) -> str | None:
    return asyncio.run(owners_check.failure(check, {"DROVER_GUEST": "web"}))


def test_a_port_and_a_page_are_checked(page: str) -> None:
    assert failure(GuestCheck(tcp=page)) is None
    assert failure(GuestCheck(http=f"http://{page}/well?a=1")) is None
    assert failure(GuestCheck(http=f"http://{page}/", deadline_s=0.5)) == f"http://{page}/: status 503"
    assert "127.0.0.1:1: " in str(failure(GuestCheck(tcp="127.0.0.1:1", deadline_s=0.5)))


@contextmanager
def saying(*lines: bytes) -> Iterator[str]:
    """A guest that answers each connection with these, one after the other, and then says no more."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = listening.accept()
                    with closing(peer), suppress(OSError):
                        for line in lines:
                            peer.sendall(line)
                            time.sleep(0.05)
                        peer.recv(1 << 16)
                        peer.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([b"x"] * 400, "no answer in time"),
        ([b"y" * 100_000], "what it answers is no HTTP"),
        ([b"SSH-2.0-x\r\n"], "what it answers is no HTTP"),
        ([b"HTTP/1.1 503 no\r\n\r\n"], "status 503"),
    ],
)
def test_a_guest_that_answers_slowly_at_length_or_nonsense_is_not_waited_for(lines: list[bytes], said: str) -> None:
    begun = time.monotonic()
    with saying(*lines) as there:
        assert said in str(failure(GuestCheck(http=f"http://{there}/", deadline_s=1)))
    assert time.monotonic() - begun < 10


def test_why_a_page_was_not_got_is_said_as_it_is(page: str) -> None:
    assert "SSL" in str(failure(GuestCheck(http=f"https://{page}/", deadline_s=0.5)))
    with saying() as there:
        assert "no answer in time" in str(failure(GuestCheck(http=f"http://{there}/", deadline_s=0.5)))
    unknown = str(failure(GuestCheck(http="http://nowhere.invalid/", deadline_s=0.5)))
    assert unknown.startswith("http://nowhere.invalid/: ")
    assert "Errno" not in unknown


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_program_knows_its_guest_is_tried_again_and_ends_with_the_deadline(tmp_path: Path) -> None:
    there = tmp_path / "there"
    again = script(tmp_path / "again", f"test -e {there} || {{ touch {there}; exit 1; }}")
    assert failure(GuestCheck(command=again, deadline_s=20)) is None
    never = script(tmp_path / "never", "echo no $DROVER_GUEST; exit 3")
    assert failure(GuestCheck(command=never, deadline_s=0.5)) == f"{never}: no web"
    sleeps = script(tmp_path / "sleeps", "sleep 60")
    assert "was ended" in str(failure(GuestCheck(command=sleeps, deadline_s=0.3)))


@pytest.mark.parametrize(
    "said", ['tcp = "a:1"\nhttp = "http://b/"', "deadline_s = 3", 'http = "file:///etc/passwd"', 'tcp = "no-port"']
)
def test_a_check_that_is_none_is_refused_with_its_guest(tmp_path: Path, said: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(f"[checks.web]\n{said}\n")
    ours = Settings.model_construct(policy=file, directory=tmp_path, guest_root=tmp_path)
    with pytest.raises(PreconditionFailed, match=r"checks\.web"):
        policy.of(ours)
