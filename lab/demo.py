"""The demo: a guest that writes all the time is moved live from one host to another, and checked."""

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from drover import words
from lab import fleet, guests
from lab.directory import Lab
from lab.guest.spec import DiskSpec, GuestSpec
from models.database import transaction
from models.documents import Downtime, RamProgress
from models.job import Job

GUEST = "demo"
MIB = 1 << 20


def run_demo(lab: Lab, *, keep: bool) -> int:
    """Bring a lab up, move a guest, verify, show, clean up; returns the exit code."""
    console = Console(highlight=False)
    console.print(f"[bold]1.[/] A lab of two hosts in {lab.path} (its own Postgres, Redis, workers, Flower) ...")
    fleet.up(lab, 2)
    try:
        with fleet.pointed_at(lab):
            return _move_and_check(lab, console)
    finally:
        _say_how_to_look(lab, console, keep=keep)
        if not keep:
            fleet.down(lab)


def _move_and_check(lab: Lab, console: Console) -> int:
    console.print("[bold]2.[/] A Linux guest boots on host-a; it writes numbered blocks and dirties memory ...")
    spec = GuestSpec(
        name=GUEST,
        directory=lab.host("host-a").guests / GUEST,
        disks=(DiskSpec(size_bytes=1024 * MIB), DiskSpec(size_bytes=256 * MIB, format="raw", attach="drive")),
        fill_mib=192,
        dirty_mib=16,
        dirty_rate=4,
    )
    guests.boot(lab, spec, "host-a")
    console.print("[bold]3.[/] drover migrate demo --to host-b --wait")
    moved = subprocess.run(
        [Path(sys.executable).with_name("drover"), "migrate", GUEST, "--to", "host-b", "--wait"],
        env=os.environ | lab.environment,
        check=False,
    )
    if moved.returncode:
        return moved.returncode
    time.sleep(1.0)  # a second of life at the destination for the proof
    console.print("[bold]4.[/] Every acknowledged write is looked up in the final images ...")
    verdict = guests.check(lab, GUEST)
    console.print(_table(verdict))
    return 0 if verdict.report.ok else 1


def _table(verdict: guests.Verdict) -> Table:
    with transaction() as session:
        job = session.query(Job).order_by(Job.id.desc()).limit(1).one()
        done, size, anew = (sum(getattr(d, f"bytes_{of}") for d in job.disks) for of in ("done", "size", "rewritten"))
        mirroring = next(step for step in job.steps if step.name == "await_sync")
    seconds = _seconds(mirroring.started_at, mirroring.finished_at)
    report = verdict.report
    table = Table(title="A live guest was moved", show_header=False)
    table.add_row("disks copied", f"{words.size(done)} of {words.size(size)}, at {words.rate((done + anew) / seconds)}")
    table.add_row("written anew meanwhile", words.size(anew))
    table.add_row("RAM sent", words.size((job.ram or RamProgress()).transferred))
    table.add_row("total time", f"{_seconds(job.created_at, job.finished_at):.1f} s")
    table.add_row("downtime", f"{(job.downtime or Downtime()).ms or 0:.0f} ms ({_ram_mode(job)})")
    table.add_row("acknowledged writes", f"{sum(disk.acknowledged for disk in report.disks)}")
    table.add_row("verdict", f"{'intact' if report.ok else 'DAMAGED'}, the guest goes on on {verdict.host}")
    for problem in report.problems:
        table.add_row("", problem)
    return table


def _ram_mode(job: Job) -> str:
    live = job.plan is not None and job.plan.destination.ram == "live"
    return "RAM moved live" if live else "guest paused while its RAM moved: this QEMU cannot do it live without KVM"


def _seconds(begin: datetime | None, end: datetime | None) -> float:
    return max((end - begin).total_seconds(), 0.001) if begin and end else 0.001


def _say_how_to_look(lab: Lab, console: Console, *, keep: bool) -> None:
    if keep:
        from lab.cli import flower_url

        console.print(f"In a browser: `eval $({lab.command('env')}) && drover console`, or Flower at {flower_url(lab)}")
        console.print(f"`{lab.command('down')}` ends all of it")
    else:
        console.print("To look at it in the console or in Flower: make demo KEEP=1, which says how")
