"""The keys of other hosts, as this host knows them: in its own folder, where no database reaches.

A key is believed when it is first seen, unless the policy lists the hosts, and from then on no other.
"""

from drover.errors import PreconditionFailed
from drover.settings import Settings
from workers.trust import host_key, policy
from workers.trust.own_file import edited

NAME = "known_hosts.json"


def refuse_unknown(host: str, key: str, ours: Settings) -> None:
    """Believe a key of this host, or refuse it. Ask only after a signature by it was found right.

    Raises:
        PreconditionFailed: this host knows another key of that host, or the policy does not list it.
    """
    if host == ours.host:
        _refuse_foreign(key, ours)
        return
    listed = policy.of(ours).file.hosts
    if listed is not None:
        _refuse_unlisted(host, key, listed, ours)
        return
    with edited(ours.directory / NAME) as known:
        if known.setdefault(host, key) != key:
            raise PreconditionFailed(
                f"{host} has another key than the one that {ours.host} knows: somebody speaks in its name, unless its "
                f"worker was installed anew; if so run `drover host trust {host} --key KEY` on {ours.host}"
            )


def _refuse_foreign(key: str, ours: Settings) -> None:
    if key != host_key.public(ours):
        raise PreconditionFailed(f"it is signed in the name of {ours.host}, but with another key: submit the move anew")


def _refuse_unlisted(host: str, key: str, listed: dict[str, str], ours: Settings) -> None:
    if host not in listed:
        raise PreconditionFailed(f"{ours.host} does not trust {host}: {ours.policy} lists its key nowhere")
    if listed[host] != key:
        raise PreconditionFailed(f"{host} has another key than the one that {ours.policy} on {ours.host} lists")


def trust(host: str, key: str, ours: Settings) -> str | None:
    """Believe this key of a host from now on; answers the one that was believed before."""
    with edited(ours.directory / NAME) as known:
        former, known[host] = known.get(host), key
    return former
