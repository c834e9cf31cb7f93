"""The statements of :mod:`imgguard.store.claims`, each built once.

Parameters named ``of_…`` choose the row; the other parameters of an execution are columns to set.
"""

from typing import Any, Final

from sqlalchemy import Column, Insert, ScalarSelect, Select, Update, bindparam, delete, insert, select, update

from imgguard.attempts import State
from imgguard.store.clock import Clock
from imgguard.store.models import attempts, images
from imgguard.store.rows import RECORD_COLUMNS

_NOT_RUNNING: Final = {'running_number': None, 'running_guarded': None, 'running_since': None, 'running_at': None}
NO_ERROR: Final = {'error_number': None, 'error_code': None, 'error_text': None, 'error_at': None,
                   'error_request_id': None, 'error_bytes': None}


class Statements:
    """Each attribute is a function that gives a statement, as :meth:`imgguard.store.clock.Clock.prepared` made it.

    * ``by_name`` (of_id, of_time), ``by_key`` (of_key): the row of an image, which it locks; behind the
      columns of a record its ``last_number``
    * ``insert``: a running attempt; ``end`` (of_key, of_number): an attempt that still runs
    * ``claim`` (of_key): the image for an attempt; ``free``, ``succeed``, ``show``, ``show_lost``,
      ``withdraw`` (of_key, of_number): free it, if that attempt holds it, and leave, clear (with its
      deadline) or set its verdict, or count the attempt no longer; ``declare`` (of_key): set its verdict
      where no attempt holds it; ``forget`` (of_key, of_number) deletes the attempt
    """

    def __init__(self, clock: Clock) -> None:
        self._clock: Final = clock
        self.by_name: Final = clock.prepared(lambda: self._locking().where(
            images.c.image_id == bindparam('of_id'), images.c.created_at == bindparam('of_time')))
        self.by_key: Final = clock.prepared(lambda: self._locking().where(images.c.key == bindparam('of_key')))
        self.insert: Final = clock.prepared(self._insert)
        self.end: Final = clock.prepared(self._end)
        self.claim: Final = clock.prepared(lambda: update(images).where(
            images.c.key == bindparam('of_key')).values(running_since=clock.now(), running_at=clock.now()))
        self.free: Final = clock.prepared(_free)
        self.succeed: Final = clock.prepared(lambda: _free().values(**NO_ERROR, give_up_at=None))
        self.declare: Final = clock.prepared(self._declare)
        self.withdraw: Final = clock.prepared(lambda: _free().values(attempts=images.c.attempts - 1))
        self.forget: Final = clock.prepared(lambda: delete(attempts).where(
            attempts.c.image_key == bindparam('of_key'), attempts.c.number == bindparam('of_number')))
        self.show: Final = clock.prepared(self._show)
        self.show_lost: Final = clock.prepared(
            lambda: self._show().values(error_bytes=_of_attempt(attempts.c.bytes_received)))

    def _locking(self) -> Select[Any]:
        return select(*RECORD_COLUMNS, *self._clock.judged(), images.c.last_number).with_for_update()

    def _insert(self) -> Insert:
        return insert(attempts).values(started_at=self._clock.now(), updated_at=self._clock.now(),
                                       state=State.RUNNING.value, bytes_received=0)

    def _end(self) -> Update:
        return _running_attempt().values(finished_at=self._clock.now(), updated_at=self._clock.now())

    def _declare(self) -> Update:
        return update(images).where(images.c.key == bindparam('of_key')).values(
            **_NOT_RUNNING, error_at=self._clock.now(), error_bytes=0)

    def _show(self) -> Update:
        return _free().values(error_number=bindparam('of_number'), error_at=self._clock.now(),
                              error_request_id=_of_attempt(attempts.c.request_id))


def renewed_images(clock: Clock, keys: list[int]) -> Update:
    """A sign of life of the attempts that hold these images."""
    return update(images).where(images.c.key.in_(keys)).values(running_at=clock.now())


def renewed_attempt(clock: Clock) -> Update:
    """A sign of life of one attempt (of_key, of_number) that still runs."""
    return _running_attempt().values(updated_at=clock.now())


def _running_attempt() -> Update:
    return update(attempts).where(attempts.c.image_key == bindparam('of_key'),
                                  attempts.c.number == bindparam('of_number'),
                                  attempts.c.state == State.RUNNING.value)


def _free() -> Update:
    return update(images).where(images.c.key == bindparam('of_key'),
                                images.c.running_number == bindparam('of_number')).values(**_NOT_RUNNING)


def _of_attempt(column: Column[Any]) -> ScalarSelect[Any]:
    return select(column).where(attempts.c.image_key == bindparam('of_key'),
                                attempts.c.number == bindparam('of_number')).scalar_subquery()
