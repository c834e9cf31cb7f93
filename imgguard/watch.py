"""Follows the imports of this process until Glance has ended them: nobody needs to look for the verdict.

One thread for each filter of a process, which polls and ends when there is nothing left to watch. When
the process dies, its imports are settled by whoever looks at them next (:func:`settle`).
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from imgguard import glance_log
from imgguard.about import claimed
from imgguard.attempts import IMPORTS, Claim, ImageRecord, Kind
from imgguard.errors import StoreUnavailable
from imgguard.guard import Guard
from imgguard.images import Caller, Image
from imgguard.leases import Heartbeat
from imgguard.outcome import SUCCEEDED, Outcome, Verdict
from imgguard.store import Store
from imgguard.tasks import DATA, KILLED, CannotLook, Seen, Tasks, judge

LOG: Final = logging.getLogger(__name__)

_ACCEPTED: Final = 202
_SEARCHES: Final = 10
_LETTING_GO_SECONDS: Final = 5.0
_NO_TIME: Final = float('inf')


class Import:
    """An import that Glance has accepted.

    :param task_id: ``None`` while the task could not be found
    :param request_ids: of the request that began it
    :param by: who began it; ``None`` where Glance need not be asked as anybody
    """

    def __init__(self, kind: Kind, image: Image, claim: Claim, guarded: bool, task_id: str | None,
                 request_ids: Collection[str | None], by: Caller | None = None) -> None:
        self.kind = kind
        self.image = image
        self.claim = claim
        self.guarded = guarded
        self.task_id = task_id
        self.request_ids = request_ids
        self.by = by
        self.received = 0
        self.complained = False
        self.searches = 0
        self._changed: object = None
        self._moved = 0.0

    def idle(self, seen: Seen, now: float) -> float:
        """Seconds since anything of it moved, this look included."""
        if self._changed is None or seen.changed != self._changed:
            self._changed, self._moved = seen.changed, now
        self.received = max(self.received, seen.staged or 0, seen.size)
        return now - self._moved

    def idle_so_far(self, now: float) -> float:
        """Seconds since anything of it was seen to move; 0 before the first look."""
        return 0.0 if self._changed is None else now - self._moved


class Watch:
    """Watches the imports of this process for one filter.

    :param after_failure: called with id and time of creation of an image whose import has failed
    :param stall_seconds: after so long without progress an import has failed
    :param release: takes the import lock of an image away from a task, by their ids; where nobody can, it does nothing
    :param around: called with who began an import, for as long as it is looked at; ``None``: nothing is
    :param poll_seconds: between two looks
    :param clock: seconds of a clock that is never set back
    """

    def __init__(self, store: Store, guard: Guard, heartbeat: Heartbeat, tasks: Tasks,
                 after_failure: Callable[[str, str], None], stall_seconds: float,
                 release: Callable[[str, str], object] = lambda image_id, task_id: None, poll_seconds: float = 1.0,
                 clock: Callable[[], float] = time.monotonic,
                 around: Callable[[Caller], AbstractContextManager[None]] | None = None) -> None:
        self._store = store
        self._guard = guard
        self._heartbeat = heartbeat
        self._tasks = tasks
        self._after_failure = after_failure
        self._stall = stall_seconds
        self._release = release
        self._poll = poll_seconds
        self._clock = clock
        self._around = around
        self._lock = threading.Lock()
        # The process in which the thread runs; 0 while none does.
        self._process = 0
        self._imports: list[Import] = []

    def add(self, started: Import) -> None:
        """Watch this import from now on, and renew its claim until it has ended."""
        self._heartbeat.add(started.claim, lambda: started.received)
        with self._lock:
            runs = self._process == os.getpid()
            # What a process inherits when it is forked stays its parent's.
            self._imports = [*self._imports, started] if runs else [started]
            self._process = os.getpid()
            if not runs:
                threading.Thread(target=self._run, name='imgguard-imports', daemon=True).start()

    def look(self) -> None:
        """Look at every import once, and store the verdict of those that have ended."""
        with self._lock:
            watched = list(self._imports)
        for each in watched:
            if self._ended(each):
                self._heartbeat.remove(each.claim)
                with self._lock:
                    self._imports.remove(each)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._poll)
            self.look()
            with self._lock:
                if not self._imports:
                    self._process = 0
                    return

    def _ended(self, each: Import) -> bool:
        try:
            with nullcontext() if each.by is None or self._around is None else self._around(each.by):
                return self._settled(each)
        except CannotLook as error:
            # Its claim is not renewed any more, and whoever looks at the image settles it.
            claimed(LOG, each.claim).warning('the import is followed no longer: %s', error)
            return True
        except Exception:
            # Glance's database or the guard's store is away: neither ends the import, so look again.
            if not each.complained:
                claimed(LOG, each.claim).exception('the import cannot be followed now')
            each.complained = True
            return False

    def _settled(self, each: Import) -> bool:
        if each.task_id is None and each.searches < _SEARCHES:
            each.searches += 1
            each.task_id = self._tasks.find(each.image.image_id, each.request_ids)
            if each.task_id is not None:
                self._store.set_task(each.claim, each.task_id)
        late = each.idle_so_far(self._clock()) >= self._stall / 2
        seen = self._tasks.look(each.image.image_id, each.image.created_at, each.task_id, stores_too=late)
        causes = () if each.task_id is None else glance_log.causes(each.task_id)
        result = judge(each.kind, seen, causes, each.idle(seen, self._clock()), self._stall)
        if result is None or self._is_letting_go(each, seen):
            return False
        try:
            end(self._guard, each, result, seen)
        except StoreUnavailable as error:
            # It waits in this process now, and what remains is for whoever looks next.
            claimed(LOG, each.claim).error('its end could not be stored: %s', error)
            return True
        if each.task_id is not None:
            glance_log.forget(each.task_id)
        if result.verdict is Verdict.FAILED and each.guarded:
            self._after_failure(each.image.image_id, each.image.created_at)
        return True

    def _is_letting_go(self, each: Import, seen: Seen) -> bool:
        """Whether Glance may be about to let go of the lock on the image; if it does not, nobody else does.

        It ends the task first (api_image_import.py, ``_CompleteTask``), and its database may go away in between.
        """
        if not each.guarded or each.task_id is None or seen.task is None or seen.task.status != 'success' or (
                self._tasks.holder(each.image.image_id) != each.task_id):
            return False
        if each.idle_so_far(self._clock()) < _LETTING_GO_SECONDS:
            return True
        self._release(each.image.image_id, each.task_id)
        return False


def end(guard: Guard, ended: Import, result: Outcome, seen: Seen) -> bool:
    """Store how an import ended. A copy never puts its image in error, nor does one whose image is gone.

    :returns: whether that counts, which is true for exactly one of several callers
    :raises StoreUnavailable: when that could not be stored
    """
    if result.verdict is Verdict.SUCCEEDED or result.failure is None:
        return guard.succeeded(ended.claim, _ACCEPTED, seen.size or ended.received, result.failure)
    shown = ended.guarded and ended.kind is not Kind.COPY and seen.status is not None
    # Of one that was given up for its silence nobody knows whether it has ended, where it was handed on.
    silent = seen.status not in (None, KILLED) and (seen.task is None or not seen.task.ended)
    return guard.failed(ended.image, ended.claim, result.failure, None if silent else _ACCEPTED, ended.received, shown,
                        remains=ended.guarded)


def settle(store: Store, guard: Guard, tasks: Tasks, record: ImageRecord, stall_seconds: float) -> bool:
    """Decide on a running import that nobody watches any more: its process is dead or was silent for too long.

    How the task ended is Glance's word; one that did not end has died with its process, unless it was handed on: then
    it may still go on elsewhere.

    :param stall_seconds: after so long without progress an import that was handed on has failed
    :returns: whether a verdict was stored
    :raises StoreUnavailable: when the store cannot be read or written
    """
    running = record.running
    if running is None or running.kind not in IMPORTS or running.alive:
        return False
    attempt = store.attempt(record.key, running.number)
    request_id = None if attempt is None else attempt.request_id
    # Its process may have died between Glance's answer and the moment the task was noted.
    task_id = running.task_id or (tasks.find(record.image_id, [request_id]) if request_id else None)
    seen = tasks.look(record.image_id, record.created_at, task_id)
    idle, stall = (running.silent_for, stall_seconds) if running.handed_on else (0.0, _NO_TIME)
    result = judge(running.kind, seen, () if task_id is None else glance_log.causes(task_id), idle, stall)
    if result is None and running.handed_on:
        return False
    if result is None and seen.status in DATA and running.kind is not Kind.COPY:
        # It died after the data was there, before the task was ended.
        result = SUCCEEDED
    if result is None:
        return guard.lost(record, running)
    if result.verdict is Verdict.SUCCEEDED:
        return store.arrive(record.key, running.number, result.failure.text if result.failure else None)
    image = Image(record.image_id, record.created_at, seen.status or 'deleted', record.owner, None)
    claim = Claim(record.key, running.number, record.error, record.image_id, running.kind, request_id)
    return end(guard, Import(running.kind, image, claim, running.guarded, task_id, ()), result, seen)
