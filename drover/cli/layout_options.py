"""Options of `drover migrate` that say where, and as what, disks are made at the destination."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

Disks = Annotated[
    list[str] | None,
    typer.Option(
        "--disk",
        metavar="N=PATH",
        help="Where disk N is made there: an image, or a block device. Repeatable; `guest show` numbers the disks.",
        show_default=False,
    ),
]
Storages = Annotated[
    list[str] | None,
    typer.Option(
        "--storage",
        metavar="[N=]NAME",
        help="The storage of the destination in which disks, or disk N, are made; of several (`a,b`), or of `any`, "
        "the one with the most room.",
        show_default=False,
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="[N=]raw|qcow2",
        help="The format of the images there, or of disk N.",
        show_default="as they are",
    ),
]
Thick = Annotated[
    bool | None,
    typer.Option(
        "--thick/--thin",
        help="Take all room of the images at once, or only what is written.",
        show_default="as they are",
    ),
]
Overwritten = Annotated[
    list[str] | None,
    typer.Option(
        "--overwrite-device",
        metavar="PATH",
        help="A block device of the destination that may be overwritten. What is on it is lost. Repeatable.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where, and as what, disks are made."""

    disk: Disks = None
    storage: Storages = None
    image_format: Formats = None
    thick: Thick = None
    overwrite_device: Overwritten = None

    def field(self) -> dict[str, Any]:
        """The field `layout` of a submission."""
        each: dict[int, dict[str, Any]] = {}
        common: dict[str, Any] = {"thick": self.thick, "overwrite": list(self.overwrite_device or ())}
        for index, value in _numbered(self.disk or (), "--disk"):
            if index is None:
                raise typer.BadParameter(f"--disk {value}: write N=PATH, such as 0=/srv/images/web.qcow2")
            if index in each:
                raise typer.BadParameter(
                    f"--disk names {each[index]['path']} and {value} for disk {index}: leave one out"
                )
            each[index] = {"path": value}
        for name, given in (("storage", self.storage), ("format", self.image_format)):
            for index, value in _numbered(given or (), f"--{name}"):
                into = common if index is None else each.setdefault(index, {})
                if name in into:
                    raise typer.BadParameter(f"--{name} names {into[name]} and {value} for the same: leave one out")
                into[name] = value
        return {**common, "disks": [{"index": index, **wanted} for index, wanted in sorted(each.items())]}


def _numbered(words: Iterable[str], option: str) -> Iterable[tuple[int | None, str]]:
    for word in words:
        number, equals, value = word.partition("=")
        if equals and number.isdecimal():
            yield int(number), value
        elif word.startswith("/") or not equals:
            yield None, word
        else:
            raise typer.BadParameter(f"{option} {word}: write N=VALUE, where N is the number of a disk")
