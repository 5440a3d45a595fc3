"""A hypervisor: its folders, address, ports, room, policy, keys and worker."""

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from drover.cli.checks import services
from drover.cli.checks.check import Check, looked, ok, problem, warning
from drover.errors import PreconditionFailed
from drover.settings import Settings, StreamSecurity
from drover.words import count

PROGRAMS = ("qemu-system-x86_64", "qemu-img", "qemu-storage-daemon")
OLD_KEY = timedelta(days=365)
ENVIRONMENT = Path("/etc/drover/environment")
"""Where docs/how-to/deploy.md keeps settings and credentials."""


def configuration(ours: Settings) -> Iterator[Check]:
    """What the settings of a worker name."""
    yield _writable("DROVER_DIRECTORY", ours.directory)
    yield _writable("DROVER_GUEST_ROOT", ours.guest_root)
    yield _address(ours.address)
    yield _policy(ours)
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        yield problem("qemu", f"{', '.join(missing)} not found", "install qemu-system-x86 and qemu-utils")
    else:
        yield ok("qemu", f"{', '.join(PROGRAMS)} are there")


def everything(ours: Settings) -> Iterator[Check]:
    """What else a job needs of this host."""
    yield from looked("ports", lambda: [_ports(ours)])
    yield from looked("rooms", lambda: _rooms(ours))
    yield from looked("streams", lambda: _streams(ours))
    yield from looked("host-key", lambda: _key(ours))
    yield from looked("permissions", lambda: _permissions(ours))


def _policy(ours: Settings) -> Check:
    from workers.trust import policy

    try:
        rules = policy.of(ours)
    except PreconditionFailed as error:
        return problem("policy", str(error))
    if rules.file.hosts is None:
        found = f"{ours.policy}: any host's key is believed when it is first seen"
        return warning("policy", found, "list them under `hosts`, see docs/explanation/security.md")
    return ok("policy", f"{ours.policy} lists {count(len(rules.file.hosts), 'host')} whose guests may come here")


def _writable(variable: str, folder: Path) -> Check:
    """A folder that does not exist yet is made by the worker: then the nearest one above it counts."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if folder == there and not folder.is_dir():
        return problem(variable, f"{folder} is no folder", "name another one, or move that away")
    if variable == "DROVER_GUEST_ROOT" and there != folder:
        return problem(variable, f"{folder} does not exist", "create it, or name the folder where guests lie")
    if not os.access(there, os.W_OK | os.X_OK):
        return problem(variable, f"{there} cannot be written by this user", "run as root, or change its owner")
    return ok(variable, f"{folder} can be written" if there == folder else f"{folder} can be created")


def _address(address: str) -> Check:
    variable, fix = "DROVER_ADDRESS", "name this machine's address in the migration network"
    try:
        family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((address, 0), family=family).close()
    except OSError as error:
        return problem(variable, f"{address} is no address of this machine ({error.strerror})", fix)
    if _is_of_no_network(address):
        return warning(variable, f"no other machine reaches {address}", fix)
    return ok(variable, f"{address} is an address of this machine")


def _is_of_no_network(address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return address == "localhost"
    return found.is_loopback or found.is_unspecified


def _ports(ours: Settings) -> Check:
    """Each is listened at for a moment. The firewall is not asked."""
    ports = range(ours.ports.first, ours.ports.last + 1)
    free, total = sum(_is_free(ours, port) for port in ports), len(ports)
    found = f"{free} of {total} ports ({ours.ports}) are free at {ours.address}"
    fix = "end what uses them (`ss --listening --tcp --processes`), or give more with DROVER_PORTS"
    if not free:
        return problem("ports", f"{found}, so that no guest can come here", fix)
    if 2 * free < total:
        return warning("ports", found, fix)
    return ok("ports", f"{found}; a firewall has to let other hosts reach them")


def _is_free(ours: Settings, port: int) -> bool:
    from workers.streams import supervisor

    try:
        supervisor.listen(ours, port).close()
    except OSError:
        return False
    return True


def _rooms(ours: Settings) -> Iterator[Check]:
    from drover.words import size
    from models.storage import is_low
    from workers.storage import places
    from workers.trust import policy

    for place in places.places(policy.of(ours), ()):
        if place.total_bytes is None or place.free_bytes is None:
            fix = f"see why its driver ({place.driver}) fails: the worker's log has what it printed"
            yield problem("rooms", f"the storage {place.name} cannot be asked for its room", fix)
            continue
        left = f"{size(place.free_bytes)} of {size(place.total_bytes)} left"
        found = f"the storage {place.name} ({place.place}) has {left}"
        if is_low(place.total_bytes, place.free_bytes):
            yield warning("rooms", found, "make room: `drover gc` and `drover guest list` say what is there")
        else:
            yield ok("rooms", found)


def _streams(ours: Settings) -> Iterator[Check]:
    if ours.streams is StreamSecurity.PLAIN:
        found = "disks and RAM go over the network in plain text, and anybody there may change them"
        yield warning("streams", found, "unset DROVER_STREAMS on all hosts")
    elif ours.streams is StreamSecurity.CERTIFICATES:
        yield from _certificates(ours)
    else:
        yield ok("streams", "encrypted, by certificates made for each move")


def _certificates(ours: Settings) -> Iterator[Check]:
    from workers.streams import operator_certificates

    for path in (ours.tls_certificate, ours.tls_authority):
        if path is not None:
            yield services.certificate("streams", path)
    fix = (
        f"put one with the alternative name DNS:{ours.host} there, by an authority of DROVER_TLS_AUTHORITY, and its key"
    )
    for why in operator_certificates.own_faults(ours):
        yield problem("streams", why, fix)


def _key(ours: Settings) -> Iterator[Check]:
    """How old this host's key is, and whose listed keys are former ones."""
    from workers.trust import host_key, known_hosts

    if not host_key.exists(ours):
        return
    made = datetime.fromtimestamp((ours.directory / host_key.NAME).stat().st_mtime, UTC)
    found = f"the key of {ours.host} was made on {made:%Y-%m-%d}"
    if kept := len(host_key.all_public(ours)) - 1:
        found += f"; {count(kept, 'former one')} still serves moves that were planned with it"
    if datetime.now(UTC) - made > OLD_KEY:
        yield warning("host-key", found, "`drover host key --renew`; moves go on")
    else:
        yield ok("host-key", found)
    for host, key in known_hosts.renewed(ours).items():
        yield warning("policy", f"{ours.policy} lists the former key of {host}", f"list {key}")


def _permissions(ours: Settings) -> Iterator[Check]:
    """Who this process is, and who can read what is secret."""
    from workers.trust import host_key

    if os.geteuid():
        found = "this user is not root, so QEMUs of other users cannot be moved"
        yield warning("permissions", found, "run the worker, and this, as root")
    passwords = filter(None, (ours.database_password_file, ours.broker_password_file))
    for path in (ours.directory / host_key.NAME, ENVIRONMENT, *passwords):
        if path.exists() and path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            yield problem("permissions", f"{path} is secret, and others may read or write it", f"`chmod 0600 {path}`")
    if ours.directory.exists() and ours.directory.stat().st_mode & 0o022:
        found = f"{ours.directory} may be written by others, who could put links there"
        yield problem("permissions", found, f"`chmod 0711 {ours.directory}`")
    else:
        yield ok("permissions", "keys and folders of this host are its own")
