"""The floor: one plain script that moves a guest by QMP, with no database, broker, worker, retry or roll back.

`python bench/baseline.py MOVE.json` reads what to move (see `move`) and prints the seconds that each part took. It does
to QEMU what Drover does, in the same order and with the same options, and is still safe for as long as nothing dies.
Imports nothing of ours and nothing that is not in Python's standard library.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

POLL_S = 0.0005


class Qmp:
    """A connection to one monitor: commands, and the events that came in meanwhile."""

    def __init__(self, path: str, timeout_s: float = 20.0) -> None:
        self._socket = _connected(path, timeout_s)
        self._lines = self._socket.makefile("rb")
        self.events: list[dict[str, Any]] = []
        self._line()
        self.run("qmp_capabilities")

    def run(self, command: str, **arguments: Any) -> Any:
        """A command's answer. Python's `job_id` is QMP's `job-id`."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._socket.sendall(json.dumps({"execute": command, "arguments": named}).encode())
        return self._answer(command)

    def give(self, name: str, descriptor: int) -> None:
        """Hand an open file over, under a name."""
        order = json.dumps({"execute": "getfd", "arguments": {"fdname": name}}).encode()
        socket.send_fds(self._socket, [order], [descriptor])
        self._answer("getfd")

    def _answer(self, command: str) -> Any:
        while "return" not in (answer := self._line()):
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            self.events.append(answer)
        return answer["return"]

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event of this kind, those that came already included; forgets what came before it."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if wanted(event):
                    return event
            self.events.append(self._line())

    def _line(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise ConnectionError("the monitor hung up")
        message: dict[str, Any] = json.loads(line)
        return message


def _connected(path: str, timeout_s: float) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    while True:
        sock = socket.socket(socket.AF_UNIX)
        if sock.connect_ex(path) == 0:
            return sock
        sock.close()
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody listens at {path}")
        time.sleep(0.005)


def at(event: dict[str, Any]) -> float:
    """When QEMU raised it, in seconds since 1970."""
    stamp = event["timestamp"]
    return float(stamp["seconds"] + stamp["microseconds"] / 1e6)


def move(what: dict[str, Any]) -> dict[str, float]:
    """Move one guest; returns the seconds that each part took.

    `what` is {"qmp": the guest's monitor, "argv" and "destination_qmp" of the QEMU that waits, "address", "folder",
    "max_downtime_ms", "bandwidth_bytes_per_s" of the mirrors together (0: no limit), "disks": those of a job's plan}.
    What else QEMU offers for a shorter pause is tried only if it is named (see `bench/qemu_tuning.py`):
    "write_blocking",
    "nodelay" (true), "multifd" (the number of connections).
    """
    disks, clock = what["disks"], _Clock()
    create_images(disks)
    nbd_server, nbd_server_process, port = start_nbd_server(what)
    subprocess.Popen(what["argv"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    destination = Qmp(what["destination_qmp"])
    source = Qmp(what["qmp"])
    clock.lap("start")
    start_mirrors(source, what, port)
    clock.lap("copy")
    if what.get("write_blocking"):
        block_writes(source, disks)
    ram_port = listen(destination, what)
    send_ram(source, what, ram_port)
    clock.lap("ram")
    switch(source, destination, nbd_server, disks, clock)
    end(source, nbd_server_process)
    clock.lap("end")
    return clock.laps


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._since = now - self._since, now


def create_images(disks: list[dict[str, Any]]) -> None:
    """Empty images like those of the source."""
    for disk in disks:
        options = [word for key, value in disk["create_options"].items() for word in ("-o", f"{key}={value}")]
        path = Path(disk["destination_path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        size = str(disk["virtual_size_bytes"])
        subprocess.run(["qemu-img", "create", "-q", "-f", disk["format"], *options, path, size], check=True)


def start_nbd_server(what: dict[str, Any]) -> "tuple[Qmp, subprocess.Popen[bytes], int]":
    """A storage daemon that offers every image; `what` may have an "environment" for it (see `bench/copies.py`)."""
    listening = socket.create_server((what["address"], 0))
    monitor = str(Path(what["folder"], "floor.sock"))
    descriptor = listening.fileno()
    argv = [
        *("qemu-storage-daemon", "--chardev", f"socket,id=monitor,path={monitor},server=on,wait=off"),
        *("--monitor", "chardev=monitor", "--nbd-server", f"addr.type=fd,addr.str={descriptor}"),
    ]
    environment = {**os.environ, **what.get("environment", {})}
    process = subprocess.Popen(argv, pass_fds=[descriptor], stdout=sys.stderr, env=environment)
    nbd_server = Qmp(monitor)
    for disk in what["disks"]:
        name, path = f"disk{disk['index']}", disk["destination_path"]
        nbd_server.run("blockdev-add", driver="file", node_name=f"{name}-file", filename=path, discard="unmap")
        nbd_server.run("blockdev-add", driver=disk["format"], node_name=name, file=f"{name}-file", discard="unmap")
        nbd_server.run("block-export-add", type="nbd", id=name, node_name=name, name=name, writable=True)
    return nbd_server, process, int(listening.getsockname()[1])


def start_mirrors(source: Qmp, what: dict[str, Any], port: int) -> None:
    """Copy all disks at once; returns when both sides of each are equal."""
    speed = what["bandwidth_bytes_per_s"] // len(what["disks"])
    for disk in what["disks"]:
        name = f"floor{disk['index']}"
        server = {"type": "inet", "host": what["address"], "port": str(port)}
        export = f"disk{disk['index']}"
        source.run("blockdev-add", driver="nbd", node_name=name, server=server, export=export, discard=disk["discard"])
        copy = {"sync": "full", "copy_mode": "background", "speed": speed}
        source.run(
            "blockdev-mirror",
            job_id=name,
            device=disk["device"],
            target=name,
            on_target_error="stop",
            auto_dismiss=False,
            **copy,
        )
    for _ in what["disks"]:
        source.wait(lambda event: event["event"] == "BLOCK_JOB_READY")


def block_writes(source: Qmp, disks: list[dict[str, Any]]) -> None:
    """From now on a write of the guest is done when both sides have it; returns when nothing older is left to copy."""
    for disk in disks:
        name = f"floor{disk['index']}"
        source.run("block-job-change", id=name, type="mirror", copy_mode="write-blocking")
    while not all(job["actively-synced"] for job in source.run("query-block-jobs")):
        time.sleep(POLL_S)


def listen(destination: Qmp, what: dict[str, Any]) -> int:
    """A port for the RAM."""
    _capabilities(destination, "events", "return-path", "late-block-activate")
    _connections(destination, what)
    destination.run("migrate-incoming", uri=f"tcp:{what['address']}:0")
    return int(destination.run("query-migrate")["socket-address"][0]["port"])


def _capabilities(monitor: Qmp, *names: str) -> None:
    monitor.run("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])


def _connections(monitor: Qmp, what: dict[str, Any]) -> None:
    channels = what.get("multifd", 0)  # a guest that arrived by several still has them switched on
    monitor.run("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": channels > 0}])
    if channels:
        monitor.run("migrate-set-parameters", multifd_channels=channels)


def send_ram(source: Qmp, what: dict[str, Any], port: int) -> None:
    """Precopy; returns when the guest is paused with little left.

    The least of what QEMU offers for a short pause: it is not to stop the guest before the second pass, and both
    hosts write their images out while it still runs.
    """
    _capabilities(source, "events", "return-path", "pause-before-switchover", "auto-converge")
    source.run("migrate-set-parameters", max_bandwidth=1 << 40, downtime_limit=1)
    _connections(source, what)
    write_out(what["disks"])
    source.run("migrate", uri=_connected_at_once(source, what, port))

    def second_pass_or_pause(event: dict[str, Any]) -> bool:
        return _status(event) == "pre-switchover" or (event["event"] == "MIGRATION_PASS" and event["data"]["pass"] >= 2)

    if source.wait(second_pass_or_pause)["event"] == "MIGRATION_PASS":
        write_out(what["disks"])
        source.run("migrate-set-parameters", downtime_limit=what["max_downtime_ms"])
        source.wait(lambda event: _status(event) == "pre-switchover")


def _connected_at_once(source: Qmp, what: dict[str, Any], port: int) -> str:
    """Where QEMU is to send the RAM: to an address, or into a connection with `TCP_NODELAY` that it is given."""
    if not what.get("nodelay"):
        return f"tcp:{what['address']}:{port}"
    with socket.create_connection((what["address"], port)) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        source.give("floor-ram", stream.fileno())
    return "fd:floor-ram"


def _status(event: dict[str, Any]) -> str | None:
    return str(event["data"]["status"]) if event["event"] == "MIGRATION" else None


def write_out(disks: list[dict[str, Any]]) -> None:
    """fsync the images of both hosts at once."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda side: _fsync(disks, side), ("source_path", "destination_path")))


def _fsync(disks: list[dict[str, Any]], side: str) -> None:
    for disk in disks:
        descriptor = os.open(disk[side], os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def switch(source: Qmp, destination: Qmp, nbd_server: Qmp, disks: list[dict[str, Any]], clock: _Clock) -> None:
    """The guest is paused at the source; it runs at the destination at the end of this."""
    mirrors = [f"floor{disk['index']}" for disk in disks]
    for mirror in mirrors:
        source.run("block-job-cancel", device=mirror, force=False)
    while any(job["status"] != "concluded" for job in source.run("query-jobs")):
        time.sleep(POLL_S)
    if failed := [job["error"] for job in source.run("query-jobs") if "error" in job]:
        raise RuntimeError(f"a mirror failed: {failed}")
    clock.lap("mirror_end")
    for mirror in mirrors:
        source.run("blockdev-del", node_name=mirror)
    clock.lap("nbd_close")
    source.run("migrate-continue", state="pre-switchover")
    release(nbd_server, disks)
    source.wait(lambda event: _status(event) == "completed")
    clock.lap("device_state")
    while destination.run("query-status")["status"] != "paused":
        time.sleep(POLL_S)
    destination.run("cont")
    clock.lap("resume")


def release(nbd_server: Qmp, disks: list[dict[str, Any]]) -> None:
    """Take exports and nodes away, so that QEMU can lock the images."""
    for disk in disks:
        nbd_server.run("block-export-del", id=f"disk{disk['index']}", mode="hard")
    while nbd_server.run("query-block-exports"):
        time.sleep(POLL_S)
    for disk in disks:
        nbd_server.run("blockdev-del", node_name=f"disk{disk['index']}")
        nbd_server.run("blockdev-del", node_name=f"disk{disk['index']}-file")


def end(source: Qmp, nbd_server: "subprocess.Popen[bytes]") -> None:
    """The former QEMU and the storage daemon are not needed any more."""
    source.run("quit")
    nbd_server.terminate()
    nbd_server.wait()


if __name__ == "__main__":
    print(json.dumps(move(json.loads(Path(sys.argv[1]).read_text()))))
