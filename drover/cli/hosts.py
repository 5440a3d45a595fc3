"""`drover host`: the hypervisors."""

from typing import Annotated

import typer

from drover.cli import schedule_options
from drover.cli.options import (
    AsJson,
    BandwidthAt,
    HostName,
    Label,
    Selected,
    Unlabel,
    by_hours,
    duration,
    examples,
    rate,
)

app = typer.Typer(no_args_is_help=True, help="Hypervisors: each registers itself when its worker starts.")


@app.callback()
def group() -> None:
    """Hypervisors: each registers itself when its worker starts."""


@app.command(
    "list",
    epilog=examples(
        "drover host list",
        "drover host list --selector rack=r1",
        "drover host list --json | jq '.hosts[] | select(.alive)'",
    ),
)
def list_hosts(selector: Selected = None, as_json: AsJson = False) -> None:
    """List the hosts, and whether their workers are alive."""
    from drover.cli import host_view

    host_view.listed(selector, as_json=as_json)


@app.command(
    "set",
    epilog=examples(
        "drover host set hv2 --bandwidth 100M/s",
        "drover host set hv2 --bandwidth 2G/s --bandwidth-at 08:00-20:00=200M/s --timezone Europe/Berlin",
        "drover host set hv2 --bandwidth '' --retention 7d",
        "drover host set hv2 --label rack=r1",
    ),
)
def describe(
    host: HostName,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            metavar="RATE",
            help="Budget of all moves that leave it, like 100M/s; 0 is no limit, '' the fleet's.",
            show_default=False,
        ),
    ] = None,
    bandwidth_at: BandwidthAt = None,
    timezone: schedule_options.Timezone = "UTC",
    retention: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long it keeps images that guests left behind, like 24h or 7d; '' as the fleet.",
            show_default=False,
        ),
    ] = None,
    label: Label = None,
    unlabel: Unlabel = None,
    as_json: AsJson = False,
) -> None:
    """Give a host labels, a bandwidth or a retention of its own. It takes effect at once, also for moves under way."""
    from drover.cli import host_view
    from drover.cli.backend import operations
    from workflows.descriptions import HostDescription

    own: dict[str, object] = {"labels": label or (), "unlabel": unlabel or ()}
    if bandwidth is not None:
        own["bandwidth_bytes_per_s"] = rate(bandwidth) if bandwidth else None
    hours = by_hours(bandwidth_at or (), timezone)
    if bandwidth_at is not None:
        own["bandwidth_hours"] = hours
    if retention is not None:
        own["retention_s"] = duration(retention).total_seconds() if retention else None
    host_view.described(operations().describe_host(host, HostDescription.read(own)), as_json=as_json)


@app.command(
    "ok-to-drain",
    epilog=examples("drover host ok-to-drain hv2", "drover host ok-to-drain hv2 --window 22:00-04:00 --json"),
)
def ok_to_drain(
    host: HostName,
    window: schedule_options.Hours = None,
    timezone: schedule_options.Timezone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Ask all hosts whether a host could be emptied now, how long it takes, and what stands in the way.

    Exit code 3: it could not. Changes nothing.
    """
    from drover.cli import headroom_view
    from drover.cli.backend import operations
    from workflows import schedule

    hours = schedule.hours(window, timezone)
    headroom_view.verdict(operations().ok_to_drain(host, hours), as_json=as_json)


@app.command(
    "headroom", epilog=examples("drover host headroom", "drover host headroom --selector rack=r1 --window 22:00-04:00")
)
def headroom_of_all(
    selector: Selected = None,
    window: schedule_options.Hours = None,
    timezone: schedule_options.Timezone = "UTC",
    as_json: AsJson = False,
) -> None:
    """List which hosts could be emptied, each alone, how long it takes, and what stands in the way.

    By what is on record: `drover host ok-to-drain` asks.
    """
    from drover.cli import headroom_view
    from drover.cli.backend import operations
    from workflows import schedule

    hours = schedule.hours(window, timezone)
    headroom_view.listed(operations().headroom(selector, hours), as_json=as_json)


@app.command(epilog=examples("drover host cordon hv2"))
def cordon(host: HostName, as_json: AsJson = False) -> None:
    """Let a host take no guest. Those that it has stay, and moves that have begun go on."""
    from drover.cli import host_view
    from drover.cli.backend import operations

    host_view.report(operations().on_host(host, "cordon"), as_json=as_json)


@app.command(epilog=examples("drover host trust hv2", "drover host trust hv2 --key rL5cD1..."))
def trust(
    host: HostName,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="On a hypervisor: have this one believe that host by what `drover host key` shows there.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take the key that a host shows now for its own. Needed when its worker's folder was made anew: moves from and to
    it are refused until then, with that key: make sure that `drover host key` there shows the same. Hypervisors that
    know its former key need it with --key.
    """
    from drover.cli import host_view
    from drover.cli.backend import operations

    if key is not None:
        host_view.trusted(host, key, as_json=as_json)
        return
    host_view.vouched(operations().trust(host), as_json=as_json)


@app.command(epilog=examples("drover host uncordon hv2"))
def uncordon(host: HostName, as_json: AsJson = False) -> None:
    """Let a host take guests again, whether it was cordoned or in maintenance."""
    from drover.cli import host_view
    from drover.cli.backend import operations

    host_view.report(operations().on_host(host, "uncordon"), as_json=as_json)


@app.command(epilog=examples("drover host forget hv2"))
def forget(host: HostName, as_json: AsJson = False) -> None:
    """Take a host that is gone for good off all lists. Refused while its worker is heard, or guests or work are on it.

    Nothing is changed on the host. If its worker starts again it is listed again, and takes no guest until
    `drover host uncordon`.
    """
    from drover.cli import host_view
    from drover.cli.backend import operations

    host_view.report(operations().on_host(host, "forget"), as_json=as_json)


@app.command("key", epilog=examples("drover host key", "drover host key --json | jq --raw-output .key"))
def show_key(
    renew: Annotated[
        bool, typer.Option("--renew", help="Make another key now. Other hosts believe it; moves go on.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the public key of this host, or renew it: run it on the host itself.

    The former key signs the new one, so nothing has to be told anywhere. It is kept for moves that were planned with
    it.
    """
    from drover.cli import host_view

    host_view.key(renew=renew, as_json=as_json)
