"""Looking at this machine as a worker, a controller or a command would find it. Nothing is changed."""

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import typer

from drover.cli import output
from drover.cli.errors import fault
from drover.cli.exit_codes import ExitCode
from drover.errors import PreconditionFailed
from drover.extras import require
from drover.settings import Settings, problems, settings, unknown

QEMU_PROGRAMS = ("qemu-system-x86_64", "qemu-img", "qemu-storage-daemon")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "warning", "problem"]
    message: str
    """The finding, or what to do about it."""


def run(*, as_json: bool) -> None:
    """Print the findings, and exit with code 1 if something is wrong."""
    found = list(checks())
    ok = all(check.status != "problem" for check in found)
    if as_json:
        output.emit({"ok": ok, "checks": [asdict(check) for check in found]})
    else:
        for check in found:
            output.say(f"{'OK' if check.status == 'ok' else check.status}: {check.name}: {check.message}")
    raise typer.Exit(ExitCode.DONE if ok else ExitCode.FAILED)


def checks() -> Iterator[Check]:
    """All that can be looked at with these settings."""
    for name in unknown(os.environ):
        yield Check("settings", "warning", f"{name} is unknown to Drover: see docs/settings.md for how it is spelled")
    if wrong := problems():
        yield from (Check("settings", "problem", sentence) for sentence in wrong)
        return
    yield Check("settings", "ok", "all are valid")
    ours = settings()
    database = _database()
    yield database
    if database.status == "ok":
        yield from _limits(ours)
    yield _broker()
    if ours.host:
        yield from _host(ours)
    else:
        yield Check("host", "ok", "DROVER_HOST is not set: this is no hypervisor, its folders and QEMU are not checked")
    if ours.metrics_address:
        yield _metrics()


def _database() -> Check:
    import migrations
    from models.database import engine

    try:
        with engine().connect() as connection:
            revision = migrations.present(connection)
    except Exception as error:
        return Check("database", "problem", fault(error).message)
    newest = migrations.newest()
    if revision != newest:
        there = f"at revision {revision}" if revision else "empty"
        advice = f"the schema is {there}, this drover needs {newest}: run `drover db upgrade`, or install its version"
        return Check("database", "problem", advice)
    return Check("database", "ok", f"it answers, its schema is at revision {revision}")


def _limits(ours: Settings) -> Iterator[Check]:
    from models.database import transaction
    from workflows import fleet_limits, leader_election

    try:
        for warning in fleet_limits.warnings(os.environ, ours):
            yield Check("limits", "warning", warning)
        with transaction() as session:
            acts = leader_election.anybody_acts(session)
    except Exception as error:
        yield Check("limits", "problem", fault(error).message)
        return
    if acts:
        yield Check("controller", "ok", "one acts")
    else:
        yield Check("controller", "warning", "none is active: nothing begins until `drover controller` runs somewhere")


def _broker() -> Check:
    from drover.broker import health

    try:
        health.ping()
    except Exception as error:
        return Check("broker", "problem", fault(error).message)
    return Check("broker", "ok", "Redis answers")


def _host(ours: Settings) -> Iterator[Check]:
    yield _writable("DROVER_DIRECTORY", ours.directory)
    yield _writable("DROVER_GUEST_ROOT", ours.guest_root)
    yield _address(ours.address)
    yield _policy(ours)
    missing = [program for program in QEMU_PROGRAMS if shutil.which(program) is None]
    if missing:
        yield Check("qemu", "problem", f"{', '.join(missing)} not found: install qemu-system-x86 and qemu-utils")
    else:
        yield Check("qemu", "ok", f"{', '.join(QEMU_PROGRAMS)} are there")


def _policy(ours: Settings) -> Check:
    from workers import policy

    try:
        rules = policy.of(ours)
    except PreconditionFailed as error:
        return Check("policy", "problem", str(error))
    if rules.file.hosts is None:
        advice = "any host's key is believed when it is first seen: list them under `hosts`, see docs/security.md"
        return Check("policy", "warning", f"{ours.policy}: {advice}")
    return Check("policy", "ok", f"{ours.policy} lists {len(rules.file.hosts)} hosts whose guests may come here")


def _writable(variable: str, folder: Path) -> Check:
    """A folder that does not exist yet is made by the worker: then the nearest one above it counts."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if folder == there and not folder.is_dir():
        return Check(variable, "problem", f"{folder} is no folder")
    if variable == "DROVER_GUEST_ROOT" and there != folder:
        return Check(variable, "problem", f"{folder} does not exist: create it, or name the folder where guests lie")
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(variable, "problem", f"{there} cannot be written by this user: run as root, or change its owner")
    return Check(variable, "ok", f"{folder} can be written" if there == folder else f"{folder} can be created")


def _address(address: str) -> Check:
    variable = "DROVER_ADDRESS"
    try:
        family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((address, 0), family=family).close()
    except OSError as error:
        advice = f"{address} is no address of this machine ({error.strerror}): name that in the migration network"
        return Check(variable, "problem", advice)
    if _is_of_no_network(address):
        advice = f"no other machine reaches {address}: name this machine's address in the migration network"
        return Check(variable, "warning", advice)
    return Check(variable, "ok", f"{address} is an address of this machine")


def _is_of_no_network(address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return address == "localhost"
    return found.is_loopback or found.is_unspecified


def _metrics() -> Check:
    try:
        require("controller", "a controller")
    except PreconditionFailed as error:
        return Check("DROVER_METRICS_ADDRESS", "problem", str(error))
    return Check("DROVER_METRICS_ADDRESS", "ok", "what serves metrics is installed")
