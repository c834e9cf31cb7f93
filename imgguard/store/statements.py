"""The statements that change the store, each built once.

Parameters named ``of_…`` choose the row or are said below; the others of an execution are columns to set.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    Column,
    Delete,
    Insert,
    ScalarSelect,
    Select,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from imgguard.attempts import State
from imgguard.store.clock import Clock
from imgguard.store.models import attempts, images, workers
from imgguard.store.rows import RECORD_COLUMNS, facts, upsert

_NOT_RUNNING: Final = {'running_number': None, 'running_guarded': None, 'running_since': None, 'running_at': None}
_NO_REMAINS: Final = {'remains_at': None}
_NOT_CLEARING: Final = {'clearing_by': None, 'clearing_at': None}
NO_ERROR: Final = {'error_number': None, 'error_code': None, 'error_text': None, 'error_at': None,
                   'error_request_id': None, 'error_bytes': None}


class Statements:
    """Each attribute is a function that gives a statement, as :meth:`imgguard.store.clock.Clock.prepared` made it.

    * ``by_name`` (of_id, of_time), ``by_key`` (of_key): the row of an image, which it locks; ``facts`` (of_key,
      of_number): those of an attempt of it; ``proven``: see :meth:`imgguard.store.clock.Clock.proven`
    * ``insert``: a running attempt; ``end``, ``end_silent`` (of_key, of_number): an attempt that still runs, the latter
      without a sign of life; ``end_late``, ``end_lost``: one that was lost, likewise; ``revive``: it runs again;
      ``forget``, ``forget_lost`` delete it; ``end_dead`` (of_key, of_above): those with a higher number that were lost,
      of which ``newest_lost`` is the last; ``forget_old`` (of_key, of_below, of_always): those with a lower number, but
      for some
    * ``claim`` (of_key, of_last, of_attempts, of_running, of_error): the image for an attempt, if these numbers still
      are what they were and nobody clears its remains; ``free``, ``succeed``, ``succeed_staged``, ``show``,
      ``show_lost``, ``withdraw`` (of_key, of_number): free it, if that attempt holds it, and leave, clear (with its
      deadline) or set its verdict, or count the attempt no longer; ``reclaim``: for an attempt that runs again;
      ``uncount`` (of_key): count one attempt less
    * ``change`` (of_key): any columns of an image; ``declare`` (of_key): set its verdict where no attempt holds it;
      ``replace`` (of_key, of_number): set it where it is of that attempt; ``unshow``: clear it there
    * ``delete`` (of_id, of_time): Glance has deleted the image
    * ``remain`` (of_key): something may be left that is to be cleared away; ``postpone`` (of_key, of_seconds): not now
    * ``clear`` (of_key), ``keep_clearing``, ``cleared``, ``not_cleared`` (of_key, of_worker): the right to clear
    * ``seen`` (of_worker, of_host): a sign of life of a worker
    """

    def __init__(self, clock: Clock, backend: str) -> None:
        self._clock: Final = clock
        self._backend: Final = backend
        self._prepare_rows()
        self._prepare_attempts()
        self._prepare_verdicts()
        self._prepare_clearing()

    def _prepare_rows(self) -> None:
        prepared = self._clock.prepared
        self.by_name = prepared(lambda: self._locking().where(
            images.c.image_id == bindparam('of_id'), images.c.created_at == bindparam('of_time')))
        self.by_key = prepared(lambda: self._locking().where(images.c.key == bindparam('of_key')))
        self.facts = prepared(lambda: select(*facts(attempts)).where(
            attempts.c.image_key == bindparam('of_key'), attempts.c.number == bindparam('of_number')))
        self.proven = prepared(lambda: select(self._clock.proven()))
        self.change = prepared(lambda: update(images).where(images.c.key == bindparam('of_key')))
        self.delete = prepared(lambda: update(images).where(
            images.c.image_id == bindparam('of_id'), images.c.created_at == bindparam('of_time')).values(
            deleted_at=func.coalesce(images.c.deleted_at, self._clock.now())))
        self.seen = prepared(self._seen)

    def _prepare_attempts(self) -> None:
        prepared, now = self._clock.prepared, self._clock.now
        self.insert = prepared(self._insert)
        self.end = prepared(lambda: _attempt(State.RUNNING).values(finished_at=now(), updated_at=now()))
        self.end_silent = prepared(lambda: _attempt(State.RUNNING).values(finished_at=now()))
        self.end_lost = prepared(lambda: _attempt(State.LOST).values(finished_at=now()))
        self.end_late = prepared(lambda: _attempt(State.LOST).values(finished_at=now(), updated_at=now()))
        self.revive = prepared(lambda: _attempt(State.LOST).values(
            state=State.RUNNING.value, code=None, message=None, finished_at=None, updated_at=now()))
        self.end_dead = prepared(lambda: update(attempts).where(
            attempts.c.image_key == bindparam('of_key'), attempts.c.number > bindparam('of_above'),
            or_(attempts.c.state == State.LOST.value, and_(
                attempts.c.state == State.FAILED.value, attempts.c.handed_on.is_(True),
                attempts.c.http_status.is_(None)))).values(
            state=State.FAILED.value, finished_at=attempts.c.updated_at, handed_on=False))
        self.forget = prepared(_forget)
        self.forget_old = prepared(lambda: delete(attempts).where(
            attempts.c.image_key == bindparam('of_key'), attempts.c.number < bindparam('of_below'),
            attempts.c.number.not_in(bindparam('of_always', expanding=True))))
        self.newest_lost = prepared(lambda: select(func.max(attempts.c.number)).where(
            attempts.c.image_key == bindparam('of_key'), attempts.c.number > bindparam('of_above'),
            attempts.c.state == State.LOST.value))
        self.forget_lost = prepared(lambda: _forget().where(attempts.c.state == State.LOST.value))
        self.claim = prepared(self._claim)
        self.reclaim = prepared(self._reclaim)
        self.withdraw = prepared(lambda: _free().values(attempts=images.c.attempts - 1))
        self.uncount = prepared(lambda: update(images).where(images.c.key == bindparam('of_key')).values(
            attempts=images.c.attempts - 1))

    def _prepare_verdicts(self) -> None:
        prepared = self._clock.prepared
        self.free = prepared(_free)
        self.succeed = prepared(lambda: _succeeded().values(give_up_at=None))
        self.succeed_staged = prepared(_succeeded)
        self.declare = prepared(self._declare)
        self.show = prepared(self._show)
        self.show_lost = prepared(
            lambda: self._show().values(error_bytes=_of_attempt(attempts.c.bytes_received)))
        self.replace = prepared(lambda: _shown().values(error_at=self._clock.now()))
        self.unshow = prepared(lambda: _shown().values(**NO_ERROR))

    def _prepare_clearing(self) -> None:
        prepared, now = self._clock.prepared, self._clock.now
        remaining = images.c.remains_at.is_not(None)
        self.remain = prepared(lambda: update(images).where(images.c.key == bindparam('of_key')).values(
            remains_at=now()))
        self.postpone = prepared(lambda: update(images).where(images.c.key == bindparam('of_key'), remaining).values(
            remains_at=now() + bindparam('of_seconds')))
        self.clear = prepared(lambda: update(images).where(images.c.key == bindparam('of_key')).values(
            clearing_at=now()))
        self.keep_clearing = prepared(lambda: _clearing().values(clearing_at=now()))
        self.cleared = prepared(lambda: _clearing().values(
            cleared_number=images.c.clearing_number, **_NO_REMAINS, **_NOT_CLEARING))
        self.not_cleared = prepared(lambda: _clearing().values(**_NOT_CLEARING))

    def _locking(self) -> Select[Any]:
        return select(*RECORD_COLUMNS, self._clock.overdue(), images.c.running_at, self._clock.silent_for(),
                      self._clock.clearing()).with_for_update()

    def _insert(self) -> Insert:
        return insert(attempts).values(started_at=self._clock.now(), updated_at=self._clock.now(),
                                       state=State.RUNNING.value, bytes_received=0)

    def _claim(self) -> Update:
        cleared = or_(images.c.clearing_at.is_(None), images.c.clearing_at < self._clock.now() - self._clock.silence)
        return update(images).where(
            images.c.key == bindparam('of_key'), images.c.last_number == bindparam('of_last'),
            images.c.attempts == bindparam('of_attempts'), cleared,
            images.c.running_number.is_not_distinct_from(bindparam('of_running')),
            images.c.error_number.is_not_distinct_from(bindparam('of_error'))).values(
            running_since=self._clock.now(), running_at=self._clock.now(), **_NOT_CLEARING)

    def _reclaim(self) -> Update:
        return update(images).where(images.c.key == bindparam('of_key')).values(
            running_number=bindparam('of_number'), running_guarded=_of_attempt(attempts.c.guarded),
            running_since=_of_attempt(attempts.c.started_at), running_at=self._clock.now(), **_NO_REMAINS)

    def _declare(self) -> Update:
        return update(images).where(images.c.key == bindparam('of_key')).values(
            **_NOT_RUNNING, error_at=self._clock.now(), error_bytes=0)

    def _show(self) -> Update:
        return _free().values(error_number=bindparam('of_number'), error_at=self._clock.now(),
                              error_request_id=_of_attempt(attempts.c.request_id))

    def _seen(self) -> Insert:
        now = self._clock.now
        gap = now() - workers.c.seen_at
        return upsert(self._backend, workers, [workers.c.worker], {
            'worker': bindparam('of_worker'), 'host': bindparam('of_host'), 'since': now(), 'seen_at': now()}, {
            # A longer gap may hide an outage of the store.
            'since': case((gap > self._clock.proof, now()), else_=workers.c.since), 'seen_at': now()})


def renewed_images(clock: Clock, keys: list[int]) -> Update:
    """A sign of life of the attempts that hold these images."""
    return update(images).where(images.c.key.in_(keys)).values(running_at=clock.now())


def renewed_attempts(clock: Clock, received: Mapping[int, int]) -> Update:
    """A sign of life of the running attempts themselves: one statement, however many there are.

    :param received: how many bytes each has received so far, by the key of its image
    """
    holder = select(images.c.running_number).where(images.c.key == attempts.c.image_key).scalar_subquery()
    return update(attempts).where(
        attempts.c.image_key.in_(received), attempts.c.number == holder, attempts.c.state == State.RUNNING.value
    ).values(updated_at=clock.now(), bytes_received=case(dict(received), value=attempts.c.image_key))


def _attempt(state: State) -> Update:
    return update(attempts).where(attempts.c.image_key == bindparam('of_key'),
                                  attempts.c.number == bindparam('of_number'), attempts.c.state == state.value)


def _forget() -> Delete:
    return delete(attempts).where(attempts.c.image_key == bindparam('of_key'),
                                  attempts.c.number == bindparam('of_number'))


def _free() -> Update:
    return update(images).where(images.c.key == bindparam('of_key'),
                                images.c.running_number == bindparam('of_number')).values(**_NOT_RUNNING)


def _succeeded() -> Update:
    return _free().values(**NO_ERROR, **_NO_REMAINS, cleared_number=bindparam('of_number'))


def _shown() -> Update:
    return update(images).where(images.c.key == bindparam('of_key'), images.c.error_number == bindparam('of_number'))


def _clearing() -> Update:
    return update(images).where(images.c.key == bindparam('of_key'), images.c.clearing_by == bindparam('of_worker'))


def _of_attempt(column: Column[Any]) -> ScalarSelect[Any]:
    return select(column).where(attempts.c.image_key == bindparam('of_key'),
                                attempts.c.number == bindparam('of_number')).scalar_subquery()
