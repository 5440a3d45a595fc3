"""Display of garbage, as text or as JSON."""

from collections.abc import Sequence

import typer

from drover.cli import output
from drover.cli.exit_codes import ExitCode
from drover.views import serializers
from models.base import Document
from models.host_rpc import Orphan
from workflows.orphans import Swept


def report(swept: Sequence[Swept], silent: Sequence[str], *, dry_run: bool, as_json: bool) -> None:
    """Print what was found on each host, and exit with the code for that."""
    _note(swept, silent)
    if as_json:
        output.emit(_document(swept, silent, dry_run=dry_run))
    else:
        _say(swept, dry_run=dry_run)
    left = not all(one.answered for one in swept) if dry_run else not all(one.clean for one in swept)
    raise typer.Exit(ExitCode.FAILED if left else ExitCode.DONE)


def _note(swept: Sequence[Swept], silent: Sequence[str]) -> None:
    for name in silent:
        output.note(f"{name} has sent no heartbeat lately: it was not checked")
    for one in swept:
        for note in one.notes:
            output.note(f"{one.host}: {serializers.public(note)}")


def _say(swept: Sequence[Swept], *, dry_run: bool) -> None:
    for one in swept:
        for find in one.finds:
            output.say(f"{one.host}: {find.what}, job {find.job}: {find.why}; {_outcome(find, dry_run)}")
    if swept and all(one.answered and not one.finds for one in swept):
        output.note("nothing is left behind")


def _outcome(find: Orphan, dry_run: bool) -> str:
    if find.kept:
        return f"kept: {serializers.public(find.kept)}"
    return "would be removed" if dry_run else "removed"


def _find(one: Swept, find: Orphan) -> Document:
    shown = find.model_dump(include={"kind", "what", "job", "why", "removed"})
    return {"host": one.host, **shown, "kept": serializers.public(find.kept)}


def _document(swept: Sequence[Swept], silent: Sequence[str], *, dry_run: bool) -> Document:
    return {
        "dry_run": dry_run,
        "finds": [_find(one, find) for one in swept for find in one.finds],
        "notes": [{"host": one.host, "note": serializers.public(note)} for one in swept for note in one.notes],
        "unanswered_hosts": [one.host for one in swept if not one.answered],
        "silent_hosts": list(silent),
    }
