"""From rows to values, and rows made or updated."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, FromClause, Insert, Table, Text, cast, func
from sqlalchemy.dialects import mysql, postgresql, sqlite

from imgguard.attempts import IMPORTS, ErrorState, ImageRecord, Kind, Running, State
from imgguard.store.clock import Clock
from imgguard.store.models import attempts, images

# The order is that in which record() takes them.
RECORD_COLUMNS: Final = (
    images.c.key, images.c.image_id, images.c.created_at, images.c.owner, images.c.keep, images.c.attempts,
    images.c.give_up_at, images.c.deleted_at, images.c.last_number, images.c.cleared_number, images.c.remains_at,
    images.c.error_number, images.c.error_code, images.c.error_text, images.c.error_at,
    images.c.error_request_id, images.c.error_bytes, images.c.running_number, images.c.running_guarded,
    images.c.running_since,
)
RUNNING_NUMBER: Final = [column.name for column in RECORD_COLUMNS].index('running_number')
ATTEMPT_COLUMNS: Final = tuple(column for column in attempts.c if column.name != 'image_key')


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt of the history.

    :param code: ``None`` unless it failed or was lost
    :param started_at: seconds since the epoch, UTC, as are ``updated_at`` (the last sign of life) and
        ``finished_at`` (``None`` while it runs)
    :param bytes_expected: ``None`` when the client did not say
    :param worker: names the process that ran it
    :param task_id: the task of Glance that did the work, if that is known
    :param handed_on: whether Glance handed its request on to another host, whose guard did not take the claim over
    :param unwanted: whether a DELETE came after it that was judged a wish to delete, and no clean-up; both are
        ``None`` where nothing was said
    :param silent_for: seconds since the last sign of life
    """

    number: int
    kind: Kind
    state: State
    guarded: bool
    code: str | None
    message: str | None
    http_status: int | None
    request_id: str | None
    started_at: float
    updated_at: float
    finished_at: float | None
    bytes_received: int
    bytes_expected: int | None
    user_id: str | None
    project_id: str | None
    host: str
    worker: str
    task_id: str | None
    handed_on: bool | None
    unwanted: bool | None
    silent_for: float = field(compare=False)


def facts(table: FromClause) -> tuple[ColumnElement[Any], ...]:
    """The columns of ``attempts`` (or an alias of it) that :func:`record` needs of a running one."""
    return table.c.kind, table.c.host, table.c.worker, table.c.task_id, table.c.handed_on


def in_one(backend: str, columns: Sequence[ColumnElement[Any]]) -> Sequence[ColumnElement[Any]]:
    """What to select instead of many columns; :func:`apart` takes a row of it apart.

    A server describes every column of every answer, and to read that takes a driver in Python longer than all else: of
    forty three quarters of a look. So servers give all as one JSON text. SQLite describes nothing, and its JSON has
    only 15 digits of a number.
    """
    if backend == 'sqlite':
        return columns
    array = func.json_build_array if backend == 'postgresql' else func.json_array
    return [cast(array(*columns), Text)]


def apart(row: Sequence[Any]) -> Sequence[Any]:
    """The values of the columns that were given to :func:`in_one`."""
    values: Sequence[Any] = json.loads(row[0]) if len(row) == 1 else row
    return values


def record(row: Sequence[Any], running: Sequence[Any], clock: Clock) -> ImageRecord:
    """The value of a row of :data:`RECORD_COLUMNS`, followed by whether its deadline has passed.

    :param running: of its running attempt, if there is one: how many seconds it is silent, whether it had its chance to
        give another sign of life, and its :func:`facts`
    :param clock: tells how long silence may last
    """
    (key, image_id, created_at, owner, keep, count, give_up_at, deleted_at, last_number, cleared_number, remains_at,
     error_number, code, text, error_at, request_id, received, running_number, guarded, since, overdue) = row
    error = holder = None
    if error_number is not None:
        error = ErrorState(error_number, code, text, error_at, request_id, received)
    if running_number is not None:
        silent_for, proven, kind, host, worker, task_id, handed_on = running
        alive = silent_for <= clock.silence or not proven
        goes_on = bool(handed_on) and kind in IMPORTS and silent_for < clock.stall
        holder = Running(running_number, bool(guarded), alive, since, Kind(kind), host, worker, task_id, silent_for,
                         bool(handed_on), goes_on)
    return ImageRecord(key, image_id, created_at, owner, None if keep is None else bool(keep), count, give_up_at,
                       bool(overdue), error, holder, deleted_at is not None, last_number, cleared_number,
                       remains_at is not None)


def attempt(row: Sequence[Any]) -> AttemptRow:
    """The value of a row of :data:`ATTEMPT_COLUMNS`, followed by the seconds since its last sign of life."""
    number, kind, state, *rest = row
    return AttemptRow(number, Kind(kind), State(state), *rest)


def make_or_update(connection: Connection, image_id: str, created_at: str, changes: Mapping[str, Any]) -> None:
    """Make the row of an image, or change the one there is; either way the transaction then holds its lock.

    :param changes: columns and their new values (or SQL expressions)
    """
    made = {'image_id': image_id, 'created_at': created_at, 'attempts': 0, 'last_number': 0, **changes}
    # Without a change the statement would not lock the row it met.
    changed = dict(changes) or {'last_number': images.c.last_number}
    connection.execute(upsert(connection.dialect.name, images, [images.c.image_id, images.c.created_at], made, changed))


def upsert(backend: str, table: Table, unique: Sequence[Column[Any]], made: Mapping[str, Any],
           changed: Mapping[str, Any]) -> Insert:
    """Make a row, or change the one there is with the same values in the columns ``unique``."""
    if backend == 'sqlite':
        return sqlite.insert(table).values(**made).on_conflict_do_update(index_elements=unique, set_=changed)
    if backend == 'postgresql':
        return postgresql.insert(table).values(**made).on_conflict_do_update(index_elements=unique, set_=changed)
    # A list, for MariaDB sets the columns one after the other and later ones see the change.
    return mysql.insert(table).values(**made).on_duplicate_key_update(list(changed.items()))
