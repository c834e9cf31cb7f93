"""What is to be done about attempts that are over: the verdict on lost ones, and their remains cleared away.

Lost is enough to show the error, not enough to clear away, see :mod:`imgguard.fence`. How an image is looked at and
put back is one of two ways: in Glance's own process, or by its database from outside.
"""

import logging
import threading
from collections.abc import Callable, Collection
from typing import Final

from imgguard import codes, glance_stores, watch
from imgguard.about import About
from imgguard.attempts import IMPORTS, ErrorState, Failure, ImageRecord, Kind, State
from imgguard.border import Border
from imgguard.dead_states import WayBack
from imgguard.errors import StoreUnavailable
from imgguard.fence import Fence, NotYet
from imgguard.guard import Guard
from imgguard.requeue import CannotRequeue, Overtaken
from imgguard.settings import Settings
from imgguard.store import AttemptRow, Store
from imgguard.tasks import AWAITED, DATA, KILLED, Tasks
from imgguard.workers import Workers

LOG: Final = logging.getLogger(__name__)


class BeingCleared(NotYet):
    """Somebody else is clearing them away right now."""

    def __init__(self) -> None:
        super().__init__(1)


class Recovery:
    """Settles and clears for one filter, or for a command."""

    def __init__(self, store: Store, guard: Guard, tasks: Tasks, requeue: WayBack, workers: Workers,
                 settings: Settings) -> None:
        self._store = store
        self._guard = guard
        self._tasks = tasks
        self._requeue = requeue
        self._workers = workers
        self._settings = settings
        self._fence = Fence(store, workers, settings.fence_seconds)

    @staticmethod
    def is_settled(record: ImageRecord, status: str) -> bool:
        """Whether :meth:`settle` has nothing to do, as at nearly every look at an image in error.

        :param status: what Glance says of the image
        """
        return record.running is None and not record.overdue and status not in DATA

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
            if running.kind in IMPORTS:
                return watch.settle(self._store, self._guard, self._tasks, record,
                                    self._settings.import_stall_seconds)
            if status in DATA:
                # It died after Glance had taken the data.
                return self._store.arrive(record.key, running.number, None)
            return self._guard.lost(record, running)
        error = record.error
        if error is not None and error.number == record.last_number and status in DATA and self._is_lost(record, error):
            # It was given up as lost, and had brought the data all the same.
            return self._store.arrive(record.key, error.number, None)
        if (error is not None or record.overdue) and status in DATA:
            # Glance took the data and said that it had not, or it came by a way past the guard: nobody is shown an
            # error, and those who were told of one wait to hear that it is over.
            return self._store.clear_error(record.image_id, record.created_at) is True
        if record.overdue and error is None and status in AWAITED:
            never = Failure(codes.NEVER_ARRIVED, codes.default_text(codes.NEVER_ARRIVED))
            return self._store.give_up(record.key, never)
        return False

    def clear(self, record: ImageRecord, status: str | None = None, asked: bool = False) -> bool:
        """Clear away what attempts left of an image in Glance; one without data then is ``queued``.

        Where data that may lie in Glance's stores cannot be deleted, that is left to whoever can: the attempts are not
        noted as cleared.

        :param status: what Glance says of the image; ``None`` where that is not known
        :param asked: whether somebody wants to bring the data anew, or has said that nobody brings it any more
        :returns: whether anything was cleared away
        :raises NotYet: while the fence is closed; :class:`BeingCleared` while somebody else is at it
        :raises CannotRequeue: it is not possible; the text says what the operator can do
        :raises StoreUnavailable: the guard's store cannot be asked
        """
        if not record.remains:
            return False
        if self._settings.requeue == 'off':
            if self._requeue.needed(record.image_id):
                raise CannotRequeue('What a failed attempt left of this image stands in the way, and the guard is set '
                                    'not to clear it away (requeue = off): an operator has to.')
            return False
        if not self._requeue.deletes_data and not self._requeue.needed(record.image_id):
            return False
        past = self._fence.passed(record, status)
        if not asked and status != KILLED and any(map(_may_go_on, past)):
            raise NotYet(self._settings.import_stall_seconds)
        return self._clear(record, [task for attempt in past if (task := self._task(record, attempt)) is not None])

    def clear_staged_here(self, record: ImageRecord) -> None:
        """Clear away what is staged on this host of attempts behind which another host has cleared away.

        A worker that was only paused leaves it when it wakes up and lets go: of what it has, the name may be
        another's by then. To be called only where Glance says that the image waits for data or has it.

        :raises NotYet: an attempt has begun meanwhile, or somebody else is clearing
        :raises CannotRequeue: as :meth:`clear`
        :raises StoreUnavailable: the guard's store cannot be asked
        """
        if record.running is None and not record.remains and record.last_number == record.cleared_number:
            self._clear(record, ())

    def _clear(self, record: ImageRecord, tasks: Collection[str]) -> bool:
        # Two threads of one process must not take each other's right for their own.
        name = f'{self._workers.name()}:{threading.get_ident()}'
        if not self._store.begin_clearing(record.key, record.last_number, name):
            raise BeingCleared
        cleared = False
        try:
            found = self._requeue.clear(record.image_id, lambda: self._store.keep_clearing(record.key, name), tasks)
            cleared = self._requeue.deletes_data
        except Overtaken as error:
            raise BeingCleared from error
        finally:
            self._store.end_clearing(record.key, name, cleared)
        return found

    def try_to_clear(self, record: ImageRecord, status: str | None) -> None:
        """As :meth:`clear`, where it is no matter if it cannot be done now.

        :param status: what Glance says of the image; ``None`` where that is not known
        """
        if status == 'queued' and not self._requeue.deletes_data:
            # What then is in the way of a new attempt is found by that attempt.
            return
        # Whatever Glance's stores and their drivers raise, the next look or retry meets it again.
        with Border(About(LOG, record.image_id), 'what is left of it is not cleared away now',
                    NotYet, CannotRequeue, StoreUnavailable, level=logging.INFO):
            if not keeps_staged(self._store, record, status):
                self.clear(record, status)

    def make_room_for_stage(self, image_id: str, is_queued: Callable[[], bool]) -> None:
        """Let no stage on this host be defeated by data of an attempt that another host has cleared away behind.

        :param is_queued: asks Glance whether the image is ``queued``
        """
        if self._settings.requeue == 'off' or not self._requeue.deletes_data:
            return
        # Whatever it is, the stage meets it again and is answered by Glance.
        with Border(About(LOG, image_id), 'staging could not be looked through'):
            glance_stores.make_room_for_stage(image_id, is_queued)

    def after_failure(self, image_id: str, created_at: str) -> None:
        """Clear away what an attempt of this process has just left."""
        try:
            record = self._store.records([image_id]).get((image_id, created_at))
        except StoreUnavailable as error:
            About(LOG, image_id).error('what is left of it is not cleared away now: %s', error)
            return
        if record is not None:
            self.try_to_clear(record, None)

    def _is_lost(self, record: ImageRecord, error: ErrorState) -> bool:
        attempt = self._store.attempt(record.key, error.number)
        return attempt is not None and attempt.state is State.LOST

    def _task(self, record: ImageRecord, attempt: AttemptRow) -> str | None:
        if attempt.kind not in IMPORTS or attempt.task_id is not None:
            return attempt.task_id
        return self._tasks.find(record.image_id, [attempt.request_id])


def keeps_staged(store: Store, record: ImageRecord, status: str | None) -> bool:
    """Whether what is left is sound staged data, for which an import can be asked, or asked again.

    :param status: what Glance says of the image; ``None`` where that is not known
    :raises StoreUnavailable: the guard's store cannot be asked
    """
    error = record.error
    if status != 'uploading' or error is None or error.code == codes.NEVER_ARRIVED:
        return status == 'uploading'
    attempt = store.attempt(record.key, error.number)
    return attempt is not None and attempt.kind is Kind.IMPORT


def _may_go_on(attempt: AttemptRow) -> bool:
    """Whether an import was given up for its silence alone: a copy by v1 shows nothing of itself until it has ended."""
    return (attempt.kind in IMPORTS and attempt.state is State.FAILED and bool(attempt.handed_on)
            and attempt.http_status is None and attempt.task_id is None)
