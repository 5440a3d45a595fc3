"""Who asks, and whether they may. The HTTP API and submissions by task name ask `judge`, and nothing else decides."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from drover.errors import NotPermitted, NotProven
from models import fleet
from models.access import Action, ApiToken, Bounds, Scope
from models.database import transaction
from models.documents import AllowedHosts
from models.drain import Drain, DrainKind
from models.guest import Guest
from models.job import Job
from models.roll import Roll
from workflows import access, not_there
from workflows.drain.planner import DrainRequest, guests_of
from workflows.selectors import Selector
from workflows.signatures import FIELD, Signature


@dataclass(frozen=True)
class Person:
    """Somebody who is known."""

    name: str
    scope: Scope
    by: str
    """As events of jobs name them."""
    bounds: Bounds = access.NOT_BOUND
    token: int | None = None
    """The one that they have shown."""

    @classmethod
    def of(cls, token: ApiToken, way: str) -> "Person":
        """Who holds a token; `way` is how they ask."""
        return cls(token.user, token.scope, f"{token.user} ({way})", token.bounds, token.id)


def operator(name: str = "") -> Person:
    """Whoever enters commands on a machine that has the database: nothing is denied them here."""
    return Person(name, Scope.APPROVE, f"{name} (command line)" if name else "command line")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What somebody wants to do, as far as it decides whether they may."""

    action: Action
    hosts: frozenset[str]
    """That guests leave or reach."""
    guests: Selector | Mapping[str, str]
    """Those that are selected so; or the labels of the one."""
    elsewhere: str = ""
    """Why guests may come from, or get to, hosts that nobody has named; empty: they do not."""


def judge(person: Person, scope: Scope, asked: Asked | None = None) -> None:
    """Refuse what somebody may not do. What is not said in `asked` needs a token without bounds.

    Raises:
        NotPermitted: they may not; the sentence says why.
    """
    if not person.scope.includes(scope):
        raise NotPermitted(f"{person.name} may {person.scope} only, and this needs `{scope}`")
    bounds = person.bounds
    if scope is Scope.READ or not bounds.any:
        return
    if asked is None:
        raise NotPermitted(f"the token of {person.name} is bound ({bounds}): this needs one that is not")
    if bounds.actions and asked.action not in bounds.actions:
        raise NotPermitted(
            f"the token of {person.name} is for {', '.join(bounds.actions)}, and this is `{asked.action}`"
        )
    if bounds.hosts:
        _judge_hosts(person, asked)
    if bounds.selector and not _within(Selector.read(bounds.selector), asked.guests):
        raise NotPermitted(_other_guests(person, asked.guests))


def _judge_hosts(person: Person, asked: Asked) -> None:
    ours = f"the token of {person.name} is for the hosts {', '.join(person.bounds.hosts)}"
    if strange := sorted(asked.hosts - set(person.bounds.hosts)):
        raise NotPermitted(f"{ours}, and this is about {', '.join(strange)} as well")
    if asked.elsewhere:
        raise NotPermitted(f"{ours}, and {asked.elsewhere}")


def _within(wanted: Selector, guests: Selector | Mapping[str, str]) -> bool:
    return wanted.includes(guests) if isinstance(guests, Selector) else wanted.matches(guests)


def _other_guests(person: Person, guests: Selector | Mapping[str, str]) -> str:
    ours = f"the token of {person.name} is for guests with {person.bounds.selector}"
    if isinstance(guests, Selector):
        return f"{ours}, and this is about others as well: have `selector` say so, with all its terms"
    return f"{ours}, which this one has not"


def check_move(person: Person, guest: str, to: str) -> None:
    """Refuse a move before any host is asked.

    Raises:
        NotPermitted: see `judge`.
        NotThere: there is no such guest.
    """
    with transaction() as session:
        row = session.get(Guest, guest)
        if row is None:
            raise not_there.guest(session, guest)
        judge(person, Scope.OPERATE, _move(Action.SUBMIT, row, row.host, to))


def check_new_job(person: Person, session: Session, job: Job) -> None:
    """Refuse a job in the transaction that inserts it: the guest may have moved since `check_move`."""
    guest = session.get(Guest, job.guest)
    judge(person, Scope.OPERATE, _move(Action.SUBMIT, guest, job.source, job.destination))


def check_job(person: Person, action: Action, number: int) -> None:
    """Refuse to change a job. Errors as for `check_move`."""
    with transaction() as session:
        job = session.get(Job, number)
        if job is None:
            raise not_there.job(number)
        judge(person, Scope.OPERATE, _move(action, session.get(Guest, job.guest), job.source, job.destination))


def _move(action: Action, guest: Guest | None, *hosts: str) -> Asked:
    return Asked(action=action, hosts=frozenset(hosts), guests=guest.labels if guest is not None else {})


def check_new_drain(person: Person, request: DrainRequest) -> None:
    """Refuse a drain or return before any host is asked. Errors as for `check_move`."""
    later = bool(request.terms.not_before or request.terms.window or request.recurrence)
    with transaction() as session:
        asked = _drain(session, Action.DRAIN, request.kind, request.host, request.where, request.selector, later=later)
        judge(person, Scope.OPERATE, asked)


def check_drain(person: Person, action: Action, number: int) -> None:
    """Refuse to change a drain. Errors as for `check_move`."""
    with transaction() as session:
        drain = session.get(Drain, number)
        if drain is None:
            raise not_there.drain(number)
        judge(person, Scope.OPERATE, _row(session, action, drain))


def _row(session: Session, action: Action, drain: Drain) -> Asked:
    return _drain(session, action, drain.kind, drain.host, drain.allowed_hosts, drain.selector, later=False)


def _drain(
    session: Session,
    action: Action,
    kind: DrainKind,
    host: str,
    where: AllowedHosts,
    selector: str | None,
    *,
    later: bool,
) -> Asked:
    selected = Selector.read(selector)
    if kind is DrainKind.DRAIN:
        elsewhere = "" if where.to else "its guests may go to any host: name theirs (`to`)"
        hosts = {host, *where.to}
    else:
        unknown = "nobody knows yet where guests of a later return will come from: submit it when it is due"
        elsewhere = unknown if later else ""
        hosts = {host, *(guest.host for guest in guests_of(session, kind, host, selected))}
    return Asked(action=action, hosts=frozenset(hosts), guests=selected, elsewhere=elsewhere)


def withdrawn_from_move(session: Session, work: Job | Drain, guest: Guest | None, *hosts: str) -> str | None:
    """Why a move that has not begun may not begin any more; None: it may.

    It was permitted when it was submitted. Since then its token may have been revoked or bound, or the guest may have
    got other labels. That a token has ended in its own time stops nothing that was submitted before.
    """
    drain = work.id if isinstance(work, Drain) else work.drain_id
    action = Action.SUBMIT if drain is None else Action.DRAIN
    again = f"`drover drain resume {drain}` has it go on" if drain else "`drover migrate` submits it anew"
    return _withdrawn(session, work, again, lambda: _move(action, guest, *hosts))


def withdrawn_from_drain(session: Session, drain: Drain) -> str | None:
    """The same of a drain or return as a whole."""
    again = f"`drover {drain.kind} {drain.host}` submits it anew"
    return _withdrawn(session, drain, again, lambda: _row(session, Action.DRAIN, drain))


def withdrawn_from_roll(session: Session, roll: Roll) -> str | None:
    """Why a roll, whose token must be without bounds, may begin nothing more; None: it may."""
    again = f"`drover roll resume {roll.id}` has it go on, `drover roll cancel {roll.id}` ends it"
    return _withdrawn(session, roll, again, lambda: None)


def _withdrawn(session: Session, work: Job | Drain | Roll, again: str, asked: Callable[[], Asked | None]) -> str | None:
    """`again` is the command of somebody who may."""
    token = session.get(ApiToken, work.submitted_with) if work.submitted_with is not None else None
    if token is None:
        return None
    if token.revoked_at is not None:
        return f"token {token.id} of {token.user}, with which it was submitted, was revoked: {again}"
    try:
        judge(Person.of(token, ""), Scope.OPERATE, asked())
    except NotPermitted as error:
        return f"it may not begin any more: {error}: {again}"
    return None


def submitter(task: str, said: Mapping[str, Any]) -> tuple[Person, dict[str, Any]]:
    """Who sends a submission by task name, and its arguments without the signature.

    Raises:
        NotProven: nobody has signed it and the fleet wants that, or the signature does not hold.
    """
    signature = Signature.of(said)
    arguments = {name: value for name, value in said.items() if name != FIELD}
    if signature is None:
        with transaction() as session:
            wanted = fleet.limits(session).signed_submissions
        if wanted:
            raise NotProven(
                "it is not signed, and this fleet takes signed submissions alone: sign it with a token of "
                "`drover token add` (docs/reference/cli.md, Who may submit), or let whoever reaches the queue submit: "
                "`drover fleet set signed-submissions=no`"
            )
        return Person(task, Scope.OPERATE, task), arguments
    token = access.signer(signature, signature.message(task, said))
    if token is None:
        raise NotProven(
            f"the signature does not hold: token {signature.token} is not valid, is of an earlier version, or signed "
            "something else; `drover token list` says which can sign"
        )
    return Person.of(token, "message"), arguments
