"""Certificates of the operator's own: what is said before a move is what TLS would do in it."""

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from drover.errors import DroverError
from drover.settings import Settings, StreamSecurity
from tests import factories
from tests.certificates import Authority
from workers.streams import credentials, handshake, operator_certificates, supervisor

ROOT = Authority("root")
BETWEEN = Authority("between", by=ROOT)
OTHER = Authority("other")


def _host(name: str, files: Mapping[str, Path]) -> Settings:
    paths = {f"tls_{what}": path for what, path in files.items()}
    return factories.offline(host=name, streams=StreamSecurity.CERTIFICATES, **paths)


def _believe(source: Settings, destination: Settings) -> bool:
    """Both prove themselves to each other, as the processes of a move do it."""
    near, far = socket.socketpair()
    believed: list[bool] = []

    def end(raw: socket.socket, ours: Settings, peer: str, *, server: bool) -> None:
        mine, soon = supervisor.of_operator(ours, peer), time.monotonic() + 5
        context = (credentials.server_context if server else credentials.client_context)(mine)
        with (
            suppress(OSError, DroverError),
            closing(handshake.wrap(raw, context, None if server else mine.peer_name, server=server)) as wrapped,
        ):
            handshake.prove(wrapped, mine, soon, server=server)
            if server:
                handshake.write(wrapped, handshake.ACCEPTED, soon)
            else:
                handshake.read_line(wrapped, soon)
            believed.append(True)

    ends = [
        threading.Thread(target=end, args=(near, source, destination.host), kwargs={"server": False}),
        threading.Thread(target=end, args=(far, destination, source.host), kwargs={"server": True}),
    ]
    for thread in ends:
        thread.start()
    for thread in ends:
        thread.join(20)
    return believed == [True, True]


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "by a root": ({}, {}, None),
    "by one between": ({"by": BETWEEN}, {"by": BETWEEN}, None),
    "one by a root, one by one between": ({}, {"by": BETWEEN}, None),
    "expired": ({}, {"left": timedelta(hours=-1)}, "expired at"),
    "expired at the source": ({"left": timedelta(hours=-1)}, {}, "expired at"),
    "by another authority": ({}, {"by": OTHER}, "of no authority that"),
    "by another authority at the source": ({"by": OTHER}, {}, "of no authority that"),
    "for another host": ({}, {"name": "hv3"}, "the certificate of hv2 is for hv3"),
    "for another host at the source": ({"name": "hv3"}, {}, "the certificate of hv1 is for hv3"),
}


def _issued(folder: Path, host: str, by: Authority = ROOT, **how: Any) -> dict[str, Path]:
    return by.issue(folder, host, **how)


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_before_a_move_is_what_tls_does_in_it(tmp_path: Path, case: str) -> None:
    at_source, at_destination, why = CASES[case]
    source = _host("hv1", _issued(tmp_path, "hv1", **at_source))
    destination = _host("hv2", _issued(tmp_path, "hv2", **at_destination))
    said = [
        *operator_certificates.own_faults(source),
        *operator_certificates.own_faults(destination),
        *operator_certificates.faults_between(destination, "hv1", operator_certificates.shown(source)),
    ]
    assert (not said) == _believe(source, destination)
    assert (why is None and not said) or any(str(why) in sentence for sentence in said)


def test_a_key_of_another_certificate_and_a_file_that_is_gone_are_told(tmp_path: Path) -> None:
    files = ROOT.issue(tmp_path, "hv1")
    other = ROOT.issue(tmp_path, "hv2")
    [why] = operator_certificates.own_faults(_host("hv1", files | {"key": other["key"]}))
    assert why.startswith("certificate and key of hv1 do not go together")
    files["certificate"].unlink()
    [why] = operator_certificates.own_faults(_host("hv1", files))
    assert why.startswith("a certificate of hv1 cannot be read")


def test_an_authority_file_without_a_root_is_told_as_tls_refuses_it(tmp_path: Path) -> None:
    files = BETWEEN.issue(tmp_path, "hv1")
    files["authority"].write_text(BETWEEN.pem())
    [why] = operator_certificates.own_faults(_host("hv1", files))
    assert "it lists no root" in why


def test_hosts_with_credentials_of_drovers_own_have_nothing_to_show() -> None:
    ours = factories.offline(host="hv1")
    assert operator_certificates.shown(ours) is None
    assert list(operator_certificates.own_faults(ours)) == []
