"""A guest is started cold where it lives, once, if no host that it was ever on has it already."""

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import update

from drover.broker.app import app
from drover.errors import HostRefused, PreconditionFailed, Unavailable
from models.database import transaction
from models.guest import Guest
from models.host_rpc import LookForGuest, Question, Sighting, StartGuest
from models.job import JobState
from tests import factories
from workers import host_rpc as answers
from workflows import cold_start, guests, host_rpc

PROCESS = "boot/1/42/1000"


@dataclass
class Hosts:
    """What hosts answer; those that are silent nothing."""

    runs: dict[str, int] = field(default_factory=dict)
    """{host: pid of the guest there}."""
    silent: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    looks: threading.Barrier | None = None
    """Those who look on host two wait for each other."""

    def ask(self, host: str, question: Question[Sighting]) -> Sighting:
        assert isinstance(question, LookForGuest)
        self.asked.append((host, question.kind))
        if host in self.silent:
            raise Unavailable(f"host {host} is silent")
        if isinstance(question, StartGuest):
            if host in self.runs:
                raise HostRefused(f"{question.guest} runs on {host} already", host=host)
            self.runs[host] = 7
            return Sighting(launch_file=True, pid=7, process=PROCESS, qmp="/qmp of its launch file")
        seen = Sighting(launch_file=True, pid=self.runs.get(host))
        if self.looks is not None and host == "two":
            self.looks.wait(30)
        return seen


@pytest.fixture
def hosts(database: None, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """Web was moved from one to two, and is off."""
    for name in ("one", "two", "three"):
        factories.host(name)
    factories.guest("web", "one")
    factories.job("web", "two", state=JobState.DONE)
    with transaction() as session:
        session.execute(update(Guest).values(host="two", process="boot/1/41/900"))
    made = Hosts()
    for module in (cold_start, guests):
        monkeypatch.setattr(module, "ask", made.ask)
    return made


def web() -> Guest:
    with transaction() as session:
        return session.get_one(Guest, "web")


def test_a_guest_that_is_off_is_started_where_it_lives_and_its_record_names_its_new_qemu(hosts: Hosts) -> None:
    cold_start.start("web")
    assert hosts.asked == [("one", "look_for_guest"), ("two", "look_for_guest"), ("two", "start_guest")]
    assert (web().host, web().process, web().qmp) == ("two", PROCESS, "/qmp of its launch file")
    with pytest.raises(PreconditionFailed, match="web runs already: on two, pid 7; nothing was started"):
        cold_start.start("web")


@pytest.mark.parametrize(
    ("runs", "silent", "fenced", "why"),
    [
        ({"one": 5}, (), (), "web runs already: on one, pid 5; nothing was started"),
        ({}, ("one",), (), "nobody knows whether web runs on one, .*`drover guest start web --fenced one`"),
        ({}, ("two",), (), "web lives on two, which has to start it: host two is silent"),
        ({}, (), ("two",), "web lives on two and can be started nowhere else.*`drover guest adopt web --host HOST"),
        ({}, (), ("three",), "--fenced three: web was never on that host, it was on one"),
    ],
)
def test_nothing_is_started_where_that_is_in_doubt_or_wrong(
    hosts: Hosts, runs: dict[str, int], silent: tuple[str, ...], fenced: tuple[str, ...], why: str
) -> None:
    hosts.runs, hosts.silent = runs, set(silent)
    with pytest.raises(PreconditionFailed, match=why):
        cold_start.start("web", fenced=fenced)
    assert not [kind for _, kind in hosts.asked if kind == "start_guest"]


def test_a_host_that_is_off_for_good_is_not_asked_and_the_advice_for_another_one_names_both(hosts: Hosts) -> None:
    with transaction() as session:
        session.execute(update(Guest).values(host="three"))
    hosts.silent = {"one", "two"}
    with pytest.raises(PreconditionFailed, match="`drover guest start web --fenced one --fenced two`"):
        cold_start.start("web", fenced=("one",))
    assert cold_start.start("web", fenced=("one", "two")).host == "three"


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.NEEDS_OPERATOR])
def test_while_a_job_moves_it_it_is_neither_started_nor_stopped(hosts: Hosts, state: JobState) -> None:
    job = factories.job("web", "three", state=state)
    for begin in (cold_start.start, lambda name: cold_start.stop(name, timeout_s=0)):
        with pytest.raises(PreconditionFailed, match=f"web is being moved already by job {job} from two to three"):
            begin("web")
    assert hosts.asked == []


def test_of_two_who_start_it_at_once_one_does(hosts: Hosts) -> None:
    hosts.looks = threading.Barrier(2)
    started: list[str] = []
    refused: list[str] = []

    def start() -> None:
        try:
            started.append(cold_start.start("web").host)
        except PreconditionFailed as error:
            refused.append(str(error))

    both = [threading.Thread(target=start) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert started == ["two"]
    assert refused == ["web runs on two already"]


def test_a_start_without_an_answer_is_told_as_that_and_the_record_stays(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(host: str, question: Question[Any]) -> Any:
        if isinstance(question, StartGuest):
            raise Unavailable("host two did not answer")
        return hosts.ask(host, question)

    monkeypatch.setattr(cold_start, "ask", ask)
    with pytest.raises(Unavailable, match="web may have been started all the same, `drover guest show web` tells"):
        cold_start.start("web")
    assert web().process == "boot/1/41/900"


def test_a_question_that_nobody_waits_for_any_more_is_not_acted_upon(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(app, "send_task", lambda _, kwargs, **__: sent.append(kwargs["request_id"]))
    monkeypatch.setattr(host_rpc, "ANSWER_TIMEOUT_S", 0.2)
    with pytest.raises(Unavailable, match="host two did not answer"):
        host_rpc.ask("two", StartGuest(guest="web"))
    monkeypatch.setitem(answers.ANSWERS, "start_guest", pytest.fail)
    answers.answer(sent[0], factories.ours(host="two"))


def test_a_guest_that_is_off_is_refused_by_its_own_host_so_that_a_drain_asks_no_other(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction() as session:
        session.execute(update(Guest).values(gone_at=web().adopted_at))

    def ask(_: str, question: Question[Any]) -> Any:
        raise HostRefused("nobody listens at /web", host="two")

    monkeypatch.setattr(guests, "ask", ask)
    with pytest.raises(HostRefused, match="web does not run: its QEMU on two has ended") as refused:
        guests.inspect(web())
    assert refused.value.host == "two"
