"""People sign in with a real OpenID Connect provider, a process beside the console; the console answers over TLS."""

import json
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from drover.console.access import LIMITER
from drover.console.app import make
from lab.fleet import free_port
from models.database import transaction
from models.job import Event, Job, JobState
from tests import factories
from tests.helpers import until

pytestmark = pytest.mark.thorough

KEY = "what the tests sign cookies with, long enough"
PEOPLE = {"ada": ["drover-operate", "staff"], "eve": ["staff"], "rita": ["drover-read"], "zoe": "drover-approve"}
SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of localhost, and its key."""
    return _self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """Its address; it knows some people."""
    port = free_port()
    argv = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce", "true"]
    for name, roles in PEOPLE.items():
        claims = {"sub": name, "preferred_username": name, "email": f"{name}@example.org", "roles": roles}
        argv += ["--user-claims", json.dumps(claims)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("the provider answers", lambda: answers(port))
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(20)


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def console(database: None, provider: str, certificate: tuple[Path, Path]) -> Iterator[httpx.Client]:
    """A browser without scripts, which is at the console and follows no redirect by itself."""
    LIMITER.storage.reset()
    with _serving(provider, certificate) as address, _browser(address, certificate[0]) as browser:
        yield browser


def sign_in(browser: httpx.Client, name: str) -> httpx.Response:
    """What the console answers to somebody who comes back from the provider."""
    return browser.get(_back(browser, name))


def _back(browser: httpx.Client, name: str) -> str:
    """The address with which the provider sends somebody back."""
    asked = browser.get("/sign-in").headers["Location"]
    query = parse_qs(urlsplit(asked).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query["state"]
    assert query["nonce"]
    return str(httpx.post(asked, data={"sub": name}).headers["Location"])


def test_whoever_has_not_signed_in_sees_no_page_and_is_sent_to_do_so(console: httpx.Client) -> None:
    for path in ("/", "/inbox", "/jobs", "/history.csv"):
        answer = console.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in"), path
    assert console.get("/live/fleet").status_code == 401
    assert console.get("/api/v1/hosts").status_code == 401
    assert console.get("/static/console.css").status_code == 200


def test_a_role_of_the_claim_decides_what_somebody_may_and_the_page_that_was_asked_for_is_shown(
    console: httpx.Client,
) -> None:
    console.get("/inbox")
    answer = sign_in(console, "ada")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/inbox")
    assert "ada may operate" in console.get("/inbox").text
    factories.host("a")
    factories.host("b")
    factories.guest("web", "a")
    number = factories.job("web", "b", state=JobState.RUNNING, hold=True)
    assert console.post(f"/jobs/{number}/release", headers=SAME_SITE).status_code == 303
    with transaction() as session:
        assert not session.get_one(Job, number).hold
        assert {event.by for event in session.query(Event).filter_by(job_id=number)} == {"ada (console)"}
    assert console.post(f"/jobs/{number}/resolve?owner=source", headers=SAME_SITE).status_code == 403


@pytest.mark.parametrize(("name", "may"), [("rita", "read"), ("zoe", "approve")])
def test_other_roles_are_known_too(console: httpx.Client, name: str, may: str) -> None:
    assert sign_in(console, name).status_code == 303
    assert f"{name} may {may}" in console.get("/").text


def test_whoever_has_none_of_the_roles_sees_nothing(console: httpx.Client) -> None:
    answer = sign_in(console, "eve")
    assert answer.status_code == 403
    assert "names none of drover-read" in answer.text
    assert console.get("/").status_code == 303


def test_cookies_are_for_this_host_over_tls_alone_and_no_script_sees_them(console: httpx.Client) -> None:
    answer = sign_in(console, "ada")
    cookie = answer.headers["Set-Cookie"].lower()
    assert cookie.startswith("__host-drover=")
    for part in ("httponly", "secure", "samesite=lax", "path=/"):
        assert part in cookie
    assert "domain=" not in cookie


def test_an_answer_that_was_not_asked_for_here_signs_nobody_in(
    console: httpx.Client, certificate: tuple[Path, Path]
) -> None:
    """Somebody else's link, a state that was made up, and an answer that has been used."""
    back = _back(console, "ada")
    with _browser(str(console.base_url), certificate[0]) as other:
        assert other.get(back).status_code == 403
        assert other.get("/").status_code == 303
    forged = re.sub(r"state=[^&]+", "state=made-up", back)
    assert console.get(forged).status_code == 403
    assert console.get(back).status_code == 303
    assert console.get(back).status_code == 403


def test_a_token_with_another_nonce_signs_nobody_in(console: httpx.Client) -> None:
    asked = console.get("/sign-in").headers["Location"]
    other = re.sub(r"nonce=[^&]+", "nonce=another", asked)
    back = httpx.post(other, data={"sub": "ada"}).headers["Location"]
    answer = console.get(back)
    assert (answer.status_code, "begin anew" in answer.text) == (403, True)


def test_a_form_of_another_site_changes_nothing_and_signs_nobody_out(console: httpx.Client) -> None:
    sign_in(console, "ada")
    assert console.post("/sign-out", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert console.get("/").status_code == 200


def test_whoever_signs_out_is_forgotten(console: httpx.Client) -> None:
    sign_in(console, "ada")
    answer = console.post("/sign-out", headers=SAME_SITE)
    assert "Signed out" in answer.text
    assert console.get("/").headers["Location"] == "/sign-in"


def test_a_cookie_that_was_made_up_or_is_old_is_none(console: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(console, "ada")
    with monkeypatch.context() as later:
        later.setattr("drover.console.sign_in.time.time", lambda: 1e12)
        assert console.get("/").status_code == 303
    console.cookies.clear()
    console.cookies.set("__Host-drover", "eyJwZXJzb24iOiB7fX0=.x.y")
    assert console.get("/").status_code == 303


@contextmanager
def _serving(issuer: str, certificate: tuple[Path, Path]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"https://localhost:{listener.getsockname()[1]}"
        ours = factories.ours(
            oidc_issuer=issuer,
            oidc_client_id="drover",
            oidc_client_secret="hunter2",
            oidc_claim="roles",
            console_url=address,
            console_key=KEY,
        )
        pem, key = certificate
        app: Any = make("localhost", actions=True, ours=ours)
        config = uvicorn.Config(app, log_config=None, ssl_certfile=pem, ssl_keyfile=key, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            until("the console answers", lambda: server.started)
            yield address
        finally:
            server.should_exit = True
            thread.join(20)


@contextmanager
def _browser(address: str, authority: Path) -> Iterator[httpx.Client]:
    trusted = ssl.create_default_context(cafile=str(authority))
    with httpx.Client(base_url=address, verify=trusted, timeout=30) as browser:
        yield browser


def _self_signed(folder: Path) -> tuple[Path, Path]:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "console.pem", folder / "console.key"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, private
