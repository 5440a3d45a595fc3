"""The live migration: its links in order, and from where one may begin anew."""

import enum
from collections.abc import Iterable, Mapping

from drover.errors import Transient
from models.job import Side, Step
from models.transitions import IllegalTransition


class StepName(enum.StrEnum):
    """Stored by value, and part of the names of tasks: never rename one."""

    PREPARE_DEST_IMAGE = "prepare_dest_image"
    COPY_FILES = "copy_files"
    START_NBD = "start_nbd"
    MIRROR_DISKS = "mirror_disks"
    AWAIT_SYNC = "await_sync"
    MIGRATE_RAM = "migrate_ram"
    CUTOVER = "cutover"
    AFTER_SWITCHOVER = "after_switchover"
    CHECK_GUEST = "check_guest"
    COMPARE_IMAGES = "compare_images"
    CLEANUP = "cleanup"


Link = tuple[StepName, Side]

LINKS: tuple[Link, ...] = (
    (StepName.PREPARE_DEST_IMAGE, Side.DESTINATION),
    (StepName.COPY_FILES, Side.DESTINATION),  # what the guest needs besides its disks: it is ready to take them
    (StepName.COPY_FILES, Side.SOURCE),  # they are sent
    (StepName.START_NBD, Side.DESTINATION),
    (StepName.MIRROR_DISKS, Side.SOURCE),
    (StepName.AWAIT_SYNC, Side.SOURCE),
    (StepName.MIGRATE_RAM, Side.DESTINATION),  # a QEMU waits, its switchover process listens
    (StepName.MIGRATE_RAM, Side.SOURCE),  # RAM is sent; the switchover processes carry the guest over
    (StepName.CUTOVER, Side.SOURCE),  # the guest is stopped here for good: no rollback from here on
    (StepName.CUTOVER, Side.DESTINATION),  # it runs here, and the guest's record names this host
    (StepName.AFTER_SWITCHOVER, Side.DESTINATION),  # hooks of its administrator; likewise the next
    (StepName.AFTER_SWITCHOVER, Side.SOURCE),
    (StepName.CHECK_GUEST, Side.DESTINATION),  # whether it is well here
    (StepName.COMPARE_IMAGES, Side.DESTINATION),  # a process answers what the guest's images hold here
    (StepName.COMPARE_IMAGES, Side.SOURCE),  # what they hold there is compared with it
    (StepName.CLEANUP, Side.SOURCE),
    (StepName.CLEANUP, Side.DESTINATION),
)
"""Two links of one name are one step in which both hosts act."""

ONCE_COMMITTED = frozenset(
    {StepName.CUTOVER, StepName.AFTER_SWITCHOVER, StepName.CHECK_GUEST, StepName.COMPARE_IMAGES, StepName.CLEANUP}
)
"""All that is left to do once the destination owns the guest."""


class Restart(enum.StrEnum):
    """From which earlier step the work is done anew, when a step finds that what it builds on is gone."""

    FILES = StepName.COPY_FILES.value  # a file that the guest needs is not there
    NBD_SERVER = StepName.START_NBD.value  # the disks are copied anew, to a new NBD server
    MIRRORS = StepName.MIRROR_DISKS.value  # the disks are copied anew, to the same one
    SYNC = StepName.AWAIT_SYNC.value  # the mirrors still work: the RAM is sent anew once they are in sync
    RAM = StepName.MIGRATE_RAM.value  # the RAM is sent anew, to a new QEMU
    COMPARISON = StepName.COMPARE_IMAGES.value  # the images are compared anew, by a new process at the destination


RESTARTS: Mapping[Link, frozenset[Restart]] = {
    (StepName.COPY_FILES, Side.SOURCE): frozenset({Restart.FILES}),
    (StepName.START_NBD, Side.DESTINATION): frozenset({Restart.FILES}),
    (StepName.MIRROR_DISKS, Side.SOURCE): frozenset({Restart.NBD_SERVER}),
    (StepName.AWAIT_SYNC, Side.SOURCE): frozenset({Restart.NBD_SERVER, Restart.MIRRORS}),
    (StepName.MIGRATE_RAM, Side.DESTINATION): frozenset({Restart.NBD_SERVER}),
    (StepName.MIGRATE_RAM, Side.SOURCE): frozenset({Restart.NBD_SERVER, Restart.SYNC, Restart.RAM}),
    (StepName.COMPARE_IMAGES, Side.SOURCE): frozenset({Restart.COMPARISON}),
}
"""Which link may begin anew from where."""


class BeginAnew(Transient):
    """Trying again may help, but not from this step: what it builds on is gone."""

    def __init__(self, message: str, restart: Restart) -> None:
        super().__init__(message)
        self.restart = restart


def done_again(step: Step, restart: Restart, steps: Iterable[Step]) -> list[Step]:
    """Those of the job's steps before `step` that are done again when it begins anew.

    They are found by name: the rows of a job under way keep the numbers of the version that made them.

    Raises:
        IllegalTransition: `RESTARTS` does not list it.
    """
    if restart not in RESTARTS.get((StepName(step.name), step.side), frozenset()):
        raise IllegalTransition(f"{step.name} on the {step.side} cannot begin anew from {restart}")
    earlier = [one for one in steps if one.seq < step.seq]
    first = min(one.seq for one in earlier if one.name == restart.value)
    return [one for one in earlier if one.seq >= first]


def check(restarts: Mapping[Link, frozenset[Restart]]) -> None:
    """Every way back begins at a link of the chain and leads to an earlier one.

    Raises:
        IllegalTransition: one does not.
    """
    names = [name.value for name, _ in LINKS]
    for link, targets in restarts.items():
        for restart in targets:
            if link not in LINKS or names.index(restart.value) >= LINKS.index(link):
                raise IllegalTransition(f"{restart} is no step before {link[0]} on the {link[1]}")


check(RESTARTS)


def steps(source: str, destination: str) -> list[Step]:
    """The rows of a new job's steps."""
    hosts = {Side.SOURCE: source, Side.DESTINATION: destination}
    return [
        Step(seq=seq, name=name.value, side=side, host=hosts[side]) for seq, (name, side) in enumerate(LINKS, start=1)
    ]
