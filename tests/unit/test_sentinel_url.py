"""The address of Sentinels in what an operator reads."""

import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import OutOfMemoryError

from drover.cli.errors import fault
from drover.settings import settings


def test_each_sentinel_is_named_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROVER_DATABASE_URL", "postgresql+psycopg://x@/x")
    monkeypatch.setenv("DROVER_BROKER_URL", "sentinel://u:secret1@a:26379;sentinel://u:secret2@b:26379")
    settings.cache_clear()
    try:
        away = fault(OperationalError("nobody listens"))
        full = fault(OutOfMemoryError("command not allowed when used memory > 'maxmemory'"))
    finally:
        settings.cache_clear()
    assert "a:26379" in away.message
    assert "b:26379" in away.message
    assert "secret" not in away.message
    assert "is Redis running" not in full.message
    assert "used memory" in full.message
