"""Loop devices, and a storage whose volumes are loop devices made by a hook."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOOK = """#!/bin/bash -e
# Volumes are loop devices over files in `files`; a link to each is in `volumes`.
cd "$(dirname "$0")"
case "$1" in
    create) [ ! -e "files/$2" ]; truncate -s "$3" "files/$2"; ln -s "$(losetup -f --show "files/$2")" "volumes/$2" ;;
    remove) losetup -d "$(readlink "volumes/$2")"; rm "volumes/$2" "files/$2" ;;
    rename) mv "files/$2" "files/$3"; mv "volumes/$2" "volumes/$3" ;;
    room) echo 1000000000 "$(cat room 2>/dev/null || echo 900000000)" ;;
    *) echo "what is $1?" >&2; exit 1 ;;
esac
"""


def need_loops() -> None:
    """Skip the test where no loop device can be made."""
    if os.geteuid() != 0 or shutil.which("losetup") is None or not Path("/dev/loop-control").exists():
        pytest.skip("only root may make loop devices, with losetup")


@contextmanager
def loop_device(image: Path, size_bytes: int, fill: bytes = b"") -> Iterator[Path]:
    """A block device over a file of this size that holds this byte everywhere."""
    need_loops()
    image.write_bytes(fill * size_bytes if fill else b"")
    os.truncate(image, size_bytes)
    made = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=True)
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", str(device)], check=True)


def write_hook(folder: Path) -> Path:
    """A hook below this folder; its volumes appear in `volumes` there."""
    need_loops()
    for name in ("files", "volumes"):
        (folder / name).mkdir(parents=True)
    hook = folder / "hook"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    return hook


def detach_all(folder: Path) -> None:
    """Whatever the hook has left."""
    for link in (folder / "volumes").glob("*"):
        subprocess.run(["losetup", "-d", str(link.readlink())], check=False, capture_output=True)
