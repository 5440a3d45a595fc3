"""What came and went while the guest ran: the command line with which it would be what it is now.

A device is described by its properties, as far as they differ from those it has by default, with its id, bus and
address; what is behind it (node, network, memory) by what QMP says. Whether it is the same machine is proven
by the comparison of the two (`topology`), like all else. What cannot be described is left out, and refused there.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from workers.qemu import boot_cpus, descriptors, forwards, qom
from workers.qemu import nodes as block_nodes
from workers.qemu.command_line import device_ids, makes_device, nameless_devices
from workers.qemu.json_text import flat, spelled
from workers.qemu.monitor import CommandRefused, Monitor
from workers.qemu.options import Option, command_words, parse_command_line, write_options
from workers.qemu.qom import ANONYMOUS, PERIPHERAL

UNATTACHED = "/machine/unattached/"
"""Where QEMU puts the devices that it makes by itself, the CPUs of `-smp` among them."""
OBJECTS = frozenset({"memdev", "iothread", "rng"})
"""Properties that link to an object, which is named by the last part of its path."""
TIED = OBJECTS | {"drive", "netdev", "chardev", "name", "serial", "mac", "wwn", "port_wwn", "port"}
"""Properties without a default that make a device what it is."""
DERIVED = frozenset({"cyls", "heads", "secs", "lcyls", "lheads", "lsecs", "romsize", "busnr", "hotplugged", "realized"})
"""Properties that the device finds out for itself."""
OF_OBJECTS = ("size", "share", "mem-path", "filename", "limits")
"""What has to be said of an object besides its kind and id, where it has it."""
CPU_PLACE = ("socket-id", "die-id", "module-id", "cluster-id", "core-id", "thread-id")
_NETWORK = re.compile(r"^(?: \\ )?(\S+): index=\d+,type=(\w+)(?:,(.*))?$")
_LISTENING = re.compile(r"unix:(.+),server=on")
_USB = re.compile(r"^ *Device .*, Port ([\d.]+), .*, ID: (\S+)$")

Words = list[str]


async def as_it_is_now(monitor: Monitor, argv: Sequence[str]) -> Words:
    """The command line that makes the present machine; the given one where nothing came or went."""
    argv = await forwards.as_they_are_now(monitor, await _without_unplugged_cpus(monitor, argv))
    guest = _Guest(monitor, argv)
    await guest.look()
    groups = await guest.groups()
    if not guest.plugged and not guest.gone:
        return [*argv, *groups]
    kept = await guest.kept()
    added = [word for name in await guest.in_order() for word in await guest.described(name)]
    return [argv[0], *kept, *groups, *added]


async def _without_unplugged_cpus(monitor: Monitor, argv: Sequence[str]) -> Sequence[str]:
    """As if the guest had been started with those of its first CPUs that are still there. Others have ids."""
    with suppress(CommandRefused):  # its machine has no places for more
        places = await monitor.query("query-hotpluggable-cpus")
        places.sort(key=lambda place: [place["props"].get(key, 0) for key in CPU_PLACE])
        there = takewhile(lambda place: str(place.get("qom-path", "")).startswith(UNATTACHED), places)
        left, started = len(list(there)), boot_cpus.started_with(argv)
        if started is not None and left < started:
            return boot_cpus.with_fewer(argv, left, len(places))
    return argv


class _Guest:
    """What there is, and what the command line says."""

    def __init__(self, monitor: Monitor, argv: Sequence[str]) -> None:
        self.monitor = monitor
        self.argv = argv
        self.options = parse_command_line(argv)
        self.named = {option.get("id"): option for option in self.options if option.name == "device"}
        self.known = {(option.name, _id(option)) for option in self.options}
        self.types: dict[str, str] = {}
        self.plugged: set[str] = set()
        self.gone: set[str] = set()
        self.ports: dict[str, str] = {}
        """Of USB devices with an id."""

    async def look(self) -> None:
        """Which devices came and went; under the id of one that went another may have come. Those without an id are
        called by their paths.
        """
        there = await qom.children(self.monitor, PERIPHERAL)
        nameless = {f"{ANONYMOUS}/{name}": kind for name, kind in (await qom.children(self.monitor, ANONYMOUS)).items()}
        self.types = there | nameless
        named = device_ids(self.argv)
        anew = {name for name in (named & there.keys()) | nameless.keys() if await self._get(name, "hotplugged")}
        self.plugged, self.gone = (there.keys() - named) | anew, (named - there.keys()) | (anew & named)
        lines = (await self.monitor.hmp("info usb")).splitlines()
        self.ports = {match[2]: match[1] for match in map(_USB.match, lines) if match}

    async def kept(self) -> Words:
        """The options without those of what is gone. The addresses of what stays do not depend on it any more, and
        devices without ids keep their numbers (`nameless_devices`): those of drives stand at the end.
        """
        nameless = await self._nameless() if self.gone else None
        if nameless is None:
            return command_words(self.options)
        there = await self._there()
        words, last = Words(), Words()
        for place, option in enumerate(self.options):
            if option.name in there and _id(option) is not None and _id(option) not in there[option.name]:
                continue
            pinned, *its_device = nameless[place] if place in nameless else [await self._pinned(option)]
            words += pinned.words()
            last += command_words(its_device)
        return words + last

    async def _nameless(self) -> dict[int, list[Option]] | None:
        """Devices without an id, and those of drives, at their addresses: {place of the option: options}.

        None: one came or went, and nobody knows which.
        """
        places = nameless_devices(self.options)
        if sum(name.startswith(ANONYMOUS) for name in self.types.keys() - self.plugged) != len(places):
            return None
        paths = (f"{ANONYMOUS}/device[{number}]" for number in range(len(places)))
        return {place: await self._at(self.options[place], path) for place, path in zip(places, paths, strict=True)}

    async def _at(self, option: Option, path: str) -> list[Option]:
        """A device without an id at its present address; that of a drive with an option of its own."""
        address = await self._address(path)
        if not makes_device(option):
            return [option if address is None else _at_address(option, address)]
        name, driver = await qom.value(self.monitor, path, "drive"), await qom.value(self.monitor, path, "type")
        kept = tuple((key, value) for key, value in option.pairs() if key not in {"if", "index", "id"})
        drive = Option(word=option.word, value=write_options((*kept, ("if", "none"), ("id", name))))
        device = Option(word="-device", value=f"{driver},drive={name}")
        return [drive, device if address is None else _at_address(device, address)]

    async def _address(self, path: str) -> str | None:
        """Of a PCI device that has none on its command line."""
        value = await qom.value(self.monitor, path, "addr")
        is_pci = await qom.value(self.monitor, path, "romfile") is not None
        return f"{value >> 3:x}.{value & 7:x}" if is_pci and isinstance(value, int) else None

    async def _there(self) -> dict[str, set[str]]:
        """The ids of what may have gone, by the option that makes it."""
        nodes = await self.monitor.query("query-named-block-nodes", flat=True)
        drives = await self.monitor.query("query-block")
        chardevs = await self.monitor.query("query-chardev")
        return {
            "device": set(self.types) - self.gone,
            "netdev": {name for name, _, _ in await self._networks()},
            "blockdev": {node["node-name"] for node in nodes},
            "drive": {entry["device"] for entry in drives},
            "object": set(await qom.children(self.monitor, qom.OBJECTS)),
            "chardev": {entry["label"] for entry in chardevs},
        }

    async def _pinned(self, option: Option) -> Option:
        """A device at its present address."""
        name = option.get("id")
        if option.name != "device" or name is None or option.get("addr") is not None:
            return option
        address = (await self._properties(name)).get("addr")
        if not isinstance(address, str):
            return option
        return _at_address(option, address)

    async def in_order(self) -> list[str]:
        """What came, each after the device whose bus, or USB hub, it is on."""
        depth = {name: (len(await self._parents(name)), self.ports.get(name, "").count(".")) for name in self.plugged}
        return sorted(self.plugged, key=lambda name: (depth[name], len(name), name))

    async def _parents(self, name: str) -> list[str]:
        """The plugged devices that carry it."""
        found: list[str] = []
        while True:
            bus = str(await self._get(name, "parent_bus") or "")
            parent = next((each for each in self.plugged if bus.startswith(f"{_path(each)}/")), None)
            if parent is None or parent in found:
                return found
            found.append(parent)
            name = parent

    async def described(self, name: str) -> Words:
        """The options that make this device and what is behind it; none if that cannot be told."""
        driver = self.types[name]
        if driver.endswith("-cpu"):
            properties = await self._cpu(name)
        else:
            properties = await self._properties(name)
        if driver == "usb-storage":
            properties["drive"] = await self._stick(name)
        behind: Words = []
        for key, (kinds, tell) in self._parts().items():
            part = properties.get(key)
            if part is None or any((kind, part) in self.known for kind in kinds):
                continue
            words = await tell(part)
            if not words:
                return []
            behind += words
        identity = {"driver": driver} if name.startswith(ANONYMOUS) else {"driver": driver, "id": name}
        return [*behind, "-device", json.dumps(identity | properties)]

    def _parts(self) -> dict[str, tuple[tuple[str, ...], Callable[[str], Awaitable[Words]]]]:
        """{property: (options that make what it names, who tells of it)}."""
        objects = dict.fromkeys(sorted(OBJECTS), (("object",), self._object))
        networks, channels = (("netdev",), self._network), (("chardev",), self._chardev)
        return {"drive": (("blockdev", "drive"), self._disk), "netdev": networks, "chardev": channels, **objects}

    async def _stick(self, name: str) -> Any:
        """The drive of a USB stick, which has handed it to the SCSI disk in it."""
        drives = (str(entry.get("qdev")) for entry in await self.monitor.query("query-block"))
        disk = next((path for path in drives if path.startswith(f"{_path(name)}/")), "")
        return await qom.value(self.monitor, disk, "drive")

    async def _get(self, name: str, key: str) -> Any:
        return await qom.value(self.monitor, _path(name), key)

    async def _properties(self, name: str) -> dict[str, Any]:
        """Those that are not by default, and its place."""
        known = await self.monitor.query("device-list-properties", typename=self.types[name])
        found: dict[str, Any] = {}
        for each in known:
            key = str(each["name"])
            if key in DERIVED or key.startswith("x-") or not ("default-value" in each or key in TIED):
                continue
            value = await self._get(name, key)
            if value is None or value == each.get("default-value", "") or isinstance(value, list | dict):
                continue
            if key == "addr" and each["type"] == "str":
                value = f"{value >> 3:x}.{value & 7:x}"
            found[key] = value.rpartition("/")[2] if key in OBJECTS else value
        bus = str(await self._get(name, "parent_bus") or "").rpartition("/")[2]
        port = {"port": self.ports[name]} if name in self.ports else {}
        return {**({"bus": bus} if bus else {}), **found, **port}

    async def _cpu(self, name: str) -> dict[str, Any]:
        """Only its place: all CPUs are of one model."""
        for slot in await self.monitor.query("query-hotpluggable-cpus"):
            if slot.get("qom-path") == _path(name):
                return {key: slot["props"][key] for key in CPU_PLACE if key in slot["props"]}
        return {}

    async def _disk(self, drive: str) -> Words:
        """The node, or the drive, of this name."""
        nodes = {node["node-name"]: node for node in await self.monitor.query("query-named-block-nodes", flat=True)}
        chains = {stats["node-name"]: stats for stats in await self.monitor.query("query-blockstats", query_nodes=True)}
        if drive in nodes:
            tree = block_nodes.tree(chains[drive], nodes)
            return ["-blockdev", json.dumps(tree)] if tree else []
        for entry in await self.monitor.query("query-block"):
            if entry["device"] == drive and "inserted" in entry:
                tree = block_nodes.tree(chains[entry["inserted"]["node-name"]], nodes)
                return ["-drive", _drive(drive, tree)] if tree else []
        return []

    async def groups(self) -> Words:
        """The throttle groups that came."""
        there = (await qom.children(self.monitor, qom.OBJECTS)).items()
        came = [name for name, kind in there if kind == "throttle-group" and ("object", name) not in self.known]
        return [word for name in came for word in await self._object(name)]

    async def _networks(self) -> list[tuple[str, str, dict[str, str]]]:
        """(id, kind, what is said of it) of every network and NIC."""
        found = []
        for line in (await self.monitor.hmp("info network")).replace("\r", "").splitlines():
            if (match := _NETWORK.match(line)) is not None:
                pairs = (pair.partition("=") for pair in (match[3] or "").split(","))
                found.append((match[1], match[2], {key: value for key, _, value in pairs}))
        return found

    async def _network(self, name: str) -> Words:
        """A user network or a tap; others cannot be told."""
        for found, kind, said in await self._networks():
            if (found, kind) == (name, "user") and said.get("net") == "10.0.2.0" and said.get("restrict") == "off":
                ports = (await forwards.shown(self.monitor)).get(name, [])
                return ["-netdev", ",".join([f"user,id={name}", *(f"hostfwd={port.text}" for port in ports)])]
            if (found, kind) == (name, "tap") and {"ifname", "script", "downscript"} <= said.keys():
                words = [f"tap,id={name}"] + [f"{key}={said[key]}" for key in ("ifname", "script", "downscript")]
                return ["-netdev", ",".join([*words, *(["vhost=on"] if _vhost_nets(self.monitor.pid) else [])])]
        return await self._handed_over(name)

    async def _handed_over(self, name: str) -> Words:
        """A tap by descriptors, with as many of those that the kernel has for vhost."""
        queues = [
            said["fd"]
            for found, kind, said in await self._networks()
            if (found, kind) == (name, "tap") and "fd" in said
        ]
        if not queues:
            return []
        named = {number for tap in descriptors.taps(self.argv) for number in tap.vhost}
        vhost = [str(number) for number in _vhost_nets(self.monitor.pid) if number not in named][: len(queues)]
        words = ["tap", f"id={name}", f"fds={':'.join(queues)}", *([f"vhostfds={':'.join(vhost)}"] if vhost else [])]
        return ["-netdev", ",".join(words)]

    async def _chardev(self, name: str) -> Words:
        """A Unix socket that QEMU listens on, a terminal of its own, or nothing; others cannot be told."""
        for entry in await self.monitor.query("query-chardev"):
            said = str(entry["filename"]).removeprefix("disconnected:")
            if entry["label"] == name and (found := _LISTENING.fullmatch(said)):
                pairs = ((None, "socket"), ("id", name), ("path", found[1]), ("server", "on"), ("wait", "off"))
                return ["-chardev", write_options(pairs)]
            if entry["label"] == name and (kind := said.partition(":")[0]) in {"null", "pty"}:
                return ["-chardev", write_options(((None, kind), ("id", name)))]
        return []

    async def _object(self, name: str) -> Words:
        """A memory back end, an I/O thread, a throttle group, or where random numbers come from."""
        kind = (await qom.children(self.monitor, qom.OBJECTS)).get(name, "")
        if not kind.startswith(("memory-backend-", "iothread", "throttle-group", "rng-random", "rng-builtin")):
            return []
        offered = {each["name"] for each in await self.monitor.query("qom-list", path=f"/objects/{name}")}
        found = {
            key: await self.monitor.query("qom-get", path=f"/objects/{name}", property=key)
            for key in OF_OBJECTS
            if key in offered
        }
        return ["-object", json.dumps({"qom-type": kind, "id": name, **found})]


def _path(name: str) -> str:
    return name if name.startswith(ANONYMOUS) else f"{PERIPHERAL}/{name}"


def _id(option: Option) -> str | None:
    return option.get("node-name") if option.name == "blockdev" else option.get("id")


def _at_address(option: Option, address: str) -> Option:
    return option if option.get("addr") is not None else option.having("addr", address)


def _drive(name: str, tree: Mapping[str, Any]) -> str:
    """The same as `-drive`: the guest's device names it by that id."""
    pairs = {"if": "none", "id": name, **{key: spelled(value) for key, value in flat(tree) if key != "node-name"}}
    return write_options(tuple(pairs.items()))


def _vhost_nets(pid: int) -> list[int]:
    """QEMU tells nowhere whether a tap has vhost; the kernel does, by its open descriptors."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()) == "/dev/vhost-net":
                found.append(int(link.name))
    return sorted(found)
