"""The questions: what is known of images and attempts. Each is asked outside any transaction."""

import json
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Integer, Row, Select, String, and_, any_, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from imgguard.attempts import ImageRecord
from imgguard.store.clock import Clock
from imgguard.store.engine import Database
from imgguard.store.models import attempts, images
from imgguard.store.rows import (
    ATTEMPT_COLUMNS, RECORD_COLUMNS, RUNNING_NUMBER, AttemptRow, apart, attempt, facts, in_one, record)


_MOST: Final = bindparam('of_limit', type_=Integer)


class Lookups:
    """Reads of the store; every method raises :class:`imgguard.errors.StoreUnavailable` when it cannot."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database: Final = database
        self._clock: Final = clock
        self._page: Final = clock.prepared(lambda: self._select().where(_among(database.backend)))
        self._page_at_rest: Final = clock.prepared(lambda: self._at_rest().where(_among(database.backend)))
        self._of_id: Final = clock.prepared(lambda: _of_id(self._select()))
        self._of_id_at_rest: Final = clock.prepared(lambda: _of_id(self._at_rest()))
        self._failures: Final = clock.prepared(lambda: self._select().where(
            images.c.error_number.is_not(None), images.c.deleted_at.is_(None), _after()).order_by(images.c.key))
        self._running: Final = clock.prepared(lambda: self._select().where(
            images.c.running_number.is_not(None), _after()).order_by(images.c.key))
        self._all: Final = clock.prepared(lambda: self._select().where(
            images.c.deleted_at.is_(None), _after()).order_by(images.c.key))
        self._overdue: Final = clock.prepared(lambda: select(images.c.image_id).where(
            images.c.give_up_at <= clock.fixed_now(), images.c.error_number.is_(None),
            images.c.running_number.is_(None), images.c.deleted_at.is_(None),
        ).order_by(images.c.give_up_at).limit(_MOST))
        self._silent: Final = clock.prepared(lambda: select(images.c.image_id).where(
            images.c.running_at < clock.fixed_now() - clock.silence, images.c.running_at <= clock.proven(),
        ).order_by(images.c.running_at).limit(_MOST))
        self._remaining: Final = clock.prepared(lambda: select(images.c.image_id).where(
            images.c.remains_at <= clock.fixed_now(), images.c.running_number.is_(None),
        ).order_by(images.c.remains_at).limit(_MOST))
        with_verdict = select(images.c.image_id).where(
            images.c.error_at.is_not(None), images.c.deleted_at.is_(None),
        ).order_by(images.c.error_at.desc()).limit(_MOST)
        self._candidates: Final = with_verdict
        self._candidates_of: Final = with_verdict.where(images.c.error_code == bindparam('of_code'))
        among_errors = select(images.c.key).where(
            images.c.error_at.is_not(None), images.c.running_number.is_(None), images.c.deleted_at.is_(None)
        ).order_by(images.c.error_at.desc()).limit(_MOST).subquery()
        self._in_error: Final = select(func.count()).select_from(among_errors)
        self._newest: Final = clock.prepared(lambda: select(
            *ATTEMPT_COLUMNS, clock.now() - attempts.c.updated_at).where(
            attempts.c.image_key == bindparam('of_key')).order_by(attempts.c.number.desc()))

    def records(self, image_ids: Sequence[str]) -> dict[tuple[str, str], ImageRecord]:
        """What is known of a page of images, by id and time of creation: one query, and another while attempts run.

        Joins take a server as long as all else, and of nearly all images no attempt runs.
        """
        if not image_ids:
            return {}
        if len(image_ids) == 1:
            # With every look at an image that waits, so past what takes longer than the query.
            parameters = {'of_id': image_ids[0]}
            at_rest = self._database.rows(self._of_id_at_rest(), parameters)
            with_running = self._of_id
        else:
            parameters = {'ids': _packed(self._database.backend, image_ids)}
            at_rest = self._rows(self._page_at_rest(), parameters)
            with_running = self._page
        if not at_rest:
            return {}
        rows = list(map(apart, at_rest))
        if any(row[RUNNING_NUMBER] is not None for row in rows):
            found = self._known(with_running(), parameters)
        else:
            found = [record(row, (), self._clock) for row in rows]
        return {(known.image_id, known.created_at): known for known in found}

    def find(self, image_id: str) -> list[ImageRecord]:
        """All that had this id, the one created last at the end."""
        return self._known(self._of_id(), {'of_id': image_id})

    def failures(self, limit: int, after_key: int) -> list[ImageRecord]:
        """Images with a verdict that are not deleted, by key, from above ``after_key`` on."""
        return self._known(self._failures().limit(limit), {'of_after': after_key})

    def running(self, limit: int, after_key: int) -> list[ImageRecord]:
        """Images with a running attempt, by key, from above ``after_key`` on."""
        return self._known(self._running().limit(limit), {'of_after': after_key})

    def known(self, limit: int, after_key: int) -> list[ImageRecord]:
        """Images that are not deleted, by key, from above ``after_key`` on."""
        return self._known(self._all().limit(limit), {'of_after': after_key})

    def candidates(self, limit: int, code: str | None = None) -> list[str]:
        """Distinct ids of images with a verdict, the newest verdict first."""
        statement, of = (self._candidates, {}) if code is None else (self._candidates_of, {'of_code': code})
        wanted = limit
        while True:
            ids = self._ids(statement, wanted, **of)
            distinct = list(dict.fromkeys(ids))[:limit]
            if len(distinct) == limit or len(ids) < wanted:
                return distinct
            # An id that was used again may have two verdicts; DISTINCT would not go by the index.
            wanted *= 2

    def in_error(self, limit: int) -> int:
        """How many images are in error; of more than the limit only so many are counted."""
        return int(self._database.read(lambda connection: connection.execute(
            self._in_error, {'of_limit': limit}).scalar_one()))

    def due(self, limit: int) -> list[str]:
        """Ids of images that a verdict is due on: the longest overdue first, then the longest silent."""
        ids = self._ids(self._overdue(), limit)
        if len(ids) < limit:
            ids += self._ids(self._silent(), limit - len(ids))
        return ids

    def remaining(self, limit: int) -> list[str]:
        """Ids of images whose attempts may have left something, the longest waiting first."""
        return self._ids(self._remaining(), limit)

    def attempts(self, key: int, limit: int, marker: int | None = None) -> list[AttemptRow]:
        """The history of one image, the newest first, from below the number ``marker`` on."""
        statement = self._newest().limit(limit)
        if marker is not None:
            statement = statement.where(attempts.c.number < marker)
        return [attempt(row) for row in self._rows(statement, {'of_key': key})]

    def attempt(self, key: int, number: int) -> AttemptRow | None:
        """One attempt of one image."""
        statement = self._newest().where(attempts.c.number == bindparam('of_number'))
        found = self._rows(statement, {'of_key': key, 'of_number': number})
        return attempt(found[0]) if found else None

    def verdicts(self, page: Sequence[ImageRecord]) -> dict[int, AttemptRow]:
        """The attempts whose verdicts these images show, by the key of the image: one query."""
        statement = select(attempts.c.image_key, *ATTEMPT_COLUMNS, self._clock.now() - attempts.c.updated_at).join(
            images, and_(attempts.c.image_key == images.c.key, attempts.c.number == images.c.error_number)).where(
            images.c.key.in_([known.key for known in page]))
        return {row[0]: attempt(row[1:]) for row in self._rows(statement, {})}

    def _known(self, statement: Select[Any], parameters: dict[str, Any]) -> list[ImageRecord]:
        rows = map(apart, self._rows(statement, parameters))
        at_rest = len(RECORD_COLUMNS) + 1
        return [record(row[:at_rest], row[at_rest:], self._clock) for row in rows]

    def _rows(self, statement: Select[Any], parameters: dict[str, Any]) -> Sequence[Row[Any]]:
        return self._database.read(lambda connection: connection.execute(statement, parameters).all())

    def _ids(self, query: Select[Any], limit: int, **parameters: str) -> list[str]:
        return [row[0] for row in self._database.rows(query, {'of_limit': limit, **parameters})]

    def _at_rest(self) -> Select[Any]:
        """All of an image while no attempt runs."""
        return select(*in_one(self._database.backend, [*RECORD_COLUMNS, self._clock.overdue()]))

    def _select(self) -> Select[Any]:
        proven: ColumnElement[bool] = images.c.running_at <= self._clock.proven()
        joined = images.outerjoin(attempts, and_(
            attempts.c.image_key == images.c.key, attempts.c.number == images.c.running_number))
        return select(*in_one(self._database.backend, [
            *RECORD_COLUMNS, self._clock.overdue(), self._clock.silent_for(), proven.label('proven'),
            *facts(attempts)])).select_from(joined)


def _of_id(query: Select[Any]) -> Select[Any]:
    return query.where(images.c.image_id == bindparam('of_id')).order_by(images.c.created_at)


def _after() -> ColumnElement[bool]:
    after: ColumnElement[bool] = images.c.key > bindparam('of_after')
    return after


def _among(backend: str) -> ColumnElement[bool]:
    """The ids of a page as one parameter where the database can: a thousand cost half as much to bind."""
    among: ColumnElement[bool]
    if backend == 'postgresql':
        among = images.c.image_id == any_(bindparam('ids', type_=ARRAY(String(36))))
    elif backend == 'sqlite':
        single = func.json_each(bindparam('ids', type_=String))
        among = images.c.image_id.in_(select(column('value')).select_from(single))
    else:
        among = images.c.image_id.in_(bindparam('ids', expanding=True))
    return among


def _packed(backend: str, image_ids: Sequence[str]) -> Any:
    return json.dumps(list(image_ids)) if backend == 'sqlite' else list(image_ids)
