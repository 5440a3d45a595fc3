"""The guests that Drover was told of."""

from models.base import Document
from models.database import transaction
from models.errors import PreconditionFailed
from models.guest import Guest
from workflows.questions import ask, known_host


def adopt(name: str, host: str, qmp: str) -> tuple[Guest, Document]:
    """Learn of a running QEMU; answers the guest and what its host found out.

    Adopting a guest whose QEMU was started anew elsewhere just updates where it is.

    Raises:
        PreconditionFailed: the host is unknown, or nobody answers at that socket.
    """
    known_host(host)
    inspection = ask(host, "inspect", qmp=qmp)
    with transaction() as session:
        guest = session.get(Guest, name) or Guest(name=name)
        guest.host, guest.qmp = host, qmp
        session.add(guest)
    return guest, inspection


def known_guest(name: str) -> Guest:
    """The guest with this name.

    Raises:
        PreconditionFailed: there is none.
    """
    with transaction() as session:
        guest = session.get(Guest, name)
    if guest is None:
        raise PreconditionFailed(
            f"there is no guest {name!r}: see `drover guest list`, or adopt it with "
            f"`drover guest adopt {name} --host HOST --qmp SOCKET`"
        )
    return guest


def inspect(guest: Guest) -> Document:
    """What its host says of it now."""
    known_host(guest.host)
    return ask(guest.host, "inspect", qmp=guest.qmp)
