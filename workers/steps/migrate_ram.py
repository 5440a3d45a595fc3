"""Step 5: the RAM follows, and with it the guest.

Two links. The destination makes sure that a fresh QEMU waits and starts its switchover process; the source starts
its own, which sends the RAM and, when what is left fits the allowed downtime, carries the switchover out by
itself (see `workers.switchover`): an idle guest gets there right after the first pass, and between STOP and RESUME
nothing but the two hosts may matter. So this step ends when the switchover process has ended, or is proven dead.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import closing

from sqlalchemy import select

from drover import words
from drover.errors import Committed, Fatal, Unknown
from models import fleet
from models.database import transaction
from models.documents import Health, Measure, MigrationOptions, RamProgress, Switchover
from models.event_action import EventAction
from models.job import Job, Side
from models.job_folder import RecordedNodes
from models.sample import Rates
from workers import hooks
from workers.convergence import ACTIONS, Escalation
from workers.disks import mirrors, nbd_server, slow_writes
from workers.disks.pace import Recording
from workers.guest import given_back, incoming_qemu, readiness, size_watch
from workers.health import agent
from workers.hooks import Point
from workers.launcher import inhibitor
from workers.media import listing
from workers.process import processes, vcpus
from workers.qemu import block, written
from workers.step import Context, StepHandler
from workers.streams import supervisor as streams
from workers.streams.parameters import RAM, SWITCHOVER
from workers.switchover import supervisor, timing
from workers.switchover.journal import Journal, JournalState
from workers.switchover.parameters import DestinationParameters, SourceParameters, Terms
from workers.switchover.source import go_on_here
from workflows import windows
from workflows.migration.links import BeginAnew, Restart

log = logging.getLogger(__name__)

DEADLINE_S = 1800.0
"""RAM that has not converged by then is given up; auto-converge slows the guest down long before."""

AGENT_S = 1.0
ATTEMPTS = 5
"""Sending the RAM again costs little compared with the disk copy that would be lost."""


class MigrateRamDestination(StepHandler):
    """A fresh incoming QEMU waits, and this side's switchover process listens."""

    name, side, attempts = "migrate_ram", Side.DESTINATION, ATTEMPTS

    async def verify(self, ctx: Context) -> bool:
        attempt = ctx.job.switchover.attempt if ctx.job.switchover is not None else None
        if attempt is None or supervisor.running(ctx, attempt) is None:
            return False
        told = supervisor.journal_state(ctx, attempt)
        return told.last("listening") is not None and told.last("connected") is None

    async def do(self, ctx: Context) -> None:
        await supervisor.kill_all(ctx, but_prepared=True)  # one that waits for its peer holds the NBD server's monitor
        serves, waits = await asyncio.gather(nbd_server.serves(ctx), incoming_qemu.waits(ctx))
        if not serves:
            raise BeginAnew("the NBD server is gone or has closed the images: the copy begins anew", Restart.NBD_SERVER)
        if not waits:
            await incoming_qemu.start(ctx)
        async with ctx.guest() as monitor:
            there = await written.record(monitor, written.name(ctx.job.id, ctx.served_at.nonce))
            opened = {disk.named or disk.destination_path: disk.index for disk in ctx.disks}
            nodes = {opened[path]: node for path, node in there.items() if path in opened}
            ctx.directory.recorded_nodes.write(RecordedNodes(nodes=nodes))
            await size_watch.begin(ctx, monitor, nodes)
            if ctx.source.started_as is not None:
                await vcpus.pin(monitor, ctx.source.started_as.vcpus)  # whichever worker has started it
        await streams.serve(ctx, ctx.served_at.nonce)
        await hooks.run(ctx, Point.BEFORE_SWITCHOVER)
        await self._start_switch(ctx)

    async def _start_switch(self, ctx: Context) -> None:
        attempt = ctx.claim.token
        exported = nbd_server.images(ctx, ctx.served_at.nonce)
        parameters = DestinationParameters(
            qmp=ctx.destination.qmp,
            images=[image.path for image in exported],
            journal=str(ctx.directory.switch_journal(self.side, attempt)),
            ram=str(ctx.directory.socket(RAM)),
            switchover=str(ctx.directory.socket(SWITCHOVER)),
            nbd_server_qmp=str(ctx.directory.nbd_server_qmp),
            exports=[image.export for image in exported],
            nodes=[node for image in exported for node in image.nodes],
            marker=str(ctx.directory.marker),
        )
        supervisor.start(ctx, attempt, parameters)
        await supervisor.wait_for(ctx, attempt, "listening", timeout_s=15)
        ctx.note(switchover=Switchover(attempt=attempt))

    async def rollback(self, ctx: Context) -> None:
        await supervisor.kill_all(ctx)
        if given_back.is_to_be(ctx):
            await asyncio.to_thread(given_back.keep_what_it_wrote, ctx)


class MigrateRamSource(StepHandler):
    """The RAM has been sent and the destination was told to run; or the guest goes on here as before."""

    name, side, attempts = "migrate_ram", Side.SOURCE, ATTEMPTS

    async def verify(self, ctx: Context) -> bool:
        return ctx.job.committed_at is not None

    async def do(self, ctx: Context) -> None:
        if supervisor.committed(ctx) is None:
            await self._attempt(ctx)
        ctx.note(committed_at=ctx.job.committed_at or ctx.claim.now())

    async def _attempt(self, ctx: Context) -> None:
        if ctx.job.switchover is None:  # the former worker died right after it had called the attempt off
            raise BeginAnew("the RAM has to be sent anew", Restart.RAM)
        attempt = ctx.job.switchover.attempt
        if attempt not in supervisor.attempts(ctx):
            self._check_window(ctx)
            await self._check_guest(ctx)
            await self._ask_agent(ctx)
            await inhibitor.inhibit(ctx)
            await streams.connect(ctx)
            self._start(ctx, attempt)
        progress = _Progress(ctx, attempt)
        told = await supervisor.watch(ctx, attempt, progress.write)
        await progress.written()
        ctx.note(wait_reason=None)
        if not told.committed and not _died_after_ending_mirrors(ctx, told):
            _refuse_lost_journal(ctx, told)
            await self._keep(ctx, told)

    def _check_window(self, ctx: Context) -> None:
        """No RAM is sent outside of the job's window."""
        if windows.is_closed(ctx.job.window, ctx.claim.now()):
            self._wait_for_the_next_window(ctx)
            raise BeginAnew("its window has closed", Restart.SYNC)

    def _wait_for_the_next_window(self, ctx: Context) -> None:
        """The disks are kept in sync until admission lets the RAM follow.

        Raises:
            Fatal: the job is to be rolled back instead.
        """
        job = ctx.job
        if job.window is None:
            return
        why = windows.closed(job.window, ctx.claim.now(), job.options).of("job", job.id)
        if job.options.window_end == windows.ROLLBACK:
            raise Fatal(why)
        ctx.note(seed=True, wait_reason=why)
        ctx.tell(EventAction.WINDOW_CLOSED, why)

    async def _check_guest(self, ctx: Context) -> None:
        """Nobody paused it, or changed its devices or what it lies on, since the preflight."""
        async with ctx.guest() as monitor:
            await readiness.refuse_other_devices(ctx, monitor)
            status = (await monitor.query("query-status"))["status"]
        if status != "running":
            raise Fatal(f"{ctx.job.guest} is {status} since the move began: let it run, then move it again")
        if (astray := await asyncio.to_thread(readiness.image_astray, ctx)) is not None:
            raise BeginAnew(astray, Restart.SYNC)
        if bases := await asyncio.to_thread(listing.changed, ctx.source.files, ctx.settings):
            raise Fatal(f"{', '.join(bases)} was changed under {ctx.job.guest}, which lies on it, since the move began")

    async def _ask_agent(self, ctx: Context) -> None:
        """Whether the guest's agent answers here: by that it is known whether it has to over there."""
        path = agent.socket_of(ctx.source.argv)
        if path is not None and ctx.job.health is None:
            ctx.note(health=Health(agent_before=await agent.answers(path, AGENT_S)))

    def _start(self, ctx: Context, attempt: int) -> None:
        # From here on recovery asks both QEMUs: the source may pause at any moment.
        ctx.note(cutover_begun_at=ctx.claim.now())
        ctx.guard()
        supervisor.start(ctx, attempt, self._parameters(ctx, attempt))

    def _parameters(self, ctx: Context, attempt: int) -> SourceParameters:
        return SourceParameters(
            qmp=ctx.source.qmp,
            images=[disk.source_path for disk in ctx.disks],
            journal=str(ctx.directory.switch_journal(self.side, attempt)),
            ram=str(ctx.directory.socket(RAM)),
            switchover=str(ctx.directory.socket(SWITCHOVER)),
            mirrors=mirrors.names(ctx),
            nodes=mirrors.names(ctx),
            live=ctx.destination.ram == "live",
            max_downtime_ms=ctx.job.options.max_downtime_ms,
            bandwidth_bytes_per_s=mirrors.budget(ctx),
            terms_file=str(ctx.directory.terms_file(self.side, attempt)),
            deadline_s=DEADLINE_S,
            devices=list(ctx.source.devices),
            closes_at=self._closes_at(ctx),
            slow_cpu=Measure.SLOW_CPU in ctx.job.options.ladder,
            slowed=slow_writes.slowed(ctx),
        )

    def _closes_at(self, ctx: Context) -> float | None:
        """When the job's window closes, by the clock of the switchover process; the window is by the database's."""
        left_s = windows.left_s(ctx.job.window, ctx.claim.now())
        return None if left_s is None else timing.uptime() + left_s

    async def _keep(self, ctx: Context, told: JournalState) -> None:
        """The source owns the guest: make sure that it goes on there, and have RAM, or all, tried again."""
        kept = told.last("kept")
        mirrored = await self._take_back(ctx)
        # Without `switchover` the destination starts a new process even if no source connected to this one.
        ctx.note(cutover_begun_at=None, switchover=None)
        if kept is not None and kept.get("window_closed"):
            self._wait_for_the_next_window(ctx)
        if kept is not None and kept.get("given_up"):
            ctx.note(hold=True, wait_reason=f"{kept['reason']} until `drover job release {ctx.job.id}` tries again")
        said = kept or told.last("lost") or {"reason": "the source's switchover process died"}
        raise BeginAnew(str(said["reason"]), Restart.SYNC if mirrored else Restart.NBD_SERVER)

    async def _take_back(self, ctx: Context) -> bool:
        """The switchover process is dead without `run` in its journal: no other process resumes this guest.

        Returns whether the mirrors are still in sync: they end with the pause, and one that had to be cut off with
        `yank` never recovers.
        """
        path = ctx.directory.switch_journal(self.side, supervisor.attempts(ctx)[-1])
        async with ctx.guest() as monitor:
            with closing(Journal(path)) as journal:
                await go_on_here(monitor, journal, mirrors.names(ctx))
            states = await block.mirrors(monitor, mirrors.names(ctx))
        return mirrors.all_in_sync(ctx, states)

    async def abandon(self, ctx: Context) -> bool:
        """After the switchover process is dead its journal is final: if it holds `run`, the job goes forward."""
        await supervisor.kill_all(ctx)
        if supervisor.committed(ctx) is not None:
            return False
        if supervisor.attempts(ctx):
            await self._take_back(ctx)  # at once: the guest may be paused
        return True

    async def rollback(self, ctx: Context) -> None:
        await supervisor.kill_all(ctx)
        if supervisor.committed(ctx) is not None and not ctx.job.kept_by_source:
            raise Committed("the source has handed the guest over already: the job can only go forward")
        if ctx.job.switchover is not None and ctx.held is not None and not ctx.job.kept_by_source:
            _refuse_lost_journal(ctx, supervisor.journal_state(ctx, ctx.job.switchover.attempt))
        if supervisor.attempts(ctx) and ctx.held is not None and ctx.source_alive:
            await self._take_back(ctx)
        await inhibitor.lift(ctx)


def _refuse_lost_journal(ctx: Context, told: JournalState) -> None:
    """What a journal said last never reached the disk where this host went down: the guest may have been handed over.

    Raises:
        Unknown: only the destination knows.
    """
    begun, kept = ctx.job.cutover_begun_at is not None, told.last("keeping") or told.last("kept")
    booted = processes.booted_since(ctx.source.process)
    if begun and booted and not kept and not ctx.source_alive:
        raise Unknown(
            f"{ctx.job.source} went down while it handed {ctx.job.guest} over, and cannot tell how that ended: ask "
            f"both hosts by `drover reconcile`, then `drover job resolve {ctx.job.id}`"
        )


def _died_after_ending_mirrors(ctx: Context, told: JournalState) -> bool:
    """The source's QEMU is dead and its mirrors were ended: only the destination may have the guest.

    A dead QEMU never runs again, so the destination may decide; `cutover` checks there whether it
    holds the complete guest. Where the guest went on at the source before it died, what the destination holds is the
    guest of an earlier moment, whose later writes are in the source's images alone.
    """
    return told.left_to_destination and not ctx.source_alive


class _Progress:
    """Writes the RAM's progress to the database and Flower, at most once a second, and the terms that hold now for the
    process that sends it.
    """

    def __init__(self, ctx: Context, attempt: int) -> None:
        self.ctx, self.recording = ctx, Recording()
        allowed = ctx.job.options
        self.escalation = Escalation(
            ctx.job.guest,
            ctx.job.id,
            allowed.max_downtime_ms,
            _most_ms(allowed),
            asked_s=0.0,
            measures=allowed.ladder,
        )
        self.terms_file = ctx.directory.terms_file(Side.SOURCE, attempt)
        self.writing: asyncio.Task[object] | None = None
        self.last: dict[str, int] = {}

    def write(self, ram: dict[str, int]) -> None:
        """Beside the watch, which a slow database must not hold up."""
        self.last = ram or self.last
        busy = self.writing is not None and not self.writing.done()
        if not ram or busy or not self.recording.due():
            return
        self.writing = self._begin(self._record, ram)

    async def written(self) -> None:
        """All of this attempt is, the last of it too: later it would come behind what became of it."""
        if self.writing is not None:
            await asyncio.wait({self.writing})
            await asyncio.wait({self._begin(self._note, self.last)})

    def _begin(self, record: Callable[[dict[str, int]], object], ram: dict[str, int]) -> "asyncio.Task[object]":
        writing = asyncio.create_task(asyncio.to_thread(record, ram))
        writing.add_done_callback(_log_failure)
        return writing

    def _record(self, ram: dict[str, int]) -> None:
        job, escalation = self.ctx.job, self.escalation
        with transaction() as session:  # an operator may have changed them
            job.options = session.scalars(select(Job.options).where(Job.id == job.id)).one()
            escalation.asked_s = fleet.limits(session).stalled_after.total_seconds()
        self._escalate(RamProgress.read(ram))
        limit = self._note(ram)
        terms = Terms(bandwidth_bytes_per_s=limit, max_downtime_ms=escalation.limit_ms, give_up=escalation.gives_up)
        terms.save(self.terms_file)
        self.ctx.announce(100 * (ram["total"] - ram["remaining"]) // max(ram["total"], 1))

    def _note(self, ram: dict[str, int]) -> int:
        """Returns what it may send at most."""
        limit = mirrors.budget(self.ctx)
        progress = RamProgress.read(ram | {"downtime_limit_ms": self.escalation.limit_ms, "limit_per_s": limit})
        rates = Rates(of_ram=True, sent_per_s=progress.bytes_per_s, changed_per_s=progress.changed_per_s)
        self.ctx.note(rates, ram=progress, progress_at=self.ctx.claim.now(), wait_reason=self.escalation.asks)
        return limit

    def _escalate(self, ram: RamProgress) -> None:
        """What is done about RAM that changes as fast as it is sent is told in the job's events."""
        options, at = self.ctx.job.options, time.monotonic()
        self.escalation.obey(options.max_downtime_ms, _most_ms(options), at)
        for taken in self.escalation.look(ram, at):
            self.ctx.tell(ACTIONS[taken.measure], taken.sentence)


def _log_failure(writing: "asyncio.Task[object]") -> None:
    """Whatever it is, the RAM is sent on: without the database a lease runs out, and that ends the step."""
    if not writing.cancelled() and (error := writing.exception()) is not None:
        log.info("the progress of the RAM could not be recorded: %s", words.first_line(error))


def _most_ms(options: MigrationOptions) -> int:
    """How long the guest may be paused at most."""
    return max(options.max_downtime_ms, options.most_downtime_ms)
