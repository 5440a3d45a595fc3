"""Users and groups of this host, by their names and by their numbers."""

import grp
import pwd
from contextlib import suppress


def user_name(uid: int) -> str:
    """The number itself where nobody has it."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def group_name(gid: int) -> str:
    """The number itself where no group has it."""
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)


def group_id(name: str) -> int | None:
    """None: no group has that name here."""
    with suppress(KeyError):
        return grp.getgrnam(name).gr_gid
    return None


def ids(owner: str, group: str) -> tuple[int, int] | None:
    """Of this host's user and group of these names; None: it has them not."""
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        return None
