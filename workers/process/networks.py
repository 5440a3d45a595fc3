"""Taps and bridges that a QEMU opens by name: whether they are here, as it needs them.

Where a tap is not there, a QEMU of root's makes one that is no port of anything: the guest goes on without a network.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from models.preflight import Check
from workers.preflight import checks
from workers.process import taps
from workers.process.exec_qemu import VHOST_NET
from workers.process.taps import Link, kind
from workers.qemu.options import BRIDGE_HELPERS, IFUP, NETWORKS, Option, parse_command_line

BRIDGE = "br0"
ACCESS = Path("/etc/qemu/bridge.conf")
"""Which bridges the helper may join anybody to."""


def missing(argv: Sequence[str], user: str) -> list[Check]:
    """What the networks of this command line name and what is not here; `user` is whom QEMU is started as."""
    named = [option for option in parse_command_line(argv) if _by_name(option)]
    present = taps.links() if named else {}
    return [check for option in named for check in _against(option, present, user)]


def warnings(argv: Sequence[str]) -> list[Check]:
    """What they would go without here."""
    wanted = [option for option in parse_command_line(argv) if _by_name(option) and option.is_on("vhost")]
    return [] if _has_vhost() else [checks.network.NO_VHOST.of(option.text) for option in wanted]


def _has_vhost() -> bool:
    return Path(VHOST_NET).is_char_device()


def _by_name(option: Option) -> bool:
    said = {key for key, _ in option.leaves()}
    return option.name in NETWORKS and option.driver in {"tap", "bridge"} and not said & {"fd", "fds"}


def _against(option: Option, present: Mapping[str, Link], user: str) -> Iterator[Check]:
    if option.driver == "bridge" or option.get("helper"):
        yield from _bridge(option, present)
    else:
        yield from _tap(option, present, user)
    if option.is_on("vhostforce") and not _has_vhost():
        seen = f"{option.text}: there is no {VHOST_NET} here"
        yield checks.network.NO_NETWORK.found(seen, remedy="load the module vhost_net there")


def _bridge(option: Option, present: Mapping[str, Link]) -> Iterator[Check]:
    bridge, helper = option.get("br") or BRIDGE, option.get("helper") or _helper()
    if kind(present.get(bridge, {})) != "bridge":
        yield checks.network.NO_NETWORK.found(f"{option.text}: there is no bridge {bridge} here")
    if not os.access(helper, os.X_OK):
        seen = f"{option.text}: there is no program {helper} here, which joins it to its bridge"
        yield checks.network.NO_NETWORK.found(seen, remedy="install it (Debian's qemu-system-common holds it)")
    elif helper in BRIDGE_HELPERS and not _may_join(bridge):
        seen = f"{option.text}: {ACCESS} here does not allow the bridge {bridge}"
        yield checks.network.NO_NETWORK.found(seen, remedy=f"add a line `allow {bridge}` to it")


def _helper() -> str:
    return next((path for path in BRIDGE_HELPERS if os.access(path, os.X_OK)), BRIDGE_HELPERS[0])


def _may_join(bridge: str) -> bool:
    """Whether the helper lets anybody join it; what it includes is not looked at."""
    try:
        rules = [line.split()[:2] for line in ACCESS.read_text().splitlines() if line.split("#")[0].strip()]
    except FileNotFoundError:
        return False
    except OSError:
        return True  # not ours to read, and the helper's
    return any(rule[0] == "include" or rule in (["allow", bridge], ["allow", "all"]) for rule in rules) and (
        ["deny", bridge] not in rules
    )


def _tap(option: Option, present: Mapping[str, Link], user: str) -> Iterator[Check]:
    script, name = option.get("script"), option.get("ifname")
    script = {None: IFUP, "no": ""}.get(script, script)
    if script and not os.access(script, os.X_OK):
        seen = f"{option.text}: there is no program {script} here, which joins its tap to a network"
        yield checks.network.NO_NETWORK.found(seen, remedy="put it there")
    if name is None or (script and name not in present):
        return  # QEMU makes one
    if (why := _unfit(present.get(name, {}), _several(option), user)) is not None:
        remedy = f"make it there (`ip tuntap add dev {name} mode tap{' multi_queue' if _several(option) else ''}"
        remedy += f"{'' if user == 'root' else f' user {user}'}`), and join it to its network"
        yield checks.network.NO_NETWORK.found(f"{option.text}: {why}", remedy=remedy)


def _several(option: Option) -> bool:
    return int(option.get("queues") or 1) > 1


def _unfit(link: Link, several: bool, user: str) -> str | None:
    """Why QEMU cannot have this tap as its network."""
    told = link.get("linkinfo", {}).get("info_data", {})
    if kind(link) != "tun" or told.get("type") != "tap":
        return "there is no tap of that name here" if not link else "what has that name here is no tap"
    if bool(told.get("multi_queue")) != several:
        return f"the tap of that name here has {'a single queue' if several else 'several queues'}, and its own not"
    if "LOWER_UP" in link["flags"]:
        return "the tap of that name here is in use"
    if user not in {"root", told.get("user")}:
        return f"the tap of that name here does not belong to {user}, as whom its QEMU runs"
    return None
