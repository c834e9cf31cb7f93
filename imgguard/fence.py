"""The fence: how long what attempts left in Glance must not be cleared away.

A worker that was only paused would wake up and write into what is somebody else's by then. The fence is open when the
attempt ended by itself, when its process is proven gone, or when it was silent for ``fence_seconds``.
"""

from collections.abc import Iterable
from typing import Final

from imgguard.attempts import ImageRecord, State
from imgguard.store import AttemptRow, Store
from imgguard.tasks import KILLED
from imgguard.workers import Workers

_MOST_ATTEMPTS: Final = 100


class NotYet(Exception):
    """The remains of an attempt must not be cleared away yet; ``seconds`` tells how long not."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f'not before {seconds:.0f} seconds have passed')
        self.seconds = seconds


class Fence:
    """Tells it of the attempts of an image.

    :param workers: knows whose process is gone
    :param fence_seconds: the option
    """

    def __init__(self, store: Store, workers: Workers, fence_seconds: float) -> None:
        self._store: Final = store
        self._workers: Final = workers
        self._seconds: Final = fence_seconds

    def passed(self, record: ImageRecord, status: str | None = None) -> list[AttemptRow]:
        """The attempts that may have left something, the newest first.

        :param status: what Glance says of the image; ``None`` where that is not known
        :raises NotYet: one of them may still wake up and write
        :raises StoreUnavailable: when the store cannot be asked
        """
        found = [attempt for attempt in self._store.attempts(record.key, _MOST_ATTEMPTS)
                 if attempt.number > record.cleared_number]
        # Whoever sets an image to killed is the worker that brought its data, and its last word (glance 15,
        # glance/api/v1/upload_utils.py, safe_kill).
        wait = 0.0 if status == KILLED else max(self._waits(found), default=0.0)
        if wait > 0:
            raise NotYet(wait)
        return found

    def _waits(self, attempts: Iterable[AttemptRow]) -> Iterable[float]:
        for attempt in attempts:
            # A success that is not cleared was told by Glance's image, not by its worker.
            if attempt.state is State.RUNNING:
                continue
            # Of what was handed on and not answered nobody knows whether it has ended.
            if attempt.state is State.FAILED and not (attempt.handed_on and attempt.http_status is None):
                continue
            # What was handed on runs on a host of which nothing is known.
            if attempt.handed_on or not self._workers.is_gone(attempt.host, attempt.worker):
                yield self._seconds - attempt.silent_for
