"""What the database says of this host, or on a control node of all of them."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from drover.cli.checks.check import Check, ok, problem, warning
from drover.settings import Settings
from models.database import transaction
from models.fleet import limits
from models.host import Host, HostState
from workers import registration
from workers.trust import host_key
from workflows import host_keys
from workflows.presence import alive, listed


def of_host(ours: Settings) -> Iterator[Check]:
    """Its worker runs, under a name and a key that are its own."""
    if taken := registration.taken(ours):
        yield problem("hosts", taken)
        return
    with transaction() as session:
        host = session.get(Host, ours.host)
        lives = host is not None and _alive(session, ours, ours.host)
    if host is None:
        yield warning("hosts", f"no worker of {ours.host} has ever started", "`systemctl enable --now drover-worker`")
        return
    if lives:
        yield ok("hosts", f"the worker of {ours.host} is alive")
    else:
        found = f"the worker of {ours.host} is silent since {host.heartbeat_at:%Y-%m-%d %H:%M:%S %Z}"
        yield warning("hosts", found, "`systemctl restart drover-worker`, and see its log")
    if host_key.exists(ours) and host.public_key not in {None, host_key.public(ours)}:
        yield problem("hosts", f"the record of {ours.host} has another key than this host", "restart its worker")
    yield from _kept_out(host)


def of_fleet(ours: Settings) -> Iterator[Check]:
    """All hosts are alive, trusted, and protect their streams alike."""
    with transaction() as session:
        signed = limits(session).signed_submissions
        hosts = session.scalars(select(Host).where(listed(ours)).order_by(Host.name)).all()
        living = set(session.scalars(select(Host.name).where(alive(ours))))
    silent = [host.name for host in hosts if host.name not in living and host.state is not HostState.MAINTENANCE]
    if not hosts:
        yield warning("hosts", "there is none yet", "start a worker on each hypervisor: `drover worker --host NAME`")
    elif silent:
        fix = "on each of them run `drover doctor`"
        yield warning("hosts", f"the workers of {', '.join(silent)} are silent: their guests go on, no move does", fix)
    else:
        yield ok("hosts", f"all {len(hosts)} workers are alive")
    for host in hosts:
        yield from _kept_out(host)
    if not signed:
        found = "whoever can put a message into drover.control may submit, cancel and drain without a token"
        fix = "give each scheduler one (`drover token add`), then `drover fleet set signed-submissions=yes`"
        yield warning("submissions", found, fix)
    protection = {str(host.facts.streams): host.name for host in hosts if host.facts.streams is not None}
    if len(protection) > 1:
        told = ", ".join(f"{name} has {mode}" for mode, name in protection.items())
        yield problem("streams", f"hosts protect their streams differently: {told}", "set DROVER_STREAMS alike")


def _kept_out(host: Host) -> Iterator[Check]:
    """Guests do not come to it."""
    if another := host_keys.unproven(host):
        yield problem("hosts", f"{another}, so that no move begins", host_keys.remedy(host))
    if host.state is not HostState.ACTIVE:
        yield ok("hosts", f"{host.name} takes no guests ({host.state}) until `drover host uncordon {host.name}`")


def _alive(session: Session, ours: Settings, name: str) -> bool:
    return session.scalar(select(Host.name).where(alive(ours), Host.name == name)) is not None
