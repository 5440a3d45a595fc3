"""Insecure code, secrets in files and known vulnerabilities: `make check` finds what is planted."""

import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab import advisories

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@contextmanager
def advisory_service(vulnerable: str = "") -> Iterator[str]:
    """It knows one vulnerability, of this package; answers its URL."""

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}]
            found = {"id": "TEST-1", "affected": [{"package": asked, "ranges": ranges}]}
            body = json.dumps({"vulns": [found]} if asked["name"] == vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def looked_up(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """What `make check` runs, by a service of ours."""
    argv = [sys.executable, "-m", "lab.advisories", "--vulnerability-service", "osv", "--osv-url", url, *options]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_a_known_vulnerability_of_what_is_installed_fails_the_check_and_is_named() -> None:
    with advisory_service("httpx") as url:
        done = looked_up(url)
        excepted = looked_up(url, "--ignore-vuln", "TEST-1")
    assert done.returncode == 1
    assert "httpx 0." in done.stdout
    assert "has TEST-1, mended in 99" in done.stdout
    assert excepted.returncode == 0, "an exception that was decided"


def test_no_known_vulnerability_passes_and_says_how_many_packages_were_looked_up() -> None:
    with advisory_service() as url:
        done = looked_up(url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("advisories: none for ")
    assert int(done.stdout.split()[3]) > 20


def test_where_nobody_answers_that_is_said_and_the_check_goes_on() -> None:
    done = looked_up("http://127.0.0.1:1/v1/query")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nobody answers here" in done.stdout
    assert "packages were not looked up; this is no failure" in done.stdout


def test_a_service_that_knows_no_package_at_all_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a mirror of PyPI has its files and not its advisories: pip-audit alone would call that success."""
    monkeypatch.setattr(advisories, "_asked", lambda pins, _: advisories.Answer((), pins))
    assert advisories.main([]) == 0


def test_a_failure_of_the_tool_itself_fails_the_check() -> None:
    with advisory_service() as url:
        done = looked_up(url, "--no-such-option")
    assert done.returncode == 1
    assert "pip-audit failed" in done.stderr


def scanned(folder: Path, text: str) -> int:
    """What the scan for secrets says of a file; 0: nothing found."""
    (folder / "planted.py").write_text(text)
    argv = [f"{PROGRAMS}/detect-secrets-hook", "--baseline", ".secrets.baseline", str(folder / "planted.py")]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, check=False).returncode


PLANTED = [
    'password = "' + "Xk2" + 'v9Qe7Lm4Rt8Zw1"\n',
    'url = "redis://drover:' + 'Xk2v9Qe7Lm4@control/0"\n',
    'key = "' + "whsec_" + 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"\n',
    "-----BEGIN " + "PRIVATE KEY-----\n",
]


@pytest.mark.parametrize("text", PLANTED)
def test_a_secret_in_a_file_is_found(tmp_path: Path, text: str) -> None:
    assert scanned(tmp_path, text) == 1


def test_what_only_stands_for_a_secret_is_none(tmp_path: Path) -> None:
    assert scanned(tmp_path, 'password = "hunter2"\nurl = "redis://drover:PASSWORD@control/0"\n') == 0


def test_no_secret_is_excepted_by_the_baseline_itself() -> None:
    baseline: dict[str, Any] = json.loads((ROOT / ".secrets.baseline").read_text())
    assert baseline["results"] == {}, "except a line by `# pragma: allowlist secret`, where everybody sees it"


@pytest.mark.parametrize("code", ["import subprocess\nsubprocess.call('x', shell=True)\n", "eval(input())\n"])
def test_insecure_code_is_found(tmp_path: Path, code: str) -> None:
    (tmp_path / "planted.py").write_text(code)
    argv = [f"{PROGRAMS}/bandit", "--quiet", "--configfile", f"{ROOT}/pyproject.toml", "--recursive", str(tmp_path)]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("name", ["celery", "kombu", "qemu.qmp", "typer"])
def test_a_dependency_of_whose_private_parts_ours_are_made_is_bounded_from_above(name: str) -> None:
    [wanted] = [each for each in PROJECT["project"]["dependencies"] if each.startswith((f"{name}>", f"{name}["))]
    assert ",<" in wanted
