"""The sweep: speaks the verdicts that are due on images nobody looks at, and forgets what is too old.

It runs outside Glance's process and knows the guard's store only: it settles leases and deadlines, and
clears nothing away in Glance. Every change is one of the store's own, which happens exactly once however many
sweeps and workers are at it. Before and between its steps it gives a sign of its own life: where all of
Glance is dead it is the one who proves that the store could be reached.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from imgguard import codes
from imgguard.attempts import Failure
from imgguard.errors import StoreUnavailable
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.workers import HOST

PAUSE_SECONDS: Final = 60.0
"""Between two runs of a sweep that goes on."""

PURGE_SECONDS: Final = 3600.0
"""Between two purges of a sweep that goes on: a purge reads every image that is known."""

PAGE: Final = 200
"""How many images are read at once."""

_DAY: Final = 86400
# A stable name, so that sweeps that follow each other leave one row; any of them proves the same.
_WORKER: Final = f'{HOST}:sweep'
_SKEW: Final = 5
_NEVER: Final = Failure(codes.NEVER_ARRIVED, codes.default_text(codes.NEVER_ARRIVED))


class Stop(Protocol):
    """Tells when to stop; a :class:`threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float) -> bool:
        """Wait until it is set, at most so many seconds, and say whether it is."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one run did.

    :param lost: attempts ended as lost
    :param given_up: images whose deadline had passed, put in error
    :param forgotten: images forgotten with their history, as ``retention_days`` says
    :param unproven: attempts silent for longer than their lease that were left alone, because nobody has proved
        since that the store could be reached
    """

    lost: int = 0
    given_up: int = 0
    forgotten: int = 0
    unproven: int = 0


class Sweep:
    """Settles what is due; several may run at the same time.

    :param clock: seconds of a clock that is never set back
    :param stop: asked between two pages, and waited for between two runs
    """

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float], stop: Stop) -> None:
        self._store: Final = store
        self._lease: Final = settings.lease_seconds
        self._retention: Final = settings.retention_days * _DAY
        self._clock: Final = clock
        self._stop: Final = stop
        self._signed: float | None = None
        self._purged: float | None = None

    def run_once(self) -> Counts:
        """Settle every attempt that is lost and every deadline that has passed, and forget what is too old.

        :raises StoreUnavailable: the store cannot be read or written; what was done stays done
        """
        self._sign()
        lost, unproven = self._lose()
        return Counts(lost, self._give_up(), self._purge(), unproven)

    def run(self) -> Iterator[Counts | StoreUnavailable]:
        """Run again and again until told to stop; a run that failed gives its error, and the next one follows."""
        while not self._stop.is_set():
            until = self._clock() + PAUSE_SECONDS
            try:
                result: Counts | StoreUnavailable = self.run_once()
            except StoreUnavailable as error:
                result = error
            yield result
            while (left := until - self._clock()) > 0:
                if self._stop.wait(min(left, self._until_sign())):
                    return
                with contextlib.suppress(StoreUnavailable):
                    # The next run tells.
                    self._sign()

    def _lose(self) -> tuple[int, int]:
        lost = unproven = after = 0
        while not self._stop.is_set():
            page = self._store.running(PAGE, after)
            for record in page:
                after, running = record.key, record.running
                if running is None:
                    continue
                if not running.alive:
                    lost += self._store.lose(record.key, running.number)
                elif running.silent_for > self._lease + _SKEW:
                    unproven += 1
            if len(page) < PAGE:
                break
            self._sign()
        return lost, unproven

    def _give_up(self) -> int:
        given_up = 0
        seen: set[str] = set()
        while not self._stop.is_set():
            ids = self._store.due(PAGE)
            new = [image_id for image_id in ids if image_id not in seen]
            # Between the question and the change others may have spoken the verdict.
            given_up += sum(self._store.give_up(record.key, _NEVER) for record in self._store.records(new).values()
                            if record.overdue and record.error is None and record.running is None)
            seen.update(new)
            if len(ids) < PAGE or not new:
                break
            self._sign()
        return given_up

    def _purge(self) -> int:
        now = self._clock()
        if self._stop.is_set() or (self._purged is not None and now - self._purged < PURGE_SECONDS):
            return 0
        forgotten = self._store.purge(self._retention)
        self._purged = now
        return forgotten

    def _sign(self) -> None:
        """Give a sign of life if the last one is a third of a lease ago, as every worker does."""
        if self._until_sign() <= 0:
            now = self._clock()
            self._store.renew(_WORKER, HOST, {})
            self._signed = now

    def _until_sign(self) -> float:
        return 0.0 if self._signed is None else max(0.0, self._signed + self._lease / 3 - self._clock())
