"""How hosts are shown, as text or as JSON."""

import re
from datetime import timedelta

from drover import words
from drover.cli import output
from drover.cli.backend import operations
from drover.cli.fleet_view import shown
from drover.errors import PreconditionFailed
from drover.settings import Settings, settings
from models.base import Document
from models.budget import BandwidthHours
from models.host import HostState
from workers.trust import host_key, known_hosts
from workers.trust.policy import PUBLIC_KEY
from workflows import selectors

VERSION = re.compile(r"^QEMU emulator version | \(.*\)$")
"""What is around it in what QEMU says of itself."""
MEANS = {
    HostState.FORGOTTEN: ": it is listed no more, nor are images that guests left there. If its worker starts again it "
    "is listed again, and takes no guest until `drover host uncordon`"
}
"""What a state has for people besides its name."""


def listed(selector: str | None, *, as_json: bool) -> None:
    """Print a line for each host."""
    rows = operations().hosts(selector)
    if as_json:
        output.emit({"hosts": rows})
        return
    if not rows and selector:
        output.note(f"no host is selected by {selector!r}")
    elif not rows:
        output.note("no host yet: start a worker with `drover worker --host NAME`")
    output.table(
        ("HOST", "STATE", "ADDRESS", "GUESTS", "CPUS", "MEMORY", "QEMU", "LABELS"),
        [
            (
                row["name"],
                ", ".join(_states(row)),
                row["address"],
                row["guests"],
                row["cpus"],
                words.size(row["memory_bytes"] or 0),
                VERSION.sub("", row["qemu"] or ""),
                selectors.shown(row["labels"]),
            )
            for row in rows
        ],
    )


def _states(row: Document) -> list[str]:
    wanted = [] if row["state"] == HostState.ACTIVE else [row["state"]]
    return ["alive" if row["alive"] else f"silent since {words.moment(row['heartbeat_at'])}", *wanted]


def report(host: Document, *, as_json: bool) -> None:
    """Print a host's state."""
    if as_json:
        output.emit(host)
    else:
        output.say(f"{host['name']} is {host['state']}{MEANS.get(host['state'], '')}")


def vouched(host: Document, *, as_json: bool) -> None:
    """Print by which key a host is trusted from now on."""
    if as_json:
        output.emit(host)
    else:
        output.say(f"{host['name']} is trusted by the key {host['key']} from now on")


def key(*, renew: bool, as_json: bool) -> None:
    """Print the public key of this host, after it was renewed if so wanted."""
    ours = _hypervisor()
    if renew and not host_key.exists(ours):
        raise PreconditionFailed(f"{ours.host} has no key yet: its worker makes one when it first starts")
    former = host_key.renew(ours).former if renew else None
    shown = host_key.public(ours)
    if as_json:
        output.emit({"name": ours.host, "key": shown} | ({"former": former} if renew else {}))
        return
    output.say(shown)
    if renew:
        output.note(
            f"{ours.host} has this key from now on, signed by the former one, {former}: moves go on, and other hosts "
            "believe it. Where a policy lists the former one, list this one"
        )


def trusted(host: str, key: str, *, as_json: bool) -> None:
    """Have this host believe another one's key.

    Raises:
        PreconditionFailed: it is no key, or this is no hypervisor.
    """
    ours = _hypervisor()
    if not PUBLIC_KEY.fullmatch(key):
        raise PreconditionFailed(f"{key!r} is no key: write what `drover host key` shows on {host}")
    former = known_hosts.trust(host, key, ours)
    if as_json:
        output.emit({"name": host, "key": key, "former": former})
    else:
        output.say(f"{ours.host} believes {host} by this key from now on" + (f", not by {former}" if former else ""))


def _hypervisor() -> Settings:
    ours = settings()
    if not ours.host:
        raise PreconditionFailed("DROVER_HOST is not set: run this on a hypervisor, with its worker's environment")
    return ours


def described(host: Document, *, as_json: bool) -> None:
    """Print what a host has of its own."""
    if as_json:
        output.emit(host)
        return
    kept_for = host["retention_s"]
    own = {
        "bandwidth_bytes_per_s": host["bandwidth_bytes_per_s"],
        "bandwidth_hours": BandwidthHours.read({"hours": host["bandwidth_hours"]}) if host["bandwidth_hours"] else None,
        "retention": None if kept_for is None else timedelta(seconds=kept_for),
    }
    told = [
        f"{words.option(name)} {'as the fleet' if value is None else shown(name, value)}"
        for name, value in own.items()
        if value is not None or name != "bandwidth_hours"
    ]
    output.say(f"{host['name']}: {', '.join(told)}, labels {selectors.shown(host['labels']) or 'none'}")
