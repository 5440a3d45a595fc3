"""Whose descriptions of guests a host follows, and what it takes over from a version that signed nothing."""

import json
import shutil
import time
from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from drover.settings import Settings, settings
from models.documents import HostFacts
from models.job import JobState
from models.plan import Inspection
from tests import documents, factories
from tests.cli.support import drover
from workers import registration
from workers.step import JobDirectory
from workers.trust import attestation, held_plan, host_key, known_hosts
from workers.trust.own_file import content, edited

KEY = "A" * 43 + "="


def host(folder: Path, name: str, installed: int = 1) -> Settings:
    return factories.offline(host=name, directory=folder / name / str(installed), policy=folder / f"{name}.toml")


def said_by(there: Settings) -> Inspection:
    return attestation.attested(documents.inspection(), there)


def key(of: Settings) -> str:
    return host_key.public(of)


def believed(by: Settings) -> dict[str, str]:
    return {host: entry["key"] for host, entry in content(by.directory / known_hosts.NAME).items()}


def test_a_key_is_believed_when_it_is_first_seen_and_then_no_other(tmp_path: Path) -> None:
    here, there, anew = host(tmp_path, "two"), host(tmp_path, "one"), host(tmp_path, "one", installed=2)
    assert attestation.proven(said_by(there), here).host == "one"
    with pytest.raises(PreconditionFailed, match="run `drover host trust one --key KEY` on two"):
        attestation.proven(said_by(anew), here)
    assert known_hosts.trust("one", key(anew), here) == key(there)
    assert attestation.proven(said_by(anew), here).host == "one"
    with pytest.raises(PreconditionFailed, match="has another key"):
        attestation.proven(said_by(there), here)
    assert (here.directory / known_hosts.NAME).stat().st_mode & 0o777 == 0o600


def test_a_wrong_signature_makes_no_keybelieved(tmp_path: Path) -> None:
    here, there = host(tmp_path, "two"), host(tmp_path, "one")
    said = said_by(there)
    assert said.attestation is not None
    forged = said.attestation.model_copy(update={"public_key": key(host(tmp_path, "mallory"))})
    with pytest.raises(PreconditionFailed, match="is not what one signed"):
        attestation.proven(said.model_copy(update={"attestation": forged}), here)
    assert believed(here) == {}


def test_what_is_signed_for_something_else_describes_no_guest(tmp_path: Path) -> None:
    here, there = host(tmp_path, "two"), host(tmp_path, "one")
    said = said_by(there).attestation
    assert said is not None
    signature = host_key.sign(there, b"something else\n" + said.statement.encode())
    other = said.model_copy(update={"signature": signature})
    with pytest.raises(PreconditionFailed, match="is not what one signed"):
        attestation.proven(documents.inspection(attestation=other), here)


def test_only_listed_hosts_are_believed_where_the_policy_lists_some(tmp_path: Path) -> None:
    here, one, three = host(tmp_path, "two"), host(tmp_path, "one"), host(tmp_path, "three")
    here.policy.write_text(f'[hosts]\none = "{key(one)}"\n')
    assert attestation.proven(said_by(one), here).host == "one"
    with pytest.raises(PreconditionFailed, match="does not trust three"):
        attestation.proven(said_by(three), here)
    with pytest.raises(PreconditionFailed, match=r"another key than the one that .* lists"):
        attestation.proven(said_by(host(tmp_path, "one", installed=2)), here)


def test_a_renewed_key_is_believed_and_the_former_one_counts_for_what_was_signed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = host(tmp_path, "two"), host(tmp_path, "one")
    before = said_by(there)
    attestation.proven(before, here)
    host_key.renew(there)
    assert attestation.proven(said_by(there), here).host == "one"
    assert believed(here) == {"one": key(there)}
    attestation.proven(before, here)  # a move that waits for its turn
    assert attestation.proven(before, there, of="one").host == "one"
    later = time.time() + 31 * 24 * 3600
    monkeypatch.setattr("workers.trust.known_hosts.time.time", lambda: later)
    with pytest.raises(PreconditionFailed, match="has another key"):
        attestation.proven(before, here)


def test_a_key_that_an_earlier_version_has_written_down_counts(tmp_path: Path) -> None:
    here, there = host(tmp_path, "two"), host(tmp_path, "one")
    with edited(here.directory / known_hosts.NAME) as entries:
        entries["one"] = key(there)
    assert attestation.proven(said_by(there), here).host == "one"
    with pytest.raises(PreconditionFailed, match="has another key"):
        attestation.proven(said_by(host(tmp_path, "one", installed=2)), here)


def test_a_former_key_does_not_come_back_and_does_not_count_once_a_key_was_told(tmp_path: Path) -> None:
    here, there = host(tmp_path, "two"), host(tmp_path, "one")
    before = said_by(there)
    attestation.proven(before, here)
    thief = host(tmp_path, "one", installed=2)
    shutil.copytree(there.directory, thief.directory)
    host_key.renew(there)
    attestation.proven(said_by(there), here)
    host_key.renew(thief)
    with pytest.raises(PreconditionFailed, match="has another key"):
        attestation.proven(said_by(thief), here)
    known_hosts.trust("one", key(there), here)
    with pytest.raises(PreconditionFailed, match="has another key"):
        attestation.proven(before, here)


def test_a_policy_that_lists_a_former_key_lets_the_one_in_that_it_has_signed(tmp_path: Path) -> None:
    here, one = host(tmp_path, "two"), host(tmp_path, "one")
    here.policy.write_text(f'[hosts]\none = "{key(one)}"\n')
    before = said_by(one)
    host_key.renew(one)
    for said in (before, said_by(one), before):
        assert attestation.proven(said, here).host == "one"
    assert known_hosts.renewed(here) == {"one": key(one)}
    here.policy.write_text(f'[hosts]\none = "{key(host(tmp_path, "one", installed=2))}"\n')
    with pytest.raises(PreconditionFailed, match=r"another key than the one that .* lists"):
        attestation.proven(before, here)


def test_nobody_else_speaks_in_a_hosts_own_name(tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match="signed in the name of one, but with another key"):
        attestation.proven(said_by(host(tmp_path, "one", installed=2)), host(tmp_path, "one"))


def test_a_key_is_made_once_and_is_for_nobody_else_to_read(tmp_path: Path) -> None:
    first = key(host(tmp_path, "one"))
    path = host(tmp_path, "one").directory / host_key.NAME
    assert (key(host(tmp_path, "one")), path.stat().st_mode & 0o777) == (first, 0o600)


@pytest.mark.usefixtures("database")
def test_the_keys_of_hosts_are_shown_and_believed_by_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_HOST", "two")
    monkeypatch.setenv("DROVER_DIRECTORY", str(tmp_path))
    settings.cache_clear()
    shown = drover("host", "key", "--json")
    assert json.loads(shown.stdout) == {"name": "two", "key": host_key.public(settings())}
    told = drover("host", "trust", "one", "--key", KEY, "--json")
    assert json.loads(told.stdout) == {"name": "one", "key": KEY, "former": None}
    assert believed(settings()) == {"one": KEY}
    assert drover("host", "trust", "one", "--key", "x").exit_code == 2
    renewed = json.loads(drover("host", "key", "--renew", "--json").stdout)
    assert renewed == {"name": "two", "key": host_key.public(settings()), "former": json.loads(shown.stdout)["key"]}
    settings.cache_clear()


@pytest.fixture
def of_the_version_before(database: None) -> int:
    """A job under way whose plan nobody signed."""
    factories.host("one", facts=HostFacts())
    factories.host("two")
    factories.guest("web", "one")
    return factories.job("web", "two", state=JobState.RUNNING, plan=documents.plan())


def test_a_job_of_a_version_that_signed_nothing_goes_on(of_the_version_before: int, tmp_path: Path) -> None:
    ours = factories.ours(host="one", directory=tmp_path)
    (tmp_path / registration.LOCK).touch()  # a worker of that version was here
    registration.first_start(ours)
    registration.join(ours)
    folder = JobDirectory(tmp_path / "jobs" / str(of_the_version_before)).path
    assert held_plan.held(folder) == documents.plan()


def test_it_is_believed_only_once(of_the_version_before: int, tmp_path: Path) -> None:
    ours = factories.ours(host="one", directory=tmp_path)
    (tmp_path / registration.LOCK).touch()
    host_key.public(ours)
    registration.first_start(ours)
    registration.join(ours)
    assert not (tmp_path / "jobs").exists()


def test_a_new_host_takes_nothing_over(of_the_version_before: int, tmp_path: Path) -> None:
    ours = factories.ours(host="one", directory=tmp_path)
    registration.first_start(ours)
    registration.join(ours)
    assert not (tmp_path / "jobs").exists()
