"""An operator as Airflow has them, in plain Celery: submits a drain by task name, waits, and fails if guests are left.

Nothing of Drover is imported. The outcome is asked for on the command line, which needs only the database.
"""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

Arguments = dict[str, Any]
ENDED = {"done", "incomplete", "cancelled"}
UNKNOWN = 2
"""Exit code while nothing is on record under the key: the message is on its way, or was lost."""


def unsigned(task: str, arguments: Arguments) -> Arguments:
    """The arguments as they are."""
    return arguments


class DrainFailed(Exception):
    """The host is not empty; the text has the guests left and why."""


@dataclass
class DrainHostOperator:
    """`execute` returns once the host is empty. Executed again for the same run it finds its drain again."""

    host: str
    broker: str
    task: str = "drover.drain.submit"
    drover: Sequence[str] = ("drover",)
    poll_s: float = 10.0
    send_again_s: float = 60.0
    """A message may be lost; sending it again under the same key does no harm."""
    wishes: Arguments = field(default_factory=dict)
    """Further arguments of the task: `window`, `timezone`, `priority`, `webhook`, `to`, `exclude` and so on."""
    sign: Callable[[str, Arguments], Arguments] = unsigned
    """`partial(signing.signed, token=3, secret=Path(FILE).read_text().strip())`, unless the fleet needs no token."""

    def execute(self, context: dict[str, str]) -> dict[str, Any]:
        """`context` has a `run_id`, as Airflow gives it. Answers the drain's JSON document."""
        key = f"{self.task}-{self.host}-{context['run_id']}"
        sent_at = self._send(key)
        while (drain := self.poke(key)) is None or drain["state"] not in ENDED:
            if drain is None and time.monotonic() > sent_at + self.send_again_s:
                sent_at = self._send(key)
            time.sleep(self.poll_s)
        if drain["state"] != "done":
            raise DrainFailed(f"{self.host}: {drain['error']}")
        return drain

    def poke(self, key: str) -> dict[str, Any] | None:
        """The drain as it is now; None while there is none."""
        asked = subprocess.run(
            [*self.drover, "drain", "show", "--key", key, "--json"], capture_output=True, check=False
        )
        if asked.returncode == UNKNOWN:
            return None
        asked.check_returncode()
        found: dict[str, Any] = json.loads(asked.stdout)
        return found

    def _send(self, key: str) -> float:
        scheduler = Celery(broker=self.broker)
        arguments = {"host": self.host, "idempotency_key": key, **self.wishes}
        scheduler.send_task(self.task, kwargs=self.sign(self.task, arguments), queue="drover.control")
        return time.monotonic()
