"""What is to be done about attempts that are over: the verdict on lost ones, and their remains cleared away.

Lost is enough to show the error, not enough to clear away: a worker that was only paused would wake up
and write into what is somebody else's by then. The *fence* is open when the attempt ended by itself,
when its process is proven gone, or when it was silent for ``fence_seconds``.
"""

import logging
import threading
from typing import Final

from imgguard import codes, watch
from imgguard.attempts import Failure, ImageRecord, Kind, State
from imgguard.errors import StoreUnavailable
from imgguard.glance_tasks import GlanceTasks
from imgguard.guard import Guard
from imgguard.requeue import CannotRequeue, Overtaken, Requeue
from imgguard.settings import Settings
from imgguard.store import Store
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
        """Speak the verdict that is due on an image without data, if one is.

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
            return self._store.lose(record.key, running.number)
        if record.overdue and record.error is None and status == 'queued':
            never = Failure(codes.NEVER_ARRIVED, codes.default_text(codes.NEVER_ARRIVED))
            return self._store.give_up(record.key, never)
        return False

    def clear(self, record: ImageRecord) -> None:
        """Clear away what the attempts of an image in error left in Glance, which then is ``queued``.

        :raises NotYet: while the fence is closed; :class:`BeingCleared` while somebody else is at it
        :raises CannotRequeue: it is not possible; the text says what the operator can do
        :raises StoreUnavailable: the guard's store cannot be asked
        """
        if record.error is None or record.last_number <= record.cleared_number:
            return
        if self._settings.requeue == 'off':
            if self._requeue.needed(record.image_id):
                raise CannotRequeue('What a failed attempt left of this image stands in the way, and the guard is set '
                                    'not to clear it away (requeue = off): an operator has to.')
            return
        self._fence(record)
        # Two threads of one process must not take each other's right for their own.
        name = f'{self._workers.name()}:{threading.get_ident()}'
        if not self._store.begin_clearing(record.key, record.last_number, name):
            raise BeingCleared
        cleared = False
        try:
            self._requeue.clear(record.image_id, lambda: self._store.keep_clearing(record.key, name))
            cleared = True
        except Overtaken as error:
            raise BeingCleared from error
        finally:
            self._store.end_clearing(record.key, name, cleared)

    def try_to_clear(self, record: ImageRecord, status: str | None) -> None:
        """As :meth:`clear`, where it is no matter if it cannot be done now.

        :param status: what Glance says of the image; ``None`` where that is not known
        """
        if record.error is not None and record.error.kind is Kind.IMPORT and status == 'uploading':
            # The staged data is sound: the import can be asked for again.
            return
        try:
            self.clear(record)
        except (NotYet, CannotRequeue, StoreUnavailable) as error:
            LOG.info('image %s: what is left of it is not cleared away now: %s', record.image_id, error)
        except Exception:
            # Glance's stores and their drivers: whatever it is, the next look or retry meets it again.
            LOG.exception('image %s: what is left of it could not be cleared away', record.image_id)

    def after_failure(self, image_id: str, created_at: str) -> None:
        """Clear away what an attempt of this process has just left."""
        try:
            record = self._store.records([image_id]).get((image_id, created_at))
        except StoreUnavailable as error:
            LOG.error('image %s: what is left of it is not cleared away now: %s', image_id, error)
            return
        if record is not None:
            self.try_to_clear(record, None)

    def _fence(self, record: ImageRecord) -> None:
        error = record.error
        shown = self._store.attempt(record.key, error.number) if error is not None else None
        if error is None or shown is None:
            return
        now = shown.updated_at + error.silent_for
        for attempt in self._store.attempts(record.key, _MOST_ATTEMPTS):
            if attempt.number <= record.cleared_number:
                break
            if attempt.state is not State.LOST or self._workers.is_gone(attempt.host, attempt.worker):
                continue
            wait = self._settings.fence_seconds - (now - attempt.updated_at)
            if wait > 0:
                raise NotYet(wait)
