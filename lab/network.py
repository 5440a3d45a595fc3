"""A network between the lab's hosts that can be cut: one network namespace per host, joined by a bridge.

Needs root. Postgres and Redis are reached through Unix sockets, so a cut separates the hosts from each other
and nothing else; nothing leaves the namespaces.
"""

import hashlib
import subprocess

from drover.errors import PreconditionFailed
from lab.directory import Lab, LabHost

BRIDGE = "bridge"
INTERFACE = "eth0"
AT_ONCE = ("forward_delay", "0")
"""Else a bridge forwards nothing for 15 s at a port that was joined (again), with or without spanning tree."""


def create(lab: Lab) -> None:
    """Join all hosts of the lab by a bridge that lives in a namespace of its own."""
    lab.network_file.touch()
    _ip("netns", "add", namespace(lab, BRIDGE))
    _ip("-n", namespace(lab, BRIDGE), "link", "add", BRIDGE, "type", "bridge", *AT_ONCE)
    _ip("-n", namespace(lab, BRIDGE), "link", "set", BRIDGE, "up")
    for host in lab.hosts:
        _join(lab, host)


def _join(lab: Lab, host: LabHost) -> None:
    inside, bridge = namespace(lab, host.name), namespace(lab, BRIDGE)
    _ip("netns", "add", inside)
    _ip("-n", inside, "link", "add", INTERFACE, "type", "veth", "peer", "name", host.name, "netns", bridge)
    _ip("-n", bridge, "link", "set", host.name, "master", BRIDGE, "up")
    _ip("-n", inside, "addr", "add", f"{host.address}/24", "dev", INTERFACE)
    _ip("-n", inside, "link", "set", "lo", "up")
    _ip("-n", inside, "link", "set", INTERFACE, "up")


def cut(lab: Lab, host: LabHost) -> None:
    """Cut the host off at the bridge: packets are dropped without an error, as with a pulled cable."""
    _ip("-n", namespace(lab, BRIDGE), "link", "set", host.name, "down")


def mend(lab: Lab, host: LabHost) -> None:
    """Join it again."""
    _ip("-n", namespace(lab, BRIDGE), "link", "set", host.name, "up")


def sent_bytes(lab: Lab, host: LabHost) -> int:
    """What the host has sent to the others so far."""
    counter = f"/sys/class/net/{INTERFACE}/statistics/tx_bytes"
    told = subprocess.run([*inside(lab, host), "cat", counter], capture_output=True, check=True)
    return int(told.stdout)


def delete(lab: Lab) -> None:
    """Remove the namespaces, and with them all that is in them."""
    if not lab.network_file.exists():
        return
    for name in [BRIDGE, *(host.name for host in lab.hosts)]:
        subprocess.run(["ip", "netns", "delete", namespace(lab, name)], capture_output=True, check=False)


def inside(lab: Lab, host: LabHost) -> list[str]:
    """What to put before a command so that it runs on this host; nothing where all hosts share the loopback."""
    return ["ip", "netns", "exec", namespace(lab, host.name)] if lab.network_file.exists() else []


def namespace(lab: Lab, name: str) -> str:
    """The namespace of a host, or of the bridge. Two labs on one machine do not meet."""
    return f"drover-{hashlib.sha256(str(lab.path).encode()).hexdigest()[:8]}-{name}"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise PreconditionFailed(f"the lab's network: ip {' '.join(words)}: {done.stderr.strip()}")
