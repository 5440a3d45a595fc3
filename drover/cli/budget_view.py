"""How budgets are shown, as text or as JSON."""

from sqlalchemy import select

from drover.cli import output
from drover.cli.fleet_view import by_hours, shown
from models.base import Document
from models.budget import Budget
from models.database import transaction


def listed(*, as_json: bool) -> None:
    """Print a line for each budget."""
    with transaction() as session:
        rows = session.scalars(select(Budget).order_by(Budget.name)).all()
    if as_json:
        output.emit({"budgets": [_document(row) for row in rows]})
        return
    if not rows:
        output.note("no budget but those of hosts: `drover budget set NAME --bandwidth RATE`, `drover fleet show`")
    output.table(
        ("BUDGET", "FROM", "TO", "BANDWIDTH", "AT"),
        [(row.name, row.source, row.destination, _rate(row.bytes_per_s), by_hours(row.hours)) for row in rows],
    )


def described(row: Budget, *, as_json: bool) -> None:
    """Print one."""
    if as_json:
        output.emit(_document(row))
        return
    ends = f"from {row.source or 'all hosts'} to {row.destination or 'all hosts'}"
    at = by_hours(row.hours)
    output.say(f"{row.name}: {_rate(row.bytes_per_s)} for all moves {ends}{f', {at}' if at else ''}")


def _rate(bytes_per_s: int) -> str:
    return shown("bandwidth_bytes_per_s", bytes_per_s)


def _document(row: Budget) -> Document:
    return {
        "name": row.name,
        "from": row.source,
        "to": row.destination,
        "bandwidth_bytes_per_s": row.bytes_per_s,
        "hours": row.hours.json_object()["hours"] if row.hours is not None else [],
    }
