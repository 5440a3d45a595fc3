"""How kept images are shown, as text or as JSON."""

from collections.abc import Sequence

from drover import words
from drover.cli import output
from drover.views.serializers import iso
from drover.words import count
from models.base import Document
from models.kept_images import KeptImage
from workflows.kept_images import Purged


def listed(images: Sequence[KeptImage], *, as_json: bool) -> None:
    """Print a line for each, and what they take together."""
    if as_json:
        output.emit({"images": [document(image) for image in images], "takes_bytes": _total(images)})
        return
    if not images:
        output.note("no image is kept: those of guests that are moved are, for the retention")
        return
    output.table(
        ("JOB", "GUEST", "HOST", "IS", "TAKES", "SINCE", "KEPT UNTIL", "IMAGE"),
        [
            (
                image.job_id,
                image.guest,
                image.host,
                "a copy" if image.copy else "left behind",
                "" if image.takes_bytes is None else words.size(image.takes_bytes),
                f"{image.since:%Y-%m-%d %H:%M}",
                "it moved again" if image.last_way_back else f"{image.until:%Y-%m-%d %H:%M}",
                image.path,
            )
            for image in images
        ],
    )
    output.say(f"together {words.size(_total(images))}")


def purged(done: Purged, *, dry_run: bool, as_json: bool) -> None:
    """Print what is deleted, and what stays."""
    for host in done.silent:
        output.note(f"{host} has sent no heartbeat lately: its images are deleted once its worker is there again")
    if as_json:
        output.emit(
            {
                "dry_run": dry_run,
                "deleted": [document(image) for image in done.deleted],
                "stay": [document(image) for image in done.stay],
                "gives_bytes": _total(done.deleted),
            }
        )
        return
    for image in done.deleted:
        would = "would be deleted" if dry_run else "is deleted within seconds"
        output.say(f"{image.host}: {image.path} of {image.guest} {would}")
    for image in done.stay:
        output.say(
            f"{image.host}: {image.path} stays, {image.guest} may have to go back to it: its check failed after job "
            f"{image.job_id} (`--last-way-back` deletes it all the same)"
        )
    output.say(f"{count(len(done.deleted), 'image')}, {words.size(_total(done.deleted))}")


def document(image: KeptImage) -> Document:
    """One of them."""
    return {
        "job": image.job_id,
        "disk": image.index,
        "guest": image.guest,
        "host": image.host,
        "path": image.path,
        "takes_bytes": image.takes_bytes,
        "since": iso(image.since),
        "until": iso(image.until),
        "last_way_back": image.last_way_back,
        "copy": image.copy,
    }


def _total(images: Sequence[KeptImage]) -> int:
    return sum(image.takes_bytes or 0 for image in images)
