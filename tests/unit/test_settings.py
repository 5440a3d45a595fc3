"""Settings are validated when a process starts: one sentence has the error, and what is allowed."""

import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from drover import settings as module
from drover.errors import PreconditionFailed
from drover.settings import problems, settings
from tests.cli.support import DROVER

ROOT = Path(__file__).parents[2]
GOOD = {"DROVER_DATABASE_URL": "postgresql+psycopg://drover@control/drover", "DROVER_BROKER_URL": "redis://control"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DROVER_")]:
        monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("LEASE_TTL_S", "0.2", "DROVER_LEASE_TTL_S is '0.2': allowed is 1 to 600 s"),
        ("LEASE_TTL_S", "soon", "DROVER_LEASE_TTL_S is 'soon': allowed is 1 to 600 s"),
        ("HEARTBEAT_S", "nan", "DROVER_HEARTBEAT_S is 'nan': allowed is 0.5 to 60 s"),
        (
            "PORTS",
            "22-23",
            "DROVER_PORTS is '22-23': FIRST-LAST is wanted, like 49152-49215, of ports from 1024 to 65535",
        ),
        ("PORTS", "5000-4000", "DROVER_PORTS is '5000-4000': FIRST-LAST is wanted"),
        ("STREAMS", "none", "DROVER_STREAMS is 'none': "),
        ("STREAMS", "certificates", "DROVER_STREAMS is certificates: DROVER_TLS_CERTIFICATE, DROVER_TLS_KEY and"),
        ("CONCURRENCY", "1", "DROVER_CONCURRENCY is '1': allowed is 2 to 1000"),
        ("LEASE_TTL_S", "5", "DROVER_LEASE_MARGIN_S is 3 and DROVER_LEASE_TTL_S is 5: the margin may be at most half"),
        ("ADDRESS", "10.0.0.1:99", "DROVER_ADDRESS is '10.0.0.1:99': an IP address or a host name is wanted"),
        ("METRICS_ADDRESS", "9464", "DROVER_METRICS_ADDRESS is '9464': ADDRESS:PORT is wanted"),
        ("DIRECTORY", "drover", "DROVER_DIRECTORY is 'drover': an absolute path is wanted"),
        ("HOST", "a,b", "DROVER_HOST is 'a,b': a host's name has"),
        ("HOST", "control", "DROVER_HOST is 'control': a host's name has"),
        ("WEBHOOK_KEY", "hunter2", "DROVER_WEBHOOK_KEY is '***': at least 32 characters are wanted"),
    ],
)
def test_a_value_out_of_range_is_one_sentence_that_names_the_variable_and_what_is_allowed(
    variable: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DROVER_{variable}", value)
    [told] = problems()
    assert told.startswith(sentence)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE", "postgresql+psycopg://drover:hunter2@control/drover"),
        ("DATABASE", "postgresql+psycopg://drover@/drover?host=control&password=hunter2"),
        ("BROKER", "redis://hv1:hunter2@control"),
        ("BROKER", "sentinel://hv1:hunter2@a;sentinel://hv1:hunter2@b"),
    ],
)
def test_a_password_stands_in_the_url_or_in_a_file(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DROVER_{name}_PASSWORD_FILE", "/etc/drover/password")
    assert problems() == []
    monkeypatch.setenv(f"DROVER_{name}_URL", url)
    [told] = problems()
    assert told == f"DROVER_{name}_PASSWORD_FILE is set, and DROVER_{name}_URL has a password: take it out of the URL"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://drover@/drover?host=/run/postgresql",
        "postgresql+psycopg://drover@/drover?host=pg1,pg2&port=5433,5433&target_session_attrs=read-write",
        "postgresql+psycopg://hv1@control:5433/drover?sslmode=verify-full&sslrootcert=/etc/drover/ca.crt",
    ],
)
def test_forms_of_database_urls(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_DATABASE_URL", url)
    assert problems() == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://drover:hunter2@control/drover", "write it as postgresql+psycopg://"),
        ("postgresql+psycopg://drover:hunter2@a,b/drover", "with several servers as ...@/NAME?host=A,B"),
        ("postgresql+psycopg://drover:hunter2@a:x/drover", "write it as"),
        ("postgresql+psycopg://drover:hunter2@/drover?host=a,b,c&port=1,2", "3 servers and 2 ports"),
    ],
)
def test_a_wrong_database_url_is_told_without_its_password(url: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_DATABASE_URL", url)
    [told] = problems()
    assert why in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "url",
    ["redis://control", "rediss://hv1:pw@control:6380/0?ssl_cert_reqs=required", "redis+socket:///run/redis.sock",
     "sentinel://u:p@a:26379;sentinel://u:p@b:26379"],
)  # fmt: skip
def test_forms_of_broker_urls(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_BROKER_URL", url)
    assert problems() == []


@pytest.mark.parametrize("url", ["amqp://u:hunter2@x", "redis://:hunter2@a;redis://b", "redis://:hunter2@h:99999/0"])
def test_a_wrong_broker_url_is_told_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_BROKER_URL", url)
    [told] = problems()
    assert told.startswith("DROVER_BROKER_URL is '")
    assert "hunter2" not in told


def test_the_start_names_the_first_fault_and_where_the_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_CONCURRENCY", "0")
    monkeypatch.setenv("DROVER_HEARTBEAT_S", "0")
    settings.cache_clear()
    with pytest.raises(PreconditionFailed, match=r"DROVER_CONCURRENCY is '0'.*1 more: `drover config check`"):
        settings()


@pytest.mark.thorough
@pytest.mark.parametrize("words", [["worker", "--host", "hv1"], ["controller"], ["job", "list"]])
def test_a_value_out_of_range_stops_the_start(words: list[str]) -> None:
    environment = os.environ | {"DROVER_REPUBLISH_AFTER_S": "-1"}
    ended = subprocess.run([DROVER, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "error: DROVER_REPUBLISH_AFTER_S is '-1': allowed is 1 to 600 s\n"


def test_an_empty_variable_is_as_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_LEASE_TTL_S", "")
    settings.cache_clear()
    assert settings().lease_ttl == timedelta(seconds=15)


def test_unknown_variables_are_named() -> None:
    assert module.unknown({"DROVER_MAX_MOVEZ": "1", "DROVER_LAB_DIR": "/x", "DROVER_MAX_MOVES": "1", "PATH": ""}) == [
        "DROVER_MAX_MOVEZ"
    ]


def test_every_variable_that_the_code_names_is_known() -> None:
    """Else `drover config check` would call it unknown."""
    named: set[str] = set()
    for package in ("drover", "lab", "models", "workers", "workflows"):
        for path in (ROOT / package).rglob("*.py"):
            named |= set(re.findall(r"(?<![A-Z_])DROVER_[A-Z][A-Z_]*[A-Z]\b", path.read_text()))
    assert named >= {"DROVER_HEARTBEAT_S", "DROVER_LOG_LEVEL"}
    assert module.unknown(dict.fromkeys(named, "")) == []


def test_every_variable_is_in_the_page_with_its_unit_default_range_and_reader() -> None:
    told = (ROOT / "docs/reference/settings.md").read_text()
    of_workers = told.partition("## Workers")[2].partition("\n## ")[0]
    assert re.search(r"\| `DROVER_LEASE_TTL_S` \| 15 s \| .* Allowed: 1 to 600 s\. \|", of_workers)
    for variable in module.variables():
        assert told.count(f"\n| `{variable}` |") == 1


@pytest.mark.parametrize(("said", "first", "last"), [("49200-49210", 49200, 49210), ("5000", 5000, 5000)])
def test_ports_are_a_range_or_one(said: str, first: int, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_PORTS", said)
    assert (module.settings().ports.first, module.settings().ports.last) == (first, last)
