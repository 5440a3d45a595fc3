"""What this machine needs, as a worker, a controller or a command would find it. Nothing is changed.

`everything` is `drover doctor`, `configuration` the part of it that depends on this machine's settings alone.
"""

import os
from collections.abc import Iterator

import typer

from drover.cli import output
from drover.cli.checks import control, fleet, host, qemu, services, units
from drover.cli.checks.check import Check, looked, ok, problem, warning
from drover.cli.exit_codes import ExitCode
from drover.settings import problems, settings, unknown


def run(checks: Iterator[Check], *, as_json: bool) -> None:
    """Print the findings, and exit with code 1 if something is wrong."""
    found = list(checks)
    well = all(check.status != "problem" for check in found)
    if as_json:
        output.emit({"ok": well, "checks": [check.document() for check in found]})
    else:
        for check in found:
            output.say(f"{'OK' if check.status == 'ok' else check.status}: {check.name}: {check.sentence}")
    raise typer.Exit(ExitCode.DONE if well else ExitCode.FAILED)


def configuration() -> Iterator[Check]:
    """The settings, and what they name."""
    for name in unknown(os.environ):
        yield warning("settings", f"{name} is unknown to Drover", "docs/reference/settings.md has how it is spelled")
    if wrong := problems():
        yield from (problem("settings", sentence) for sentence in wrong)
        return
    yield ok("settings", "all are valid")
    ours = settings()
    database = services.database()
    yield database
    if database.status == "ok":
        yield from looked("limits", lambda: services.limits(ours))
    yield services.broker()
    if ours.host:
        yield from host.configuration(ours)
    else:
        yield ok("host", "DROVER_HOST is not set: this is no hypervisor, its folders and QEMU are not checked")
    if ours.metrics_address:
        yield control.libraries("DROVER_METRICS_ADDRESS")


def everything() -> Iterator[Check]:
    """All that a job will need of this machine, and of the services that it uses."""
    answers: dict[str, str] = {}
    for check in configuration():
        answers.setdefault(check.name, check.status)
        yield check
    if problems():
        return
    ours = settings()
    yield from services.connections(ours)
    if ours.host:
        yield from host.everything(ours)
        yield from looked("qemu-bugs", lambda: qemu.found(ours))
    yield from looked("units", lambda: units.of_hypervisor() if ours.host else units.of_control_node())
    if answers.get("database") == "ok":
        yield from looked("clock", services.clock)
        yield from looked("database-role", lambda: services.role(ours))
        yield from looked("hosts", lambda: fleet.of_host(ours) if ours.host else fleet.of_fleet(ours))
    if answers.get("broker") == "ok":
        yield from looked("queues", lambda: services.queues(ours))
    if not ours.host:
        yield from looked("control", lambda: control.needs(ours, broker=answers.get("broker") == "ok"))
