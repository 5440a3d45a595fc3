"""A worker or controller that is started while Postgres is unreachable waits for it, and logs it once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import services
from lab.directory import Lab
from tests.helpers import until

DROVER = Path(sys.executable).with_name("drover")
NO_BROKER = "redis://127.0.0.1:1/0"


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose Postgres, with an empty database, does not run."""
    made = Lab(Path(f"/tmp/ds{os.getpid()}"))
    made.path.mkdir(mode=0o711)
    made.logs.mkdir()
    services.start_postgres(made)
    services.stop_postgres(made)
    yield made
    services.stop_postgres(made)
    subprocess.run(["rm", "-rf", str(made.path)], check=True)


def test_a_controller_that_starts_before_postgres_waits_for_it(lab: Lab) -> None:
    environment = os.environ | lab.environment | {"DROVER_BROKER_URL": NO_BROKER}
    log = lab.logs / "controller.log"
    with log.open("wb") as output:
        running = subprocess.Popen([DROVER, "controller"], env=environment, stdout=output, stderr=output)
    try:
        until("it says what it waits for", lambda: b"Postgres does not answer yet" in log.read_bytes())
        services.start_postgres(lab)
        until("it goes on, and finds no tables", lambda: b"run `drover db upgrade`" in log.read_bytes())
        assert log.read_text().count("Postgres does not answer yet") == 1
    finally:
        running.kill()
        running.wait()
