"""`drover gc`: remove what ended jobs left behind."""

from typing import Annotated

import typer

from drover.cli import completion
from drover.cli.options import AsJson, examples

app = typer.Typer(add_completion=False)


@app.command("gc", epilog=examples("drover gc --dry-run", "drover gc", "drover gc --host hv2 --json"))
def collect_garbage(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="This host only.", autocompletion=completion.hosts, show_default="all"),
    ] = None,
    unknown_jobs: Annotated[
        bool,
        typer.Option(
            "--unknown-jobs",
            help="Also remove what belongs to jobs missing from the database, for instance because it was "
            "restored from a backup. Make sure that none of them is still under way.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what no unfinished job owns: processes, images, mirrors and directories of jobs that have ended.

    Never a guest. Exit code 1 if something is left.
    """
    from drover.cli import gc_view
    from workflows import orphans

    asked, silent = orphans.hosts(host)
    swept = [orphans.sweep(name, dry_run=dry_run, unknown_jobs=unknown_jobs) for name in asked]
    gc_view.report(swept, silent, dry_run=dry_run, as_json=as_json)
