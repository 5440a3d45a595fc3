"""Which name somebody may have meant who wrote another one."""

from difflib import get_close_matches

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

AT_MOST, ALIKE = 3, 0.6
"""Names, and how like the one that was written: two of three letters."""


def did_you_mean(session: Session, column: InstrumentedAttribute[str], name: str) -> str:
    """`did you mean web01 or web02? `, or nothing."""
    alike = get_close_matches(name, session.scalars(select(column)).all(), AT_MOST, ALIKE)
    return f"did you mean {' or '.join(alike)}? " if alike else ""
