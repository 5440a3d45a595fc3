"""What operators do with images that guests left behind."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from drover.errors import PreconditionFailed
from drover.settings import settings
from models import decision_log, kept_images
from models.database import transaction
from models.host import Host
from models.kept_images import KeptImage
from workflows.guests import refuse_unknown
from workflows.hosts import existing, selected
from workflows.presence import alive
from workflows.selectors import Selector


@dataclass(frozen=True, kw_only=True)
class Which:
    """Those of a guest, on a host, of a job, older than something; all where nothing is named."""

    guest: str | None = None
    host: str | None = None
    job: int | None = None
    older_than: timedelta | None = None

    @property
    def all(self) -> bool:
        """Every image is meant: nothing narrows it down."""
        return self == Which()


@dataclass(frozen=True, kw_only=True)
class Purged:
    """What a purge deletes, and what it leaves."""

    deleted: list[KeptImage]
    stay: list[KeptImage]
    """The last way back of a guest whose check failed."""
    silent: Collection[str] = ()
    """Hosts that delete theirs once their workers are there again."""


def listed(which: Which, selector: Selector) -> list[KeptImage]:
    """Those that are kept on the hosts that are selected, the oldest first. Errors as for `purge`."""
    with transaction() as session:
        meant = set(session.scalars(select(Host.name).where(selected(selector))))
        return [image for image in _kept(session, which) if image.host in meant]


def purge(which: Which, *, last_way_back: bool = False, dry_run: bool = False) -> Purged:
    """Have hosts delete images before their time; those that may be needed still only where that is said.

    Raises:
        PreconditionFailed: there is no such host or guest, or the job has left nothing.
    """
    with transaction() as session:
        images = _kept(session, which)
        stay = [image for image in images if image.last_way_back and not last_way_back]
        deleted = [image for image in images if image not in stay]
        hosts = {image.host for image in deleted}
        silent = session.query(Host.name).where(Host.name.in_(hosts), ~alive(settings())).order_by(Host.name)
        purged = Purged(deleted=deleted, stay=stay, silent=[name for (name,) in silent])
        if not dry_run:
            kept_images.expire(session, deleted)
            for image in deleted:
                decision_log.add(session, f"an operator had {image.path} deleted on {image.host}", job=image.job_id)
    return purged


def _kept(session: Session, which: Which) -> list[KeptImage]:
    if which.host is not None:
        existing(session, which.host)
    if which.guest is not None:
        refuse_unknown(session, which.guest)
    found = kept_images.kept(session, guest=which.guest, host=which.host, older_than=which.older_than)
    if which.job is not None and not any(image.job_id == which.job for image in found):
        raise PreconditionFailed(f"no image of job {which.job} is kept: see `drover image list`")
    return [image for image in found if which.job in {None, image.job_id}]
