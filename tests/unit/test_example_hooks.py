"""The hooks of the examples, each unchanged and against a real service."""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, TCPServer
from typing import Any

import pytest

from models.hook import HookCall
from tests.helpers import until

EXAMPLES = Path(__file__).parents[2] / "examples/hooks"
CALL = HookCall(
    hook="after-switchover", side="destination", guest="web", job=7, attempt=1, source="hv1", destination="hv2"
)


def run(
    program: Path, side: str = "destination", *, hook: str = CALL.hook, within: tuple[str, ...] = (), fails: str = ""
) -> None:
    call = CALL.model_copy(update={"side": side, "hook": hook})
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "DROVER_GUEST": call.guest,
        "DROVER_SIDE": side,
        "DROVER_DESTINATION": call.destination,
    }
    told = json.dumps(call.json_object())
    done = subprocess.run(
        [*within, str(program)], input=told, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is not bool(fails), done.stderr
    assert fails in done.stderr


def put(name: str, folder: Path) -> Path:
    return Path(shutil.copy(EXAMPLES / name, folder / name))


@dataclass
class Balancer:
    """What HAProxy's admin socket was told; it has one server, and says nothing where all is well."""

    told: list[str] = field(default_factory=list)

    def handler(self) -> type[StreamRequestHandler]:
        told = self.told

        class Admin(StreamRequestHandler):
            def handle(self) -> None:
                told.append(self.rfile.readline().decode().strip())
                self.wfile.write(b"\n" if " shop/web " in told[-1] else b"No such backend.\n\n")

        return Admin


def test_a_guest_gets_no_new_connections_until_it_has_changed_hosts_or_stays(tmp_path: Path) -> None:
    balancer, hook = Balancer(), put("drain-in-balancer", tmp_path)
    with TCPServer(("127.0.0.1", 0), balancer.handler()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "balancer").write_text(f"127.0.0.1:{server.server_address[1]} shop\n")
        for name in ("before-switchover", "after-switchover", "after-rollback"):
            run(hook, hook=name)
        assert balancer.told == [f"set server shop/web state {state}" for state in ("drain", "ready", "ready")]
        (tmp_path / "balancer").write_text(f"127.0.0.1:{server.server_address[1]} nowhere\n")
        run(hook, fails="No such backend.")
        server.shutdown()


@dataclass
class Alertmanager:
    """What its API keeps of silences."""

    silences: list[dict[str, Any]] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        silences = self.silences

        class Api(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/api/v2/silences?filter=guest%3D%22web%22"
                self._say(silences)

            def do_POST(self) -> None:
                silence = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                silences.append(silence | {"status": {"state": "active"}})
                self._say({"silenceID": "one"})

            def _say(self, what: object) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(what).encode())

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Api


def test_alerts_of_a_guest_are_silenced_once_by_the_source(tmp_path: Path) -> None:
    manager = Alertmanager()
    server = ThreadingHTTPServer(("127.0.0.1", 0), manager.handler())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        (tmp_path / "alertmanager").write_text(f"http://127.0.0.1:{server.server_port}/\n")
        program = put("silence-alerts", tmp_path)
        for side in ("destination", "source", "source"):
            run(program, side)
    finally:
        server.shutdown()
        server.server_close()
    [silence] = manager.silences
    assert silence["matchers"] == [{"name": "guest", "value": "web", "isRegex": False, "isEqual": True}]
    assert silence["comment"] == "Drover moves it, job 7"
    assert silence["startsAt"] < silence["endsAt"]


@pytest.fixture
def network() -> Iterator[tuple[str, ...]]:
    """A network with the device `lan0`; what runs a command in it."""
    name = "drover-hooks"
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "add", name], check=True)
    within = ("ip", "netns", "exec", name)
    try:
        subprocess.run([*within, "ip", "link", "add", "lan0", "type", "veth", "peer", "lan1"], check=True)
        subprocess.run([*within, "ip", "link", "set", "lan0", "up"], check=True)
        yield within
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_an_address_comes_to_the_destination_and_leaves_the_source_as_often_as_told(
    tmp_path: Path, network: tuple[str, ...]
) -> None:
    (tmp_path / "addresses").write_text("db 192.0.2.8/24 lan0\nweb 192.0.2.7/24 lan0\n")
    program = put("floating-address", tmp_path)
    for side, is_there in (("destination", True), ("destination", True), ("source", False), ("source", False)):
        run(program, side, within=network)
        shown = subprocess.run([*network, "ip", "address"], capture_output=True, text=True, check=True).stdout
        assert ("192.0.2.7/24" in shown) is is_there
        assert "192.0.2.8" not in shown


@pytest.fixture
def name_server(tmp_path: Path) -> Iterator[int]:
    """A `named` that takes updates of `vms.test` from this machine; its port."""
    if shutil.which("named") is None or shutil.which("nsupdate") is None:
        pytest.skip("no named or nsupdate (Debian's bind9, bind9-dnsutils) on this machine")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder = tmp_path / "named"
    folder.mkdir()
    (folder / "zone").write_text(
        "@ 60 IN SOA ns.vms.test. root.vms.test. 1 60 60 60 60\n@ 60 IN NS ns\nns A 127.0.0.1\n"
    )
    (folder / "conf").write_text(
        f"""options {{ directory "{folder}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
        pid-file none; session-keyfile none; recursion no; dnssec-validation no; }};
        controls {{ }};
        zone "vms.test" {{ type primary; file "zone"; allow-update {{ 127.0.0.1; }}; }};"""
    )
    process = subprocess.Popen(["named", "-g", "-c", str(folder / "conf")], stderr=subprocess.DEVNULL)
    try:
        until("it answers", lambda: "127.0.0.1" in dig("ns.vms.test", "A", port), 30)
        yield port
    finally:
        process.kill()
        process.wait()


def dig(name: str, kind: str, port: int) -> str:
    words = ["dig", "@127.0.0.1", "-p", str(port), "+short", "+tries=1", "+time=1", name, kind]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def test_a_zone_says_on_which_host_a_guest_runs(tmp_path: Path, name_server: int) -> None:
    (tmp_path / "dns").write_text(f"SERVER=127.0.0.1\nPORT={name_server}\nZONE=vms.test\nHOSTS=hosts.test\n")
    program = put("register-in-dns", tmp_path)
    run(program, "source")
    assert dig("web.vms.test", "CNAME", name_server) == ""
    for _ in range(2):
        run(program)
        assert dig("web.vms.test", "CNAME", name_server) == "hv2.hosts.test.\n"
