"""The statements that reach a store in SQLite, counted at the driver: whichever way they take to it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool


@contextmanager
def statements(connection: str) -> Iterator[list[str]]:
    """Every statement of this thread within the block, as SQLite was given it; its values are filled in.

    :param connection: URL of the store
    """
    file, mine, seen = connection.removeprefix('sqlite:///'), threading.get_ident(), []

    def note(statement: str) -> None:
        if threading.get_ident() == mine:
            seen.append(statement)

    def listen(driver: Any, *_: Any) -> None:
        if hasattr(driver, 'set_trace_callback') and file in str(driver.execute('PRAGMA database_list').fetchall()):
            driver.set_trace_callback(note)

    def leave(driver: Any, *_: Any) -> None:
        if hasattr(driver, 'set_trace_callback'):
            driver.set_trace_callback(None)

    event.listen(Pool, 'checkout', listen)
    event.listen(Pool, 'checkin', leave)
    try:
        yield seen
    finally:
        event.remove(Pool, 'checkout', listen)
        event.remove(Pool, 'checkin', leave)
