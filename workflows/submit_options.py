"""When a job or a drain may begin and go on, and which address gets the webhook: a submission's times made exact."""

from dataclasses import dataclass
from datetime import datetime

from models.documents import Window


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """See the columns of `Job` with these names. `workflows.submissions` checks what people write."""

    priority: int = 0
    not_before: datetime | None = None
    window: Window | None = None
    hold: bool = False
    seed: bool = False
    webhook: str | None = None
