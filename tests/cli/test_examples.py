"""The JSON examples of docs/reference/cli.md have the fields of what is printed, and values of the same kinds."""

import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, update

from drover.cli import service_start
from drover.console import serving
from drover.settings import settings
from models.base import Document
from models.database import transaction
from models.documents import RamProgress
from models.host_rpc import FoundMonitor, FoundQemu, FoundQemus, Orphan, Orphans
from models.job import Disk, JobState
from models.launcher import Launcher, LauncherKind
from models.storage import Storage
from models.webhook import Notification
from tests import factories
from tests.cli.support import document, drover, insert_job
from tests.guides import DOCS
from workers import celery_worker
from workflows import cold_start, guest_scan, orphans
from workflows.signatures import Signature
from workflows.submissions import MigrationSubmission

pytestmark = pytest.mark.usefixtures("hypervisor")
PAGE = (DOCS / "reference/cli.md").read_text()
KEYS_VARY = {"labels", "refused_by", "downtime_phases", "policies", "settings"}
"""Fields whose keys are names, not fields."""
ABRIDGED = {"options", "launcher"}
"""Documents that stand elsewhere as a whole: an example has a few of their fields."""
LATER = datetime.now(UTC) + timedelta(days=1)
SENDING = RamProgress(status="active", transferred=500, remaining=40, total=800, bytes_per_s=20)


def examples() -> dict[str, Document]:
    """{heading: the first example below it}"""
    parts = re.split(r"^##+ (.*)$", PAGE, flags=re.MULTILINE)
    below = zip(parts[1::2], parts[2::2], strict=True)
    found = {heading: re.search(r"```json\n(.*?)```", text, re.DOTALL) for heading, text in below}
    return {heading: json.loads(block[1]) for heading, block in found.items() if block}


def differences(told: Any, real: Any, at: str = "") -> Iterator[str]:
    """Fields that only one of the two has, and those whose values are of different kinds."""
    match told, real:
        case dict(), dict():
            name = at.rpartition(".")[2]
            if name not in KEYS_VARY:
                differ = told.keys() - real.keys() if name in ABRIDGED else told.keys() ^ real.keys()
                yield from (f"{at}.{field}" for field in differ)
            for field in told.keys() & real.keys():
                yield from differences(told[field], real[field], f"{at}.{field}")
        case list(), list():
            for one in told:
                yield from differences(one, real[0], f"{at}[]") if real else ()
        case _:
            kinds = {float if isinstance(one, int) and not isinstance(one, bool) else type(one) for one in (told, real)}
            yield from [at] if len(kinds - {type(None)}) > 1 else ()


@pytest.fixture
def hosts_answer(answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What these stand-ins say is typed as a host's answer is."""
    launcher = Launcher(kind=LauncherKind.UNIT, name="web.service")
    monitor = FoundMonitor(address="/run/web.qmp", qmp=True, held_by="process 640 (libvirtd)")
    qemu = FoundQemu(process="x/1/2/3", pid=812, user="root", launcher=launcher, monitors=(monitor,))
    find = Orphan(kind="process", what="NBD server (pid 4711)", job=7, why="the job is rolled back", removed=True)
    monkeypatch.setattr(guest_scan, "ask", lambda *_: FoundQemus(qemus=(qemu,)))
    monkeypatch.setattr(orphans, "ask", lambda *_: Orphans(finds=(find,), notes=("its monitor is held",)))
    monkeypatch.setattr(cold_start, "stop", lambda *_, **__: True)


@pytest.fixture
def services_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celery_worker, "main", lambda _options: None)
    monkeypatch.setattr(service_start, "_check_broker", lambda: None)
    monkeypatch.setattr(serving, "serve", lambda *_, **__: None)


def a_job(state: JobState = JobState.DONE, **columns: Any) -> str:
    number = insert_job(state, **columns)
    with transaction() as session:
        kept = {"retired_path": "/s/0.drover-1", "retired_until": LATER, "retired_bytes": 1 << 20, "ready_at": LATER}
        session.execute(update(Disk).where(Disk.job_id == number).values(kept))
    return str(number)


def image_list() -> Document:
    a_job(committed_at=func.now())
    return document("image", "list")


def storage_list() -> Document:
    with transaction() as session:
        room = {"total_bytes": 1 << 40, "free_bytes": 1 << 30, "seen_at": LATER}
        session.add_all(
            Storage(host=host, name="guests", driver="folder", place="/g", **room) for host in ("hv1", "hv2")
        )
    assert drover("storage", "map", "hv1", "guests", "--to", "hv2", "guests", "--format", "raw").exit_code == 0
    return document("storage", "list")


def fleet_show() -> Document:
    document("host", "set", "hv1", "--bandwidth", "10M/s")
    return document("fleet", "show")


def webhook_list() -> Document:
    factories.receiver("10.0.0.0/8")
    return document("webhook", "list")


def budget_set() -> Document:
    more = ("--from", "rack=r1", "--bandwidth", "1G/s", "--bandwidth-at", "08:00-20:00=200M/s")
    return document("budget", "set", "uplink", *more)


def drain_show() -> Document:
    a_job(JobState.RUNNING)
    return document("drain", "hv1")


def reconciled() -> Document:
    a_job(JobState.NEEDS_OPERATOR)
    return document("reconcile", "--dry-run")


def host_trust_key() -> Document:
    settings.cache_clear()  # of a process that was pointed elsewhere
    return document("host", "trust", "hv2", "--key", document("host", "key")["key"])


def broker_acl() -> Document:
    folder = os.environ["DROVER_DIRECTORY"]
    return document("broker", "acl", "--host", "hv1", "--passwords", folder, "--out", f"{folder}/users.acl")


def submission() -> Document:
    said = examples()["Who may submit"]
    asked = MigrationSubmission.read({name: value for name, value in said.items() if name != "signature"})
    assert asked.guest == "web"
    shown = said["signature"] | {"ed25519": "x" * 88}
    return said | {"signature": Signature.model_validate(shown).model_dump()}


def webhook_body() -> Document:
    told = examples()["Webhooks"]
    return {"delivery": 1} | Notification.read({name: told[name] for name in told if name != "delivery"}).json_object()


PRINTED: dict[str, Callable[[], Document]] = {
    "Errors": lambda: document("migrate", "nobody", "--to", "hv2", code=2),
    "A job": lambda: document("job", "show", a_job()),
    "`drover job list`": lambda: document("job", "list", "--all", "--guest", a_job() and "web"),
    "`drover job explain`": lambda: document("job", "explain", a_job()),
    "`drover migrate --dry-run`": lambda: document("migrate", "web", "--to", "hv2", "--dry-run"),
    "`drover host list`": lambda: document("host", "list"),
    "`drover image list`": image_list,
    "`drover storage list`": storage_list,
    "`drover fleet show`, `drover fleet set`": fleet_show,
    "`drover webhook allow`, `list`, `rotate`, `remove`": webhook_list,
    "`drover host set`": lambda: document("host", "set", "hv1", "--bandwidth", "10M/s", "--label", "rack=r1"),
    "`drover host ok-to-drain`, `drover host headroom`": lambda: document("host", "ok-to-drain", "hv1"),
    "Budgets": budget_set,
    "`drover job complete-now`": lambda: document(
        "job", "complete-now", a_job(JobState.RUNNING, ram=SENDING, cutover_begun_at=func.clock_timestamp())
    ),
    "`drover host key`, `drover host trust --key`": host_trust_key,
    "`drover doctor`, `drover config check`, `drover config show`": lambda: document("config", "check", code=1),
    "`drover host trust`": lambda: document("host", "trust", "hv2"),
    "`drover host cordon`, `drover host uncordon`, `drover host forget`": lambda: document("host", "cordon", "hv1"),
    "`drover guest list`": lambda: document("guest", "list"),
    "`drover guest scan`": lambda: document("guest", "scan", "--host", "hv1"),
    "`drover guest show`, `drover guest adopt`": lambda: document("guest", "show", "web"),
    "`drover guest start`, `drover guest stop`": lambda: document("guest", "stop", "web"),
    "`drover guest forget`": lambda: document("guest", "forget", "web"),
    "`drover db upgrade`": lambda: document("db", "upgrade"),
    "`drover broker acl`": broker_acl,
    "`drover db roles`": lambda: document("db", "roles", "--host", "hv1", "--password", "hv1"),
    "`drover worker`, `drover controller`": lambda: document("worker"),
    "`drover console`, `drover flower`": lambda: document("console"),
    "`reconcile`": reconciled,
    "`drover gc`": lambda: document("gc", "--host", "hv1"),
    "`drover drain --dry-run`, `drover return --dry-run`": lambda: document("drain", "hv1", "--dry-run"),
    "`drover drain`, `drover return`, `drain show`, `watch`, `pause`, `resume`, `cancel`": drain_show,
    "`drover roll`, `roll show`, `watch`, `pause`, `resume`, `set`, `cancel`": lambda: document(
        "roll", "--host", "hv1", "--hook", "upgrade"
    ),
    "Who may submit": submission,
    "Webhooks": webhook_body,
}


def test_every_example_is_compared_with_what_is_printed() -> None:
    assert examples().keys() == PRINTED.keys()


@pytest.mark.thorough
@pytest.mark.usefixtures("hosts_answer", "services_end_at_once")
@pytest.mark.parametrize("heading", PRINTED)
def test_an_example_has_the_fields_of_what_is_printed(heading: str) -> None:
    assert list(differences(examples()[heading], PRINTED[heading]())) == []
