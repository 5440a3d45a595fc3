"""A host's name belongs to one machine at a time."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func

from models.database import transaction
from models.documents import HostFacts
from models.host import Host
from tests import factories
from workers import registration
from workers.process.machine import machine_id

pytestmark = pytest.mark.usefixtures("database")


def _end() -> None:
    """As the end of the process would."""
    while registration._lock:
        registration._lock.pop().close()


def test_a_second_machine_is_refused_until_the_first_falls_silent(
    tmp_path: Path,
) -> None:
    factories.host("hv1", address="10.0.0.7", facts=HostFacts(machine_id="another/boot"))
    ours = factories.ours(host="hv1", directory=tmp_path)
    with pytest.raises(SystemExit, match=r"another machine serves hv1 already \(10\.0\.0\.7, "):
        registration.join(ours)
    with transaction() as session:
        row = session.get_one(Host, "hv1")
        assert row.address == "10.0.0.7"
        row.heartbeat_at = func.clock_timestamp() - ours.host_timeout - timedelta(seconds=1)
    _end()
    registration.join(ours)
    _end()
    with transaction() as session:
        assert session.get_one(Host, "hv1").facts.machine_id == machine_id()
    registration.join(ours)  # at once: the machine is the same
    _end()
