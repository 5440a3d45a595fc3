"""A certificate authority as operators have one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

USUAL = timedelta(days=90)


class Authority:
    """A root, or one that another authority has signed."""

    def __init__(self, name: str, by: Authority | None = None) -> None:
        self.name, self.by = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), by
        self.key = ec.generate_private_key(ec.SECP256R1())
        signer = by or self
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = _signed(signer, self.name, self.key, timedelta(days=3650), basic)

    @property
    def root(self) -> Authority:
        """Where trust begins."""
        return self if self.by is None else self.by.root

    def pem(self) -> str:
        """Its certificate, and those of its signers up to a root that is left out."""
        return "" if self.by is None else _pem(self.certificate) + self.by.pem()

    def pem_of_root(self) -> str:
        """What peers trust."""
        return _pem(self.root.certificate)

    def issue(self, folder: Path, host: str, *, name: str | None = None, left: timedelta = USUAL) -> dict[str, Path]:
        """Files of a host, for a certificate that is valid for so long and names the host, or somebody else."""
        key = ec.generate_private_key(ec.SECP256R1())
        who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        names = x509.SubjectAlternativeName([x509.DNSName(name or host)])
        made = _signed(self, who, key, left, names)
        files = {what: folder / f"{host}.{what}" for what in ("certificate", "key", "authority")}
        files["certificate"].write_text(_pem(made) + self.pem())
        files["authority"].write_text(self.pem_of_root())
        private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files["key"].write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
        return files


def _signed(by: Authority, who: x509.Name, key: Any, left: timedelta, extension: x509.ExtensionType) -> Any:
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(who).issuer_name(by.name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=400)).not_valid_after(now + left)
    critical = isinstance(extension, x509.BasicConstraints)
    return made.add_extension(extension, critical=critical).sign(by.key, hashes.SHA256())


def _pem(certificate: Any) -> str:
    return str(certificate.public_bytes(serialization.Encoding.PEM).decode())
