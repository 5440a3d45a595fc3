"""When a job or a drain may begin and go on, and which address gets the webhook: a submission's times made exact."""

from dataclasses import dataclass, fields
from datetime import datetime

from models.documents import Window
from models.drain import Drain


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """See the columns of `Job` with these names. `workflows.submissions` checks what people write."""

    priority: int = 0
    not_before: datetime | None = None
    window: Window | None = None
    hold: bool = False
    seed: bool = False
    webhook: str | None = None

    @classmethod
    def of(cls, drain: Drain) -> "SubmitOptions":
        """As a drain was submitted."""
        return cls(**{field.name: getattr(drain, field.name) for field in fields(cls)})
