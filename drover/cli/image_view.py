"""How kept images are shown, as text or as JSON."""

from drover import words
from drover.cli import output
from drover.words import count
from models.base import Document


def listed(found: Document, *, as_json: bool) -> None:
    """Print a line for each, and what they take together."""
    if as_json:
        output.emit(found)
        return
    if not found["images"]:
        output.note("no image is kept: those of guests that are moved are, for the retention")
        return
    output.table(
        ("JOB", "GUEST", "HOST", "IS", "TAKES", "SINCE", "KEPT UNTIL", "IMAGE"),
        [
            (
                image["job"],
                image["guest"],
                image["host"],
                "a copy" if image["copy"] else "left behind",
                "" if image["takes_bytes"] is None else words.size(image["takes_bytes"]),
                words.moment(image["since"]),
                "it moved again" if image["last_way_back"] else words.moment(image["until"]),
                image["path"],
            )
            for image in found["images"]
        ],
    )
    output.say(f"together {words.size(found['takes_bytes'])}")


def purged(done: Document, *, as_json: bool) -> None:
    """Print what is deleted, and what stays."""
    for host in done["silent"]:
        output.note(f"{host} has sent no heartbeat lately: its images are deleted once its worker is there again")
    if as_json:
        output.emit(done)
        return
    for image in done["deleted"]:
        would = "would be deleted" if done["dry_run"] else "is deleted within seconds"
        output.say(f"{image['host']}: {image['path']} of {image['guest']} {would}")
    for image in done["stay"]:
        output.say(
            f"{image['host']}: {image['path']} stays, {image['guest']} may have to go back to it: its check failed "
            f"after job {image['job']} (`--last-way-back` deletes it all the same)"
        )
    output.say(f"{count(len(done['deleted']), 'image')}, {words.size(done['gives_bytes'])}")
