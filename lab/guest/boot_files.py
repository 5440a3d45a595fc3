"""Builds the kernel and the initramfs of the test guest, once per machine, into a cache directory."""

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lab.guest.initramfs import DIRECTORY, FILE, PROGRAM, Entry, archive
from lab.guest.modules import load_order
from lab.guest.packages import Package, PackageError, kernel_packages, newest, unpack
from lab.guest.packages import default_cache as default_cache

HERE = Path(__file__).parent
SOURCES = tuple(HERE / name for name in ("writer.c", "init", "boot_files.py", "initramfs.py", "modules.py"))


@dataclass(frozen=True)
class BootFiles:
    kernel: Path
    initramfs: Path


def boot_files(cache: Path) -> BootFiles:
    """The boot files, built unless the cache has them for the present sources and the newest kernel."""
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):  # of two processes that ask at once one builds
        try:
            packages = kernel_packages()
        except PackageError:
            if built := _built_before(cache):
                return built
            raise
        directory = cache / f"guest-{_sources_digest()}-{_packages_digest(packages)}"
        if not directory.exists():
            _build(packages, cache, directory)
    return _files_in(directory)


def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in SOURCES:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _packages_digest(packages: tuple[Package, ...]) -> str:
    return hashlib.sha256(" ".join(map(str, packages)).encode()).hexdigest()[:16]


def _built_before(cache: Path) -> BootFiles | None:
    """A machine whose package lists are gone can still run the guest that it built while it had them."""
    built = sorted(cache.glob(f"guest-{_sources_digest()}-*"), key=lambda path: path.stat().st_mtime)
    return _files_in(built[-1]) if built else None


def _files_in(directory: Path) -> BootFiles:
    return BootFiles(directory / "vmlinuz", directory / "initramfs.cpio")


def _build(packages: tuple[Package, ...], cache: Path, directory: Path) -> None:
    """Build aside and rename: a build that was interrupted must not look like a finished one."""
    with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as temporary:
        tree, result = Path(temporary, "tree"), Path(temporary, "result")
        result.mkdir()
        result.chmod(0o755)
        for package in packages:
            unpack(package, cache / "packages", tree)
        files = _files_in(result)
        shutil.copyfile(next(tree.glob("boot/vmlinuz-*")), files.kernel)
        files.initramfs.write_bytes(archive(_entries(tree, Path(temporary))))
        result.rename(directory)


def _entries(tree: Path, temporary: Path) -> list[Entry]:
    modules = load_order(next(path.parent for path in tree.rglob("modules.builtin")))
    order = "".join(f"{name}.ko\n" for name in modules)
    return [
        *(Entry(name, DIRECTORY) for name in ("bin", "dev", "proc", "sys", "modules")),
        Entry("bin/busybox", PROGRAM, busybox(temporary)),
        Entry("init", PROGRAM, (HERE / "init").read_bytes()),
        Entry("writer", PROGRAM, _writer(temporary)),
        Entry("modules/order", FILE, order.encode()),
        *(Entry(f"modules/{name}.ko", FILE, content) for name, content in modules.items()),
    ]


def _writer(temporary: Path) -> bytes:
    program = temporary / "writer"
    source = str(HERE / "writer.c")
    subprocess.run(["gcc", "-static", "-O2", "-pthread", "-o", str(program), source], check=True)
    return program.read_bytes()


def busybox(temporary: Path) -> bytes:
    """A static one, this machine's or from its package."""
    installed = Path("/bin/busybox")
    if installed.exists() and _is_static(installed.read_bytes()):
        return installed.read_bytes()
    unpack(newest("busybox-static"), temporary, temporary / "busybox")
    return next((temporary / "busybox").rglob("bin/busybox")).read_bytes()


def _is_static(program: bytes) -> bool:
    """A dynamic program names its loader right behind the ELF headers; the guest has no such loader."""
    return b"/ld-linux" not in program[:4096]
