"""The key pair of a host: what is sealed for one host is read by that one alone, and a changed key is not trusted."""

import time
from pathlib import Path

import pytest
from sqlalchemy import text

from drover.errors import Fatal, PreconditionFailed
from drover.settings import Settings, StreamSecurity
from models.database import transaction
from models.documents import HostFacts
from models.host import Host
from models.job import Job
from tests import factories
from tests.stage import Stage
from workers.trust import host_key
from workflows import host_keys
from workflows.migration import preflight

DAY_S = 24 * 3600


def _host(folder: Path) -> Settings:
    return factories.offline(directory=folder)


def test_only_the_host_that_it_is_for_reads_what_was_sealed(tmp_path: Path) -> None:
    here, there, elsewhere = (_host(tmp_path / name) for name in ("here", "there", "elsewhere"))
    sealed = host_key.seal(here, host_key.public(there), {"secret": "s"})
    assert host_key.unseal(there, host_key.public(here), sealed) == {"secret": "s"}
    assert "secret" not in sealed
    for reader, writer in ((elsewhere, here), (there, elsewhere)):
        with pytest.raises(host_key.NotFromThatHost):
            host_key.unseal(reader, host_key.public(writer), sealed)
    with pytest.raises(host_key.NotFromThatHost):
        host_key.unseal(there, host_key.public(here), "A" + sealed[1:] if sealed[0] != "A" else "B" + sealed[1:])


def test_a_signature_is_of_one_host_and_one_message(tmp_path: Path) -> None:
    here, there = _host(tmp_path / "here"), _host(tmp_path / "there")
    signature = host_key.sign(here, b"message")
    host_key.verify(host_key.public(here), b"message", signature)
    for key, message in ((host_key.public(there), b"message"), (host_key.public(here), b"another")):
        with pytest.raises(host_key.NotFromThatHost):
            host_key.verify(key, message, signature)


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    ours = _host(tmp_path)
    assert host_key.public(ours) == host_key.public(ours)
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def hosts(database: None) -> None:
    for name in ("one", "two"):
        factories.host(name, public_key=f"key of {name}", facts=HostFacts(streams=StreamSecurity.ENCRYPTED))


def _change(name: str, **columns: object) -> None:
    with transaction() as session:
        for column, value in columns.items():
            setattr(session.get_one(Host, name), column, value)


def _keys() -> dict[str, str]:
    with transaction() as session:
        return host_keys.of_both(session, "one", "two")


@pytest.mark.usefixtures("hosts")
def test_a_key_counts_from_the_first_move_on_and_a_changed_one_only_once_an_operator_says_so() -> None:
    assert _keys() == {"one": "key of one", "two": "key of two"}
    _change("two", public_key="another")
    with pytest.raises(PreconditionFailed, match=r"another key than before, another: .*`drover host trust two`"):
        _keys()
    host_keys.trust("two")
    assert _keys() == {"one": "key of one", "two": "another"}


@pytest.mark.usefixtures("hosts")
def test_a_host_that_shows_no_key_is_refused() -> None:
    _change("one", public_key=None)
    for refused in (_keys, lambda: host_keys.trust("one")):
        with pytest.raises(PreconditionFailed, match="one has no key yet: start a worker of this version there"):
            refused()


@pytest.mark.usefixtures("hosts")
def test_two_hosts_that_protect_their_streams_differently_are_refused() -> None:
    _change("one", facts=HostFacts(streams=StreamSecurity.PLAIN))
    with pytest.raises(PreconditionFailed, match="DROVER_STREAMS is plain on one and encrypted on two"):
        _keys()


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("streams", [StreamSecurity.ENCRYPTED, StreamSecurity.PLAIN])
def test_a_move_in_plain_text_is_warned_of_and_no_other(tmp_path: Path, streams: StreamSecurity) -> None:
    stage = Stage(tmp_path)
    stage.destination = stage.destination.model_copy(update={"streams": streams})
    warned = preflight.warnings(stage.plan())
    assert any("in plain text" in said for said in warned) is (streams is StreamSecurity.PLAIN)


def test_two_submissions_at_once_do_not_wait_for_each_other(hosts: None) -> None:
    factories.guest("g1", "one")
    with transaction() as asking:
        host_keys.of_both(asking, "one", "two")  # a second submission asks while the first inserts its job
        with transaction() as inserting:
            inserting.execute(text("SET LOCAL lock_timeout = '2s'"))
            inserting.add(Job(guest="g1", source="one", destination="two", error="", steps=[], disks=[]))
            inserting.flush()
            inserting.rollback()


def test_what_was_sealed_for_a_former_key_is_read_and_what_is_sealed_by_it_is_believed(tmp_path: Path) -> None:
    here, there = _host(tmp_path / "here"), _host(tmp_path / "there")
    mine, theirs = host_key.public(here), host_key.public(there)
    sealed = host_key.seal(there, mine, {"for": "here"}, by=theirs)
    for each in (here, there, there):
        host_key.renew(each)
    assert host_key.public(here) != mine
    assert host_key.unseal(here, theirs, sealed, by=mine) == {"for": "here"}
    again = host_key.seal(there, mine, {"anew": 1}, by=theirs)
    assert host_key.unseal(here, theirs, again, by=mine) == {"anew": 1}
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "here").iterdir()} == {0o600}


def test_a_former_key_is_forgotten_once_no_move_can_have_been_planned_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = _host(tmp_path)
    former, begun_at = host_key.public(ours), time.time()
    host_key.renew(ours)
    monkeypatch.setattr("workers.trust.host_key.time.time", lambda: begun_at + 90 * DAY_S)
    host_key.drop_former(ours, oldest_move=begun_at + 29 * DAY_S)
    assert former in host_key.all_public(ours)
    host_key.drop_former(ours, oldest_move=begun_at + 31 * DAY_S)
    assert host_key.all_public(ours) == {host_key.public(ours)}
    with pytest.raises(Fatal, match="does not have the key any more with which this move was planned"):
        host_key.seal(ours, former, {}, by=former)
    [told] = host_key.successions(ours)  # what it has signed is told all the same
    assert (told.former, told.key) == (former, host_key.public(ours))


@pytest.mark.usefixtures("hosts")
def test_a_key_that_the_former_one_has_signed_counts_without_an_operator(tmp_path: Path) -> None:
    ours = factories.offline(host="two", directory=tmp_path)
    first = host_key.public(ours)
    _change("two", public_key=first, trusted_key=first)
    for _ in range(2):
        host_key.renew(ours)
    shown = HostFacts(streams=StreamSecurity.ENCRYPTED, successions=host_key.successions(ours))
    _change("two", public_key=host_key.public(ours), facts=shown)
    host_keys.follow_renewed()
    with transaction() as session:
        assert session.get_one(Host, "two").trusted_key == host_key.public(ours)
        plan = host_keys.of_plan(session, "one", "two")
    assert (plan["destination_key"], len(plan["successions"])) == (host_key.public(ours), 2)


@pytest.mark.usefixtures("hosts")
def test_a_key_that_another_hosts_key_has_signed_does_not_count(tmp_path: Path) -> None:
    two, other = (factories.offline(host=name, directory=tmp_path / name) for name in ("two", "mallory"))
    first = host_key.public(two)
    _change("two", public_key=first, trusted_key=first)
    real, stolen = host_key.renew(two), host_key.renew(other)
    forgeries = (
        stolen.model_copy(update={"host": "two", "former": first}),
        real.model_copy(update={"key": host_key.public(other)}),
        real.model_copy(update={"host": "one", "key": host_key.public(other)}),
        stolen.model_copy(update={"signature": "no base64", "host": "two", "former": first}),
    )
    for forged in forgeries:
        _change("two", public_key=forged.key, facts=HostFacts(successions=(forged,)))
        host_keys.follow_renewed()
        with pytest.raises(PreconditionFailed, match="two shows another key than before"):
            _keys()
