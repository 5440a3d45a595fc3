"""`drover host`: the hypervisors."""

import typer
from sqlalchemy import func, select

from models.database import transaction
from models.guest import Guest
from models.host import Host
from models.settings import settings
from workflows.cli import documents, output
from workflows.cli.options import AsJson, examples
from workflows.questions import alive

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
            documents.host_document(host, is_alive=is_alive, guests=count)
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
                "alive" if row["alive"] else f"silent since {row['heartbeat_at']}",
                row["address"],
                row["guests"],
                row["cpus"],
                output.size(row["memory_bytes"] or 0),
                row["qemu"],
            )
            for row in rows
        ],
    )
