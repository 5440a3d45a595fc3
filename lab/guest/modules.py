"""Which kernel modules the test guest needs, in the order in which they must be loaded."""

import lzma
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

WANTED = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod")


class MissingModuleError(RuntimeError):
    """The kernel package holds no such module and the kernel has it not built in."""


def load_order(tree: Path, wanted: Sequence[str] = WANTED) -> dict[str, bytes]:
    """The wanted modules and all they depend on, decompressed, dependencies first; built-in ones left out."""
    available = {_name(path): path for path in tree.rglob("*.ko*")}
    built_in = {_name(Path(line)) for line in (tree / "modules.builtin").read_text().splitlines()}
    ordered: dict[str, bytes] = {}
    for name in wanted:
        _add(name, available, built_in, ordered)
    return ordered


def _add(name: str, available: dict[str, Path], built_in: set[str], ordered: dict[str, bytes]) -> None:
    if name in built_in or name in ordered:
        return
    if name not in available:
        raise MissingModuleError(f"the kernel package holds no module {name}")
    content = _decompressed(available[name])
    for dependency in _depends(content):
        _add(dependency, available, built_in, ordered)
    ordered[name] = content


def _name(path: Path) -> str:
    """Files may write a hyphen where the kernel's own lists write an underscore."""
    return path.name.split(".ko")[0].replace("-", "_")


def _decompressed(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc"], input=content, stdout=subprocess.PIPE, check=True).stdout
    return content


def _depends(content: bytes) -> Iterator[str]:
    """The module's own list, from its .modinfo section: zero-terminated name=value strings."""
    found = re.search(rb"\0depends=([^\0]*)\0", content)
    for name in found[1].decode().split(",") if found else ():
        if name:
            yield name.replace("-", "_")
