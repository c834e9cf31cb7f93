"""What is to be done about attempts that are over: the verdict on lost ones, and their remains cleared away.

Lost is enough to show the error, not enough to clear away: a worker that was only paused would wake up
and write into what is somebody else's by then. The *fence* is open when the attempt ended by itself,
when its process is proven gone, or when it was silent for ``fence_seconds``.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from imgguard import codes, glance_stores, watch
from imgguard.attempts import Failure, ImageRecord, Kind, State
from imgguard.errors import StoreUnavailable
from imgguard.glance_tasks import GlanceTasks
from imgguard.guard import Guard
from imgguard.requeue import CannotRequeue, Overtaken, Requeue
from imgguard.settings import Settings
from imgguard.store import AttemptRow, Store
from imgguard.tasks import DATA
from imgguard.workers import Workers

LOG: Final = logging.getLogger(__name__)

_MOST_ATTEMPTS: Final = 100


class NotYet(Exception):
    """The remains of an attempt must not be cleared away yet; ``seconds`` tells how long not."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f'not before {seconds:.0f} seconds have passed')
        self.seconds = seconds


class BeingCleared(NotYet):
    """Somebody else is clearing them away right now."""

    def __init__(self) -> None:
        super().__init__(1)


class Recovery:
    """Settles and clears for one filter."""

    def __init__(self, store: Store, guard: Guard, tasks: GlanceTasks, requeue: Requeue, workers: Workers,
                 settings: Settings) -> None:
        self._store = store
        self._guard = guard
        self._tasks = tasks
        self._requeue = requeue
        self._workers = workers
        self._settings = settings

    def settle(self, record: ImageRecord, status: str) -> bool:
        """Speak the verdict that is due on an image, if one is.

        :param status: what Glance says of the image
        :returns: whether one was spoken
        :raises StoreUnavailable: when it could not be stored
        """
        running = record.running
        if running is not None:
            if running.alive:
                return False
            if running.kind in watch.IMPORTS:
                return watch.settle(self._store, self._guard, self._tasks, record)
            if status in DATA:
                # It died after Glance had taken the data.
                return self._store.arrive(record.key, running.number, None)
            return self._store.lose(record.key, running.number)
        if record.overdue and record.error is None and status == 'queued':
            never = Failure(codes.NEVER_ARRIVED, codes.default_text(codes.NEVER_ARRIVED))
            return self._store.give_up(record.key, never)
        return False

    def clear(self, record: ImageRecord) -> None:
        """Clear away what attempts left of an image in Glance; one without data then is ``queued``.

        :raises NotYet: while the fence is closed; :class:`BeingCleared` while somebody else is at it
        :raises CannotRequeue: it is not possible; the text says what the operator can do
        :raises StoreUnavailable: the guard's store cannot be asked
        """
        if not record.remains:
            return
        if self._settings.requeue == 'off':
            if self._requeue.needed(record.image_id):
                raise CannotRequeue('What a failed attempt left of this image stands in the way, and the guard is set '
                                    'not to clear it away (requeue = off): an operator has to.')
            return
        tasks = [task for attempt in self._past_the_fence(record) if (task := self._task(record, attempt)) is not None]
        # Two threads of one process must not take each other's right for their own.
        name = f'{self._workers.name()}:{threading.get_ident()}'
        if not self._store.begin_clearing(record.key, record.last_number, name):
            raise BeingCleared
        cleared = False
        try:
            self._requeue.clear(record.image_id, lambda: self._store.keep_clearing(record.key, name), tasks)
            cleared = True
        except Overtaken as error:
            raise BeingCleared from error
        finally:
            self._store.end_clearing(record.key, name, cleared)

    def try_to_clear(self, record: ImageRecord, status: str | None) -> None:
        """As :meth:`clear`, where it is no matter if it cannot be done now.

        :param status: what Glance says of the image; ``None`` where that is not known
        """
        if self.keeps_staged(record, status):
            return
        try:
            self.clear(record)
        except (NotYet, CannotRequeue, StoreUnavailable) as error:
            LOG.info('image %s: what is left of it is not cleared away now: %s', record.image_id, error)
        except Exception:
            # Glance's stores and their drivers: whatever it is, the next look or retry meets it again.
            LOG.exception('image %s: what is left of it could not be cleared away', record.image_id)

    @staticmethod
    def keeps_staged(record: ImageRecord, status: str | None) -> bool:
        """Whether what a failed import has left is sound staged data, for which an import can be asked again.

        :param status: what Glance says of the image; ``None`` where that is not known
        """
        return record.error is not None and record.error.kind is Kind.IMPORT and status == 'uploading'

    def make_room_for_stage(self, image_id: str, is_queued: Callable[[], bool]) -> None:
        """Let no stage on this host be defeated by data of an attempt that another host has cleared away behind.

        :param is_queued: asks Glance whether the image is ``queued``
        """
        if self._settings.requeue == 'off':
            return
        try:
            glance_stores.make_room_for_stage(image_id, is_queued)
        except Exception:
            # Whatever it is, the stage meets it again and is answered by Glance.
            LOG.exception('image %s: staging could not be looked through', image_id)

    def after_failure(self, image_id: str, created_at: str) -> None:
        """Clear away what an attempt of this process has just left."""
        try:
            record = self._store.records([image_id]).get((image_id, created_at))
        except StoreUnavailable as error:
            LOG.error('image %s: what is left of it is not cleared away now: %s', image_id, error)
            return
        if record is not None:
            self.try_to_clear(record, None)

    def _past_the_fence(self, record: ImageRecord) -> list[AttemptRow]:
        """The attempts that may have left something.

        :raises NotYet: one of them may still wake up and write
        """
        found = [attempt for attempt in self._store.attempts(record.key, _MOST_ATTEMPTS)
                 if attempt.number > record.cleared_number]
        for attempt in found:
            # A success that is not cleared was told by Glance's image, not by its worker.
            if attempt.state in (State.FAILED, State.RUNNING):
                continue
            # What was handed on runs on a host of which nothing is known.
            if not attempt.handed_on and self._workers.is_gone(attempt.host, attempt.worker):
                continue
            wait = self._settings.fence_seconds - attempt.silent_for
            if wait > 0:
                raise NotYet(wait)
        return found

    def _task(self, record: ImageRecord, attempt: AttemptRow) -> str | None:
        if attempt.kind not in watch.IMPORTS or attempt.task_id is not None:
            return attempt.task_id
        return self._tasks.find(record.image_id, [attempt.request_id])
