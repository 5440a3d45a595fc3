"""Secrets that stand on a command line are told to nobody but the guest's next QEMU."""

import os
from pathlib import Path

from models.plan import FileKind
from tests import factories
from workers.media import digests, listing
from workers.process import processes
from workers.qemu.inline_secrets import contents, in_files, objects

SECRET = "hunter2,=x"  # pragma: allowlist secret
PLAIN = "secret,id=key0,data=hunter2,,=x"  # pragma: allowlist secret
LINE = ["qemu", "-object", PLAIN, "-object", '{"qom-type":"secret","id":"key1","data":"aGk=","format":"base64"}']
CIPHERED = ["-object", "secret,id=master,file=/g/master", "-object", "secret,id=disk,data=Zm9v,keyid=master,iv=AAAA"]


def test_a_secret_on_the_command_line_is_told_as_a_file_and_the_rest_to_the_letter() -> None:
    told = in_files([*LINE, *CIPHERED, "-m", "1G"], "/g/qmp.sock")
    assert told[2] == "secret,id=key0,file=/g/qmp.sock.key0.secret"
    assert told[4] == '{"qom-type": "secret", "id": "key1", "format": "base64", "file": "/g/qmp.sock.key1.secret"}'
    assert told[5:] == [*CIPHERED, "-m", "1G"]
    assert contents([*LINE, *CIPHERED]) == {"key0": SECRET.encode(), "key1": b"aGk="}


def test_a_program_that_opens_the_image_gets_the_secret_after_the_one_that_it_is_encrypted_by() -> None:
    assert objects([*LINE, *CIPHERED], "disk") == [f"--object={CIPHERED[1]}", f"--object={CIPHERED[3]}"]
    assert objects(LINE, "key0") == [f"--object={LINE[2]}"]
    assert objects(["qemu", "-object", "secret,id=a,keyid=a,file=/x"], "a") == ["--object=secret,id=a,keyid=a,file=/x"]


def test_its_file_is_listed_as_a_secret_of_the_guests_own_user_without_its_content() -> None:
    me = processes.process(os.getpid())
    assert me is not None
    argv = in_files(LINE, "/g/qmp.sock")
    found = listing.listed(argv, me, [], [], [], factories.offline(), "keep", contents(LINE))
    assert found.checks == []
    file = found.files["/g/qmp.sock.key0.secret"]
    assert (file.kind, file.mode, file.size_bytes, file.secret) == (FileKind.SECRET, 0o600, len(SECRET), "key0")
    assert "hunter2" not in str(found)


def test_what_arrives_is_told_by_the_digest_that_was_announced(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"hunter2")
    announced = digests.of_secret(b"hunter2")
    assert digests.equal(path, announced, tmp_path)
    assert not digests.equal(path, digests.of_secret(b"hunter3"), tmp_path)
