"""`drover broker`: who may do what in Redis."""

import re
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from drover.cli import output, own_files
from drover.cli.options import AsJson, examples
from drover.errors import PreconditionFailed

app = typer.Typer(no_args_is_help=True, help="Who may do what in Redis.")
Names = list[str] | None


@app.callback()
def group() -> None:
    """Who may do what in Redis."""


@app.command(
    epilog=examples(
        "drover broker acl --host hv1 --host hv2 --controller control --flower flower --out users.acl",
        "drover broker acl --host hv1 --host hv2 --controller control --renew hv1 --out users.acl",
    )
)
def acl(
    host: Annotated[Names, typer.Option(metavar="NAME", help="A worker's user: its host's name.")] = None,
    controller: Annotated[
        Names, typer.Option(metavar="NAME", help="A user of controllers, the console with --actions and operators.")
    ] = None,
    submitter: Annotated[
        Names, typer.Option(metavar="NAME", help="A user that may ask for moves and drains by messages, and no more.")
    ] = None,
    flower: Annotated[Names, typer.Option(metavar="NAME", help="Flower's user, which only looks.")] = None,
    passwords: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where NAME.redis has the passwords of each; missing ones are made.")
    ] = Path("/etc/drover"),
    renew: Annotated[
        Names, typer.Option(metavar="NAME", help="Give this user a new password; the former one counts as well.")
    ] = None,
    settle: Annotated[
        Names, typer.Option(metavar="NAME", help="Only the newest password of this user counts from now on.")
    ] = None,
    remove: Annotated[
        Names, typer.Option(metavar="NAME", help="Leave out this user of the former file: to forget one is refused.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The ACL file to write, in one piece.", show_default="stdout")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the ACL file of Redis: name every user that there is to be, each option as often as needed.

    Redis reads it when it starts, or when the user `acl` says `ACL LOAD`. It has digests of the passwords only.
    """
    from drover import names
    from drover.broker.acl import LOADER, NOBODY_ELSE, Purpose, lines

    users = {
        Purpose.HOST: host or [],
        Purpose.CONTROLLER: controller or [],
        Purpose.SUBMITTER: submitter or [],
        Purpose.FLOWER: flower or [],
    }
    everybody = [LOADER, *(name for chosen in users.values() for name in chosen)]
    for purpose, chosen in users.items():
        for name in chosen:
            names.check(name, "a host" if purpose is Purpose.HOST else "a user")
    _check(everybody, [*(renew or ()), *(settle or ())])
    if kept := ", ".join(sorted({*everybody} & {*(remove or ())})):
        raise PreconditionFailed(f"{kept} is to be left out, and is named as a user that there is to be: leave one out")
    if out is not None and out.exists():
        _refuse_forgotten(out, {*everybody, *(remove or ())})
    known = {
        name: _passwords(passwords / f"{name}.redis", renew=name in (renew or ()), settle=name in (settle or ()))
        for name in everybody
    }
    text = "".join(f"{line}\n" for line in (NOBODY_ELSE, *lines(users, known)))
    if out is not None:
        own_files.replace(out, text)
    if as_json:
        output.emit({"acl": text, "out": None if out is None else str(out)})
    elif out is None:
        sys.stdout.write(text)
    else:
        output.say(f"{out} has {len(everybody)} users; Redis reads it when it starts, or at `ACL LOAD` of the user acl")


def _check(everybody: list[str], changed: list[str]) -> None:
    twice = {name for name in everybody if everybody.count(name) > 1}
    if twice or "default" in everybody:
        raise PreconditionFailed(f"each user has one purpose and a name of its own: {', '.join(twice or ['default'])}")
    if strange := sorted(set(changed) - set(everybody)):
        raise PreconditionFailed(f"{', '.join(strange)} is none of the users that are named here")


def _refuse_forgotten(former: Path, named: set[str]) -> None:
    """Whoever is left out does not get in any more once Redis reads the file."""
    there = set(re.findall(r"^user (\S+)", own_files.read(former), re.MULTILINE)) - {"default"}
    if forgotten := ", ".join(sorted(there - named)):
        raise PreconditionFailed(
            f"{former} has {forgotten} as well: name all users that there are to be, and whoever is to be shut out by "
            "--remove NAME"
        )


def _passwords(path: Path, *, renew: bool, settle: bool) -> list[str]:
    """Those that count, the newest first."""
    new = secrets.token_hex(24) if renew or not path.exists() else None
    return own_files.passwords(path, new, settle=settle)
