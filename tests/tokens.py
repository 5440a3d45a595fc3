"""Tokens, and what they sign as a scheduler does: by the example, which imports nothing of ours."""

import runpy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from models.access import Bounds, Scope
from workflows import access

SIGNED: Callable[..., dict[str, Any]] = runpy.run_path(str(Path(__file__).parents[1] / "examples/celery/signing.py"))[
    "signed"
]


class Token:
    """One of ada's."""

    def __init__(self, scope: Scope = Scope.OPERATE, lifetime: timedelta | None = None, **bounds: Any) -> None:
        made, self.secret = access.add("ada", scope, lifetime, Bounds(**bounds))
        self.number = made.id

    def signed(self, task: str, said: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a task with a signature in them."""
        return SIGNED(task, said, token=self.number, secret=self.secret)
