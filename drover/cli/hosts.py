"""`drover host`: the hypervisors."""

import typer
from sqlalchemy import func, select

from drover.cli import output, serializers
from drover.cli.options import AsJson, HostName, examples
from drover.settings import settings
from models.base import Document
from models.database import transaction
from models.guest import Guest
from models.host import Host, HostState
from workflows import hosts
from workflows.host_rpc import alive

app = typer.Typer(no_args_is_help=True, help="The hypervisors: each registers itself when its worker starts.")


@app.callback()
def group() -> None:
    """The hypervisors: each registers itself when its worker starts."""


@app.command("list", epilog=examples("drover host list", "drover host list --json | jq '.hosts[] | select(.alive)'"))
def list_hosts(as_json: AsJson = False) -> None:
    """List the hosts, and whether their workers are alive."""
    guests = select(func.count()).where(Guest.host == Host.name).scalar_subquery()
    query = select(Host, alive(settings()), guests).order_by(Host.name)
    with transaction() as session:
        rows = [
            serializers.host_document(host, is_alive=is_alive, guests=count)
            for host, is_alive, count in session.execute(query)
        ]
    if as_json:
        output.emit({"hosts": rows})
        return
    if not rows:
        output.note("no host yet: start a worker with `drover worker --host NAME`")
    output.table(
        ("HOST", "STATE", "ADDRESS", "GUESTS", "CPUS", "MEMORY", "QEMU"),
        [
            (
                row["name"],
                ", ".join(_states(row)),
                row["address"],
                row["guests"],
                row["cpus"],
                output.size(row["memory_bytes"] or 0),
                row["qemu"],
            )
            for row in rows
        ],
    )


def _states(row: Document) -> list[str]:
    wanted = [] if row["state"] == HostState.ACTIVE else [row["state"]]
    return ["alive" if row["alive"] else f"silent since {row['heartbeat_at']}", *wanted]


@app.command(epilog=examples("drover host cordon hv2"))
def cordon(host: HostName, as_json: AsJson = False) -> None:
    """Let a host take no guest. Those that it has stay, and moves that have begun go on."""
    _told(hosts.cordon(host), as_json=as_json)


@app.command(epilog=examples("drover host uncordon hv2"))
def uncordon(host: HostName, as_json: AsJson = False) -> None:
    """Let a host take guests again, whether it was cordoned or in maintenance."""
    _told(hosts.uncordon(host), as_json=as_json)


def _told(host: Host, *, as_json: bool) -> None:
    if as_json:
        output.emit({"name": host.name, "state": host.state.value})
    else:
        output.say(f"{host.name} is {host.state}")
