"""Symbolic links that lead to an image: followed once, and made again at the destination."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from drover.errors import PreconditionFailed
from models.plan import Link
from workers import files
from workers.files import MOST_LINKS, UnsafePath


def followed(path: str, root: Path) -> tuple[str, list[Link]]:
    """Where the file itself lies, and the links below this folder that lead there.

    A file that lies elsewhere stays where its name is: what is there cannot be put in the same place on another host.

    Raises:
        UnsafePath: one of them is somebody else's.
    """
    if not Path(path).is_relative_to(root):
        return path, []
    left = [*reversed(Path(path).relative_to(root).parts)]
    here, links = root, list[Link]()
    while left:
        there = here / left.pop()
        target = files.target(there)
        if target is None:
            here = there
            continue
        links.append(Link(path=str(there), target=target))
        meant = Path(os.path.normpath(here / target))
        if len(links) > MOST_LINKS or not meant.is_relative_to(root):
            return path, []
        left += reversed(meant.relative_to(root).parts)
        here = root
    return str(here), links


def in_the_way(links: Sequence[Link]) -> list[str]:
    """What is where a link is to be made, as sentences."""
    return [
        f"{link.path} exists already and is no link to {link.target}: move it away"
        for link in links
        if os.path.lexists(link.path) and files.target(Path(link.path)) != link.target
    ]


def make(links: Sequence[Link]) -> None:
    """Make those that are missing.

    Raises:
        PreconditionFailed: something else is where one belongs.
        UnsafePath: somebody else's link is on the way.
    """
    for link in links:
        path = Path(link.path)
        with files.folder(path.parent, make=True) as parent, suppress(FileExistsError):
            os.symlink(link.target, path.name, dir_fd=parent)
    if problems := in_the_way(links):
        raise PreconditionFailed("; ".join(problems))


def remove_dangling(links: Sequence[Link]) -> None:
    """Remove those that lead nowhere any more."""
    for link in links:
        with suppress(UnsafePath):
            path = Path(link.path)
            if files.target(path) == link.target and not path.exists():
                files.unlink(path)
