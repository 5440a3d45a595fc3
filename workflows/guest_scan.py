"""The QEMUs of a host beside the records of guests: which are known, which could be adopted, and why others not."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select

from drover import names
from drover.errors import PreconditionFailed
from models.database import transaction
from models.guest import Guest
from models.host_rpc import FindQemus, FoundQemu
from workflows import guests
from workflows.host_rpc import ask
from workflows.presence import known_host


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One QEMU of a host."""

    qemu: FoundQemu
    guest: str | None = None
    """The guest that it is known as."""
    reasons: tuple[str, ...] = ()
    """Why it cannot be moved, each with what to do; none: it can."""
    name: str | None = None
    """What it would be called if it were adopted; None: it cannot be, or is known already."""
    unnamed: str | None = None
    """Why it cannot be adopted by itself, although it can be moved."""


def scan(host: str) -> list[Finding]:
    """Ask a host for all its QEMUs.

    Raises:
        PreconditionFailed: the host is unknown, silent, or gives no answer.
    """
    known_host(host)
    seen = ask(host, FindQemus()).qemus
    with transaction() as session:
        known = session.scalars(select(Guest)).all()
    return list(_findings(host, seen, known))


def _findings(host: str, seen: Sequence[FoundQemu], known: Sequence[Guest]) -> Iterator[Finding]:
    taken = {guest.name: guest for guest in known}
    called = Counter(qemu.name for qemu in seen)
    for qemu in seen:
        guest = next((guest.name for guest in known if _is(guest, host, qemu)), None)
        reasons = (
            (f"job {qemu.job} is at work with it: `drover job show {qemu.job}`",)
            if qemu.job is not None
            else tuple(check.sentence for check in qemu.checks)
        )
        finding = Finding(qemu=qemu, guest=guest, reasons=reasons)
        if guest is None and not reasons:
            unnamed = _unnamed(host, qemu, taken, called)
            finding = replace(finding, unnamed=unnamed, name=None if unnamed else qemu.name)
        yield finding


def _is(guest: Guest, host: str, qemu: FoundQemu) -> bool:
    if guest.process == qemu.process:
        return True
    return guest.host == host and guest.qmp in {monitor.address for monitor in qemu.monitors}


def _unnamed(host: str, qemu: FoundQemu, taken: Mapping[str, Guest], called: Counter[str | None]) -> str | None:
    """Why nobody but an operator can say what to call it."""
    same = taken.get(qemu.name or "")
    if same is not None and same.uuid is not None and same.uuid == qemu.uuid and same.host != host:
        adopts = f"`drover guest adopt {same.name} --host {host} --qmp {qemu.qmp}`"
        return f"by its UUID it is {same.name}, which is on record on {same.host}: if it does not run there, {adopts}"
    remedy = f"`drover guest adopt NAME --host {host} --qmp {qemu.qmp}` gives it one"
    if qemu.name is None:
        return f"it was started without a name: {remedy}"
    if qemu.name in taken or called[qemu.name] > 1:
        return f"{qemu.name} is the name of another guest: {remedy}"
    try:
        names.check(qemu.name, "a guest")
    except PreconditionFailed as error:
        return f"{error}: {remedy}"
    return None


def adopt(host: str, findings: Sequence[Finding]) -> list[Finding]:
    """Adopt those that can be moved and have a name; what is refused meanwhile says why."""
    return [_adopted(host, finding) for finding in findings]


def _adopted(host: str, finding: Finding) -> Finding:
    if finding.name is None or finding.qemu.qmp is None:
        return finding
    try:
        guest, inspection = guests.adopt(finding.name, host, finding.qemu.qmp)
    except PreconditionFailed as error:
        return replace(finding, name=None, unnamed=str(error))
    return replace(finding, guest=guest.name, name=None, reasons=inspection.refusals)
