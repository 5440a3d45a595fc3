"""Images that a guest's launcher has opened for its QEMU (`add-fd`, `/dev/fdset/N`, as Incus does), by their paths.

At the destination QEMU opens them itself. A path counts only where the very file lies that QEMU has open.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.preflight import Check
from workers.preflight import checks
from workers.process import processes
from workers.process.handed_channels import FDSET
from workers.process.processes import DELETED, Process
from workers.qemu.command_line import relocated
from workers.qemu.options import IMAGES, Option, command_words, parse_command_line, spelled_out

TAKEN_BACK = "its descriptors were taken back"


@dataclass(frozen=True)
class HandedImages:
    """What of a QEMU's open descriptors may be images."""

    paths: Mapping[str, str] = field(default_factory=dict)
    """{as QEMU calls it: its path}."""
    without: Mapping[str, str] = field(default_factory=dict)
    """{as QEMU calls it: why it has none}."""


NONE_HANDED = HandedImages()


def read(process: Process, sets: Sequence[Mapping[str, Any]]) -> HandedImages:
    """`sets` is the reply of `query-fdsets`: numbers on a command line are those of its launcher."""
    paths, without = {}, {}
    for each in sets:
        name = f"{FDSET}{each['fdset-id']}"
        try:
            paths[name] = _path(process, [one["fd"] for one in each["fds"]])
        except LookupError as error:
            without[name] = str(error.args[0])
    return HandedImages(paths, without)


def by_path(argv: Sequence[str], images: HandedImages) -> list[str]:
    """The command line with the paths of those that have one."""

    def path(text: str) -> str:
        return images.paths.get(_bare(text), text)

    options = (relocated(option, path) if _is_image(option) else option for option in parse_command_line(argv))
    return [*argv[:1], *command_words(options)]


def left(argv: Sequence[str], images: HandedImages) -> tuple[list[str], list[Check]]:
    """The command line without descriptors that nothing on it names any more, and what to say of images among those
    that it does name.
    """
    options = parse_command_line(argv)
    needed = _sets(options)
    kept = [option for option in options if option.name != "add-fd" or f"{FDSET}{option.get('set')}" in needed]
    against = [
        checks.disks.HANDED_IMAGE.found(f"the image {name}: {images.without.get(name, TAKEN_BACK)}")
        for name in _sets(option for option in options if _is_image(option))
    ]
    return [*argv[:1], *command_words(kept)], against


def _is_image(option: Option) -> bool:
    return spelled_out(option).name in IMAGES


def _bare(text: str) -> str:
    return text.removeprefix("file:")


def _sets(options: Iterable[Option]) -> dict[str, None]:
    """The names of sets among their values."""
    values = (_bare(value) for option in options for _, value in spelled_out(option).leaves())
    return dict.fromkeys(value for value in values if value.startswith(FDSET))


def _path(process: Process, numbers: Sequence[int]) -> str:
    """Raises LookupError with the reason why it has none."""
    try:
        found = {processes.opened(process, number) for number in numbers}
    except OSError as error:
        raise LookupError(f"its descriptor cannot be looked at ({error.strerror})") from error
    if len(found) != 1:
        raise LookupError("its descriptors are of several files" if found else TAKEN_BACK)
    (path,) = found
    if path.startswith("/memfd:"):
        raise LookupError("it is in memory alone")
    if path.endswith(DELETED):
        raise LookupError(f"its file was deleted ({path.removesuffix(DELETED)})")
    if not processes.has_at(process, numbers[0], path):
        raise LookupError(f"it is not at {path} on this host: it was opened in a mount namespace of its own")
    return path
