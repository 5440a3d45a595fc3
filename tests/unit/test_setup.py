"""Setting a machine up: what setup.sh derives and prints, and what the container files must never hold."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "lab" / "setup.sh"
COMPOSE = ROOT / "docker-compose.yml"
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH")

BACKPORTS = """\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm-backports
Components: main
"""
KEYRING = "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"

DEB822 = """\
# A comment, as Docker's images have them
Types: deb
# http://snapshot.example/archive
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""

ONE_LINE = """\
# deb cdrom:[Debian GNU/Linux 12]/ bookworm main
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
deb-src http://sources.example/debian bookworm main
deb [ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] http://mirror.example/debian/ bookworm main
deb http://mirror.example/debian-security bookworm-security main
"""

# Others name their suites after Debian's releases too, and their files may sort first.
STRANGER = "deb [signed-by=/etc/keys/stranger.gpg] https://packages.example/tool bookworm main\n"

SWITCHED_OFF = """\
Enabled: no
Types: deb
URIs: http://old.example/debian
Suites: bookworm
Components: main

types: deb
uris: http://mirror.example/debian
suites:
 bookworm
 bookworm-updates
components: main contrib
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0BUBEADmW5NdOOHwPIJlgPu6JDcKw/NZJPR8lsD3K87ZM18gzyQZJD+w
 -----END PGP PUBLIC KEY BLOCK-----
"""
INLINE_KEY = "Signed-By:\n" + SWITCHED_OFF.split("signed-by:\n")[1]


def derive(directory: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    return subprocess.run(
        ["sh", SETUP, "--print-backports", directory, "bookworm"], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sources.list.d/debian.sources": DEB822}, BACKPORTS + KEYRING),
        ({"debian.sources": DEB822}, BACKPORTS + KEYRING),
        ({"sources.list": ONE_LINE}, BACKPORTS + KEYRING),
        ({"sources.list": "deb http://mirror.example/debian bookworm main\n"}, BACKPORTS),
        (
            {"sources.list": "deb [trusted=yes] http://mirror.example/debian bookworm main # near\n"},
            BACKPORTS + "Trusted: yes\n",
        ),
        ({"sources.list.d/a.list": STRANGER, "sources.list.d/debian.sources": DEB822}, BACKPORTS + KEYRING),
        ({"sources.list": STRANGER + ONE_LINE}, BACKPORTS + KEYRING),
        ({"sources.list.d/debian.sources": SWITCHED_OFF}, BACKPORTS + INLINE_KEY),
    ],
    ids=["deb822", "flat", "one-line", "unsigned", "trusted", "stranger", "stranger-one-line", "inline-key"],
)
def test_backports_follow_from_the_machines_own_sources(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    result = derive(tmp_path, files)
    assert (result.stdout, result.stderr, result.returncode) == (expected, "", 0)


@pytest.mark.parametrize("text", ["", "deb http://mirror.example/debian trixie main\n"])
def test_no_entry_for_the_release_no_backports(tmp_path: Path, text: str) -> None:
    result = derive(tmp_path, {"sources.list": text})
    assert (result.stdout, result.returncode) == ("", 1)


@pytest.mark.parametrize(
    ("words", "missing", "command"), [([], "qemu-system-x86 ", "--packages"), (["--libvirt"], "", "--libvirt")]
)
def test_without_root_it_names_the_command_and_changes_nothing(
    tmp_path: Path, words: list[str], missing: str, command: str
) -> None:
    (tmp_path / "lab").mkdir()
    shutil.copy(SETUP, tmp_path / "lab")
    stubs = {"id": "echo 1000", "sudo": "exit 1", "dpkg-query": "exit 1", "apt-get": "touch called"}
    (tmp_path / "bin").mkdir()
    for name, body in stubs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    result = subprocess.run(
        ["sh", tmp_path / "lab" / "setup.sh", *words],
        env=os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert missing in result.stdout
    assert result.stderr.endswith(f"sh {tmp_path}/lab/setup.sh {command}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "lab"]


def test_shell_scripts_are_clean() -> None:
    libvirtd = ROOT / "bench" / "libvirtd.sh"
    for script in (SETUP, libvirtd):
        subprocess.run(["sh", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", SETUP, libvirtd, ROOT / ".ci" / "run"], check=True)


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="only git knows which files are ours"
)
def test_no_registry_is_named_anywhere() -> None:
    """Where packages come from is the machine's business: its apt sources, its pip configuration."""
    hosts: list[tuple[str, ...]] = [
        ("deb", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("security", "debian", "org"),
    ]
    hosts += [("pypi", "org"), ("files", "pythonhosted", "org"), ("registry", "npmjs", "org"), ("docker", "io")]
    pattern = re.compile(rb"(?<![\w-])(" + "|".join(r"\.".join(host) for host in hosts).encode() + rb")(?![\w-])")
    files = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in files.stdout.split("\0") if name]
    assert SETUP in paths
    named = [str(path) for path in paths if path.is_file() and pattern.search(path.read_bytes())]
    assert named == []


def test_compose_has_no_default_password() -> None:
    text = COMPOSE.read_text()
    for secret in SECRETS:
        uses = re.findall(rf"\${{{secret}(.[^}}]*)", text)
        assert uses
        assert all(use.startswith(":?") for use in uses)
    assert not re.search(r"(?im)^ *\w*(password|auth): *[^$\s]", text)


def test_compose_publishes_only_flower_and_prometheus_and_on_loopback() -> None:
    text = COMPOSE.read_text()
    published = ['["127.0.0.1:${FLOWER_PORT:-5555}:5555"]', '["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"]']
    assert re.findall(r"ports: *(.*)", text) == published


def test_compose_describes_the_whole_fleet() -> None:
    yaml: Any = pytest.importorskip("yaml")
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert set(services) == {"postgres", "redis", "migrate", "controller", "flower", "prometheus", "host-a", "host-b"}
    assert all("healthcheck" in service for name, service in services.items() if name != "migrate")
    assert services["host-a"]["volumes"] != services["host-b"]["volumes"]


def compose() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    return None


@pytest.mark.parametrize("missing", [None, *SECRETS])
def test_compose_accepts_it_only_with_every_secret_set(missing: str | None) -> None:
    command = compose()
    if command is None:
        pytest.skip("no docker compose on this machine")
    environment = {key: value for key, value in os.environ.items() if key not in SECRETS}
    environment |= {key: "user:given" if "AUTH" in key else "given" for key in SECRETS if key != missing}
    result = subprocess.run(
        [*command, "--file", COMPOSE, "config", "--quiet"], env=environment, capture_output=True, text=True, check=False
    )
    if missing is None:
        assert (result.returncode, result.stderr) == (0, "")
    else:
        assert result.returncode
        assert missing in result.stderr
