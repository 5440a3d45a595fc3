"""`drover guest`: adopted guests."""

from typing import Annotated

import typer

from drover import words
from drover.cli import completion, output, schedule_options
from drover.cli.options import AsJson, GuestName, Label, Selected, Unlabel, examples

app = typer.Typer(no_args_is_help=True, help="Guests: running QEMUs that were adopted.")


@app.callback()
def group() -> None:
    """Guests: running QEMUs that were adopted."""


@app.command(epilog=examples("drover guest adopt web --host hv1 --qmp /run/guests/web/qmp.sock"))
def adopt(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the guest.", show_default=False)],
    host: Annotated[
        str, typer.Option(help="The host that it runs on.", autocompletion=completion.hosts, show_default=False)
    ],
    qmp: Annotated[
        str,
        typer.Option(metavar="SOCKET", help="Path of a QMP socket of its QEMU, on that host.", show_default=False),
    ],
    as_json: AsJson = False,
) -> None:
    """Adopt a running QEMU as a guest, or say where a guest's QEMU runs now. It is inspected, not changed.

    What prevents a move is a warning. Refused while a job of the guest has not ended, and for a QEMU that was adopted
    under another name: `drover guest forget` that name first.
    """
    from drover.cli import guest_view
    from drover.cli.backend import operations

    guest_view.adopted(operations().adopt(name, host, qmp), as_json=as_json)


@app.command(epilog=examples("drover guest scan --host hv1", "drover guest scan --host hv1 --adopt"))
def scan(
    host: Annotated[str, typer.Option(help="The host.", autocompletion=completion.hosts, show_default=False)],
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Adopt each QEMU that can be moved, by the name that it was started with.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the QEMUs of a host: what each is, who runs it, and whether it can be moved or what is in the way."""
    from drover.cli import scan_view
    from drover.cli.backend import operations

    scan_view.listed(operations().qemus(host, adopt=adopt), as_json=as_json)


@app.command(
    "set",
    epilog=examples(
        "drover guest set web --priority 5",
        "drover guest set db1 --anti-affinity db --affinity ''",
        "drover guest set db1 --label tier=db --label pinned",
        "drover guest set db1 --never-drain 'its licence is bound to hv1' --until 2026-12-01",
    ),
)
def describe(
    name: GuestName,
    priority: Annotated[
        int | None, typer.Option(metavar="N", help="Drains move guests of higher priority first.", show_default=False)
    ] = None,
    affinity: Annotated[
        str | None,
        typer.Option(metavar="GROUP", help="Guests of one such group go to one host; '' ends it.", show_default=False),
    ] = None,
    anti_affinity: Annotated[
        str | None,
        typer.Option(metavar="GROUP", help="Guests of one such group share no host; '' ends it.", show_default=False),
    ] = None,
    label: Label = None,
    unlabel: Unlabel = None,
    never_drain: Annotated[
        str | None,
        typer.Option(
            metavar="REASON", help="No drain moves it, until the time of --until; '' ends that.", show_default=False
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --never-drain: 2026-12-01, or 2026-12-01T22:00.", show_default=False),
    ] = None,
    timezone: schedule_options.Timezone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Set what drains consider about a guest: priority, groups, labels, and whether they leave it where it is."""
    from drover.cli import guest_view
    from drover.cli.backend import operations
    from workflows.descriptions import GuestDescription

    said = {"priority": priority, "affinity": affinity, "anti_affinity": anti_affinity, "labels": label}
    said |= {"unlabel": unlabel, "never_drain": never_drain, "until": until, "timezone": timezone}
    description = GuestDescription.read({name: value for name, value in said.items() if value is not None})
    guest_view.described(operations().describe_guest(name, description), as_json=as_json)


@app.command(epilog=examples("drover guest forget web"))
def forget(name: GuestName, as_json: AsJson = False) -> None:
    """Delete a guest's record, for instance after it was powered off. The guest itself is not touched."""
    from drover.cli.backend import operations

    gone = operations().forget(name)
    if as_json:
        output.emit(gone)
    else:
        output.say(f"the record of {gone['forgotten']} on {gone['host']} is deleted; the guest was not touched")


@app.command("list", epilog=examples("drover guest list", "drover guest list --selector 'tier=db,!pinned' --json"))
def list_guests(selector: Selected = None, as_json: AsJson = False) -> None:
    """List the guests and where they live."""
    from drover.cli import guest_view

    guest_view.listed(selector, as_json=as_json)


@app.command(epilog=examples("drover guest show web", "drover guest show web --json | jq .inspection.refusals"))
def show(name: GuestName, as_json: AsJson = False) -> None:
    """Ask a guest's host what the guest is now, and whether it could be moved."""
    from drover.cli import guest_view

    guest_view.show(name, as_json=as_json)


@app.command(epilog=examples("drover guest start web", "drover guest start web --fenced hv1"))
def start(
    name: GuestName,
    fenced: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="This host is switched off for good: do not ask it. May be repeated.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a guest that does not run, cold, where it lives. All hosts that it was ever on are asked first.

    It is started by the launch file that its last move left there. Refused while a job of it has not ended, or unless
    every one of these hosts says that it does not run there.
    """
    from drover.views import serializers
    from workflows import cold_start

    guest = cold_start.start(name, fenced=tuple(fenced or ()))
    if as_json:
        output.emit(serializers.guest_document(guest, None))
    else:
        output.say(f"{guest.name} was started on {guest.host}")


@app.command(epilog=examples("drover guest stop web", "drover guest stop web --timeout 300"))
def stop(
    name: GuestName,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Wait for its end no longer than this.")
    ] = 150.0,
    as_json: AsJson = False,
) -> None:
    """Ask a guest that Drover launched to power off, and wait until it has."""
    from drover.cli.exit_codes import ExitCode
    from workflows import cold_start

    stopped = cold_start.stop(name, timeout_s=timeout)
    if as_json:
        output.emit({"name": name, "stopped": stopped})
    elif stopped:
        output.say(f"{name} is off")
    else:
        asked = f"{name} was asked to power off and still runs after {words.duration(timeout)}"
        output.note(f"{asked}: if it ignores that, power it off from within, or end its QEMU on its host")
    if not stopped:
        raise typer.Exit(ExitCode.STOPPED_WATCHING)
