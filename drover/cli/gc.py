"""`drover gc`: what jobs left behind that have ended."""

from collections.abc import Sequence
from typing import Annotated

import typer

from drover.cli import completion, output, serializers
from drover.cli.exit_codes import ExitCode
from drover.cli.options import AsJson
from models.base import Document
from workflows import orphans
from workflows.orphans import Swept


def collect_garbage(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="This host only.", autocompletion=completion.hosts, show_default="all"),
    ] = None,
    unknown_jobs: Annotated[
        bool,
        typer.Option(
            "--unknown-jobs",
            help="Also remove what belongs to jobs that the database does not know, for instance because it was "
            "restored from a backup. Make sure that none of them is still under way.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what no living job owns: processes, images, mirrors and directories of jobs that have ended.

    Never a guest. Exit code 1 if something is left.
    """
    asked, silent = orphans.hosts(host)
    swept = [orphans.sweep(name, dry_run=dry_run, unknown_jobs=unknown_jobs) for name in asked]
    _note(swept, silent)
    if as_json:
        output.emit(_document(swept, silent, dry_run=dry_run))
    else:
        _say(swept, dry_run=dry_run)
    left = not all(one.answered for one in swept) if dry_run else not all(one.clean for one in swept)
    raise typer.Exit(ExitCode.FAILED if left else ExitCode.DONE)


def _note(swept: Sequence[Swept], silent: Sequence[str]) -> None:
    for name in silent:
        output.note(f"{name} has sent no heartbeat lately: it was not asked")
    for one in swept:
        for note in one.notes:
            output.note(f"{one.host}: {serializers.public(note)}")


def _say(swept: Sequence[Swept], *, dry_run: bool) -> None:
    for one in swept:
        for find in one.finds:
            output.say(f"{one.host}: {find['what']}, job {find['job']}: {find['why']}; {_outcome(find, dry_run)}")
    if swept and all(one.answered and not one.finds for one in swept):
        output.note("nothing is left behind")


def _outcome(find: Document, dry_run: bool) -> str:
    if find["kept"]:
        return f"kept: {serializers.public(find['kept'])}"
    return "would be removed" if dry_run else "removed"


def _find(one: Swept, find: Document) -> Document:
    shown = {name: find[name] for name in ("kind", "what", "job", "why", "removed")}
    return {"host": one.host, **shown, "kept": serializers.public(find["kept"])}


def _document(swept: Sequence[Swept], silent: Sequence[str], *, dry_run: bool) -> Document:
    return {
        "dry_run": dry_run,
        "finds": [_find(one, find) for one in swept for find in one.finds],
        "notes": [{"host": one.host, "note": serializers.public(note)} for one in swept for note in one.notes],
        "unanswered_hosts": [one.host for one in swept if not one.answered],
        "silent_hosts": list(silent),
    }
