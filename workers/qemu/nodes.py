"""Block nodes of a running QEMU as `-blockdev` takes them."""

from collections.abc import Mapping
from typing import Any

from workers.qemu.json_text import made_up
from workers.qemu.options import FILES, FILTERS

FORMATS = frozenset({"raw", "qcow2"})

Tree = Mapping[str, Any]


def tree(stats: Mapping[str, Any], nodes: Mapping[str, Any]) -> Tree:
    """A node and those below it, by its entry of `query-blockstats`; empty if one is of a kind that is not known here.

    QEMU does not tell whether a node discards: it does, so that a thin image stays thin.
    """
    name = str(stats.get("node-name"))
    if name not in nodes:
        return {}
    node = nodes[name]
    driver, cache = str(node["drv"]), node["cache"]
    made: dict[str, Any] = {
        "driver": driver,
        **({} if name.startswith("#") else {"node-name": name}),
        "read-only": node["ro"],
        "cache": {"direct": cache["direct"], "no-flush": cache["no-flush"]},
        "discard": "unmap",
    }
    if node["detect_zeroes"] != "off":
        made["detect-zeroes"] = node["detect_zeroes"]
    if driver in FILES:
        return {**made, "filename": node["image"]["filename"]}
    if driver not in FORMATS | FILTERS:
        return {}
    if driver == "throttle":
        made["throttle-group"] = made_up(node["image"]["filename"]).get("throttle-group")
    below = tree(stats.get("parent", {}), nodes)
    return {**made, "file": below} if below else {}


def key(image_format: str, secret: str | None) -> dict[str, Any]:
    """What opens an encrypted image, beside its other options."""
    named = {"key-secret": secret}
    return {} if secret is None else named if image_format == "luks" else {"encrypt": {"format": "luks", **named}}


def on(node: Tree, path: str) -> Tree:
    """The same on another file."""
    return {**node, "file": on(node["file"], path)} if "file" in node else {**node, "filename": path}
