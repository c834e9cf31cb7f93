"""What a worker does without being asked: verdicts that are due, and remains that may be cleared away by now.

Nobody has to look at an image for it: until its remains are cleared away it counts against quotas and holds
disk space. The store is the queue: it names what is due, and each worker takes some of it now and then.
"""

import logging
from collections.abc import Iterable
from typing import Final

from imgguard.about import About
from imgguard.attempts import ImageRecord
from imgguard.errors import StoreUnavailable
from imgguard.fence import NotYet
from imgguard.recovery import Recovery
from imgguard.requeue import CannotRequeue
from imgguard.store import Store
from imgguard.tasks import GONE, Tasks

LOG: Final = logging.getLogger(__name__)

MOST: Final = 50
"""How many images that are due, and how many that have remains, are looked at in one go."""

AGAIN_SECONDS: Final = 600.0
"""When that is tried again which could not be done."""


class Housekeeping:
    """Looks after the images of one filter, in Glance's own process.

    :param clears: whether anything is cleared away at all (``requeue = auto``)
    """

    def __init__(self, store: Store, recovery: Recovery, tasks: Tasks, clears: bool) -> None:
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
        except StoreUnavailable as error:
            # The heartbeat tells it as an error, once.
            LOG.debug('nothing is looked after now: %s', error)
            return 0
        return self._each(records.values())

    def _each(self, records: Iterable[ImageRecord]) -> int:
        count = 0
        for record in records:
            if record.deleted:
                continue
            count += 1
            try:
                self._look_after(record)
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
        settled = self._recovery.settle(record, status or 'deleted')
        if status is None or status in GONE:
            self._store.deleted(record.image_id, record.created_at)
            return
        if settled:
            record = self._store.records([record.image_id])[record.image_id, record.created_at]
        if not self._clears or not record.remains or record.running is not None:
            return
        if self._recovery.keeps_staged(record, status):
            self._postpone(record, AGAIN_SECONDS)
            return
        try:
            self._recovery.clear(record)
        except NotYet as error:
            self._postpone(record, error.seconds)
        except CannotRequeue as error:
            About(LOG, record.image_id).warning('what is left of it cannot be cleared away now: %s', error)
            self._postpone(record, AGAIN_SECONDS)

    def _postpone(self, record: ImageRecord, seconds: float) -> None:
        try:
            self._store.postpone_clearing(record.key, seconds)
        except StoreUnavailable as error:
            LOG.debug('nothing is looked after now: %s', error)
