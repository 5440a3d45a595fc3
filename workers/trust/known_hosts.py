"""The keys of other hosts, as this host knows them: in its own folder, where no database reaches.

A key is believed when it is first seen, unless the policy lists the hosts, and from then on no other, unless the host
that had it says so itself: with its former key it has signed the new one. Then the former one counts for some time for
what was signed or planned before.
"""

import time
from collections.abc import Iterable

from drover.errors import PreconditionFailed
from drover.settings import Settings
from models.succession import Succession, leads
from workers.trust import host_key, policy
from workers.trust.own_file import edited

NAME = "known_hosts.json"
FORMER = "former_keys_of_hosts.json"
"""{host: {a former key: until when it counts, in seconds since 1970}}"""


def refuse_unknown(host: str, key: str, ours: Settings, successions: Iterable[Succession] = ()) -> None:
    """Believe a key of this host, or refuse it. Ask only after a signature by it was found right.

    Raises:
        PreconditionFailed: this host knows another key of that host, or the policy does not list it.
    """
    if host == ours.host:
        _refuse_foreign(key, ours)
        return
    listed = policy.of(ours).file.hosts
    if listed is not None:
        _refuse_unlisted(host, key, listed, ours, successions)
        return
    with edited(ours.directory / NAME) as known:
        believed = known.setdefault(host, key)
        if believed != key:
            known[host] = _followed(host, believed, key, ours, successions)


def _followed(host: str, believed: str, key: str, ours: Settings, successions: Iterable[Succession]) -> str:
    """The key by which a host is known from now on, where it shows another than the one that is believed."""
    with edited(ours.directory / FORMER) as former:
        if former.get(host, {}).get(key, 0.0) > time.time():
            return believed
        if not leads(believed, key, host, successions):
            raise PreconditionFailed(
                f"{host} has another key than the one that {ours.host} knows: somebody speaks in its name, unless its "
                f"worker was installed anew; if so run `drover host trust {host} --key KEY` on {ours.host}"
            )
        former.setdefault(host, {})[believed] = time.time() + host_key.KEPT.total_seconds()
    return key


def _refuse_foreign(key: str, ours: Settings) -> None:
    if key not in host_key.all_public(ours):
        raise PreconditionFailed(f"it is signed in the name of {ours.host}, but with another key: submit the move anew")


def _refuse_unlisted(
    host: str, key: str, listed: dict[str, str], ours: Settings, successions: Iterable[Succession]
) -> None:
    if host not in listed:
        raise PreconditionFailed(f"{ours.host} does not trust {host}: {ours.policy} lists its key nowhere")
    if not leads(listed[host], key, host, successions):
        raise PreconditionFailed(f"{host} has another key than the one that {ours.policy} on {ours.host} lists")


def trust(host: str, key: str, ours: Settings) -> str | None:
    """Believe this key of a host from now on, and no other; answers the one that was believed before."""
    with edited(ours.directory / NAME) as known, edited(ours.directory / FORMER) as former:
        before, known[host] = known.get(host), key
        former.pop(host, None)
    return before
