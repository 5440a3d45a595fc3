"""Two hosts with a guest that is not running: what a worker makes of rows and messages, without any QEMU."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery.exceptions import Ignore

from drover.errors import DroverError
from drover.settings import Settings
from models.database import transaction
from models.host import HostRequest, RequestState
from models.host_rpc import PlanDestination
from models.job import Direction, Job, JobState, Side
from models.plan import Inspection, Plan
from models.transitions import StepState
from tests import documents, factories
from workers import executor, host_rpc
from workers.preflight import derivation
from workers.steps import STEPS
from workers.trust import attestation, policy
from workflows.migration.claims import Claim
from workflows.migration.links import LINKS, StepName

QEMU = str(Path(shutil.which("qemu-system-x86_64") or "/usr/bin/qemu-system-x86_64").resolve())
PREPARE, SENDS_FILES, START, MIRROR, SENDS_RAM, CUTOVER, CLEANUP = (
    LINKS.index(link)
    for link in (
        (StepName.PREPARE_DEST_IMAGE, Side.DESTINATION),
        (StepName.COPY_FILES, Side.SOURCE),
        (StepName.START_NBD, Side.DESTINATION),
        (StepName.MIRROR_DISKS, Side.SOURCE),
        (StepName.MIGRATE_RAM, Side.DESTINATION),
        (StepName.CUTOVER, Side.DESTINATION),
        (StepName.CLEANUP, Side.SOURCE),
    )
)
"""Positions of links in the chain."""
PRECIOUS = b"precious\0"


@dataclass
class Stage:
    """Two hosts with a guest, and what nobody may touch."""

    folder: Path
    source: Settings = field(init=False)
    destination: Settings = field(init=False)

    def __post_init__(self) -> None:
        self.source, self.destination = self._host("one"), self._host("two")
        for path in (self.precious, self.neighbour):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PRECIOUS)
        self.program.write_text(f"#!/bin/sh\ntouch {self.ran}\n")
        self.program.chmod(0o755)
        self.root("one", "web").mkdir(parents=True)
        self.root("one", "web", "disk.raw").write_bytes(b"web")
        for ours in (self.source, self.destination):
            factories.host(ours.host, guest_root=str(ours.guest_root))
        factories.guest("web", "one", qmp=str(self.root("one", "web", "qmp")))

    def _host(self, name: str) -> Settings:
        folder = self.folder / name
        guests = folder / "guests"
        guests.mkdir(parents=True)
        return factories.ours(
            host=name,
            directory=folder / "drover",
            guest_root=guests,
            policy=folder / "policy.toml",
            address="127.0.0.1",
        )

    @property
    def program(self) -> Path:
        """An executable file of the attacker's. Whoever starts it leaves `ran`."""
        return self.folder / "outside" / "qemu-system-x86_64"

    @property
    def ran(self) -> Path:
        """Exists once that program was started."""
        return self.folder / "outside" / "ran"

    @property
    def precious(self) -> Path:
        """A file outside the guest roots."""
        return self.folder / "outside" / "shadow"

    @property
    def neighbour(self) -> Path:
        """The image of another guest, below the destination's guest root."""
        return self.root("two", "neighbour", "disk.raw")

    def root(self, host: str, *below: str) -> Path:
        """A path below a host's guest root."""
        return Path(self.folder, host, "guests", *below)

    def described(self, *more: str, **fields: Any) -> Inspection:
        """The guest as its host sees it; `more` stands at the end of its command line."""
        folder = self.root("one", "web")
        argv = (
            *(QEMU, "-name", "guest=web", "-machine", "q35", "-nodefaults"),
            *("-qmp", f"unix:{folder}/qmp,server=on,wait=off", "-pidfile", f"{folder}/pid"),
            *("-blockdev", f"driver=raw,node-name=d,file.driver=file,file.filename={folder}/disk.raw"),
            *("-device", "virtio-blk-pci,drive=d,id=d"),
            *more,
        )
        disk = (
            documents.inspection()
            .disks[0]
            .model_copy(update={"path": f"{folder}/disk.raw", "virtual_size_bytes": 1 << 20})
        )
        common = {"argv": argv, "exe": QEMU, "qmp": f"{folder}/qmp", "pidfile": f"{folder}/pid", "disks": (disk,)}
        return documents.inspection(**common | fields)

    def signed(self, *more: str, **fields: Any) -> Inspection:
        """Likewise, signed by its host."""
        return attestation.attested(self.described(*more, **fields), self.source)

    def plan(self, seen: Inspection | None = None) -> Plan:
        """What both hosts agree on."""
        seen = seen or self.signed()
        told = attestation.proven(seen, self.destination)
        derived, problems = derivation.derive(told, self.destination, policy.of(self.destination))
        assert not problems, problems
        return Plan(source=seen, destination=derived)

    def job(self, plan: Plan | None = None, **columns: Any) -> int:
        """A job that moves the guest, under way."""
        return factories.job("web", "two", **{"state": JobState.RUNNING, "plan": plan or self.plan()} | columns)

    def claim(self, job_id: int, position: int, direction: Direction = Direction.DO) -> Claim:
        """A link of the chain, due because its row says so."""
        with transaction() as session:
            job = session.get_one(Job, job_id)
            for before, step in enumerate(job.steps):
                step.state = StepState.DONE if before < position else StepState.PENDING
            step = job.steps[position]
            if direction is Direction.ROLLBACK:
                step.state, job.state = StepState.TO_ROLL_BACK, JobState.ROLLING_BACK
        ours = self.source if step.side is Side.SOURCE else self.destination
        return factories.claim(ours, job_id, position, direction)

    def step(self, job_id: int, position: int, direction: Direction = Direction.DO) -> str:
        """Have a worker take that link; answers what it says."""
        claim = self.claim(job_id, position, direction)
        ours = self.source if claim.side is Side.SOURCE else self.destination
        try:
            executor.run(STEPS[claim.name, claim.side], claim, ours)
        except Ignore as error:
            return str(error.__cause__)
        except DroverError as error:
            return str(error)
        return "done"

    def answer(self, host: str, kind: str, question: dict[str, Any], to: Settings | None = None) -> str:
        """Put a question as a row, have the worker read it; answers its reply."""
        request = HostRequest(host=host, kind=kind, question=question)
        with transaction() as session:
            session.add(request)
        host_rpc.answer(request.id, to or (self.source if host == "one" else self.destination))
        with transaction() as session:
            row = session.get_one(HostRequest, request.id)
        return "left alone" if row.state is RequestState.ASKED else str(row.reply)

    def asked(self, seen: Inspection) -> str:
        """The destination is asked whether it could run such a guest."""
        question = PlanDestination(guest="web", source_root=str(self.source.guest_root), source=seen)
        return self.answer("two", "plan_destination", question.json_object())

    def invented(self, *more: str, **fields: Any) -> Inspection:
        """A guest of a host that there is not, signed by a key of the attacker's."""
        return attestation.attested(self.described(*more, **fields), self.mallory)

    @property
    def control(self) -> Settings:
        """The settings of a control node."""
        folder = self.folder / "hooks"
        folder.mkdir(exist_ok=True)
        return factories.ours(host="", hooks=folder, webhook_key=factories.WEBHOOK_KEY)

    @property
    def mallory(self) -> Settings:
        """The settings of that host; its key is made when it is first used."""
        return self.source.model_copy(update={"host": "invented", "directory": self.folder / "invented"})

    def untouched(self) -> None:
        """Assert that nothing was executed, changed or removed that is not the guest's."""
        assert not self.ran.exists(), "the attacker's program was started"
        for path in (self.precious, self.neighbour):
            assert path.read_bytes() == PRECIOUS, path
        assert self.root("one", "web", "disk.raw").read_bytes() == b"web"
        assert [path.name for path in self.root("two", "neighbour").iterdir()] == ["disk.raw"]
