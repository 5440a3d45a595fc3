"""Garbage: asking every host what no unfinished job owns, and having it removed."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from drover.errors import PreconditionFailed
from drover.settings import settings
from models.database import transaction
from models.host import Host
from models.host_rpc import CollectOrphans, LookForOrphans, Orphan
from workflows.host_rpc import ask
from workflows.presence import alive, known_host, listed


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What one host found, see `workers.orphans.look`."""

    host: str
    finds: Sequence[Orphan]
    notes: Sequence[str]
    answered: bool = True
    """False: it did not answer although it is alive; the note says why; what is on it is unknown."""

    @property
    def clean(self) -> bool:
        """Nothing is left on it."""
        return self.answered and all(find.removed for find in self.finds)


def hosts(name: str | None = None) -> tuple[list[str], list[str]]:
    """The hosts to ask, and those that are silent.

    Raises:
        PreconditionFailed: the named host is unknown or silent.
    """
    if name is not None:
        return [known_host(name).name], []
    with transaction() as session:
        there = select(Host.name, alive(settings())).where(listed(settings()))
        rows = session.execute(there.order_by(Host.name)).all()
    return [host for host, is_alive in rows if is_alive], [host for host, is_alive in rows if not is_alive]


def sweep(host: str, *, dry_run: bool, unknown_jobs: bool) -> Swept:
    """Have one host look, and unless `dry_run` remove what it finds."""
    try:
        question = LookForOrphans if dry_run else CollectOrphans
        reply = ask(host, question(unknown_jobs=unknown_jobs))
    except PreconditionFailed as error:
        return Swept(host=host, finds=(), notes=(str(error),), answered=False)
    return Swept(host=host, finds=reply.finds, notes=reply.notes)
