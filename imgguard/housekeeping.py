"""What a worker does without being asked: verdicts that are due, and remains that may be cleared away by now.

Nobody has to look at an image for it: until its remains are cleared away it counts against quotas and holds
disk space. The store is the queue: it names what is due, and each worker takes some of it now and then.
"""

import logging
from collections.abc import Callable, Iterable
from random import SystemRandom
from typing import Final

from imgguard import glance_stores
from imgguard.about import About
from imgguard.attempts import ImageRecord
from imgguard.errors import StoreUnavailable
from imgguard.fence import NotYet
from imgguard.glance_tasks import GlanceTasks
from imgguard.recovery import Recovery, keeps_staged
from imgguard.requeue import CannotRequeue
from imgguard.store import Store
from imgguard.tasks import DATA, GONE

LOG: Final = logging.getLogger(__name__)

MOST: Final = 50
"""How many images that are due, and how many that have remains, are looked at in one go."""

AGAIN_SECONDS: Final = 600.0
"""When that is tried again which could not be done."""


class Housekeeping:
    """Looks after the images of one filter, in Glance's own process.

    :param clears: whether anything is cleared away at all (``requeue = auto``)
    """

    def __init__(self, store: Store, recovery: Recovery, tasks: GlanceTasks, clears: bool) -> None:
        self._store = store
        self._recovery = recovery
        self._tasks = tasks
        self._clears = clears

    def run_once(self) -> int:
        """Do what is due and return the number of images that were looked at; trouble is logged, not raised."""
        try:
            due = self._store.due(MOST)
            remaining = self._store.remaining(MOST) if self._clears else []
            records = self._store.records(list(dict.fromkeys([*due, *remaining])))
            staged = glance_stores.staged_images() if self._clears else set()
            # Most of it waits soundly for its import; in time each one is drawn.
            staged_here = self._store.records(SystemRandom().sample(sorted(staged), min(MOST, len(staged))))
        except StoreUnavailable as error:
            # The heartbeat tells it as an error, once.
            LOG.debug('nothing is looked after now: %s', error)
            return 0
        return (self._each(records.values(), self._look_after)
                + self._each(staged_here.values(), self._look_after_staged))

    def _each(self, records: Iterable[ImageRecord], look_after: Callable[[ImageRecord], None]) -> int:
        count = 0
        for record in records:
            count += 1
            try:
                look_after(record)
            except StoreUnavailable as error:
                LOG.debug('nothing is looked after now: %s', error)
                return count
            except Exception:
                # Glance's database, its stores and their drivers: whatever it is, it is met again later.
                About(LOG, record.image_id).exception('it cannot be looked after now')
                self._postpone(record, AGAIN_SECONDS)
        return count

    def _look_after(self, record: ImageRecord) -> None:
        status = self._tasks.look(record.image_id, record.created_at, None).status
        gone = status is None or status in GONE
        if gone:
            # First, so that nobody is told of an error of an image that is not there.
            self._store.deleted(record.image_id, record.created_at)
        if self._recovery.settle(record, status or 'deleted'):
            record = self._store.records([record.image_id])[record.image_id, record.created_at]
        if not self._clears or not record.remains or record.running is not None:
            return
        if keeps_staged(self._store, record, status) or (gone and not self._tasks.is_gone(record.image_id)):
            # An id that was used again is another image's.
            self._postpone(record, AGAIN_SECONDS)
            return
        try:
            self._recovery.clear(record)
        except NotYet as error:
            self._postpone(record, error.seconds)
        except CannotRequeue as error:
            About(LOG, record.image_id).warning('what is left of it cannot be cleared away now: %s', error)
            self._postpone(record, AGAIN_SECONDS)

    def _look_after_staged(self, record: ImageRecord) -> None:
        if self._tasks.is_gone(record.image_id):
            # Glance itself would find it when it starts the next time.
            for path in glance_stores.staged_files(record.image_id):
                glance_stores.delete_staged(path)
            return
        status = self._tasks.look(record.image_id, record.created_at, None).status
        if status != 'queued' and status not in DATA:
            return
        try:
            self._recovery.clear_staged_here(record)
        except (NotYet, CannotRequeue) as error:
            About(LOG, record.image_id).info('its staged data is not cleared away now: %s', error)

    def _postpone(self, record: ImageRecord, seconds: float) -> None:
        try:
            self._store.postpone_clearing(record.key, seconds)
        except StoreUnavailable as error:
            LOG.debug('nothing is looked after now: %s', error)
