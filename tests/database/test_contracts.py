"""What travels between processes has a type and a version: older documents are read and newer ones refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from drover.errors import HostRefused, UnreadableDocument
from drover.settings import settings
from lab.pages import contracts
from models.columns import Typed
from models.contracts import Versioned, shown
from models.database import transaction
from models.documents import AllowedHosts, MigrationOptions, NbdServer
from models.drain import Drain, DrainKind
from models.host import Host, HostRequest, RequestState
from models.host_rpc import QUESTIONS, Inspect, Refusal, read_question
from models.job import Job, JobState
from models.plan import Cpu, DestinationPlan, Inspection, Plan
from models.webhook import Delivery
from tests import documents
from tests.factories import guest, host, job, load
from workers import host_rpc as answers
from workers.switchover.parameters import SourceParameters
from workflows import host_rpc

OLD_SOURCE: dict[str, Any] = {
    "pid": 7,
    "started": 9,
    "process": "boot/1/7/9",
    "uuid": None,
    "qmp": "/qmp",
    "argv": ["qemu-system-x86_64", "-m", "1G"],
    "exe": "/usr/bin/qemu-system-x86_64",
    "pidfile": None,
    "version": [10, 0, 2],
    "accel": "tcg",
    "machine_type": "pc-q35-10.0",
    "runstate": "running",
    "memory_bytes": 1 << 30,
    "cpus": 2,
    "devices": ["net0"],
    "topology": {"cpu": {"vendor": "AuthenticAMD", "words": {"CPUID.07H:EBX": 5}}, "qtree": ["a"], "ramblocks": ["b"]},
    "disks": [
        {
            "index": 0,
            "device": "disk0",
            "qdev": "/q",
            "node": "disk0",
            "file_node": "file0",
            "format": "qcow2",
            "path": "/s",
            "virtual_size_bytes": 1 << 30,
            "cluster_size_bytes": 65536,
            "create_options": {"cluster_size": "65536"},
        }
    ],
    "warnings": [],
}
OLD_PLAN: dict[str, Any] = {
    "source": OLD_SOURCE,
    "disks": [
        {
            "index": 0,
            "device": "disk0",
            "format": "qcow2",
            "source_path": "/s",
            "destination_path": "/d",
            "virtual_size_bytes": 1 << 30,
            "create_options": {"cluster_size": "65536"},
            "discard": "unmap",
        }
    ],
    "destination": {
        "argv": ["qemu-system-x86_64"],
        "qmp": "/qmp-there",
        "pidfile": None,
        "qemu": "/usr/bin/qemu-system-x86_64",
        "version": [11, 0, 0],
        "ram": "live",
        "warnings": ["mind this"],
    },
}
"""As commit 2015e49 stored it."""


def write(job_id: int, **columns: object) -> None:
    """Columns as another version would write them."""
    assigned = ", ".join(f'"{name}" = CAST(:{name} AS jsonb)' for name in columns)
    values = {name: json.dumps(value) for name, value in columns.items()}
    with transaction() as session:
        session.execute(text(f"UPDATE job SET {assigned} WHERE id = :id"), values | {"id": job_id})


@pytest.fixture
def moving(database: None) -> int:
    for name in ("one", "two"):
        host(name)
    guest("web", "one")
    return job("web", "two", state=JobState.RUNNING)


def test_the_columns_of_a_job_of_the_last_version_are_read(moving: int) -> None:
    write(
        moving,
        plan=OLD_PLAN,
        options={"max_blackout_ms": 50, "bandwidth_bytes_per_s": 7},
        nbd_server={"nonce": "n", "address": "::1", "port": 5},
        switchover={"attempt": 3, "address": "::1", "port": 6, "key": "k"},
        downtime={"ms": None, "phases": {}, "stopped_at": None, "resumed_at": None},
        ram={"status": "active", "transferred": 1, "remaining": 2, "total": 3, "bytes_per_s": 4, "passes": 5},
        window={"start": "22:00", "end": "04:00", "timezone": "Europe/Berlin"},
    )
    found = load(moving)
    assert found.plan is not None
    assert found.plan.source.qemu_version == (10, 0, 2)
    assert found.plan.destination.qemu_version == (11, 0, 0)
    assert found.plan.disks[0].destination_path == "/d"
    assert found.plan.source.topology.cpu == Cpu(vendor="AuthenticAMD", words={"CPUID.07H:EBX": 5})
    assert found.options == MigrationOptions(max_downtime_ms=50, bandwidth_bytes_per_s=7)
    assert found.nbd_server == NbdServer(nonce="n", address="::1", port=5)
    assert found.switchover is not None
    assert found.switchover.attempt == 3
    assert found.downtime is not None
    assert found.downtime.ms is None
    assert found.ram is not None
    assert found.ram.passes == 5


def test_an_empty_document_says_that_there_is_none(moving: int) -> None:
    write(moving, plan={}, nbd_server={}, switchover={}, options={})
    found = load(moving)
    assert (found.plan, found.nbd_server, found.switchover) == (None, None, None)
    assert found.options == MigrationOptions()
    with transaction() as session:
        session.get_one(Job, moving).nbd_server = NbdServer(nonce="n", address="::1", port=5)
    with transaction() as session:
        session.get_one(Job, moving).nbd_server = None
    with transaction() as session:
        assert session.scalar(text("SELECT nbd_server FROM job")) == {}


def test_a_drain_and_a_host_of_the_last_version_are_read(moving: int) -> None:
    with transaction() as session:
        session.add(Drain(kind=DrainKind.DRAIN, host="one"))
        session.flush()
        session.execute(text("""UPDATE drain SET allowed_hosts = '{"to": ["two"], "exclude": []}'"""))
        session.execute(text("""UPDATE host SET facts = '{"cpus": 4, "memory_bytes": 5, "qemu": null}'"""))
    with transaction() as session:
        assert session.query(Drain).one().allowed_hosts == AllowedHosts(to=("two",))
        assert session.get_one(Host, "one").facts.cpus == 4


def test_a_delivery_of_the_last_version_is_sent_as_it_was_written(moving: int) -> None:
    about = {"id": 1, "guest": "web", "source": "one", "destination": "two", "state": "done", "error": None}
    body = {"event": "job.done", "at": "2026-11-24T22:00:00+00:00", "job": about}
    with transaction() as session:
        session.execute(
            text(
                "INSERT INTO delivery (url, body, state, tries) "
                "VALUES ('http://x/', CAST(:body AS jsonb), 'pending', 0)"
            ),
            {"body": json.dumps(body)},
        )
    with transaction() as session:
        sent = session.query(Delivery).one().body.json_object()
    assert (sent["event"], sent["at"]) == (body["event"], body["at"])
    assert about.items() <= sent["job"].items()
    assert "drain" not in sent


@pytest.mark.parametrize("kind", [MigrationOptions, NbdServer, Inspection, DestinationPlan, Plan, Inspect])
def test_a_newer_document_is_refused_in_one_sentence(kind: type[Versioned]) -> None:
    with pytest.raises(UnreadableDocument) as refused:
        kind.read({"version": kind.latest() + 1})
    assert f"the document {kind.__name__} was written in version 2 by a newer Drover" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_wrong_document_is_refused_by_the_name_of_its_field() -> None:
    wrong = documents.inspection().json_object() | {"disks": [{"index": "first"}]}
    with pytest.raises(UnreadableDocument, match=r"Inspection is not understood: disks\.0\.index: .*, not 'first'"):
        Inspection.read(wrong)


def test_a_document_that_is_written_is_read_again() -> None:
    assert Plan.read(documents.plan().json_object()) == documents.plan()
    assert Plan.read(json.loads(json.dumps(documents.plan().json_object()))) == documents.plan()


def test_a_field_that_a_later_version_added_without_a_new_number_is_overlooked() -> None:
    assert NbdServer.read({"nonce": "n", "address": "a", "port": 1, "colour": "red"}).port == 1


def test_a_version_far_below_the_first_keeps_nobody_busy() -> None:
    assert AllowedHosts.read({"version": -(10**15), "to": ["hv2"]}) == AllowedHosts(to=("hv2",))


def test_a_column_takes_nothing_but_its_document(moving: int) -> None:
    with pytest.raises(Exception, match="MigrationOptions is wanted, not NbdServer"), transaction() as session:
        session.get_one(Job, moving).options = NbdServer(nonce="n", address="a", port=1)  # type: ignore[assignment]


def test_each_question_names_the_type_of_its_answer() -> None:
    for question in QUESTIONS.values():
        [parameter] = [
            base.__pydantic_generic_metadata__["args"][0]
            for base in question.__mro__
            if issubclass(base, Versioned) and base.__pydantic_generic_metadata__["args"]
        ]
        assert question.answer is parameter


def test_a_question_of_a_newer_version_is_answered_with_a_sentence(database: None) -> None:
    for kind, asked in (("inspect", {"version": 9, "qmp": "/q"}), ("dance", {})):
        state, told = answers._ask(HostRequest(id=1, kind=kind, question=asked), settings())
        assert state is RequestState.FAILED
        assert isinstance(told, Refusal)
        assert "newer Drover" in told.error
    assert read_question("inspect", {"qmp": "/q"}) == Inspect(qmp="/q")


def test_an_answer_of_a_newer_version_is_a_failure_of_that_host() -> None:
    with pytest.raises(HostRefused, match="one: the document Inspection was written in version 9") as refused:
        host_rpc._read(Inspect(qmp="/q"), {"version": 9}, "one")
    assert refused.value.failed


def test_parameters_of_a_newer_version_are_refused_and_older_ones_read(tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    parameters = SourceParameters(
        qmp="/q", ram="/r", switchover="/s", images=[], journal="/j", mirrors=[], nodes=[], live=True,
        max_downtime_ms=1, bandwidth_bytes_per_s=0, deadline_s=1.0, devices=[],
    )  # fmt: skip
    parameters.save(file)
    assert SourceParameters.load(file) == parameters
    written = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in written.items() if name != "version"}))
    assert SourceParameters.load(file) == parameters
    file.write_text(json.dumps(written | {"version": 4}))
    with pytest.raises(UnreadableDocument, match="of version 4 and this process reads up to version 3"):
        SourceParameters.load(file)


@pytest.mark.parametrize(
    ("process", "spared"),
    [("workers.switchover.__main__", {"pydantic", "sqlalchemy"}), ("workers.proof.answering", {"sqlalchemy"})],
)
def test_processes_that_start_during_a_move_import_little(process: str, spared: set[str]) -> None:
    asked = f"import sys, {process}; print({spared} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", asked], text=True).strip() == "set()"


def test_every_typed_column_is_on_the_page() -> None:
    page = contracts.page()
    for table in Job.metadata.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, Typed):
                assert f"`{table.name}.{column.name}`" in page


@pytest.mark.parametrize(
    "value",
    [pytest.param(10**5000, id="digits"), "\0\x1b" * 1000, [[[[[[]]]]]] * 50, {"a": {"b": "c" * 500}}, float("nan")],
)
def test_any_value_is_shown_short_and_printable(value: Any) -> None:
    assert shown(value).isprintable()
    assert len(shown(value)) < 600
