"""The keys of other hosts, as this host knows them: in its own folder, where no database reaches.

A key is believed when it is first seen, unless the policy lists the hosts, and from then on no other, unless the host
that had it says so itself: with its former key it has signed the new one. Then the former one counts for some time for
what was signed or planned before.
"""

import time
from collections.abc import Iterable, Mapping

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.contracts import Part
from models.succession import Succession, leads
from workers.trust import host_key, policy
from workers.trust.own_file import content, edited

NAME = "known_hosts.json"


class Known(Part):
    """By which keys a host is known."""

    key: str
    former: dict[str, float] = {}  # noqa: RUF012 - pydantic copies it
    """{a key: until when it counts, in seconds since 1970}; each was signed by the one before, `key` by the last."""


def refuse_unknown(host: str, key: str, ours: Settings, successions: Iterable[Succession]) -> None:
    """Believe a key of this host, or refuse it. Ask only after a signature by it was found right.

    Raises:
        PreconditionFailed: this host knows another key of that host, or the policy does not list it.
    """
    if host == ours.host:
        _refuse_foreign(key, ours)
        return
    with edited(ours.directory / NAME) as entries:
        known = _believed(host, entries, ours) or Known(key=key)
        if key != known.key and known.former.get(key, 0.0) <= time.time():
            if not leads(known.key, key, host, successions):
                raise PreconditionFailed(_another_key(host, ours))
            counts_until = time.time() + host_key.KEPT.total_seconds()
            known = Known(key=key, former=known.former | {known.key: counts_until})
        entries[host] = known.json_object()


def _refuse_foreign(key: str, ours: Settings) -> None:
    if key not in host_key.all_public(ours):
        raise PreconditionFailed(f"it is signed in the name of {ours.host}, but with another key: submit the move anew")


def _believed(host: str, entries: Mapping[str, object], ours: Settings) -> Known | None:
    """What the policy says, where that lists hosts: a listed key, or one that has followed from it since."""
    known, listed = _entry(entries.get(host)), policy.of(ours).file.hosts
    if listed is None:
        return known
    if host not in listed:
        raise PreconditionFailed(f"{ours.host} does not trust {host}: {ours.policy} lists its key nowhere")
    if known is not None and listed[host] in {known.key, *known.former}:
        return known
    return Known(key=listed[host])


def _entry(found: object) -> Known | None:
    """Earlier versions wrote the key alone."""
    return Known(key=found) if isinstance(found, str) else None if found is None else Known.model_validate(found)


def _another_key(host: str, ours: Settings) -> str:
    if policy.of(ours).file.hosts is not None:
        return f"{host} has another key than the one that {ours.policy} on {ours.host} lists"
    return (
        f"{host} has another key than the one that {ours.host} knows: if its worker was installed anew, run "
        f"`drover host trust {host} --key KEY` on {ours.host}; if not, another machine uses its name"
    )


def renewed(ours: Settings) -> dict[str, str]:
    """{host: its present key}: those that the policy lists by a former one, as far as this host has met them since."""
    entries, listed = content(ours.directory / NAME), policy.of(ours).file.hosts or {}
    known = {host: _entry(entries.get(host)) for host in listed}
    return {host: each.key for host, each in known.items() if each is not None and listed[host] in each.former}


def trust(host: str, key: str, ours: Settings) -> str | None:
    """Believe this key of a host from now on, and no other; answers the one that was believed before."""
    with edited(ours.directory / NAME) as entries:
        before, entries[host] = _entry(entries.get(host)), Known(key=key).json_object()
    return None if before is None else before.key
