"""The questions: what is known of images and attempts. Each is one query outside any transaction."""

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, String, any_, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from imgguard.attempts import ImageRecord
from imgguard.store.clock import Clock
from imgguard.store.engine import Database
from imgguard.store.models import attempts, images
from imgguard.store.rows import ATTEMPT_COLUMNS, RECORD_COLUMNS, AttemptRow, attempt, record


class Lookups:
    """Reads of the store; every method raises :class:`imgguard.errors.StoreUnavailable` when it cannot."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database: Final = database
        self._clock: Final = clock
        self._records: Final = clock.prepared(self._select_records)
        self._due: Final = clock.prepared(lambda: select(images.c.image_id).where(
            images.c.give_up_at <= clock.now(), images.c.error_number.is_(None), images.c.running_number.is_(None)
        ).order_by(images.c.give_up_at))
        self._newest: Final = select(ATTEMPT_COLUMNS[0]).with_only_columns(*ATTEMPT_COLUMNS).where(
            attempts.c.image_key == bindparam('of_key')).order_by(attempts.c.number.desc())

    def records(self, image_ids: Sequence[str]) -> dict[tuple[str, str], ImageRecord]:
        """What is known of a page of images, by id and time of creation: one query."""
        if not image_ids:
            return {}
        statement = self._records()
        parameters = {'ids': _packed(self._database.backend, image_ids)}
        rows = self._database.read(lambda connection: connection.execute(statement, parameters).all())
        return {(row[1], row[2]): record(row) for row in rows}

    def candidates(self, limit: int, code: str | None = None) -> list[str]:
        """Distinct ids of images with a verdict, the newest verdict first."""
        statement = select(images.c.image_id).where(images.c.error_at.is_not(None))
        if code is not None:
            statement = statement.where(images.c.error_code == code)
        statement = statement.order_by(images.c.error_at.desc())
        wanted = limit
        while True:
            ids = self._ids(statement.limit(wanted))
            distinct = list(dict.fromkeys(ids))[:limit]
            if len(distinct) == limit or len(ids) < wanted:
                return distinct
            # An id that was used again may have two verdicts; DISTINCT would not go by the index.
            wanted *= 2

    def due(self, limit: int) -> list[str]:
        """Ids of images that wait although their deadline has passed, the longest overdue first."""
        return self._ids(self._due().limit(limit))

    def attempts(self, key: int, limit: int, marker: int | None = None) -> list[AttemptRow]:
        """The history of one image, the newest first, from below the number ``marker`` on."""
        statement = self._newest.limit(limit)
        if marker is not None:
            statement = statement.where(attempts.c.number < marker)
        parameters = {'of_key': key}
        rows = self._database.read(lambda connection: connection.execute(statement, parameters).all())
        return [attempt(row) for row in rows]

    def _ids(self, statement: Select[Any]) -> list[str]:
        return list(self._database.read(lambda connection: connection.execute(statement).scalars().all()))

    def _select_records(self) -> Select[Any]:
        return select(*RECORD_COLUMNS, *self._clock.judged()).where(_among(self._database.backend))


def _among(backend: str) -> ColumnElement[bool]:
    """The ids of a page as one parameter where the database can: a thousand cost half as much to bind."""
    among: ColumnElement[bool]
    if backend == 'postgresql':
        among = images.c.image_id == any_(bindparam('ids', type_=ARRAY(String(36))))
    elif backend == 'sqlite':
        unpacked = func.json_each(bindparam('ids', type_=String))
        among = images.c.image_id.in_(select(column('value')).select_from(unpacked))
    else:
        among = images.c.image_id.in_(bindparam('ids', expanding=True))
    return among


def _packed(backend: str, image_ids: Sequence[str]) -> Any:
    return json.dumps(list(image_ids)) if backend == 'sqlite' else list(image_ids)
