"""There is nothing of that name or number: one sentence each, with the names that may have been meant."""

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from drover import words
from drover.errors import NotThere
from models.budget import Budget
from models.guest import Guest
from models.host import Host
from models.move_policy import MovePolicy


def host(session: Session, name: str) -> NotThere:
    """No worker has registered under this name, or the host was forgotten."""
    if session.get(Host, name) is not None:
        return NotThere(
            f"there is no host {name!r} any more, it was forgotten: once its worker starts there it is listed again, "
            f"and `drover host uncordon {name}` lets it take guests"
        )
    return NotThere(f"there is no host {name!r}: {_did_you_mean(session, Host.name, name)}see `drover host list`")


def guest(session: Session, name: str) -> NotThere:
    """No guest was adopted under this name."""
    return NotThere(
        f"there is no guest {name!r}: {_did_you_mean(session, Guest.name, name)}see `drover guest list`, or adopt it "
        f"with `drover guest adopt {name} --host HOST --qmp SOCKET`"
    )


def policy(session: Session, name: str) -> NotThere:
    """No policy has this name. Likewise of the next."""
    return NotThere(
        f"there is no policy {name!r}: {_did_you_mean(session, MovePolicy.name, name)}see `drover policy list`"
    )


def budget(session: Session, name: str) -> NotThere:
    """No budget."""
    return NotThere(f"there is no budget {name!r}: {_did_you_mean(session, Budget.name, name)}see `drover budget list`")


def job(number: int) -> NotThere:
    """No move has this number. Likewise of the next two."""
    return NotThere(f"there is no job {number}: see `drover job list --all`")


def drain(number: int) -> NotThere:
    """No drain and no return."""
    return NotThere(f"there is no drain {number}: see `drover drain list --all`")


def roll(number: int) -> NotThere:
    """No roll."""
    return NotThere(f"there is no roll {number}: see `drover roll list --all`")


def plan(number: int) -> NotThere:
    """No plan was submitted with this number."""
    return NotThere(f"there is no plan {number}: see `drover plan list --all`")


def _did_you_mean(session: Session, column: InstrumentedAttribute[str], name: str) -> str:
    return words.did_you_mean(name, session.scalars(select(column)))
