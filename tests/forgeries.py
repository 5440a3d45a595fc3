"""What somebody who can write every row and every message tries with a worker, and what comes of it.

`docs/explanation/security.md` shows the table; `tests/database/test_forgeries.py` tries each against the worker's own
code and a real Postgres.
"""

import asyncio
import base64
import json
import logging
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError

from drover.broker import envelope
from drover.broker.app import CONTROL_QUEUE
from drover.by_database import ByDatabase
from drover.controller import notices
from drover.errors import DroverError, UnreadableDocument
from drover.operations import Wanted
from models import decision_log, notifications, preflight
from models.database import transaction
from models.documents import Hook, NbdServer, Notice
from models.drain import Drain, DrainKind, DrainState
from models.guest import Guest
from models.host import Host
from models.host_rpc import CollectOrphans, Observe, PlanDestination, StartGuest
from models.job import Direction, Disk, Job, JobState, Side, Step, StepState
from models.launcher import Launcher, LauncherKind, Limits
from models.notice import GuestNotice
from models.notifications import Channel
from models.plan import (
    DiskLayout,
    Execution,
    FileKind,
    Layout,
    NeededFile,
    Plan,
    PlannedFile,
    PlannedFolder,
    PlannedTpm,
)
from models.storage import Storage
from models.streams import StreamAccess
from models.succession import Succession, signed
from tests import brokers, documents, factories
from tests.helpers import until
from tests.stage import CLEANUP, CUTOVER, MIRROR, PRECIOUS, PREPARE, SENDS_FILES, SENDS_RAM, START, Stage
from workers import files
from workers.guest.run_marker import SET_CONTENT
from workers.launcher import given_away
from workers.preflight import derivation, inspection
from workers.preflight.live_command_line import LiveCommandLine
from workers.process.processes import MARK, having_open, process, spawn
from workers.step import Context, JobDirectory
from workers.steps import STEPS
from workers.streams import supervisor
from workers.trust import attestation, host_key, known_hosts, policy
from workflows.migration import claims
from workflows.permissions import operator
from workflows.roll import hooks


@dataclass(frozen=True)
class Forgery:
    """One thing that is tried."""

    what: str
    """Which row or message, and what is written there."""
    answer: str
    """What the worker says or does: a part of it, to the letter."""
    attempt: Callable[[Stage], str]


def _argv(*more: str, answer: str, what: str) -> Forgery:
    return Forgery(
        f"`host_request`: a guest that a host of the attacker's invention signed, with {what}",
        answer,
        lambda stage: stage.asked(stage.invented(*(word.format(stage=stage) for word in more))),
    )


def _another_key(stage: Stage) -> str:
    stage.plan()  # the destination knows the source's key from here on
    forged = stage.invented().attestation
    assert forged is not None
    told = forged.model_copy(update={"host": "one", "statement": forged.statement.replace('"invented"', '"one"')})
    signature = host_key.sign(stage.mallory, attestation.PURPOSE + told.statement.encode())
    attested = told.model_copy(update={"signature": signature})
    return stage.asked(stage.described().model_copy(update={"attestation": attested}))


def _unlisted(stage: Stage) -> str:
    key = host_key.public(stage.source)
    stage.destination.policy.write_text(f'[hosts]\none = "{key}"\n')
    return stage.asked(stage.invented())


def _changed(stage: Stage) -> str:
    return stage.asked(stage.signed().model_copy(update={"argv": (str(stage.program),), "exe": str(stage.program)}))


def _plan_with(what: str, forge: Callable[[Stage], dict[str, Any]], position: int = PREPARE) -> Forgery:
    def attempt(stage: Stage) -> str:
        plan = stage.plan()
        forged = plan.destination.model_copy(update=forge(stage))
        return stage.step(stage.job(Plan(source=plan.source, destination=forged)), position)

    return Forgery(
        f"`job.plan`: {what}", "has another plan than the one that two derives from what one signed", attempt
    )


def _needed_file(stage: Stage) -> NeededFile:
    """A file of the guest's, which lies at its source."""
    path = stage.root("one", "web", "medium.iso")
    path.write_bytes(b"medium")
    return NeededFile(
        kind=FileKind.MEDIUM, path=str(path), size_bytes=6, digest="0" * 64, mode=0o600, owner="root", group="root"
    )


def _file_of_the_host(stage: Stage) -> PlannedFile:
    return PlannedFile(
        **_needed_file(stage).model_dump(exclude={"path"}),
        source_path=str(stage.precious),
        destination_path=str(stage.precious),
    )


def _sent_by_the_source(stage: Stage) -> str:
    file = _needed_file(stage)
    plan = stage.plan(stage.signed(files=(file,)))
    stolen = _file_of_the_host(stage).model_copy(update={"size_bytes": len(PRECIOUS)})
    job = stage.job(Plan(source=plan.source, destination=plan.destination.model_copy(update={"files": (stolen,)})))
    [sent] = Context(claim=stage.claim(job, SENDS_FILES), settings=stage.source).destination.files
    assert (sent.source_path, sent.size_bytes) == (file.path, file.size_bytes)
    return "the file is sent that its host signed"


def _laid_out(stage: Stage, **layout: Any) -> str:
    """Where its disk is to be is forged in all that the row says."""
    wanted, seen = Layout(disks=(DiskLayout(index=0, **layout),)), stage.signed()
    told = attestation.proven(seen, stage.destination)
    derived, _ = derivation.derive(told, stage.destination, policy.of(stage.destination), layout=wanted)
    return stage.step(stage.job(Plan(source=seen, destination=derived, layout=wanted)), PREPARE)


def _storage_of_the_attackers(stage: Stage) -> str:
    with transaction() as session:
        session.add(Storage(host="two", name="mine", driver="folder", place=str(stage.precious.parent)))
    seen, wanted = stage.signed(), Layout(storage="mine")
    question = PlanDestination(guest="web", source_root=str(stage.source.guest_root), source=seen, layout=wanted)
    return stage.answer("two", "plan_destination", question.json_object())


def _way_back(stage: Stage) -> str:
    plan = stage.plan()
    image = stage.root("two", "web", "disk.raw.drover-7")
    image.parent.mkdir(parents=True)
    image.write_bytes(b"former")
    job = stage.job(Plan(source=plan.source, destination=plan.destination.model_copy(update={"way_back": 7})))
    assert stage.step(job, PREPARE) == "done"
    assert image.read_bytes() == b"former"
    made = stage.root("two", "web", "disk.raw").stat().st_size == 1 << 20
    return "the image is made anew" if made else "the other file is taken"


def _set_of_hooks(stage: Stage) -> str:
    stage.destination.policy.with_name("hooks").joinpath("sets").mkdir(parents=True)
    theirs = stage.program.parent / "before-copy.d"
    theirs.mkdir()
    theirs.joinpath("10-theirs").symlink_to(stage.program)
    job = stage.job()
    with transaction() as session:
        named = {"job": job, "set": json.dumps({"hooks": "../../../outside"})}
        session.execute(text("UPDATE job SET options = options || CAST(:set AS jsonb) WHERE id = :job"), named)
    try:
        return stage.step(job, PREPARE)
    except UnreadableDocument as error:
        return str(error)


def _lives_elsewhere(stage: Stage) -> str:
    launch = stage.source.directory / "launch" / "web.json"
    launch.parent.mkdir(parents=True)
    launch.write_text("{}")
    with transaction() as session:
        session.get_one(Guest, "web").host = "two"
    guest = spawn(str(stage.folder / "guest"), ["sleep", "600"], stage.folder / "log")
    try:
        given_away.look(stage.source)
        assert process(guest.pid) == guest
    finally:
        guest.kill()
    return "its launch file is kept aside" if launch.with_suffix(".moved").read_text() == "{}" else "it is gone"


def _limits_that_say_more(stage: Stage) -> str:
    """A line more in the file by which systemd runs the guest."""
    launcher = Launcher(kind=LauncherKind.UNIT, name="web.service", limits=Limits(allowed_cpus="0"))
    seen = stage.invented(launcher=launcher)
    told = seen.attestation
    assert told is not None
    more = json.dumps(f"0\nExecStartPre={stage.program}")
    statement = told.statement.replace('"allowed_cpus": "0"', f'"allowed_cpus": {more}')
    assert statement != told.statement
    signature = host_key.sign(stage.mallory, attestation.PURPOSE + statement.encode())
    forged = told.model_copy(update={"statement": statement, "signature": signature})
    return stage.asked(seen.model_copy(update={"attestation": forged}))


def _named_by_a_path(kind: str) -> Forgery:
    return Forgery(
        f"`host_request`: `{kind}` with a path as the guest's name",
        "guest",
        lambda stage: stage.answer("two", kind, {"guest": "../../outside/shadow"}),
    )


def _own_successor(stage: Stage) -> str:
    """That the key of a host that is known was followed by the attacker's, signed by the latter."""
    stage.plan()  # the destination knows the source's key from here on
    forged = stage.invented().attestation
    assert forged is not None
    statement = forged.statement.replace('"invented"', '"one"')
    signature = host_key.sign(stage.mallory, attestation.PURPOSE + statement.encode())
    changes = {"host": "one", "statement": statement, "signature": signature, "successions": (_succession(stage),)}
    return stage.asked(stage.described().model_copy(update={"attestation": forged.model_copy(update=changes)}))


def _succession(stage: Stage) -> Succession:
    former, key = host_key.public(stage.source), host_key.public(stage.mallory)
    signature = host_key.sign(stage.mallory, signed("one", former, key))
    return Succession(host="one", former=former, key=key, signature=signature)


def _successor_in_the_plan(stage: Stage) -> str:
    plan = stage.plan()
    changes = {"source_key": host_key.public(stage.mallory), "successions": (_succession(stage),)}
    return _sealed_for(stage, plan.model_copy(update=changes))


def _sealed_for(stage: Stage, plan: Plan) -> str:
    """The destination is to seal the credentials of the streams for whom the plan says."""
    claim = stage.claim(stage.job(plan), START)
    try:
        asyncio.run(supervisor.serve(Context(claim=claim, settings=stage.destination), "nonce"))
    except DroverError as error:
        return str(error)
    return "sealed"


def _key_that_was_never_ours(stage: Stage) -> str:
    keys = {"source_key": host_key.public(stage.source), "destination_key": host_key.public(stage.mallory)}
    return _sealed_for(stage, stage.plan().model_copy(update=keys))


def _sealed_for_another_job(stage: Stage) -> str:
    """What a destination sealed for one job is put into another's row."""
    keys = {"source_key": host_key.public(stage.source), "destination_key": host_key.public(stage.destination)}
    plan = stage.plan().model_copy(update=keys)
    access = StreamAccess(job=4711, address="127.0.0.1", port=49152, secret="of another")
    sealed = host_key.seal(stage.destination, keys["source_key"], access.json_object())
    served = NbdServer(nonce="n", address="127.0.0.1", port=49152, streams=stage.source.streams, sealed=sealed)
    claim = stage.claim(stage.job(plan, nbd_server=served), MIRROR)
    try:
        return supervisor.begun_with(Context(claim=claim, settings=stage.source)) or "connected"
    except DroverError as error:
        return str(error)


def _hook_of_a_roll(stage: Stage) -> str:
    try:
        return str(hooks.program(Hook(argv=("../outside/qemu-system-x86_64",)), stage.control))
    except DroverError as error:
        return str(error)


def _asked_first(stage: Stage, notice: Notice) -> str:
    """Who is asked before a guest is moved, as a row of the database names it."""
    with transaction() as session:
        drain = Drain(kind=DrainKind.DRAIN, host="one", state=DrainState.RUNNING)
        session.add(drain)
        session.flush()
        row = GuestNotice(drain_id=drain.id, guest="web", source="one", destination="two", notice=notice)
        session.add(row)
    notices.ask(row, stage.control)
    with transaction() as session:
        return str(session.get_one(GuestNotice, row.id).reason)


def _asked_by_post(stage: Stage) -> str:
    with _listening(("127.0.0.1", 0)) as heard:
        said = _asked_first(stage, Notice(url=f"http://127.0.0.1:{heard.port}/"))
        assert not heard(), "somebody was told whom no operator has listed"
    return said


def _image_elsewhere(stage: Stage) -> dict[str, Any]:
    [disk] = stage.plan().destination.disks
    return {"disks": (disk.model_copy(update={"destination_path": str(stage.neighbour)}),)}


def _backing(stage: Stage) -> str:
    disk = stage.described().disks[0]
    options = {"compat": f"1.1,backing_file={stage.precious}"}
    return stage.asked(stage.invented(disks=(disk.model_copy(update={"create_options": options}),)))


def _unsigned(stage: Stage) -> str:
    bare = stage.described(exe=str(stage.program), argv=(str(stage.program),))
    plan = documents.destination_plan(argv=(str(stage.program),), qemu=str(stage.program))
    return stage.step(stage.job(Plan(source=bare, destination=plan)), START)


def _of_another(stage: Stage) -> str:
    factories.host("three")
    job = stage.job()
    with transaction() as session:
        session.get_one(Job, job).source = "three"
    return stage.step(job, PREPARE)


def _changed_later(stage: Stage) -> str:
    plan = stage.plan()
    job = stage.job(plan)
    assert stage.step(job, PREPARE) == "done"
    bare = stage.described(exe=str(stage.program), argv=(str(stage.program),))
    evil = plan.destination.model_copy(update={"argv": (str(stage.program),), "qmp": str(stage.precious)})
    with transaction() as session:
        session.get_one(Job, job).plan = Plan(source=bare, destination=evil)
    claim = stage.claim(job, START)
    ctx = Context(claim=claim, settings=stage.destination)
    assert ctx.destination == plan.destination
    return "the plan that was proven is followed"


def _observed_later(stage: Stage) -> str:
    plan = stage.plan()
    job = stage.job(plan)
    assert stage.step(job, PREPARE) == "done"
    with transaction() as session:
        session.get_one(Job, job).plan = Plan(source=stage.described(), destination=plan.destination)
    said = stage.answer("two", "observe", Observe(job_id=job, side=Side.DESTINATION).json_object())
    return "the plan that was proven is followed" if "may_run" in said else said


def _of_a_taken_host(stage: Stage) -> str:
    seen = stage.signed("-chardev", f"file,id=c,path={stage.precious}")
    told = attestation.proven(seen, stage.destination)
    derived, _ = derivation.derive(told, stage.destination, policy.of(stage.destination))
    return stage.step(stage.job(Plan(source=seen, destination=derived)), PREPARE)


def _tpm_of_the_attackers(stage: Stage) -> dict[str, Any]:
    as_root = Execution(user="root", group="root")
    state, socket_ = str(stage.precious), f"{stage.precious}.s"
    return {"tpm": PlannedTpm(argv=("swtpm",), socket=socket_, state=state, started_as=as_root)}


def _not_made(stage: Stage) -> str:
    [disk] = stage.described().disks
    theirs = stage.root("one", "neighbour", "disk.raw")
    seen = stage.signed(
        disks=(disk.model_copy(update={"path": str(theirs)}),),
        argv=tuple(word.replace("/web/disk.raw", "/neighbour/disk.raw") for word in stage.described().argv),
    )
    return stage.step(stage.job(stage.plan(seen)), START)


def _disk_row(stage: Stage) -> str:
    job = stage.job()
    with transaction() as session:
        session.execute(update(Disk).values(source_path=str(stage.precious), destination_path=str(stage.neighbour)))
    assert stage.step(job, PREPARE) == "done"
    assert stage.root("two", "web", "disk.raw").exists()
    return f"the image is made at {stage.root('two', 'web', 'disk.raw').relative_to(stage.root('two'))}"


def _rolled_back_beneath_it(stage: Stage) -> str:
    job = stage.job()
    assert stage.step(job, PREPARE) == "done"
    JobDirectory(stage.destination.directory / "jobs" / str(job)).marker.write_bytes(SET_CONTENT)
    said = stage.step(job, PREPARE, Direction.ROLLBACK)
    assert stage.root("two", "web", "disk.raw").exists()
    return said


def _called_like_ours(stage: Stage) -> str:
    """As any user of the host may call a program of theirs."""
    job = stage.job()
    assert stage.step(job, PREPARE) == "done"
    folder = JobDirectory.of(job, stage.destination).path
    roles = ("exporter", "incoming", "switch-of-mine")
    called = [subprocess.Popen(["sleep", "600"], env={MARK: f"{folder}/{role}"}) for role in roles]
    try:
        said = stage.step(job, PREPARE, Direction.ROLLBACK)
    finally:
        for one in called:
            one.kill()
            one.wait()
    return "they are nobody's" if said == "done" else said


def _ran_there(stage: Stage) -> tuple[int, Path]:
    """A job by which the guest ran at the destination, and is to go on at its source say the rows; its image there."""
    job = stage.job(kept_by_source=True)
    assert stage.step(job, PREPARE) == "done"
    JobDirectory(stage.destination.directory / "jobs" / str(job)).marker.write_bytes(SET_CONTENT)
    image = stage.root("two", "web", "disk.raw")
    image.write_bytes(b"web")
    return job, image


def _given_back_as_it_runs(stage: Stage) -> str:
    job, image = _ran_there(stage)
    with image.open("rb") as disk:
        guest = subprocess.Popen(["sleep", "600"], stdin=disk)
    try:
        until("it has its disk open", lambda: having_open(image))
        said = {stage.step(job, link, Direction.ROLLBACK) for link in (SENDS_RAM, CUTOVER)}
    finally:
        guest.kill()
        guest.wait()
    assert image.exists()
    return said.pop() if len(said) == 1 else str(said)


def _given_back(stage: Stage) -> str:
    job, image = _ran_there(stage)
    for link in (SENDS_RAM, PREPARE):
        assert stage.step(job, link, Direction.ROLLBACK) == "done"
    return "what it wrote is kept" if image.with_name(f"disk.raw.drover-{job}").read_bytes() == b"web" else "it is gone"


def _not_handed_over(stage: Stage) -> str:
    guest = spawn(str(stage.folder / "guest"), ["sleep", "600"], stage.folder / "log")
    try:
        job = stage.job(stage.plan(stage.signed(pid=guest.pid, started=guest.started)))
        with transaction() as session:
            session.get_one(Guest, "web").host = "two"
        said = stage.step(job, CLEANUP)
        assert process(guest.pid) == guest
        return said
    finally:
        guest.kill()


def _powered_off(stage: Stage) -> str:
    job = stage.job(stage.plan(stage.signed(pid=2**22 - 1, started=1)))
    with transaction() as session:
        session.get_one(Guest, "web").host = "two"
    return stage.step(job, CLEANUP)


def _source_of_another_pid(stage: Stage) -> str:
    plan = stage.plan()
    forged = plan.source.model_copy(update={"pid": 1, "qmp": str(stage.precious)})
    return stage.step(stage.job(Plan(source=forged, destination=plan.destination)), MIRROR)


def _key_of_destination(stage: Stage) -> str:
    known_hosts.trust("two", host_key.public(stage.destination), stage.source)
    forged = stage.plan().model_copy(update={"destination_key": host_key.public(stage.mallory)})
    claim = stage.claim(stage.job(forged), MIRROR)
    try:
        return supervisor._peer_key(Context(claim=claim, settings=stage.source))
    except DroverError as error:
        return str(error)


def _retired(stage: Stage) -> str:
    job = stage.job(state=JobState.DONE)
    with transaction() as session:
        session.execute(update(Disk).values(retired_path=str(stage.precious), retired_until=func.clock_timestamp()))
    said = stage.answer("one", "collect_garbage", CollectOrphans(unknown_jobs=True).json_object())
    assert factories.load(job).disks[0].retired_until is not None
    return said


def _garbage(stage: Stage) -> str:
    job = stage.job(state=JobState.ROLLED_BACK)
    folder = JobDirectory(stage.destination.directory / "jobs" / str(job)).path
    folder.mkdir(parents=True)
    plan = stage.plan()
    empty = stage.root("two", "empty")
    empty.touch()
    forged = plan.destination.model_copy(update={"pidfile": str(empty)})
    with transaction() as session:
        session.get_one(Job, job).plan = Plan(source=plan.source, destination=forged)
    said = stage.answer("two", "collect_garbage", CollectOrphans(unknown_jobs=True).json_object())
    assert empty.exists()
    return said


def _observed(stage: Stage) -> str:
    plan = stage.plan()
    with _listening(stage.folder / "socket") as heard:
        forged = plan.source.model_copy(update={"qmp": str(stage.folder / "socket"), "attestation": None})
        job = stage.job(Plan(source=forged, destination=plan.destination))
        said = stage.answer("one", "observe", Observe(job_id=job, side=Side.SOURCE).json_object())
        assert not heard(), "a socket that the row names was connected to"
    return said


@dataclass
class Heard:
    """A socket that listens."""

    listening: socket.socket

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    def __call__(self) -> bool:
        """Whether anybody has connected to it."""
        try:
            self.listening.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@contextmanager
def _listening(where: Path | tuple[str, int]) -> Iterator[Heard]:
    """At a path, or at an address and port."""
    with socket.socket(socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET) as listening:
        listening.bind(str(where) if isinstance(where, Path) else where)
        listening.listen()
        listening.setblocking(False)
        yield Heard(listening)


def _program_called_qemu(stage: Stage) -> str:
    identity = inspection._Identity(
        process=process(1) or _nobody(),
        started=LiveCommandLine(argv=["qemu"], said=["qemu"]),
        exe=str(stage.program),
        pidfile=None,
    )
    return "; ".join(preflight.refusals(inspection._forbidden(identity, stage.source)))


def _nobody() -> Any:
    raise AssertionError("there is no process 1")


def _host_row(stage: Stage) -> str:
    plan = stage.plan()
    with transaction() as session:
        session.execute(update(Host).where(Host.name == "one").values(guest_root="/", address="::1"))
    seen = attestation.proven(stage.signed(), stage.destination)
    assert derivation.derive(seen, stage.destination, policy.of(stage.destination))[0] == plan.destination
    return "the guest root that its host signed is used"


def _message_of_another(stage: Stage) -> str:
    return stage.answer("one", "inspect", {"qmp": str(stage.precious)}, to=stage.destination)


def _step_of_another(stage: Stage) -> str:
    job = stage.job()
    with transaction() as session:
        *before, step = session.get_one(Job, job).steps[: CLEANUP + 1]
        for one in before:
            one.state = StepState.DONE
    claim = claims.claim(
        job_id=job,
        seq=step.seq,
        name=step.name,
        epoch=0,
        direction=Direction.DO,
        host="two",
        owner="forged",
        settings=stage.destination,
    )
    return "left alone" if claim is None else "claimed"


def _moved_step(stage: Stage) -> str:
    job = stage.job()
    with transaction() as session:
        session.execute(update(Step).values(host="two"))
        session.get_one(Guest, "web").host = "two"
    claim = stage.claim(job, CLEANUP)
    try:
        asyncio.run(STEPS["cleanup", Side.SOURCE].do(Context(claim=claim, settings=stage.destination)))
    except DroverError as error:
        return str(error)
    return "done"


def _message(queue: str, task: str, *, headers: brokers.Json | None = None, **embedded: Any) -> str:
    """What becomes of it in the queue's process before Celery sees it."""
    message = brokers.envelope(queue, task, {"job_id": 1})
    arguments, named, parts = json.loads(base64.b64decode(message["body"]))
    body = base64.b64encode(json.dumps([arguments, named, parts | embedded]).encode()).decode()
    forged = message | {"headers": message["headers"] | (headers or {}), "body": body}
    return envelope.fault(json.dumps(forged).encode(), chained=queue != CONTROL_QUEUE) or "is taken"


def _sent_on() -> brokers.Json:
    return {"task": "drover.step.cleanup", "args": [], "kwargs": {"job_id": 1}, "options": {"queue": "drover.two"}}


def _notification(_: Stage) -> str:
    """By any role: Postgres asks nobody who notifies whom."""
    logged: list[str] = []

    def keep(line: logging.LogRecord) -> bool:
        logged.append(line.getMessage())
        return True

    payload = json.dumps({"level": logging.INFO, "sentence": "an operator trusts two", "fields": {}})
    decision_log.log.addFilter(keep)
    try:
        with transaction() as session:
            session.execute(select(func.pg_notify(Channel.SAID, payload)))
            decision_log.take_said(session)
    finally:
        decision_log.log.removeFilter(keep)
    return "; ".join(logged) or "nothing is logged"


def _never_notified(stage: Stage) -> str:
    """As when the queue is full: Postgres takes no notification."""
    with transaction() as session:
        notifications.add(session, Channel.WAKE, "x" * 8000)
        session.get_one(Host, "one").address = "127.0.0.9"
    with transaction() as session:
        return "the change is made" if session.get_one(Host, "one").address == "127.0.0.9" else "it is lost"


def _unreadable(statement: str, stage: Stage) -> str:
    """With such a value nobody could read the row, nor those that are read together with it."""
    stage.job()
    try:
        with transaction() as session:
            session.execute(text(statement))
    except IntegrityError as error:
        return str(error)
    return "it is written"


def _not_understood(stage: Stage) -> str:
    stage.job()
    newer = "'{\"version\": 99}'"
    with transaction() as session:
        session.execute(text(f"UPDATE host SET facts = {newer}, qemus = '[]' WHERE name = 'one'"))
        session.execute(text(f"UPDATE job SET nbd_server = {newer}, switchover = {newer}, file_copy = {newer}"))
    read = ByDatabase(operator())
    return f"{len(read.hosts(None))} hosts and {len(read.jobs(Wanted()))} job are read"


def _pipe_for_an_image(stage: Stage) -> str:
    """As a guest's own user may put it there: opened like a file it would never be."""
    image = stage.root("one", "web", "more.raw")
    os.mkfifo(image)
    try:
        os.close(files.opened(image, os.O_RDONLY))
    except DroverError as error:
        return str(error)
    finally:
        image.unlink()
    return "opened"


FORGERIES: tuple[Forgery, ...] = (
    Forgery(
        "`host_request`: a guest whose program is the attacker's, unsigned",
        "is not signed",
        lambda stage: stage.asked(stage.described(exe=str(stage.program))),
    ),
    Forgery(
        "`host_request`: a signed guest with another command line", "was changed after one had signed it", _changed
    ),
    Forgery("`host_request`: signed in the name of a known host by another key", "one has another key", _another_key),
    Forgery("`host_request`: signed by a host that `policy.toml` does not list", "does not trust invented", _unlisted),
    Forgery(
        "`host_request`: a guest that an invented host signed, whose program is the attacker's",
        "is not among the programs that may run guests here",
        lambda stage: stage.asked(stage.invented(exe=str(stage.program))),
    ),
    _argv(
        *("-netdev", "user,id=n,guestfwd=tcp:10.0.2.9:7-cmd:{stage.program}"),
        what="a network that starts a program (`guestfwd=`)",
        answer="it would start a program",
    ),
    _argv(
        *("-netdev", "tap,id=n,script={stage.program}"),
        what="a network that starts a program (`script=`)",
        answer="which its policy does not allow",
    ),
    _argv(
        *("-netdev", "bridge,id=n,helper={stage.program}"),
        what="a network that starts a program (`helper=`)",
        answer="which its policy does not allow",
    ),
    _argv(
        *("-set", "netdev.n.script={stage.program}"),
        what="the same, set from afar (`-set`)",
        answer="which its policy does not allow",
    ),
    _argv(
        "-plugin", "file={stage.program}", what="a plug-in", answer="is not among the options that its policy allows"
    ),
    _argv(
        *("-monitor", "tcp:0.0.0.0:4444,server=on,wait=off"),
        what="a monitor that listens to the network",
        answer="the network may reach this monitor",
    ),
    _argv(
        *("-chardev", "socket,id=m,host=0.0.0.0,port=4444,server=on,wait=off", "-mon", "chardev=m"),
        what="the same behind a character device",
        answer="the network may reach this monitor",
    ),
    _argv(
        *("-vnc", "0.0.0.0:1", "-monitor", "vc"),
        what="a monitor in a display that listens to the network",
        answer="the network may reach this monitor",
    ),
    _argv(
        *("-chardev", "file,id=c,path={stage.precious}"),
        what="a log that overwrites a file of the host",
        answer="is written but lies outside",
    ),
    _argv(
        *("-chardev", "file,id=c,path={stage.destination.guest_root}/../../outside/shadow"),
        what="the same by way of `..`",
        answer="is outside the folders that its policy allows",
    ),
    _argv(
        *("-fw_cfg", "name=opt/x,file={stage.precious}"),
        what="a file of the host to read (`-fw_cfg`)",
        answer="is outside the folders that its policy allows",
    ),
    _argv(
        *("-global", "driver=virtio-net-pci,property=romfile,value={stage.precious}"),
        what="a file of the host to read (`-global`)",
        answer="is outside the folders that its policy allows",
    ),
    _argv(
        *("-object", "memory-backend-file,id=m,size=1M,mem-path=shadow"),
        what="a path relative to wherever the worker is",
        answer="shadow is relative to an unknown directory",
    ),
    _argv(
        *("-drive", "if=none,id=x,format=raw,file={stage.neighbour}"),
        what="the image of another guest",
        answer="is none of the images that are moved with the guest",
    ),
    _argv(
        "-blockdev",
        "driver=raw,node-name=x,read-only=on,file.driver=file,file.read-only=off,file.filename={stage.neighbour}",
        what="the image of another guest behind a part that is read only",
        answer="is none of the images that are moved with the guest",
    ),
    _argv(
        *("-chardev", "socket,id=c,path={stage.neighbour},server=on,wait=off"),
        what="a socket where the image of another guest is",
        answer="exists already and is no log",
    ),
    _argv(
        *("-chardev", "file,id=c,path={stage.neighbour}"),
        what="a log where the image of another guest is",
        answer="exists already and is no log",
    ),
    _argv(
        *("-chardev", "socket,id=c,path={stage.destination.guest_root}/other/qmp", "-serial", "chardev:c"),
        what="a port that is connected to the monitor of another guest",
        answer="which its policy does not list under `sockets`",
    ),
    _argv("-runas", "postgres", what="a user of the host's", answer="its policy does not allow that user"),
    _argv("-incoming", "exec:{stage.program}", what="a program that brings it in", answer="'argv'"),
    Forgery(
        "`host_request`: an image whose format options name a file of the host (`backing_file`)",
        "no image like",
        _backing,
    ),
    Forgery("`job.plan`: neither signed nor known, with a program of the attacker's", "is not signed", _unsigned),
    _plan_with("a command line of the attacker's", lambda stage: {"argv": (str(stage.program),)}),
    _plan_with("another monitor's socket", lambda stage: {"qmp": str(stage.root("two", "neighbour", "qmp"))}),
    _plan_with("a file to be removed as if it were a pidfile", lambda stage: {"pidfile": str(stage.precious)}),
    _plan_with("the image of another guest as the copy's place", _image_elsewhere),
    _plan_with(
        "a file of the host's as one that the guest needs", lambda stage: {"files": (_file_of_the_host(stage),)}
    ),
    _plan_with(
        "a folder for the guest outside of its host's",
        lambda stage: {"folders": (PlannedFolder(path=f"{stage.precious}.d", mode=0o777, owner="root", group="root"),)},
    ),
    _plan_with("a TPM with a file of the host's as its state", _tpm_of_the_attackers),
    Forgery(
        "`job.plan`: a guest with a log that overwrites a file of the host, signed by its own host, which somebody has "
        "taken over",
        "is written but lies outside",
        _of_a_taken_host,
    ),
    Forgery(
        "`job.plan`: a file of the source's host as one of the guest's, to be sent to the destination",
        "the file is sent that its host signed",
        _sent_by_the_source,
    ),
    Forgery(
        "`job.plan`: a layout with the image of another guest as the copy's place",
        "disk.raw",
        lambda stage: _laid_out(stage, path=str(stage.neighbour)),
    ),
    Forgery(
        "`job.plan`: a layout with a file of the host as the copy's place",
        "shadow",
        lambda stage: _laid_out(stage, path=str(stage.precious)),
    ),
    Forgery("`storage`: one in a folder of the host, for the copy", "mine", _storage_of_the_attackers),
    Forgery(
        "`job.plan`: a file at the destination as the image that the guest left there",
        "the image is made anew",
        _way_back,
    ),
    Forgery("`job.options`: a set of hooks outside of the folder of hooks", "hooks", _set_of_hooks),
    Forgery(
        "`guest.host`: the guest lives elsewhere; its launch file and its QEMU stay",
        "its launch file is kept aside",
        _lives_elsewhere,
    ),
    Forgery(
        "`host_request`: a guest that a host of the attacker's invention signed, with limits that have a line more for "
        "systemd",
        "is not what invented signed",
        _limits_that_say_more,
    ),
    Forgery(
        "`host_request`: start a guest that no move brought here",
        "has no launch file on two",
        lambda stage: stage.answer("two", "start_guest", StartGuest(guest="web").json_object()),
    ),
    *map(_named_by_a_path, ("start_guest", "stop_guest", "look_for_guest")),
    Forgery(
        "`host_request`: a host's next key, signed by that key and not by the former one",
        "one has another key",
        _own_successor,
    ),
    Forgery("`job.plan`: the same, for credentials to be sealed for", "one has another key", _successor_in_the_plan),
    Forgery(
        "`job.plan`: a key of the destination's that it never had",
        "does not have the key any more",
        _key_that_was_never_ours,
    ),
    Forgery("`job.nbd_server`: what was sealed for another job", "it is that of job 4711", _sealed_for_another_job),
    Forgery(
        "`roll.hook`, on a control node: a program outside of the folder of hooks",
        "is no name of a hook",
        _hook_of_a_roll,
    ),
    Forgery(
        "`guest_notice.notice`, `move_policy.options`, on a control node: likewise",
        "is no name of a hook",
        lambda stage: _asked_first(stage, Notice(program=(str(stage.program),))),
    ),
    Forgery("the same: an address that no operator has listed", "drover webhook allow", _asked_by_post),
    Forgery("`job.source`: another host than the one that signed", "is signed by one, which is not three", _of_another),
    Forgery("`job.plan`: changed after the destination began", "the plan that was proven is followed", _changed_later),
    Forgery(
        "`job.plan`: likewise, and the destination is asked what it sees",
        "the plan that was proven is followed",
        _observed_later,
    ),
    Forgery(
        "`step`: the images were made, says the row; where they are to be, another guest's lies",
        "was not made by job",
        _not_made,
    ),
    Forgery("`disk`: paths of other files", "the image is made at web/disk.raw", _disk_row),
    Forgery("`host`: another guest root of the source", "the guest root that its host signed is used", _host_row),
    Forgery(
        "`step`, `job`: the destination's images are rolled back while the guest runs on them",
        "may be running on two already: its images there stay",
        _rolled_back_beneath_it,
    ),
    Forgery(
        "programs of any local user's that are called like those of a job (`DROVER_PROCESS`)",
        "they are nobody's",
        _called_like_ours,
    ),
    Forgery(
        "`step`, `job`: the source is to go on, while the guest runs at the destination",
        "web runs on two",
        _given_back_as_it_runs,
    ),
    Forgery(
        "`step`, `job`: the same, and what the destination has of the guest is to go",
        "what it wrote is kept",
        _given_back,
    ),
    Forgery(
        "`step`: the source is to clean up after a guest that lives there, as its record says",
        "is not known to live on two",
        lambda stage: stage.step(stage.job(), CLEANUP),
    ),
    Forgery(
        "`step`, `guest`: the source is to clean up after a guest that never left; its QEMU is not ended",
        "nothing on one says that it let web go",
        _not_handed_over,
    ),
    Forgery(
        "`step`, `guest`: the same with a guest that is off; its images are not set aside",
        "nothing on one says that it let web go",
        _powered_off,
    ),
    Forgery(
        "`job.plan`: another process and another monitor as the guest of the source",
        "was changed after one had signed it",
        _source_of_another_pid,
    ),
    Forgery(
        "`job.plan`, `job.nbd_server`: the key and the address of somebody else, for the disks to be sent to",
        "two has another key than the one that one knows",
        _key_of_destination,
    ),
    Forgery("`disk.retired_path`: any file, its time over", "this host did not set it aside", _retired),
    Forgery("`job`: rolled back, with a pidfile to be removed", "'finds'", _garbage),
    Forgery("`host_request`: what is seen of a guest, by a socket of another program", "is not signed", _observed),
    Forgery(
        "`guest.qmp`: the socket of a program that calls itself a QEMU; it is not vouched for",
        "does not list under `qemu`",
        _program_called_qemu,
    ),
    Forgery("message `drover.host.answer`: with a question to another host", "left alone", _message_of_another),
    Forgery("message `drover.step.cleanup`: with a step of another host", "left alone", _step_of_another),
    Forgery(
        "`step.host`: the destination is to clean up as if it were the source",
        "is signed by one, which is not two",
        _moved_step,
    ),
    Forgery(
        "message `drover.job.cancel`, by a submitter: with a task that the controller is to send to a host (`chain`)",
        "tasks to be sent afterwards",
        lambda _: _message(CONTROL_QUEUE, "drover.job.cancel", chain=[_sent_on()]),
    ),
    Forgery(
        "the same with `callbacks`",
        "tasks to be sent afterwards",
        lambda _: _message(CONTROL_QUEUE, "drover.job.cancel", callbacks=[_sent_on()]),
    ),
    Forgery(
        "the same with a task of Celery's own that sends what it is given (`celery.group`)",
        "its task is 'celery.group'",
        lambda _: _message(CONTROL_QUEUE, "celery.group"),
    ),
    Forgery(
        "message `drover.host.answer`, by another host: thousands for the year 2099, to be kept in memory (`eta`)",
        "its eta is",
        lambda _: _message("drover.two", "drover.host.answer", headers={"eta": "2099-01-01T00:00:00+00:00"}),
    ),
    Forgery("notifications of any role, until Postgres takes no more", "the change is made", _never_notified),
    Forgery(
        "`host`: a time that no process can hold (`infinity`)",
        "violates check constraint",
        partial(_unreadable, "UPDATE host SET heartbeat_at = 'infinity' WHERE name = 'one'"),
    ),
    Forgery(
        "`job`: a state that no process knows",
        "violates check constraint",
        partial(_unreadable, "UPDATE job SET state = 'elsewhere'"),
    ),
    Forgery(
        "`guest`: a figure that no sum can hold",
        "violates check constraint",
        partial(_unreadable, f"UPDATE guest SET allocated_bytes = {-(2**63)}"),
    ),
    Forgery(
        "`job`: a downtime that is no number",
        "violates check constraint",
        partial(_unreadable, """UPDATE job SET downtime = '{"ms": "x"}'"""),
    ),
    Forgery("`host`, `job`: documents that nobody understands", "2 hosts and 1 job are read", _not_understood),
    Forgery("notification `drover_said`, by any role: with a sentence", "nothing is logged", _notification),
    Forgery("a pipe in the place of the guest's image, by the guest's own user", "is a pipe", _pipe_for_an_image),
)
