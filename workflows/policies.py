"""Which policy decides what about a move: the one place, for jobs, drains, returns, rolls, plans and whoever submits.

Of each value counts the first of these: what the job was asked for; what its drain was asked for; the policy of highest
priority that names the guest by its labels and decides this value; the host's or the fleet's limit; the default.
"""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from drover import words
from drover.errors import PreconditionFailed, WrongField
from models.database import transaction
from models.documents import MOST_DOWNTIME_MS, Measure, MigrationOptions, Notice
from models.guest import Guest
from models.move_policy import MovePolicy
from workflows.selectors import Selector

OBEYED_BY = {"most_downtime_ms": Measure.LONGER, "slowest_writes_bytes_per_s": Measure.SLOW_WRITES}


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


def of(guest: Guest, asked: MigrationOptions | None = None, *, drained: bool = True) -> MigrationOptions:
    """Likewise, by the policies as they are now. Before a move that no drain makes nobody is asked.

    Raises:
        PreconditionFailed: what was asked for contradicts a policy.
    """
    with transaction() as session:
        found = decided(guest, asked or MigrationOptions(), all_of(session))
    check(found)
    if drained:
        return found
    by = {name: policy for name, policy in found.policies.items() if name != "notice"}
    return found.model_copy(update={"notice": None, "policies": by})


def check(options: MigrationOptions) -> None:
    """Refuse values that contradict each other, and those that nothing would obey.

    Raises:
        PreconditionFailed: there are some.
    """
    most, target, asked = options.most_downtime_ms, options.max_downtime_ms, options.asked_for
    if 0 < most < target:
        raise WrongField(
            "most_downtime_ms",
            f" is {most}, less than the target downtime of {target} ms that it may be raised to: give a "
            f"{words.option('max_downtime_ms')} of {most} or less as well, or leave it out",
        )
    if "verify_bytes_per_s" in asked and "verify" in asked and not options.verify:
        raise WrongField("verify_bytes_per_s", " is how fast disks are compared, and they are not to be: leave it out")
    for field, measure in OBEYED_BY.items():
        if {field, "ladder"} <= asked and getattr(options, field) and measure not in options.ladder:
            raise WrongField(field, f" counts for the measure {measure}, and the ladder lacks that: add it there")


def check_pause(name: str, ms: int) -> None:
    """Refuse what QEMU would refuse in the middle of a move.

    Raises:
        PreconditionFailed: it takes no such pause.
    """
    if not 0 <= ms <= MOST_DOWNTIME_MS:
        raise PreconditionFailed(f"{words.option(name)} cannot be {ms}: allowed is 1 to {MOST_DOWNTIME_MS}")


def values(options: MigrationOptions, fields: Iterable[str]) -> dict[str, str]:
    """{option of the command line: value} of these fields."""
    return {words.option(name): shown(name, getattr(options, name)) for name in sorted(fields)}


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
    return {words.option(name): f"{shown(name, getattr(options, name))} {whose[name]}" for name in sorted(whose)}


def shown(name: str, value: object) -> str:
    """A field's value for people."""
    if name.endswith("_bytes_per_s") and isinstance(value, int):
        return words.rate(value) if value else "no limit"
    if name == "ladder" and isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Notice):
        return f"{value} (up to {words.duration(value.deadline_s)}, without an answer {value.silence})"
    if name.endswith("_s") and isinstance(value, float):
        return words.duration(value)
    return str(value)
