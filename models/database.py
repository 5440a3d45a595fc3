"""The one door to Postgres."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from models.settings import settings


@cache
def engine() -> Engine:
    """The process's pool of connections, opened at first use.

    TCP keep-alives are short so that a vanished server is noticed within seconds.
    """
    return create_engine(
        settings().database_url,
        pool_pre_ping=True,
        pool_size=5,
        max_overflow=settings().concurrency,
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "application_name": f"drover {settings().host or 'control'}",
        },
    )


def forget() -> None:
    """Close the pool and read the settings anew at next use: the environment has changed."""
    if engine.cache_info().currsize:
        engine().dispose()
    engine.cache_clear()
    settings.cache_clear()


@contextmanager
def transaction() -> Iterator[Session]:
    """A session whose changes are committed at the end, or not at all. Objects stay readable after."""
    with Session(engine(), expire_on_commit=False) as session, session.begin():
        yield session
