"""Who owns the guest: the table, case by case. No I/O."""

import pytest

from models.host_rpc import Observation
from workflows.migration.reconcile import Owner, verdict


def source(
    runstate: str | None, migration: str | None = "none", *, alive: bool = True, told: bool = False
) -> Observation:
    return Observation(alive=alive, runstate=runstate, migration=migration, told_to_run=told)


def destination(
    runstate: str | None, migration: str | None = "none", *, alive: bool = True, may_run: bool = False
) -> Observation:
    return Observation(alive=alive, runstate=runstate, migration=migration, may_run=may_run)


GONE_SOURCE = source(None, None, alive=False)
GONE_DESTINATION = destination(None, None, alive=False)
LOADED = destination("paused", "completed")
WAITING = destination("inmigrate")


@pytest.mark.parametrize(
    ("here", "there", "owner"),
    [
        (source("running"), GONE_DESTINATION, Owner.SOURCE),
        (source("running", "active"), WAITING, Owner.SOURCE),
        (source("running", "cancelled"), LOADED, Owner.SOURCE),
        (source("finish-migrate", "pre-switchover"), WAITING, Owner.SOURCE),
        (source("finish-migrate", "device"), LOADED, Owner.SOURCE),
        (source("postmigrate", "completed"), LOADED, Owner.SOURCE),
        (source("postmigrate", "completed", told=True), LOADED, Owner.DESTINATION),
        (
            source("postmigrate", "completed", told=True),
            destination("running", "completed", may_run=True),
            Owner.DESTINATION,
        ),
        (source("postmigrate", "completed", told=True), GONE_DESTINATION, Owner.NOBODY),
        (
            source("postmigrate", "completed", told=True),
            destination(None, None, alive=False, may_run=True),
            Owner.NOBODY,
        ),
        (GONE_SOURCE, LOADED, Owner.DESTINATION),
        (GONE_SOURCE, WAITING, Owner.NOBODY),
        (GONE_SOURCE, destination("running", "completed", may_run=True), Owner.DESTINATION),
        (GONE_SOURCE, destination("shutdown", "completed", may_run=True), Owner.DESTINATION),
        (source("postmigrate", "completed"), destination(None, None, may_run=True), Owner.DESTINATION),
        (source("running"), destination("running", may_run=True), Owner.BOTH),
        (source(None, None), LOADED, Owner.UNKNOWN),
        (None, LOADED, Owner.UNKNOWN),
        (source("running"), None, Owner.UNKNOWN),
        (None, None, Owner.UNKNOWN),
    ],
)
def test_what_both_hosts_say_decides_who_owns_the_guest(
    here: Observation | None, there: Observation | None, owner: Owner
) -> None:
    assert verdict(here, there).owner is owner


def test_a_guest_that_went_on_at_the_source_and_died_there_is_not_started_from_its_earlier_state() -> None:
    found = verdict(Observation(alive=False, went_on=True), LOADED)
    assert found.owner is Owner.NOBODY
    assert "start it cold there" in found.why


def test_silence_is_never_taken_for_death() -> None:
    assert "unreachable is not dead" in verdict(None, LOADED).why
