"""The worker's view of its host's end of a job's streams: starting it, and knowing whether it can be used."""

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drover import logs
from drover.errors import Fatal, PreconditionFailed, Transient, UnreadableDocument
from drover.settings import Settings, StreamSecurity
from models.documents import NbdServer
from models.job import Side
from models.streams import StreamAccess, StreamCredentials
from workers import files
from workers.files import write_durably
from workers.images import way_back
from workers.process import processes
from workers.process.processes import Process
from workers.step import Context
from workers.streams import client, credentials, local, queues
from workers.streams.credentials import CredentialFiles, Credentials
from workers.streams.handshake import Refused, hang_up
from workers.streams.parameters import NBD, STREAMS, ClientParameters, ServerParameters
from workers.trust import host_key, known_hosts

log = logging.getLogger(__name__)

ROLE = "streams"
"""The name under which the process of either end is found again."""


def running(ctx: Context) -> Process | None:
    """The end of the streams on this host, if it lives."""
    return processes.one(ctx.directory.mark(ROLE))


async def stop(ctx: Context) -> None:
    """End it. Not there: fine."""
    ctx.guard()
    await processes.end_all(ctx.directory.mark(ROLE))  # it holds nothing
    for left in (ctx.directory.streams, ctx.directory.guest_socket):
        left.unlink(missing_ok=True)


async def serve(ctx: Context, nonce: str) -> None:
    """On the destination: let the source connect, with credentials made now, and write down how. Where its end runs
    already for the NBD server of this nonce nothing is changed.

    Raises:
        Transient: no port is free, or the source's key is not on record yet.
    """
    served = ctx.job.nbd_server
    if served is not None and served.nonce == nonce and served.sealed and running(ctx) is not None:
        return
    await stop(ctx)
    port = served.port if served is not None and served.sealed else None
    with bind(ctx.settings, port) as listening, _of_source(ctx, listening) as of_source:
        address, port = listening.getsockname()[:2]
        mine, theirs = _credentials(ctx)
        secret = credentials.make_secret()
        way = way_back.taken(ctx.directory)
        access = StreamAccess(
            job=ctx.job.id,
            address=address,
            port=port,
            secret=secret,
            bitmap=way.bitmap if way is not None else None,
            credentials=StreamCredentials(**vars(theirs)) if theirs is not None else None,
        )
        sealed = host_key.seal(ctx.settings, _peer_key(ctx), access.json_object(), by=_own_key(ctx))
        ctx.note(
            nbd_server=NbdServer(nonce=nonce, address=address, port=port, streams=ctx.settings.streams, sealed=sealed)
        )
        sockets = {stream: str(ctx.directory.socket(stream)) for stream in STREAMS}
        parameters = ServerParameters(
            sockets=sockets,
            secret=secret,
            credentials=mine,
            listening=listening.fileno(),
            of_source=of_source.fileno() if of_source is not None else None,
        )
        parameters.save(ctx.directory.streams)
        _spawn(ctx, "server", [each.fileno() for each in (listening, of_source) if each is not None])


def _credentials(ctx: Context) -> tuple[Credentials | CredentialFiles | None, Credentials | None]:
    """The server's, and what of them the source cannot have by itself."""
    if ctx.settings.streams is StreamSecurity.PLAIN:
        return None, None
    if ctx.settings.streams is StreamSecurity.CERTIFICATES:
        of_operator(ctx.settings, ctx.job.source)  # they can be read, or else it is tried again
        return files_of_operator(ctx.settings, ctx.job.source), None
    pair = credentials.make()
    return pair.server, pair.client


def files_of_operator(ours: Settings, peer: str) -> CredentialFiles:
    """Those that the settings name."""
    named = (ours.tls_certificate, ours.tls_key, ours.tls_authority)
    certificate, key, authority = (str(path.absolute()) for path in named if path is not None)
    return CredentialFiles(certificate=certificate, key=key, authority=authority, peer_name=peer)


def of_operator(ours: Settings, peer: str) -> Credentials:
    """What stands in these files now. They may be in the middle of being renewed.

    Raises:
        Transient: one cannot be read.
    """
    try:
        return files_of_operator(ours, peer).read()
    except OSError as error:
        raise Transient(f"a certificate of {ours.host} cannot be read: {error}") from error


@contextmanager
def _of_source(ctx: Context, listening: socket.socket) -> Iterator[socket.socket | None]:
    """The second queue of the port, for the source's address. None: nobody knows that, or the kernel has none."""
    try:
        made = queues.beside(listening, ctx.source.address)
    except OSError as error:
        log.info("what %s sends has no queue to itself: %s", ctx.job.source, error)
        yield None
        return
    with made:
        yield made


def bind(ours: Settings, wanted: int | None = None) -> socket.socket:
    """A listening socket on a free port of this host, on the wanted one if it is free.

    Raises:
        Transient: none is free.
    """
    span = range(ours.ports.first, ours.ports.last + 1)
    for port in [*([wanted] if wanted in span else []), *span]:
        try:
            return listen(ours, port)
        except OSError as error:
            log.debug("port %s is not free: %s", port, error)
    raise Transient(f"none of the ports {ours.ports} of {ours.host} is free: give it more with DROVER_PORTS")


def listen(ours: Settings, port: int) -> socket.socket:
    """A listening socket on a port of this host.

    Raises:
        OSError: it is not free.
    """
    family = socket.AF_INET6 if ":" in ours.address else socket.AF_INET
    return socket.create_server((ours.address, port), family=family, backlog=local.BACKLOG)


async def connect(ctx: Context) -> None:
    """On the source: have an end that reaches the present one of the destination. Where it runs nothing is changed.

    Raises:
        Transient: what is needed for it is not on record yet.
        Fatal: the two hosts protect their streams differently, or somebody else sealed what is on record.
    """
    if connected(ctx):
        return
    await stop(ctx)
    files.private_folder(ctx.directory.path)
    listening = {stream: local.listen(ctx.directory.socket(stream)) for stream in STREAMS if stream != NBD}
    listening[NBD] = _listen_for_guest(ctx.directory.guest_socket)
    try:
        numbers = {stream: unix.fileno() for stream, unix in listening.items()}
        told = _parameters(ctx, numbers)
        if isinstance(told.credentials, CredentialFiles):
            of_operator(ctx.settings, ctx.job.destination)
        told.save(ctx.directory.streams)
        _spawn(ctx, "client", list(numbers.values()))
    finally:
        for unix in listening.values():
            unix.close()


def connected(ctx: Context) -> bool:
    """The source's end runs, with what the destination's wrote down last."""
    if running(ctx) is None or not ctx.directory.streams.exists():
        return False
    known = ClientParameters.load(ctx.directory.streams)
    return known == _parameters(ctx, known.listening)


def probe(ctx: Context) -> bool | None:
    """Whether somebody serves the job's images; None: no answer, which proves nothing. Ask on the source."""
    if ctx.served_at.sealed is None:
        return _knock(ctx.served_at.address, ctx.served_at.port)
    told = _parameters(ctx, {})
    try:
        hang_up(client.open_stream(told, NBD, client.context_of(told)))
    except (ConnectionRefusedError, Refused):
        return False
    except OSError as error:
        log.debug("the destination's end gives no answer: %s", error)
        return None
    return True


def _knock(address: str, port: int) -> bool | None:
    """The same of an NBD server of Drover 0.1, which listened to the network itself."""
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return None
    return True


def begun_with(ctx: Context) -> str | None:
    """On the source: the name of the bitmaps that hold all in which the destination's images differ from the guest's
    disks; None: these are empty. Errors as for `connect`.
    """
    return _access(ctx).bitmap


def _parameters(ctx: Context, listening: dict[str, int]) -> ClientParameters:
    access = _access(ctx)
    given: Credentials | CredentialFiles | None = None
    if access.credentials is not None:
        given = Credentials(**access.credentials.json_object())
    if ctx.served_at.streams is StreamSecurity.CERTIFICATES:
        given = files_of_operator(ctx.settings, ctx.job.destination)
    return ClientParameters(
        sockets={stream: str(ctx.directory.socket(stream)) for stream in STREAMS},
        secret=access.secret,
        credentials=given,
        address=access.address,
        port=access.port,
        own_address=ctx.settings.address,
        guest_pid=ctx.source.pid,
        listening=listening,
    )


def _access(ctx: Context) -> StreamAccess:
    """What the destination sealed for this host."""
    served = ctx.served_at
    if served.sealed is None:
        raise Transient(f"{ctx.job.destination} has not offered encrypted streams yet")
    if served.streams is not ctx.settings.streams:
        raise Fatal(
            f"DROVER_STREAMS is {ctx.settings.streams} on {ctx.job.source} and {served.streams} on "
            f"{ctx.job.destination}: both hosts need the same"
        )
    try:
        opened = host_key.unseal(ctx.settings, _peer_key(ctx), served.sealed, by=_own_key(ctx))
        access = StreamAccess.read(opened)
    except (host_key.NotFromThatHost, UnreadableDocument) as error:
        raise Fatal(f"the connection to {ctx.job.destination} is not trusted, nothing was sent: {error}") from error
    if access.job != ctx.job.id:
        raise Fatal(
            f"the connection to {ctx.job.destination} is not trusted, nothing was sent: it is that of job {access.job}"
        )
    return access


def _own_key(ctx: Context) -> str | None:
    """By which key the other host knows this one, for this job."""
    plan = ctx.job.plan
    return None if plan is None else plan.source_key if ctx.claim.side is Side.SOURCE else plan.destination_key


def _peer_key(ctx: Context) -> str:
    """From the row, as far as this host believes that host by it. What it believed once it believes to the job's end.

    Raises:
        Fatal: it knows that host by another key.
        Transient: it is not there yet.
    """
    plan, job = ctx.job.plan, ctx.job
    at_source = ctx.claim.side is Side.SOURCE
    key = None if plan is None else plan.destination_key if at_source else plan.source_key
    if plan is None or key is None:
        raise Transient("the keys of the two hosts are not on record yet: the controller adds them")
    believed = ctx.directory.peer_key
    if believed.exists() and believed.read_text() == key:
        return key
    try:
        known_hosts.refuse_unknown(job.destination if at_source else job.source, key, ctx.settings, plan.successions)
    except PreconditionFailed as error:
        raise Fatal(f"the streams of job {job.id} are not trusted, nothing was sent: {error}") from error
    write_durably(believed, key)
    return key


def _listen_for_guest(path: Path) -> socket.socket:
    """A socket that any user may connect to; the process looks who it is that does."""
    path.parent.mkdir(exist_ok=True)
    path.parent.chmod(0o711)
    ours = path.parents[1]
    ours.chmod(ours.stat().st_mode & 0o7777 | 0o011)  # it may have been made by what only the worker reads
    unix = local.listen(path)
    path.chmod(0o666)
    return unix


def _spawn(ctx: Context, end: str, descriptors: list[int]) -> None:
    ctx.guard()
    argv = [sys.executable, "-m", "workers.streams", end, str(ctx.directory.streams)]
    processes.spawn(
        ctx.directory.mark(ROLE),
        argv,
        ctx.directory.log(ROLE),
        pass_fds=descriptors,
        environment=logs.handed_on(step="streams"),
    )
