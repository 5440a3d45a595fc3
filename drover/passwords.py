"""Passwords in files, which are read for each new connection: a process goes on while one is renewed."""

from pathlib import Path


def listed(path: Path) -> list[str]:
    """Those in a file, one a line, the newest first. While a password is renewed the former one stands in it as well.

    Raises:
        OSError: it cannot be read, or there is none in it.
    """
    found = path.read_text().split()
    if not found:
        raise OSError(f"{path} has no password in it")
    return found
