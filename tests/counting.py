"""The statements that reach a store in SQLite, counted at the driver: whichever way they take to it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.pool import ConnectionPoolEntry, Pool


@dataclass(frozen=True, slots=True, eq=False)
class _Watch:
    file: str
    thread: int
    seen: list[str] = field(default_factory=list)


_WATCHES: Final[list[_Watch]] = []
_TRACED: Final = 'traced by the tests'


@contextmanager
def statements(connection: str) -> Iterator[list[str]]:
    """Every statement of this thread within the block, as SQLite was given it; its values are filled in.

    :param connection: URL of the store
    """
    watch = _Watch(connection.removeprefix('sqlite:///'), threading.get_ident())
    _WATCHES.append(watch)
    try:
        yield watch.seen
    finally:
        _WATCHES.remove(watch)


# Never taken away again: the guard keeps connections, of which no event tells any more.
@event.listens_for(Pool, 'checkout')
def _listen(driver: Any, record: ConnectionPoolEntry, _: Any) -> None:
    if hasattr(driver, 'set_trace_callback') and record.info.get(_TRACED) is not driver:
        record.info[_TRACED] = driver
        driver.set_trace_callback(partial(_note, str(driver.execute('PRAGMA database_list').fetchall())))


def _note(databases: str, statement: str) -> None:
    for watch in tuple(_WATCHES):
        if watch.file in databases and watch.thread == threading.get_ident():
            watch.seen.append(statement)
