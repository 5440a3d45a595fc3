"""What each user of Redis may do, and what it may not: `drover broker acl`, on a real Redis."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from drover.broker.app import configuration
from drover.settings import settings
from tests.cli.support import DROVER, drover, point_at
from tests.helpers import until

pytestmark = pytest.mark.thorough

USERS = ("--host", "hv1", "--host", "hv2", "--controller", "control", "--submitter", "billing", "--flower", "flower")


class Server:
    """A Redis with the users of `drover broker acl`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def socket(self) -> Path:
        return self.folder / "redis.sock"

    def write(self, *more: str) -> None:
        done = drover(
            "broker", "acl", *USERS, *more, "--passwords", str(self.folder), "--out", str(self.folder / "acl")
        )
        assert done.exit_code == 0, done.output

    def password(self, user: str) -> str:
        return (self.folder / f"{user}.redis").read_text().split()[0]

    def url(self, user: str) -> str:
        return f"redis+socket://{user}:{self.password(user)}@{self.socket}"

    @contextmanager
    def login(self, user: str, password: str | None = None) -> "Iterator[redis.Redis]":
        secret = password or self.password(user)
        with redis.Redis(unix_socket_path=str(self.socket), username=user, password=secret) as client:
            yield client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.write()
    argv = ["redis-server", "--port", "0", "--unixsocket", str(made.socket), "--aclfile", str(tmp_path / "acl")]
    running = subprocess.Popen([*argv, "--save", ""], stdout=subprocess.DEVNULL, cwd=tmp_path)
    until("Redis listens", made.socket.exists)
    yield made
    running.kill()
    running.wait()


def _say(client: "redis.Redis", command: str) -> Any:
    return client.execute_command(*command.split())  # type: ignore[no-untyped-call]


EVERYBODY = (
    *("FLUSHALL", "KEYS *", "CONFIG GET *", "CLIENT LIST", "ACL LIST", "SHUTDOWN"),
    *("EVAL return(1) 0", "EVALSHA x 0", "SCRIPT LOAD return(1)", "SCRIPT KILL", "FUNCTION LIST", "FCALL x 0"),
    *("CLIENT PAUSE 100000", "CLIENT KILL TYPE normal", "CLIENT TRACKING on", "MONITOR"),
)
A_HOST = (
    *("LRANGE drover.hv2 0 -1", "BRPOP drover.hv2 1", "DEL drover.hv2", "SET drover.hv2 x", "RPOP drover.hv2"),
    *("LPUSH drover.control x", "LPUSH drover.unrouted x", "DEL unacked.hv2", "HGET unacked.hv2 x"),
    *("HSET unacked.control x x", "PUBLISH /0.celery.pidbox shutdown", "SUBSCRIBE /0.celery.pidbox", "SET mine x"),
)
A_SUBMITTER = (
    *("LPUSH drover.hv1 x", "LPUSH drover.unrouted x", "LRANGE drover.control 0 -1", "BRPOP drover.control 1"),
    *("DEL drover.control", "PUBLISH /0.celery.pidbox shutdown", "HGET unacked.control x", "SET mine x"),
)
FLOWER = (
    *("LPUSH drover.hv1 x", "LPUSH drover.control x", "DEL drover.hv1", "BRPOP drover.hv1 1", "SET drover.hv1 x"),
    *("PUBLISH /0.celeryev/worker.heartbeat x", "LRANGE drover.control 0 -1", "HGET unacked.hv1 x"),
)
TRIED = {"hv1": A_HOST, "billing": A_SUBMITTER, "flower": FLOWER, "control": (), "acl": ("LPUSH drover.hv1 x",)}


@pytest.mark.parametrize("user", TRIED)
def test_nobody_may_do_what_is_not_its_purpose(server: Server, user: str) -> None:
    def done(command: str) -> bool:
        with server.login(user) as client:
            try:
                _say(client, command)
            except redis.exceptions.NoPermissionError:
                return False
            return True

    assert list(filter(done, (*EVERYBODY, *TRIED[user]))) == []


def test_nobody_gets_in_without_a_password_of_its_own(server: Server) -> None:
    for user, password in (("hv1", server.password("hv2")), ("default", server.password("hv1"))):
        with pytest.raises(redis.AuthenticationError), server.login(user, password) as client:
            client.ping()
    assert server.password("hv1") not in (server.folder / "acl").read_text()
    assert {path.stat().st_mode & 0o777 for path in server.folder.glob("*.redis")} == {0o600}


@contextmanager
def application(monkeypatch: pytest.MonkeyPatch, server: Server, user: str, **more: str) -> "Iterator[Celery]":
    """Celery as a process of that user has it."""
    point_at(monkeypatch, DROVER_BROKER_URL=server.url(user), DROVER_DATABASE_URL="postgresql+psycopg://x@x/x", **more)
    if user.startswith("hv"):
        monkeypatch.setenv("DROVER_HOST", user)
    settings.cache_clear()
    with Celery(set_as_current=False) as made:
        made.conf.update(configuration() | {"task_publish_retry": False})
        yield made


def _taken(by: Celery, queue: str) -> str:
    with by.connection_for_read() as connection, connection.SimpleQueue(queue) as waiting:
        message = waiting.get(timeout=5)
        message.ack()
        return str(message.headers["task"])


@pytest.mark.parametrize(
    ("sender", "receiver"), [("control", "hv1"), ("hv1", "hv2"), ("billing", "control"), ("hv1", "hv1")]
)
def test_messages_go_from_whoever_may_send_them_to_whom_they_are_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, sender: str, receiver: str
) -> None:
    queue = f"drover.{receiver}"
    with application(monkeypatch, server, sender) as app:
        app.send_task("drover.example", queue=queue)
    with application(monkeypatch, server, receiver) as app:
        assert _taken(app, queue) == "drover.example"
    with server.login("acl") as client:
        assert _say(client, "ACL LOG") == []


@pytest.mark.parametrize("user", ["hv1", "control"])
def test_what_nobody_acknowledged_is_looked_for_without_a_script(
    server: Server, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    with application(monkeypatch, server, user) as app, app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        channel.qos.restore_visible()
    with server.login(user) as client, server.login("acl") as admin:
        assert client.get(f"unacked_mutex.{user}") is None, "it was taken, and given back"
        assert _say(admin, "ACL LOG") == []


def test_a_host_that_takes_anothers_message_gets_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with application(monkeypatch, server, "hv2") as app, pytest.raises((OperationalError, redis.RedisError)):
        _taken(app, "drover.hv1")


def test_a_password_is_renewed_while_the_former_one_counts(server: Server) -> None:
    former = server.password("hv1")
    with server.login("hv1", former) as connected:
        server.write("--renew", "hv1")
        with server.login("acl") as client:
            _say(client, "ACL LOAD")
        for password in (former, server.password("hv1")):
            with server.login("hv1", password) as client:
                assert client.llen("drover.hv1") == 0
        assert connected.llen("drover.hv1") == 0
        server.write("--settle", "hv1")
        with server.login("acl") as client:
            _say(client, "ACL LOAD")
        with pytest.raises(redis.AuthenticationError), server.login("hv1", former) as client:
            client.ping()
        with server.login("hv1") as client:
            assert client.ping()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--host", "control"), "cannot be called"),
        (("--host", "hv1", "--flower", "hv1"), "hv1"),
        (("--host", "hv1", "--renew", "hv2"), "hv2 is none of the users"),
        (("--flower", "default"), "default"),
        (("--flower", "acl"), "acl"),
    ],
)
def test_users_that_would_be_more_than_one_thing_are_refused(tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    refused = drover("broker", "acl", *words, "--passwords", str(tmp_path))
    assert refused.exit_code == 2
    assert why in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoilt", ["folder", "binary", "of_a_folder_that_is_none"])
def test_a_file_that_cannot_be_one_is_named_in_a_sentence(tmp_path: Path, spoilt: str) -> None:
    files = {"folder": tmp_path, "binary": tmp_path / "binary", "of_a_folder_that_is_none": tmp_path / "binary/acl"}
    files["binary"].write_bytes(b"\xff\xfe")
    refused = drover("broker", "acl", *USERS, "--passwords", str(tmp_path), "--out", str(files[spoilt]))
    assert (refused.exit_code, f"error: {files[spoilt]} cannot be used: " in refused.stderr) == (2, True), (
        refused.stderr
    )
    files["binary"].unlink()
    refused = drover("broker", "acl", *USERS, "--passwords", str(DROVER))
    assert (refused.exit_code, " cannot be used: Not a directory" in refused.stderr) == (2, True), refused.stderr


def test_whoever_is_left_out_of_the_file_by_mistake_is_not_shut_out(server: Server) -> None:
    file, fewer = server.folder / "acl", ("--host", "hv1", "--controller", "control", "--flower", "flower")
    written, folder = file.read_text(), str(server.folder)
    words = ("broker", "acl", *fewer, "--passwords", folder, "--out", str(file))
    refused = drover(*words, "--renew", "hv1", "--remove", "hv2")
    assert refused.exit_code == 2
    assert "has billing as well: name all users" in refused.stderr
    assert file.read_text() == written
    assert len((server.folder / "hv1.redis").read_text().split()) == 1, "nothing was renewed"
    assert drover(*words, "--remove", "hv2", "--remove", "billing").exit_code == 0
    with server.login("hv2") as connected, server.login("acl") as loader:
        assert connected.ping()
        _say(loader, "ACL LOAD")
        with pytest.raises(redis.ConnectionError):
            connected.client_id()


def test_a_process_that_runs_takes_up_a_renewed_password(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    first, file = server.password("hv1"), server.folder / "hv1.redis"
    monkeypatch.setattr(Server, "url", lambda self, user: f"redis+socket://{user}@{self.socket}")
    with application(monkeypatch, server, "hv1", DROVER_BROKER_PASSWORD_FILE=str(file)) as app:
        channel: Any = app.connection_for_write().channel()
        assert channel.client.ping()
        for change in ("--renew", "--settle"):
            server.write(change, "hv1")
            with server.login("acl") as loader:
                _say(loader, "ACL LOAD")
            channel.client.connection_pool.disconnect()  # its connection is lost
            assert channel.client.ping()
        with server.login("hv1", first) as former, pytest.raises(redis.exceptions.AuthenticationError):
            former.ping()
        file.unlink()
        channel.client.connection_pool.disconnect()
        with pytest.raises(redis.exceptions.ConnectionError, match="the password for Redis cannot be read"):
            channel.client.ping()
        channel.connection.client.close()
