"""From rows to values, and the row of an image made or updated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Insert
from sqlalchemy.dialects import mysql, postgresql, sqlite

from imgguard.attempts import ErrorState, ImageRecord, Kind, Running, State
from imgguard.store.models import attempts, images

# The order is that of the arguments of record(), which follow with what the clock judges.
RECORD_COLUMNS: Final = (
    images.c.key, images.c.image_id, images.c.created_at, images.c.owner, images.c.keep, images.c.attempts,
    images.c.give_up_at, images.c.error_number, images.c.error_code, images.c.error_text, images.c.error_at,
    images.c.error_request_id, images.c.error_bytes, images.c.running_number, images.c.running_guarded,
    images.c.running_since,
)
ATTEMPT_COLUMNS: Final = tuple(column for column in attempts.c if column.name != 'image_key')


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt of the history.

    :param code: ``None`` unless it failed or was lost
    :param started_at: seconds since the epoch, UTC, as are ``updated_at`` (the last sign of life) and
        ``finished_at`` (``None`` while it runs)
    :param bytes_expected: ``None`` when the client did not say
    :param worker: names the process that ran it
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


def record(row: Sequence[Any]) -> ImageRecord:
    """The value of a row of :data:`RECORD_COLUMNS` and, last, what :meth:`Clock.judged` adds."""
    (key, image_id, created_at, owner, keep, count, give_up_at, error_number, code, text, error_at, request_id,
     received, running_number, guarded, since, alive, overdue) = row
    error = running = None
    if error_number is not None:
        error = ErrorState(error_number, code, text, error_at, request_id, received)
    if running_number is not None:
        running = Running(running_number, guarded, bool(alive), since)
    return ImageRecord(key, image_id, created_at, owner, keep, count, give_up_at, bool(overdue), error, running)


def attempt(row: Sequence[Any]) -> AttemptRow:
    """The value of a row of :data:`ATTEMPT_COLUMNS`."""
    number, kind, state, *rest = row
    return AttemptRow(number, Kind(kind), State(state), *rest)


def make_or_update(connection: Connection, image_id: str, created_at: str, changes: Mapping[str, Any]) -> None:
    """Make the row of an image, or change the one there is; either way the transaction then holds its lock.

    :param changes: columns and their new values (or SQL expressions)
    """
    made = {'image_id': image_id, 'created_at': created_at, 'attempts': 0, 'last_number': 0, **changes}
    # Without a change the statement would not lock the row it met.
    changed = dict(changes) or {'last_number': images.c.last_number}
    connection.execute(_upsert(connection.dialect.name, made, changed))


def _upsert(backend: str, made: Mapping[str, Any], changed: Mapping[str, Any]) -> Insert:
    if backend == 'sqlite':
        return sqlite.insert(images).values(**made).on_conflict_do_update(
            index_elements=[images.c.image_id, images.c.created_at], set_=changed)
    if backend == 'postgresql':
        return postgresql.insert(images).values(**made).on_conflict_do_update(
            index_elements=[images.c.image_id, images.c.created_at], set_=changed)
    return mysql.insert(images).values(**made).on_duplicate_key_update(**changed)
