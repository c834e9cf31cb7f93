"""The file of a SQLite store: its mode, its journal, and the lock beside it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def make_private(path: str) -> None:
    """Make the file, readable by its owner only, if there is none.

    SQLite gives its journals the mode of the database.

    :raises OSError: there is no such directory, or it may not be written
    """
    if not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock beside the file; another process (or thread) waits.

    :raises OSError: the lock file cannot be made
    """
    descriptor = os.open(f'{path}.lock', os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def use_write_ahead_log(cursor: Any, path: str) -> None:
    """Put the database into WAL mode, in which readers and the writer do not wait for each other.

    :param cursor: of a connection outside any transaction
    """
    if _journal(cursor, 'PRAGMA journal_mode') != 'wal':
        # SQLite does not wait, but fails, when two connections change the mode at once.
        with locked(path):
            _journal(cursor, 'PRAGMA journal_mode=WAL')


def _journal(cursor: Any, statement: str) -> str:
    cursor.execute(statement)
    return str(cursor.fetchone()[0])
