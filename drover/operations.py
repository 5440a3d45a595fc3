"""What operators ask for and have done. Each answers the JSON document that the command prints with `--json`.

`drover.by_database` does it here, for commands and for the HTTP API; `drover.client` has the API do it. What is not
here is done by the database alone.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

from drover.views.drain_queries import DrainShot
from drover.views.queries import Snapshot
from drover.views.rolls import RollShot
from models.base import Document
from models.documents import Window
from models.drain import DrainKind
from models.job import Side
from workflows.descriptions import GuestDescription, HostDescription
from workflows.drain.plan_file import PlanFile
from workflows.kept_images import Which
from workflows.migration.jobs import Changes
from workflows.submissions import DrainSubmission, MigrationSubmission, RollSubmission

JobAction = Literal["cancel", "release", "retry"]
DrainAction = Literal["pause", "resume", "release", "cancel"]
HostAction = Literal["cordon", "uncordon", "forget"]
RollAction = Literal["pause", "resume", "cancel"]
PlanAction = Literal["approve", "apply", "withdraw"]
Reported = Literal["job", "drain"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which jobs, drains, plans or rolls are listed, the newest first."""

    everything: bool = False
    """Those that have ended as well."""
    guest: str | None = None
    """Jobs of this guest alone."""
    selector: str | None = None
    """Of labels: of a job's guest, of the host of a drain or plan, of one of the hosts of a roll."""
    since: timedelta | None = None
    """All that were submitted so long ago at the most."""
    limit: int = 100

    @property
    def with_ended(self) -> bool:
        """Those that have ended are listed as well."""
        return self.everything or self.since is not None


@dataclass(frozen=True)
class SubmittedDrain:
    """A drain, and how it came about."""

    document: Document
    forecast: Document | None
    """Who goes where by its plan; None of one that was there already, to which nothing was added."""


class Operations(Protocol):
    """All raise PreconditionFailed where something was refused, and nothing was changed."""

    def hosts(self, selector: str | None) -> list[Document]:
        """All hosts, or those with these labels."""

    def on_host(self, name: str, action: HostAction) -> Document:
        """Cordon a host, let it take guests again, or take it off the lists."""

    def guests(self, selector: str | None) -> list[Document]:
        """All guests, or those with these labels."""

    def guest(self, name: str) -> Document:
        """What a guest's host reports about it now."""

    def jobs(self, wanted: Wanted) -> list[Document]:
        """Jobs, the newest first."""

    def job(self, number: int) -> Document:
        """Everything about one job."""

    def job_shot(self, number: int) -> Snapshot:
        """The same, for those who show it."""

    def job_of_key(self, key: str) -> int:
        """The number of the job that was submitted with this idempotency key."""

    def explanation(self, number: int) -> Document:
        """A job's events."""

    def try_migration(self, asked: MigrationSubmission) -> Document:
        """What a move would do; nothing is changed."""

    def migrate(self, asked: MigrationSubmission) -> Document:
        """Submit a job."""

    def on_job(self, number: int, action: JobAction) -> Document:
        """Cancel, release or retry a job."""

    def change_job(self, number: int, changes: Changes) -> Document:
        """Change how a job is done."""

    def resolve(self, number: int, owner: Side, fenced: str | None) -> Document:
        """Decide who owns the guest of a job that needs an operator."""

    def price(self, number: int) -> Document:
        """For how long the guest would stand still if its move was completed now."""

    def complete_now(self, number: int, pause_s: float) -> Document:
        """Complete a move, for that price."""

    def drains(self, wanted: Wanted) -> list[Document]:
        """Drains, the newest first."""

    def drain(self, number: int) -> Document:
        """Everything about one drain."""

    def drain_shot(self, number: int) -> DrainShot:
        """The same, for those who show it."""

    def drain_of_key(self, key: str) -> int:
        """The number of the drain that was submitted with this idempotency key."""

    def try_drain(self, kind: DrainKind, asked: DrainSubmission) -> Document:
        """What a drain or return would do; nothing is changed."""

    def submit_drain(self, kind: DrainKind, asked: DrainSubmission) -> SubmittedDrain:
        """Submit a drain or return."""

    def on_drain(self, number: int, action: DrainAction) -> Document:
        """Pause, resume, release or cancel a drain."""

    def change_drain(self, number: int, changes: Changes) -> Document:
        """Change how a drain is done."""

    def overrule(self, number: int, guest: str) -> Document:
        """Have a guest of a drain moved although who is asked before says no, or nothing."""

    def report(self, kind: Reported, number: int) -> Document:
        """All about a job or a drain, to be kept."""

    def draft_plan(self, kind: DrainKind, asked: DrainSubmission) -> Document:
        """The plan of a drain or return, and its forecast: every host is asked, and nothing is changed."""

    def look_at_plan(self, plan: PlanFile) -> Document:
        """A plan, who has approved it, and what is no longer as it says."""

    def try_plan(self, plan: PlanFile) -> Document:
        """What a plan would do: every guest and target in it is asked, and nothing is changed."""

    def submit_plan(self, plan: PlanFile) -> Document:
        """Submit a plan, so that others can approve it."""

    def apply_plan(self, plan: PlanFile) -> Document:
        """Begin the drain that a plan describes."""

    def plans(self, wanted: Wanted) -> list[Document]:
        """Submitted plans, the newest first."""

    def plan(self, number: int) -> Document:
        """A submitted plan."""

    def on_plan(self, number: int, action: PlanAction) -> Document:
        """Approve, apply or withdraw a plan; applied, it answers the drain."""

    def rolls(self, wanted: Wanted) -> list[Document]:
        """Rolls, the newest first."""

    def roll(self, number: int) -> Document:
        """Everything about one roll."""

    def roll_shot(self, number: int) -> RollShot:
        """The same, for those who show it."""

    def try_roll(self, asked: RollSubmission) -> Document:
        """Who would go where, for each host; nothing is changed."""

    def submit_roll(self, asked: RollSubmission) -> Document:
        """Begin a roll."""

    def on_roll(self, number: int, action: RollAction) -> Document:
        """Pause, resume or cancel a roll."""

    def change_roll(self, number: int, max_unavailable: int) -> Document:
        """Change how many of its hosts may be out at a time."""

    def images(self, which: Which, selector: str | None) -> Document:
        """Images that guests left behind."""

    def purge(self, which: Which, *, last_way_back: bool, dry_run: bool) -> Document:
        """Delete some before their time."""

    def describe_guest(self, name: str, said: GuestDescription) -> Document:
        """Set what drains consider about a guest."""

    def adopt(self, name: str, host: str, qmp: str) -> Document:
        """Adopt a running QEMU as a guest."""

    def forget(self, name: str) -> Document:
        """Delete a guest's record."""

    def qemus(self, host: str, *, adopt: bool) -> Document:
        """The QEMUs of a host; on request those are adopted that can be moved and have a name."""

    def trust(self, host: str) -> Document:
        """Take the key that a host shows now for its own."""

    def reconcile(self, guest: str | None, *, dry_run: bool) -> Document:
        """Ask both hosts of unfinished jobs where the guest really runs; what is beyond doubt goes on."""

    def describe_host(self, name: str, said: HostDescription) -> Document:
        """Give a host labels, a bandwidth or a retention of its own."""

    def ok_to_drain(self, name: str, window: Window | None) -> Document:
        """Whether a host could be emptied now; all hosts are asked."""

    def headroom(self, selector: str | None, window: Window | None) -> list[Document]:
        """Likewise of each host, by what is on record."""
