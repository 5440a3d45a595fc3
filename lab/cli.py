"""`drover lab`: a whole fleet on this machine, for trying things out."""

import json
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from drover.errors import PreconditionFailed
from lab.directory import Lab, default_directory

app = typer.Typer(no_args_is_help=True, help="A whole fleet on this machine, for trying things out.")

Directory = Annotated[
    Path | None, typer.Option("--dir", help="The lab's folder.", show_default="$DROVER_LAB_DIR or in /tmp")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def _existing(directory: Path | None) -> Lab:
    lab = Lab((directory or default_directory()).absolute())
    if not lab.exists:
        raise PreconditionFailed(f"there is no lab in {lab.path}: start one with `{lab.command('up')}`")
    return lab


def _show(document: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    print(json.dumps(document) if as_json else sentence)


@app.command()
def up(
    hosts: Annotated[int, typer.Option(help="How many hosts.")] = 2,
    directory: Directory = None,
    flower: Annotated[bool, typer.Option(help="Start Flower as well.")] = True,
    namespaces: Annotated[bool, typer.Option(help="A network namespace per host (root), for cutting links.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start Postgres, Redis, a worker per host, the controller and Flower, all of the lab's own."""
    from lab import fleet

    lab = Lab((directory or default_directory()).absolute())
    was_there = lab.exists
    try:
        fleet.up(lab, hosts, flower=flower, namespaces=namespaces)
    except BaseException:
        if lab.exists and not was_there:
            print(
                f"the lab did not come up; its logs are in {lab.logs}, `{lab.command('down')}` removes it",
                file=sys.stderr,
            )
        raise
    sentence = f"The lab is up in {lab.path}. Point drover at it: eval $({lab.command('env')})"
    watched = {"metrics": metrics_url(lab)} | ({"flower": flower_url(lab)} if flower else {})
    sentence += "".join(f"\n{name.capitalize()}: {url}" for name, url in watched.items())
    document = {"directory": str(lab.path), "hosts": [host.name for host in lab.hosts], "environment": lab.environment}
    _show(document | watched, sentence, as_json=as_json)


def flower_url(lab: Lab) -> str:
    """Where Flower shows the lab."""
    return f"http://127.0.0.1:{lab.flower_port_file.read_text()}"


def metrics_url(lab: Lab) -> str:
    """Where the lab's controller answers Prometheus."""
    return f"http://127.0.0.1:{lab.metrics_port_file.read_text()}/metrics"


@app.command()
def env(directory: Directory = None, as_json: AsJson = False) -> None:
    """Print what points drover at the lab: eval $(drover lab env)."""
    lab = _existing(directory)
    lines = "\n".join(f"export {key}={shlex.quote(value)}" for key, value in lab.environment.items())
    _show(lab.environment, lines, as_json=as_json)


@app.command()
def guest(
    name: Annotated[str, typer.Argument(metavar="GUEST", help="The guest's name.")],
    host: Annotated[str, typer.Option(help="The host it starts on, e.g. host-a.")],
    disk: Annotated[
        list[str],
        typer.Option(
            metavar="SIZE",
            help="Like 64M, or 2G:raw:virtio-scsi: size, then of qcow2 or raw, blockdev or drive, virtio-blk or "
            "virtio-scsi; may be repeated.",
        ),
    ],
    write_rate: Annotated[int, typer.Option(help="Blocks of 4 KiB per second and disk; 0 is idle.")] = 200,
    dirty_mib: Annotated[int, typer.Option(help="Memory that it keeps dirtying, MiB.")] = 16,
    dirty_rate: Annotated[int, typer.Option(help="How fast, MiB per second.")] = 4,
    fill_mib: Annotated[int, typer.Option(help="Data on each disk before it is ready, MiB.")] = 0,
    memory_mib: Annotated[int, typer.Option(help="Memory, MiB.")] = 160,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Boot a real Linux guest that writes numbered, checksummed blocks, and adopt it."""
    from lab import fleet, guests
    from lab.guest.spec import GuestSpec

    lab = _existing(directory)
    spec = GuestSpec(
        name=name,
        directory=lab.host(host).guests / name if host.startswith("host-") else lab.path / "nowhere",
        disks=tuple(guests.parse_disk(text) for text in disk),
        memory_mib=memory_mib,
        write_rate=write_rate,
        dirty_mib=dirty_mib,
        dirty_rate=dirty_rate,
        fill_mib=fill_mib,
        uuid=uuid4(),
    )
    begun = time.monotonic()
    with fleet.pointed_at(lab):
        started = guests.boot(lab, spec, host)
    document = {"guest": name, "host": host, "pid": started.pid, "qmp": str(spec.qmp_socket)}
    _show(document, f"{name} runs on {host} and writes ({time.monotonic() - begun:.1f} s)", as_json=as_json)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(metavar="GUEST", help="The guest's name.")],
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Prove that no acknowledged write is missing or torn, and that one guest went on counting all the time."""
    from lab import fleet, guests

    lab = _existing(directory)
    with fleet.pointed_at(lab):
        verdict = guests.check(lab, name)
    report = verdict.report
    lines = [f"{name} on {verdict.host}: {'intact' if report.ok else 'DAMAGED'}", *report.problems]
    if report.ok:
        lines += [f"  {disk.name}: {disk.acknowledged} acknowledged writes, all there" for disk in report.disks]
    _show({"guest": name, "host": verdict.host} | asdict(report), "\n".join(lines), as_json=as_json)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def cut(
    host: Annotated[str, typer.Argument(metavar="HOST", help="The host to cut off.")],
    mend: Annotated[bool, typer.Option("--mend", help="Join it again.")] = False,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Cut a host off from the others, or join it again; for labs with --namespaces."""
    from lab import network

    lab = _existing(directory)
    if not lab.network_file.exists():
        raise PreconditionFailed("this lab's hosts share the loopback: make one with `drover lab up --namespaces`")
    (network.mend if mend else network.cut)(lab, lab.host(host))
    _show({"host": host, "connected": mend}, f"{host} is {'joined again' if mend else 'cut off'}", as_json=as_json)


@app.command()
def reboot(
    host: Annotated[str, typer.Argument(metavar="HOST", help="The host.")],
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """End a host's worker and start it anew, which stands for a reboot: the hook `reboot` of `drover roll`."""
    from lab import fleet

    lab = _existing(directory)
    fleet.reboot(lab, lab.host(host))
    _show({"host": host}, f"{host} has been rebooted", as_json=as_json)


@app.command()
def down(directory: Directory = None, as_json: AsJson = False) -> None:
    """End all of it and leave nothing behind, guests included."""
    from lab import fleet

    lab = _existing(directory)
    fleet.down(lab)
    _show({"directory": str(lab.path)}, f"{lab.path} is gone", as_json=as_json)


@app.command()
def demo(
    directory: Directory = None,
    keep: Annotated[bool, typer.Option(help="Leave the lab running at the end, to look at it.")] = False,
) -> None:
    """Move a live guest between two hosts of a new lab, check it, and show the figures."""
    from lab.demo import run_demo

    raise typer.Exit(run_demo(Lab((directory or default_directory()).absolute()), keep=keep))
