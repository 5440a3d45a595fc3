"""A move with certificates of the operator's own, by a real authority with one between; and moves that are refused."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from drover.errors import PreconditionFailed
from drover.settings import StreamSecurity
from lab.directory import Lab, LabHost
from models.database import transaction
from models.job import Job
from tests import labs
from tests.certificates import Authority
from tests.helpers import Moves
from workflows.migration import jobs

pytestmark = [pytest.mark.thorough, pytest.mark.guests]

ROOT = Authority("root")
BETWEEN = Authority("between", by=ROOT)


class CertifiedLab(Lab):
    """Each of its hosts has a certificate of its own."""

    def host_environment(self, host: LabHost) -> dict[str, str]:
        files = {what: str(self.path / f"{host.name}.{what}") for what in ("certificate", "key", "authority")}
        named = {f"DROVER_TLS_{what.upper()}": path for what, path in files.items()}
        return super().host_environment(host) | {"DROVER_STREAMS": StreamSecurity.CERTIFICATES} | named


@pytest.fixture
def moves() -> Iterator[Moves]:
    with labs.temporary(kind=CertifiedLab) as lab:
        for host in ("host-a", "host-b"):
            BETWEEN.issue(lab.path, host)
        made = Moves(lab)
        yield made
        made.end()


def test_a_guest_moves_by_certificates_of_the_operator_and_wrong_ones_are_refused_before_anything_changes(
    moves: Moves,
) -> None:
    guest, path = moves.boot(), moves.lab.path
    moves.done(moves.move(guest, "host-b"))
    moves.intact(guest, "host-b")

    def refused() -> str:
        with pytest.raises(PreconditionFailed) as refusal:
            jobs.submit(guest, "host-a")
        return str(refusal.value)

    BETWEEN.issue(path, "host-a", left=timedelta(minutes=-1))
    assert "the certificate of host-a expired at" in refused()
    Authority("other").issue(path, "host-a")
    assert "the certificate of host-a is of no authority that host-b trusts" in refused()
    BETWEEN.issue(path, "host-a", name="host-c")
    assert "the certificate of host-a is for host-c" in refused()
    BETWEEN.issue(path, "host-a")
    BETWEEN.issue(path, "host-b", left=timedelta(minutes=-1))
    assert "the certificate of host-b expired at" in refused()
    with transaction() as session:
        assert session.query(Job).count() == 1

    ROOT.issue(path, "host-b")  # new ones count from the next move on, while the workers run
    moves.done(moves.move(guest, "host-a"))
    moves.intact(guest, "host-a")
