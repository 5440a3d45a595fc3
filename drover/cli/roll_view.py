"""Display of rolls: the table of their hosts, and a line for each change."""

from drover import words
from drover.cli import output
from drover.cli.backend import operations
from drover.cli.exit_codes import ExitCode
from drover.operations import Wanted
from drover.views import read_back, rolls
from drover.views.rolls import HostRow, RollShot
from models.base import Document
from models.roll import RollState

TITLES = ("HOST", "STATE", "SINCE", "DRAIN", "RETURN", "HOOK", "REMARK")


def exit_code(shot: RollShot) -> ExitCode:
    """The exit code of a command that ends with a roll in this state; 0 for a roll that goes on."""
    if shot.failed:
        return ExitCode.NEEDS_OPERATOR
    return ExitCode.ROLLED_BACK if shot.roll.state is RollState.CANCELLED else ExitCode.DONE


def cells(row: HostRow) -> tuple[object, ...]:
    """One host as a line of the table."""
    host = row.host
    return host.host, host.state, words.utc(host.since), host.drain_id, host.return_id, row.hook, row.remark


class RollLines:
    """Writes a line for each change of the roll or of one of its hosts."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def __enter__(self) -> "RollLines":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, shot: RollShot) -> None:
        """Write what changed."""
        told = {"": _about_all(shot)} | {row.host.host: _sentence(row) for row in shot.rows}
        news = [text for key, text in told.items() if words.gist(self._said.get(key)) != words.gist(text)]
        if news:
            output.note("; ".join(news))
            self._said = told


def _about_all(shot: RollShot) -> str:
    """Why it waits is said with the host that it is about."""
    told = any(row.remark and row.remark in (shot.wait_reason or "") for row in shot.rows)
    return rolls.standing(shot) if told or shot.failed else rolls.headline(shot)


def _sentence(row: HostRow) -> str:
    return f"{row.host.host} {row.host.state}" + (f" ({row.remark})" if row.remark else "")


def listed(wanted: Wanted, *, as_json: bool) -> None:
    """Print a line for each roll."""
    rows = operations().rolls(wanted)
    if as_json:
        output.emit({"rolls": rows})
        return
    if not rows:
        output.note("no roll" if wanted.with_ended else "no roll is under way (`--all` lists those that ended)")
    output.table(
        ("ROLL", "STATE", "DONE", "HOSTS", "REMARK"),
        [(row["id"], row["state"], row["done"], row["total"], row["error"] or row["wait_reason"]) for row in rows],
    )


def report(document: Document, *, as_json: bool) -> None:
    """Print a roll and all its hosts."""
    if as_json:
        output.emit(document)
        return
    shot = read_back.roll_shot(document)
    output.say(rolls.headline(shot))
    output.table(TITLES, map(cells, shot.rows))
    for command in rolls.commands(shot.roll):
        output.say(f"`{command.text}`: {command.effect}")
