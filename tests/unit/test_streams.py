"""The streams between two hosts: who is let in, and what strangers cost. Real processes, as a worker starts them."""

import os
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from drover.errors import Transient
from drover.settings import PortRange
from lab.fleet import free_port
from models.streams import StreamAccess
from tests import factories
from tests.certificates import Authority
from tests.helpers import until
from workers.streams import client, credentials, handshake, queues, server, supervisor
from workers.streams.credentials import CredentialFiles, Credentials
from workers.streams.local import BACKLOG
from workers.streams.parameters import ClientParameters, ServerParameters

MIB = 1 << 20
LOCAL, PEER = "127.0.0.1", "127.0.0.2"


@dataclass
class Ends:
    """Both processes of a job's streams on this machine; `behind` listens where the server connects to."""

    folder: Path
    told: ClientParameters
    behind: socket.socket
    processes: "list[subprocess.Popen[bytes]]"

    def connect(self, stream: str = "nbd") -> socket.socket:
        """As the guest's QEMU does."""
        near = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        near.settimeout(30)
        near.connect(str(self.folder / f"here-{stream}.sock"))
        return near

    def accept(self) -> socket.socket:
        self.behind.settimeout(30)
        connection, _ = self.behind.accept()
        connection.settimeout(30)
        return connection


@pytest.fixture(params=["encrypted", "plain"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    pair = credentials.make()
    with _running(tmp_path, *((pair.server, pair.client) if request.param == "encrypted" else (None, None))) as made:
        yield made


@contextmanager
def _running(tmp_path: Path, of_server: handshake.Mine, of_client: handshake.Mine) -> Iterator[Ends]:
    secret = credentials.make_secret()
    with ExitStack() as stack:
        behind = stack.enter_context(closing(_listen(tmp_path / "there-nbd.sock")))
        near = {name: stack.enter_context(closing(_listen(tmp_path / f"here-{name}.sock"))) for name in ("nbd", "ram")}
        (tmp_path / "here-nbd.sock").chmod(0o666)
        tcp = stack.enter_context(socket.create_server((LOCAL, 0)))
        of_source = stack.enter_context(queues.beside(tcp, PEER))
        of_destination = ServerParameters(
            sockets={name: str(tmp_path / f"there-{name}.sock") for name in ("nbd", "ram")},
            secret=secret,
            credentials=of_server,
            listening=tcp.fileno(),
            of_source=of_source.fileno(),
        )
        told = ClientParameters(
            sockets={},
            secret=secret,
            credentials=of_client,
            address=LOCAL,
            port=tcp.getsockname()[1],
            own_address=PEER,
            guest_pid=1,
            listening={name: unix.fileno() for name, unix in near.items()},
        )
        of_destination.save(tmp_path / "server.json")
        told.save(tmp_path / "client.json")
        made = Ends(tmp_path, told, behind, [])
        try:
            for end, numbers in (
                ("server", [tcp.fileno(), of_source.fileno()]),
                ("client", [unix.fileno() for unix in near.values()]),
            ):
                argv = [sys.executable, "-m", "workers.streams", end, str(tmp_path / f"{end}.json")]
                with (tmp_path / f"{end}.log").open("ab") as log:
                    made.processes.append(subprocess.Popen(argv, pass_fds=numbers, stderr=log))
            for ours in (tcp, of_source):
                ours.close()  # the server's process alone listens now
            yield made
        finally:
            for process in made.processes:
                process.kill()
                process.wait()


def _listen(path: Path) -> socket.socket:
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.bind(str(path))
    unix.listen()
    return unix


def _pour(into: socket.socket, what: bytes) -> None:
    into.sendall(what)
    into.shutdown(socket.SHUT_WR)


def test_bytes_arrive_as_they_were_sent_both_ways_at_the_same_time(ends: Ends) -> None:
    with ends.connect() as near, ends.accept() as far:
        there, back = os.urandom(24 * MIB), os.urandom(20 * MIB)
        pouring = [threading.Thread(target=end.sendall, args=(what,)) for end, what in ((near, there), (far, back))]
        for thread in pouring:
            thread.start()
        seen: dict[str, bytes] = {}
        reading = [
            threading.Thread(target=lambda: seen.update(there=_read(far, len(there)))),
            threading.Thread(target=lambda: seen.update(back=_read(near, len(back)))),
        ]
        for thread in reading:
            thread.start()
        for thread in [*pouring, *reading]:
            thread.join(60)
        assert seen["there"] == there
        assert seen["back"] == back


def _read(end: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size and (part := end.recv(MIB)):
        got += part
    return bytes(got)


def test_what_was_sent_last_arrives_before_the_end_is_seen(ends: Ends) -> None:
    with ends.connect() as near, ends.accept() as far:
        sent = os.urandom(3 * MIB)
        _pour(near, sent)
        assert _read(far, 2 * len(sent)) == sent


@pytest.mark.thorough
def test_a_side_that_hung_up_while_the_other_takes_nothing_costs_no_cpu(ends: Ends) -> None:
    """As when a mirror is cut because the link is dead."""
    with ends.connect() as near, ends.accept():
        near.settimeout(2)
        with pytest.raises(TimeoutError):
            near.sendall(bytes(64 * MIB))
        near.close()
        begun = _cpu_s(ends.processes[1].pid)
        time.sleep(2)
        assert _cpu_s(ends.processes[1].pid) - begun < 0.5


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _hang_up(ends: Ends, _: ExitStack) -> None:
    for _n in range(100):
        socket.create_connection((LOCAL, ends.told.port)).close()


def _reset_at_once(ends: Ends, _: ExitStack) -> None:
    """Before the server looks at them, with and without something said."""
    server = ends.processes[0]
    _get_through(ends)  # it listens
    server.send_signal(signal.SIGSTOP)
    for said in (b"", b"GET / HTTP/1.0\r\n\r\n"):
        stranger = socket.create_connection((LOCAL, ends.told.port))
        stranger.sendall(said)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stranger.close()
    server.send_signal(signal.SIGCONT)


def _say_nothing(ends: Ends, stack: ExitStack) -> None:
    for _n in range(500):
        stack.enter_context(socket.create_connection((LOCAL, ends.told.port)))


def _talk_nonsense(ends: Ends, stack: ExitStack) -> None:
    for nonsense in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 4096, b"\xff" * 64, b"x" * 100_000):
        with_them = stack.enter_context(socket.create_connection((LOCAL, ends.told.port)))
        with suppress(ConnectionError):  # it was not heard to its end
            with_them.sendall(nonsense)


def _hold_another_jobs_credentials(ends: Ends, _: ExitStack) -> None:
    other = credentials.make().client if ends.told.credentials else None
    stranger = replace(ends.told, credentials=other, secret=credentials.make_secret())
    with pytest.raises((OSError, handshake.Refused)):
        client.open_stream(stranger, "nbd", client.context_of(stranger))


@pytest.mark.parametrize(
    "stranger", [_hang_up, _reset_at_once, _say_nothing, _talk_nonsense, _hold_another_jobs_credentials]
)
def test_the_right_peer_gets_through_whatever_strangers_do(
    ends: Ends, stranger: Callable[[Ends, ExitStack], None]
) -> None:
    with ExitStack() as stack:
        stranger(ends, stack)
        with ends.connect() as near, ends.accept() as far:
            near.sendall(b"mine")
            assert far.recv(10) == b"mine"
        ends.behind.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ends.behind.accept()  # none of the others got so far
    assert all(process.poll() is None for process in ends.processes)


def _issued(by: Authority, folder: Path, host: str, peer: str, **how: Any) -> CredentialFiles:
    return CredentialFiles(**{what: str(path) for what, path in by.issue(folder, host, **how).items()}, peer_name=peer)


def _get_through(ends: Ends) -> None:
    with ends.connect() as near, ends.accept() as far:
        near.sendall(b"mine")
        assert far.recv(10) == b"mine"


def _fill(listening: socket.socket, stack: ExitStack) -> None:
    """As strangers do: nobody takes a connection out of the queue, so that the kernel drops who comes next."""
    for _n in range(2 * BACKLOG):
        stranger = stack.enter_context(socket.socket(listening.family))
        stranger.setblocking(False)
        stranger.connect_ex(listening.getsockname())


def test_strangers_who_fill_the_queue_of_a_port_keep_nobody_of_the_sources_address_out() -> None:
    with socket.create_server((LOCAL, 0), backlog=BACKLOG) as tcp, queues.beside(tcp, PEER) as of_source:
        with ExitStack() as stack:
            _fill(tcp, stack)
            for _n in range(5):
                with client._reached(_told(tcp)), of_source.accept()[0] as heard:
                    assert heard.getpeername()[0] == PEER
        of_source.setblocking(False)
        with pytest.raises(BlockingIOError):
            of_source.accept()
        heard, (address, _) = tcp.accept()
        heard.close()
        assert address == LOCAL


def _told(tcp: socket.socket, own_address: str = PEER) -> ClientParameters:
    address, port = tcp.getsockname()[:2]
    return ClientParameters(
        sockets={},
        secret="",
        credentials=None,
        address=address,
        port=port,
        own_address=own_address,
        guest_pid=1,
        listening={},
    )


@pytest.mark.parametrize(("address", "queue"), [("::1", 1), ("::2", 0), ("fe80::1", 0)])
def test_an_address_of_ipv6_has_a_queue_to_itself_as_well(address: str, queue: int) -> None:
    tcp = socket.create_server(("::1", 0), family=socket.AF_INET6)
    with tcp, queues.beside(tcp, address) as of_source, client._reached(_told(tcp, "::1")):
        both = (tcp, of_source)
        assert select.select(both, [], [], 10)[0] == [both[queue]]


@pytest.mark.parametrize("own_address", ["192.0.2.1", "::1", "nobody.invalid", ""])
def test_who_cannot_connect_from_its_own_address_does_so_from_another(own_address: str) -> None:
    with socket.create_server((LOCAL, 0)) as tcp, client._reached(_told(tcp, own_address)):
        heard, (address, _) = tcp.accept()
        heard.close()
        assert address == LOCAL


def test_a_queue_that_was_full_for_a_moment_is_tried_again_sooner_than_the_kernel_does() -> None:
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server((LOCAL, 0), backlog=BACKLOG))
        _fill(tcp, stack)
        drain = threading.Timer(0.15, lambda: handshake.hang_up(*(tcp.accept()[0] for _n in range(9))))
        stack.callback(drain.join)
        drain.start()
        begun = time.monotonic()
        client._reached(_told(tcp)).close()
        assert 0.1 < time.monotonic() - begun < 0.9


def test_a_port_with_two_queues_is_busy_for_all_others() -> None:
    ours = factories.offline(ports=PortRange(port := free_port(), port), address=LOCAL)
    with supervisor.bind(ours) as tcp, queues.beside(tcp, PEER), pytest.raises(Transient, match="none of the ports"):
        supervisor.bind(ours)


def test_strangers_of_one_address_end_their_own_connections_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PROVING_AT_ONCE", 3)
    told = ServerParameters(sockets={}, secret="", credentials=None, listening=socket.socket().detach())
    heard = server.Server(told, told.listening)
    with ExitStack() as stack, heard.listening:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(3)]
        for number, address in enumerate(("10.0.0.1", "10.0.0.2", "10.0.0.2")):
            heard.proving[number] = address, pairs[number][0]
            pairs[number][1].setblocking(False)
        heard._make_room()
        assert list(heard.proving) == [0, 2]
        assert pairs[1][1].recv(1) == b"", "the oldest of the busiest address is hung up"
        with pytest.raises(BlockingIOError):
            pairs[0][1].recv(1)


@pytest.mark.parametrize("mine", [None, credentials.make().server], ids=["plain", "encrypted"])
def test_who_shows_the_mark_and_says_nothing_more_is_not_waited_for(mine: Credentials | None) -> None:
    told = ServerParameters(sockets={}, secret="", credentials=mine, listening=socket.socket().detach())
    heard, (far, silent) = server.Server(told, told.listening), socket.socketpair()
    wrapped = handshake.wrap(far, heard.shown.context() if heard.shown else None, server=True)
    begun = time.monotonic()
    with heard.listening, silent, wrapped, pytest.raises(TimeoutError):
        heard._let_in(wrapped, begun + 0.1)
    assert time.monotonic() - begun < server.PROVE_S


BEGINNINGS = {
    "nothing": (b"", True),
    "a part of a ClientHello": (b"\x16\x03\x01\x02\x00\x01", True),
    "a ClientHello without the mark": (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", False),
    "a long one": (b"\x16\x03\x01\x40\x00" + bytes(9000), False),
    "nonsense": (b"GET / HTTP/1.0\r\n\r\n", False),
}


@pytest.mark.parametrize(("beginning", "may_go_on"), BEGINNINGS.values(), ids=BEGINNINGS)
def test_for_who_does_not_begin_as_the_right_peer_neither_tls_nor_a_thread_is_begun(
    monkeypatch: pytest.MonkeyPatch, beginning: bytes, may_go_on: bool
) -> None:
    monkeypatch.setattr(server, "PROVE_S", 0.2 if may_go_on else 20.0)
    monkeypatch.setattr(server.Server, "_hear_out", lambda *_: pytest.fail("it was taken for the right peer"))
    tcp = socket.create_server((LOCAL, 0))
    told = ServerParameters(sockets={}, secret="x", credentials=credentials.make().server, listening=tcp.detach())
    heard = server.Server(told, told.listening)
    with heard.listening, socket.create_connection(heard.listening.getsockname()) as stranger:
        stranger.sendall(beginning)
        heard._accept()
        [begun] = heard.begins.values()
        while heard.begins:
            heard._turn()
        assert (time.monotonic() >= begun.until) == may_go_on
        assert stranger.recv(10) == b"", "hung up, and not broken"
    assert heard.proving == {}


def test_who_has_gone_before_its_turn_or_finds_no_free_descriptor_ends_nothing() -> None:
    told = ServerParameters(
        sockets={}, secret="", credentials=None, listening=socket.create_server((LOCAL, 0)).detach()
    )
    heard = server.Server(told, told.listening)
    with heard.listening:
        heard._accept()  # fails as it does without a free descriptor
        assert heard.begins == {}


def test_a_line_without_an_end_is_not_read_on() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall(bytes(handshake.LONGEST_LINE + 1))
        far.setblocking(False)
        with pytest.raises(handshake.Refused, match="too much"):
            handshake.read_line(far, time.monotonic() + 10)


def test_the_mark_is_another_for_each_secret_and_does_not_tell_it() -> None:
    mine = credentials.make().server
    marks = {ServerParameters(sockets={}, secret=one, credentials=mine, listening=0).mark for one in ("one", "two")}
    assert len(marks) == 2
    assert not any(secret in mark for secret in ("one", "two") for mark in marks)


def test_certificates_that_are_renewed_count_from_the_next_connection_on_and_open_ones_go_on(tmp_path: Path) -> None:
    first, second = Authority("first"), Authority("second")
    there, here = _issued(first, tmp_path, "hv2", "hv1"), _issued(first, tmp_path, "hv1", "hv2")
    with _running(tmp_path, there, here) as ends, ends.connect() as open_one, ends.accept() as other_end:
        open_one.sendall(b"begins")
        assert other_end.recv(10) == b"begins"
        _issued(second, tmp_path, "hv2", "hv1")
        for files in (there, here):
            Path(files.authority).write_text(first.pem_of_root() + second.pem_of_root())
        _get_through(ends)
        Path(there.authority).write_text(second.pem_of_root())  # from now on the source's former one is refused
        _issued(second, tmp_path, "hv1", "hv2")  # which trusts the second authority alone
        _get_through(ends)
        with client.open_stream(ends.told, "nbd", client.context_of(ends.told)), ends.accept():
            pass  # both ends show what stands in the files now
        open_one.sendall(b"goes on")
        assert other_end.recv(10) == b"goes on"


def test_while_new_certificates_are_not_all_there_the_former_ones_count(tmp_path: Path) -> None:
    by = Authority("root")
    there, here = _issued(by, tmp_path, "hv2", "hv1"), _issued(by, tmp_path, "hv1", "hv2")
    with _running(tmp_path, there, here) as ends:
        _get_through(ends)
        new = tmp_path / "new"
        new.mkdir()
        by.issue(new, "hv2")
        (new / "hv2.certificate").replace(there.certificate)  # its key is the former one's
        Path(here.key).unlink()
        _get_through(ends)
    for end in ("server", "client"):
        assert (tmp_path / f"{end}.log").read_text().count("the former ones count") == 1


def test_the_right_certificate_and_mark_without_the_secret_are_turned_away(
    monkeypatch: pytest.MonkeyPatch, ends: Ends
) -> None:
    monkeypatch.setattr(ClientParameters, "asks_for", ends.told.asks_for)
    wrong = replace(ends.told, secret=credentials.make_secret())
    with pytest.raises(handshake.Refused, match="it hung up"):
        client.open_stream(wrong, "nbd", client.context_of(wrong))


def _with_a_certificate_of_its_own(end: str, _: Path) -> tuple[handshake.Mine, handshake.Mine]:
    right, own = credentials.make(), credentials.make()
    false = replace(getattr(right, end), certificate=getattr(own, end).certificate, key=getattr(own, end).key)
    both = {"server": right.server, "client": right.client, end: false}
    return both["server"], both["client"]


def _with_that_of_another_host(end: str, folder: Path) -> tuple[handshake.Mine, handshake.Mine]:
    by, host = Authority("root"), {"server": "hv2", "client": "hv1", end: "hv3"}
    return _issued(by, folder, host["server"], "hv1"), _issued(by, folder, host["client"], "hv2")


@pytest.mark.parametrize("false_end", ["server", "client"])
@pytest.mark.parametrize("shown", [_with_a_certificate_of_its_own, _with_that_of_another_host])
def test_either_end_is_refused_that_holds_the_secret_and_not_the_right_certificate(
    tmp_path: Path, false_end: str, shown: Callable[[str, Path], tuple[handshake.Mine, handshake.Mine]]
) -> None:
    with _running(tmp_path, *shown(false_end, tmp_path)) as ends:
        with pytest.raises((OSError, handshake.Refused)):
            client.open_stream(ends.told, "nbd", client.context_of(ends.told))
        ends.behind.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ends.behind.accept()


@pytest.mark.parametrize("old_end", ["server", "client"])
def test_neither_end_takes_part_in_tls_before_1_3(old_end: str) -> None:
    pair = credentials.make()
    contexts = {"server": credentials.server_context(pair.server), "client": credentials.client_context(pair.client)}
    contexts[old_end].minimum_version = contexts[old_end].maximum_version = ssl.TLSVersion.TLSv1_2
    near, far = socket.socketpair()
    with handshake.wrap(far, contexts["server"], server=True) as served:
        with handshake.wrap(near, contexts["client"], "x", server=False) as asked, ThreadPoolExecutor(1) as beside:
            proven = beside.submit(handshake.prove, served, pair.server, time.monotonic() + 10, server=True)
            with pytest.raises(OSError, match=r"(?i)version"):
                handshake.prove(asked, pair.client, time.monotonic() + 10, server=False)
        with pytest.raises(OSError, match=r"(?i)version|protocol"):
            proven.result()


def test_no_session_of_tls_is_taken_up_again_and_no_key_is_read_from_a_file(tmp_path: Path) -> None:
    pair = credentials.make()
    with (
        _running(tmp_path, pair.server, pair.client) as ends,
        client.open_stream(ends.told, "nbd", client.context_of(ends.told)) as far,
        ends.accept(),
    ):
        assert isinstance(far, ssl.SSLSocket)
        assert far.session is not None
        assert not far.session.has_ticket
    with credentials._in_memory("a key") as path:
        assert str(Path(path).readlink()).startswith("/memfd:")


def test_a_stream_that_nobody_serves_is_a_sentence(ends: Ends) -> None:
    with pytest.raises(handshake.Refused, match="nobody listens for ram there: No such file or directory"):
        client.open_stream(ends.told, "ram", client.context_of(ends.told))
    with ends.connect("ram") as near:
        assert b"nobody listens for ram there" in near.recv(1000)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can act as another user")
def test_another_users_process_does_not_get_to_the_disks(ends: Ends) -> None:
    for folder in (ends.folder, *ends.folder.parents[:3]):
        folder.chmod(0o755)
    path = ends.folder / "here-nbd.sock"
    asks = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); print(len(s.recv(1)))"
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-c", asks]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "0", "it was hung up on"
    until("its owner is told", lambda: "neither the guest's QEMU nor ours" in (ends.folder / "client.log").read_text())


def test_a_server_that_is_gone_is_told_at_once(ends: Ends) -> None:
    ends.processes[0].kill()
    ends.processes[0].wait()
    with ends.connect() as near:
        assert near.recv(1) == b""


def test_parameters_are_for_their_owner_alone(ends: Ends) -> None:
    assert {(ends.folder / f"{end}.json").stat().st_mode & 0o777 for end in ("server", "client")} == {0o600}
    for process in ends.processes:
        told = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
        assert ends.told.secret.encode() not in told


def test_credentials_of_one_start_are_worth_nothing_at_another(tmp_path: Path) -> None:
    one, other = credentials.make(), credentials.make()
    assert one.server.peer == one.client.certificate
    assert len({one.server.key, one.client.key, other.server.key, other.client.key}) == 4
    assert credentials.make_secret() != credentials.make_secret()


def test_a_busy_port_is_skipped_and_without_a_free_one_a_sentence_says_so() -> None:
    first = free_port()
    ours = factories.offline(ports=PortRange(first, first + 1), address=LOCAL)
    with socket.create_server((LOCAL, first)), supervisor.bind(ours) as second:
        assert second.getsockname()[1] == first + 1
        with pytest.raises(Transient, match=f"none of the ports {first}-{first + 1} .* DROVER_PORTS"):
            supervisor.bind(ours)


def test_the_port_of_before_is_taken_again_if_it_is_free() -> None:
    first = free_port()
    ours = factories.offline(ports=PortRange(first - 3, first), address=LOCAL)
    with supervisor.bind(ours, first) as again:
        assert again.getsockname() == (LOCAL, first), "and no other address of the host"


def test_what_an_earlier_version_sealed_without_a_version_is_understood() -> None:
    pair = credentials.make()
    sealed = {"job": 7, "address": "10.0.0.2", "port": 4711, "secret": "s", "credentials": vars(pair.client)}
    access = StreamAccess.read(sealed)
    assert access.credentials is not None
    assert Credentials(**access.credentials.json_object()) == pair.client
    assert (access.job, access.port, access.bitmap) == (7, 4711, None)
    assert StreamAccess.read(sealed | {"credentials": None}).credentials is None
