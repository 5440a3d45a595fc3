"""The streams of a move as both workers begin and end them: what lies on disk, and what becomes of them, and of a move
that waits for its turn, when host keys are renewed meanwhile.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from drover.errors import Fatal
from drover.settings import Settings, StreamSecurity
from models.database import transaction
from models.documents import HostFacts
from models.host import Host
from tests.helpers import until
from tests.stage import MIRROR, PREPARE, START, Stage
from workers.step import Context
from workers.streams import client, handshake, supervisor
from workers.streams.parameters import NBD, ServerParameters
from workers.trust import host_key
from workflows import host_keys

pytestmark = pytest.mark.usefixtures("database")


class Move:
    """Of a guest that is not there: only the two ends of its streams run."""

    def __init__(self, folder: Path) -> None:
        self.stage = Stage(folder)
        self.tell_keys()
        with transaction() as session:
            keys = host_keys.of_plan(session, "one", "two")
        self.job = self.stage.job(self.stage.plan(self.stage.signed(address="127.0.0.2")).model_copy(update=keys))

    @property
    def hosts(self) -> tuple[Settings, Settings]:
        return self.stage.source, self.stage.destination

    def tell_keys(self) -> None:
        """As the heartbeats of both do."""
        with transaction() as session:
            for ours in self.hosts:
                row = session.get_one(Host, ours.host)
                row.public_key = host_key.public(ours)
                row.facts = HostFacts(streams=StreamSecurity.ENCRYPTED, successions=host_key.successions(ours))

    def renew(self) -> None:
        """The keys of both hosts."""
        for ours in self.hosts:
            host_key.renew(ours)
        self.tell_keys()

    def at(self, position: int) -> Context:
        """The worker has taken this link."""
        return Context(claim=self.stage.claim(self.job, position), settings=self.hosts[position != MIRROR])

    def serve(self, nonce: str) -> None:
        asyncio.run(supervisor.serve(self.at(START), nonce))

    def connect(self) -> Context:
        ctx = self.at(MIRROR)
        asyncio.run(supervisor.connect(ctx))
        return ctx

    def end(self) -> None:
        for position in (START, MIRROR):
            asyncio.run(supervisor.stop(self.at(position)))


@pytest.fixture
def move() -> Iterator[Move]:
    with TemporaryDirectory(prefix="dk", dir="/tmp") as folder:  # a short one: Unix sockets lie in it
        made = Move(Path(folder))
        yield made
        made.end()


def reaches(ctx: Context) -> bool:
    """The destination's process lets the source in, and the source's holds to what it was told."""
    told = supervisor._parameters(ctx, {})
    try:
        client.open_stream(told, NBD, client.context_of(told))
    except handshake.Refused as error:
        return "nobody listens for nbd" in str(error) and supervisor.connected(ctx)
    except OSError:
        return False
    raise AssertionError("somebody serves images")


def test_the_address_that_the_source_has_signed_has_a_queue_of_its_own_at_the_destination(move: Move) -> None:
    move.serve("first")
    assert ServerParameters.load(move.at(START).directory.streams).of_source is not None


def test_credentials_are_on_disk_for_the_worker_alone_and_only_until_the_streams_are_stopped(move: Move) -> None:
    move.serve("first")
    move.connect()
    files = [move.at(position).directory.streams for position in (START, MIRROR)]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    move.end()
    assert not any(file.exists() for file in files)


def test_nothing_is_sent_in_plain_text_because_the_other_host_does_without_tls(move: Move) -> None:
    plain = move.stage.destination.model_copy(update={"streams": StreamSecurity.PLAIN})
    asyncio.run(supervisor.serve(Context(claim=move.at(START).claim, settings=plain), "first"))
    with pytest.raises(Fatal, match="DROVER_STREAMS is encrypted on one and plain on two"):
        move.connect()


def test_the_streams_of_a_move_go_on_and_are_made_anew_when_both_hosts_keys_were_renewed(move: Move) -> None:
    move.serve("first")
    ctx = move.connect()
    until("both ends run", lambda: reaches(ctx))
    move.renew()
    ctx = move.at(MIRROR)
    assert reaches(ctx)
    move.serve("second")  # the NBD server died
    ctx = move.connect()
    until("both ends run again", lambda: reaches(ctx))
    move.renew()
    assert reaches(move.at(MIRROR))


def test_a_move_that_was_planned_before_the_keys_were_renewed_begins_and_connects(move: Move) -> None:
    move.renew()
    move.stage.plan()  # another move of that host: its new key is believed by now
    with transaction() as session:
        host_keys.of_both(session, "one", "two")
    assert move.stage.step(move.job, PREPARE) == "done"
    move.serve("first")
    ctx = move.connect()
    until("both ends run", lambda: reaches(ctx))
