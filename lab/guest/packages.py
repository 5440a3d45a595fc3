"""The test guest's kernel, out of the distribution's packages, not installed and without root."""

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

META_PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual")  # Debian, Ubuntu


class PackageError(RuntimeError):
    """apt cannot provide what the test guest is built from; the message says what to do."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}={self.version}"


@cache
def kernel_packages(metas: tuple[str, ...] = META_PACKAGES) -> tuple[Package, ...]:
    """The newest kernel and its modules, which Ubuntu keeps in a package of their own.

    Asked of apt once in a process: each answer costs it seconds.
    """
    for meta in metas:
        for image in _dependencies(meta, r"linux-image-\d\S*"):
            modules = _dependencies(image, r"linux-modules-\d\S*")
            return tuple(map(newest, (image, *modules)))
    raise PackageError(f"apt has none of {', '.join(metas)}: run 'apt-get update' as root")


def newest(name: str) -> Package:
    return Package(name, _version(name))


def unpack(package: Package, debs: Path, into: Path) -> None:
    """Download the package to `debs`, unless it is there, and unpack its files below `into`."""
    debs.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", _download(package, debs), into], check=True)


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drover"


def _apt_cache(*words: str) -> str:
    """What it prints. In containers it is often told to keep nothing of what it has read, which takes it a second."""
    kept = f"Dir::Cache::pkgcache={default_cache() / 'pkgcache.bin'}"
    return subprocess.run(["apt-cache", "-o", kept, *words], capture_output=True, text=True, check=False).stdout


def _dependencies(package: str, pattern: str) -> list[str]:
    return re.findall(rf"^\s*\|?Depends: ({pattern})$", _apt_cache("depends", package), re.MULTILINE)


def _version(package: str) -> str:
    found = re.search(r"^Version: (\S+)$", _apt_cache("show", "--no-all-versions", package), re.MULTILINE)
    if found is None:
        raise PackageError(f"apt has no version of {package}: run 'apt-get update' as root")
    return found[1]


def _download(package: Package, debs: Path) -> Path:
    if deb := _downloaded(package, debs):
        return deb
    # As root apt would hand the download to a user who may not write to the cache, and warn about it.
    sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    command = ["apt-get", *sandbox, "download", str(package)]
    result = subprocess.run(command, cwd=debs, capture_output=True, text=True, check=False)
    if deb := _downloaded(package, debs):
        return deb
    raise PackageError(
        f"apt-get cannot download {package}; run 'apt-get update' as root and see that the machine reaches "
        f"its package mirror. apt-get said: {result.stderr.strip()}"
    )


def _downloaded(package: Package, debs: Path) -> Path | None:
    """The file apt-get leaves; it writes the epoch's colon as %3a."""
    version = package.version.replace(":", "%3a")
    return next(iter(debs.glob(f"{package.name}_{version}_*.deb")), None)
