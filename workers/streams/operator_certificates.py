"""Certificates of the operator's own: whether two hosts prove themselves by them to each other. Looked at before a move
begins, as strictly as TLS will.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from drover.errors import Transient
from drover.settings import Settings, StreamSecurity
from models.plan import StreamCertificates
from workers.streams import credentials, supervisor

BOTH_SIDES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def shown(ours: Settings) -> StreamCertificates | None:
    """What others may know of this host's; None where it uses none, or they cannot be read."""
    if ours.streams is not StreamSecurity.CERTIFICATES:
        return None
    try:
        mine = supervisor.of_operator(ours, ours.host)
    except Transient:
        return None
    return StreamCertificates(certificate=mine.certificate, authority=mine.peer)


def own_faults(ours: Settings) -> Iterator[str]:
    """Why nobody could believe this host, a sentence each."""
    if ours.streams is not StreamSecurity.CERTIFICATES:
        return
    try:
        mine = supervisor.of_operator(ours, ours.host)
        credentials.server_context(mine)
    except Transient as error:
        yield str(error)
        return
    except (OSError, ValueError) as error:
        yield f"certificate and key of {ours.host} do not go together ({error})"
        return
    yield from faults(mine.certificate, mine.peer, ours.host, of=ours.host)


def faults_between(ours: Settings, peer: str, theirs: StreamCertificates | None) -> Iterator[str]:
    """Why this host and another would not believe each other."""
    mine = shown(ours)
    if mine is None or theirs is None:
        return
    yield from faults(theirs.certificate, mine.authority, peer, of=ours.host)
    if theirs.authority != mine.authority:
        yield from faults(mine.certificate, theirs.authority, ours.host, of=peer)


def faults(certificate: str, authority: str, name: str, *, of: str) -> Iterator[str]:
    """Why a host's certificate proves nothing by an authority; `of` is the host that has this authority."""
    try:
        leaf, *between = x509.load_pem_x509_certificates(certificate.encode())
        trusted = x509.load_pem_x509_certificates(authority.encode())
    except ValueError as error:
        yield f"the certificate of {name}, or the authority of {of}, is no PEM file of certificates ({error})"
        return
    now = datetime.now(UTC)
    if now > leaf.not_valid_after_utc:
        yield f"the certificate of {name} expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    elif now < leaf.not_valid_before_utc:
        yield f"the certificate of {name} is valid only from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
    elif why := _untrusted(leaf, between, trusted, now):
        yield f"the certificate of {name} is of no authority that {of} trusts ({why})"
    if name not in (named := _names(leaf)):
        found = f"the certificate of {name} is for {', '.join(named) or 'nobody'}"
        yield f"{found}: it needs the alternative name DNS:{name}"


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return found.value.get_values_for_type(x509.DNSName)


def _untrusted(
    leaf: x509.Certificate, between: list[x509.Certificate], trusted: list[x509.Certificate], now: datetime
) -> str | None:
    """Only what has signed itself is where trust begins, as OpenSSL has it."""
    roots = [one for one in trusted if one.issuer == one.subject]
    if leaf in roots:
        return None  # it has signed itself, and is trusted as such
    if not roots:
        return "it lists no root"
    policy = PolicyBuilder().store(Store(roots)).time(now).extension_policies(ca_policy=AUTHORITY, ee_policy=HOST)
    try:
        policy.build_client_verifier().verify(leaf, [*between, *(one for one in trusted if one not in roots)])
    except VerificationError as error:
        return str(error)
    return None


def _is_authority(_: Policy, __: x509.Certificate, found: x509.BasicConstraints | None) -> None:
    if found is None or not found.ca:
        raise ValueError("it was signed by something that is no authority")


def _is_for_both_sides(_: Policy, __: x509.Certificate, found: x509.ExtendedKeyUsage | None) -> None:
    if found is not None and not set(found) >= BOTH_SIDES:
        raise ValueError("its extended key usage needs both serverAuth and clientAuth")


AUTHORITY = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
HOST = ExtensionPolicy.permit_all().may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _is_for_both_sides)
