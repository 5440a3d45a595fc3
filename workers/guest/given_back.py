"""At the destination: a guest that ran here goes on at its source after all, by an operator's word.

First nothing can start it here any more (`cutover`); once the source goes on, the marker goes (`migrate_ram`). Whatever
the rows say, nothing of a guest that runs here is touched, and what it wrote here is kept: that is nowhere else.
"""

from drover.errors import Fatal
from models.event_action import EventAction
from workers.disks import ownership
from workers.guest import incoming_qemu
from workers.images import way_back
from workers.launcher import cold, units
from workers.step import Context
from workers.storage import making


def is_to_be(ctx: Context) -> bool:
    """The guest may have run here, and is the source's again."""
    return ctx.job.kept_by_source and ctx.held is not None and ctx.directory.may_run_here


def let_nothing_start_it(ctx: Context) -> None:
    """Launch file and unit are here no more.

    Raises:
        Fatal: it runs here.
    """
    _runs_not(ctx)
    units.leave(ctx)
    _runs_not(ctx)  # its unit may have read the launch file right before
    units.left(ctx)


def keep_what_it_wrote(ctx: Context) -> None:
    """Its images get another name and are the job's no more, and the marker goes. Errors as above."""
    _runs_not(ctx)
    kept = making.set_aside_all(ctx)
    way_back.give_up(ctx)
    where = ", ".join(map(str, kept))
    ctx.tell(EventAction.WARNING, f"what {ctx.job.guest} wrote on {ctx.job.destination} stays there: {where}")
    ctx.guard()
    ctx.directory.marker.unlink()


def _runs_not(ctx: Context) -> None:
    """Whoever started it here: the move, its unit, or a person."""
    guest, host = ctx.job.guest, ctx.job.destination
    started = (incoming_qemu.running(ctx), cold.running(guest, ctx.settings))
    found = [qemu for qemu in started if qemu is not None] or ownership.users(ctx.disks)
    if found:
        raise Fatal(
            f"{guest} runs on {host} (pid {found[0].pid}), and {ctx.job.source} is to go on with it: end that QEMU, by "
            f"`systemctl stop {units.of(guest)}` where it is in that unit, then `drover job retry {ctx.job.id}`"
        )
