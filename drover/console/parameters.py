"""Parameters that routes of several modules take."""

from typing import Annotated

from fastapi import Path

Number = Annotated[int, Path(ge=1, lt=1 << 63)]
"""Of a row: Postgres counts no further."""
