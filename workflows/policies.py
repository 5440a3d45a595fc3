"""Which policy decides what about a move: the one place, for jobs, drains, returns, rolls, plans and whoever submits.

Of each value counts the first of these: what the job was asked for; what its drain was asked for; the policy of highest
priority that names the guest by its labels and decides this value; the host's or the fleet's limit; the default.
"""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import ValidationError
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from drover import names, words
from drover.errors import PreconditionFailed
from models.contracts import first_fault
from models.database import transaction
from models.documents import DECIDED_BY_POLICIES, MigrationOptions
from models.guest import Guest
from models.move_policy import MovePolicy
from models.said import say
from workflows import not_there
from workflows.budgets import enough
from workflows.selectors import Selector


def all_of(session: Session) -> Sequence[MovePolicy]:
    """All policies, those of higher priority first."""
    return session.scalars(select(MovePolicy).order_by(MovePolicy.priority.desc())).all()


def decided(guest: Guest, asked: MigrationOptions, policies: Iterable[MovePolicy]) -> MigrationOptions:
    """How a guest is moved for whom this is asked. No I/O; the policies are as `all_of` has them."""
    values, by = dict[str, object](), dict[str, str]()
    for policy in policies:
        if Selector.read(policy.selector).matches(guest.labels):
            for name in set(policy.options.given) - asked.asked_for - by.keys():
                values[name], by[name] = getattr(policy.options, name), policy.name
    return asked.model_copy(update={**values, "policies": by, "given": tuple(sorted(asked.asked_for))})


def of(guest: Guest, asked: MigrationOptions | None = None) -> MigrationOptions:
    """Likewise, by the policies as they are now."""
    with transaction() as session:
        return decided(guest, asked or MigrationOptions(), all_of(session))


# --- For people -------------------------------------------------------------------------------------------------------


def values(options: MigrationOptions, fields: Iterable[str]) -> dict[str, str]:
    """{option of the command line: value} of these fields."""
    return {spelled(name): _shown(name, getattr(options, name)) for name in sorted(fields)}


def by_policies(options: MigrationOptions, instead_of: MovePolicy | None = None) -> dict[str, str]:
    """{option: value and policy} of all that policies decide: {"max-downtime-ms": "50 by policy db"}.

    On request only what one of them decides too, and another decides instead.
    """
    wanted = options.policies.keys() if instead_of is None else set(instead_of.options.given)
    mine = None if instead_of is None else instead_of.name
    others = {name: policy for name, policy in options.policies.items() if name in wanted and policy != mine}
    return _whose(options, {name: f"by policy {policy}" for name, policy in others.items()})


def told(options: MigrationOptions) -> dict[str, str]:
    """The same of all that is not as by default, together with what somebody asked for: `50 as asked`."""
    return by_policies(options) | _whose(options, dict.fromkeys(options.asked_for, "as asked"))


def _whose(options: MigrationOptions, whose: Mapping[str, str]) -> dict[str, str]:
    return {spelled(name): f"{_shown(name, getattr(options, name))} {whose[name]}" for name in sorted(whose)}


def spelled(name: str) -> str:
    """How the command line writes a field: `max-downtime-ms`, `bandwidth`."""
    for ending in ("_bytes_per_s", "_s"):
        if name.endswith(ending):
            return ("verify-rate" if name.startswith("verify") else name.removesuffix(ending)).replace("_", "-")
    return name.replace("_", "-")


def _shown(name: str, value: object) -> str:
    if name.endswith("_bytes_per_s") and isinstance(value, int):
        return words.rate(value) if value else "no limit"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_s") and isinstance(value, float):
        return words.clock(value)
    return str(value)


# --- Changing them ----------------------------------------------------------------------------------------------------


def define(name: str, selector: str | None, priority: int, values: Mapping[str, object]) -> MovePolicy:
    """Set the policy of this name: these fields of `MigrationOptions` are all that it decides.

    Moves that are submitted from now on follow it; those under way keep what they have.

    Raises:
        PreconditionFailed: the name, selector or a value cannot be that, or another policy has this priority.
    """
    names.check(name, "a policy")
    Selector.read(selector)
    if not values.keys() & DECIDED_BY_POLICIES or values.keys() - DECIDED_BY_POLICIES:
        raise PreconditionFailed(
            f"a policy decides one or more of {', '.join(map(spelled, sorted(DECIDED_BY_POLICIES)))}"
        )
    try:
        options = MigrationOptions().asking(**values)
    except ValidationError as error:
        raise PreconditionFailed(f"the policy {name} cannot be that: {first_fault(error)}") from error
    enough(options.bandwidth_bytes_per_s)
    made = MovePolicy(name=name, selector=selector or None, priority=priority, options=options)
    try:
        with transaction() as session:
            _refuse_equal_priority(session, name, priority)
            merged = session.merge(made)
            session.flush()
            session.refresh(merged)
            say(session, f"an operator set the policy {name}")
    except IntegrityError as error:  # another came first
        raise PreconditionFailed(f"another policy got priority {priority} at the same moment: try again") from error
    return merged


def _refuse_equal_priority(session: Session, name: str, priority: int) -> None:
    """A guest may get labels of both at any time: which of them counts is to be clear before that."""
    same = select(MovePolicy.name).where(MovePolicy.priority == priority, MovePolicy.name != name)
    if (other := session.scalar(same)) is not None:
        raise PreconditionFailed(
            f"the policy {other} has priority {priority}, and nobody could tell which of the two counts for a guest "
            "that both name: give this one another `--priority`, the higher one counts"
        )


def remove(name: str) -> None:
    """Moves that are submitted from now on do not follow it.

    Raises:
        NotThere: there is none.
    """
    with transaction() as session:
        if not session.execute(delete(MovePolicy).where(MovePolicy.name == name).returning(MovePolicy.name)).all():
            raise not_there.policy(session, name)
        say(session, f"an operator removed the policy {name}")
