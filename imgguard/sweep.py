"""The sweep: speaks the verdicts that are due on images nobody looks at, and forgets what is too old.

It runs outside Glance's process. Alone with the guard's store it settles leases and deadlines; with Glance's database
(``glance_connection``) it goes by what Glance says, too, and puts dead images back to ``queued``. It publishes the
events that wait. Before and between its steps it gives a sign of its own life: where all of Glance is dead it is the
one who proves that the store could be reached.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from imgguard.attempts import ImageRecord
from imgguard.errors import GlanceUnavailable, StoreUnavailable
from imgguard.settings import Settings
from imgguard.settling import Counts, StoreAlone, WithGlance
from imgguard.store import Store
from imgguard.workers import HOST

LOG: Final = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 60.0
"""Between two runs of a sweep that goes on."""

PURGE_SECONDS: Final = 3600.0
"""Between two purges of a sweep that goes on: a purge reads every image that is known."""

PAGE: Final = 200
"""How many images are read at once."""

_DAY: Final = 86400
# A stable name, so that sweeps that follow each other leave one row; any of them proves the same.
_WORKER: Final = f'{HOST}:sweep'


class Stop(Protocol):
    """Tells when to stop; a :class:`threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float) -> bool:
        """Wait until it is set, at most so many seconds, and say whether it is."""


class Sweep:
    """Settles what is due; several may run at the same time.

    :param glance: Glance's database and what is done by it; ``None`` without ``glance_connection``
    :param clock: seconds of a clock that is never set back
    :param stop: asked between two pages, and waited for between two runs
    :param publish: publishes the events that wait, and counts them
    :param purges: whether it forgets what is too old, too
    """

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float], stop: Stop,
                 glance: WithGlance | None = None, publish: Callable[[], int] = lambda: 0,
                 purges: bool = True) -> None:
        self._store: Final = store
        self._lease: Final = settings.lease_seconds
        self._retention: Final = settings.retention_days * _DAY
        self._glance: Final = glance
        self._settling: Final = glance or StoreAlone(store, settings)
        self._clock: Final = clock
        self._stop: Final = stop
        self._publish: Final = publish
        self._purges: Final = purges
        self._signed: float | None = None
        self._purged: float | None = None

    @property
    def outage(self) -> GlanceUnavailable | None:
        """Why Glance's database could not be used in the last run; ``None`` when it could, or is not set."""
        return None if self._glance is None else self._glance.outage

    def run_once(self) -> Counts:
        """Settle every attempt that is lost and every deadline that has passed, and forget what is too old.

        :raises StoreUnavailable: the store cannot be read or written; what was done stays done
        """
        self._sign()
        if self._glance is not None:
            self._glance.begin()
        counts = self._each(self._store.running, self._settling.silent) + self._overdue()
        if self._glance is not None:
            counts += self._each(self._store.failures, self._glance.in_error)
        if self._purges:
            counts += self._purge()
        return counts + Counts(published=self._publish())

    def try_to_run(self) -> None:
        """As :meth:`run_once`, in a process whose heartbeat tells of an outage of the store."""
        try:
            self.run_once()
        except StoreUnavailable as error:
            LOG.debug('nothing is swept now: %s', error)

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

    def _each(self, read: Callable[[int, int], Sequence[ImageRecord]],
              settle: Callable[[Sequence[ImageRecord]], Counts]) -> Counts:
        """Do this about all images that are read so, page by page."""
        counts, after = Counts(), 0
        while not self._stop.is_set():
            page = read(PAGE, after)
            counts += settle(page)
            if len(page) < PAGE:
                break
            after = page[-1].key
            self._sign()
        return counts

    def _overdue(self) -> Counts:
        counts, wanted = Counts(), PAGE
        seen: set[str] = set()
        while not self._stop.is_set():
            ids = self._store.due(wanted)
            new = [image_id for image_id in ids if image_id not in seen]
            counts += self._settling.overdue(list(self._store.records(new).values()))
            seen.update(new)
            if len(ids) < wanted:
                break
            if not new:
                # What was left as it is stays due, before all others.
                wanted += PAGE
            self._sign()
        return counts

    def _purge(self) -> Counts:
        now = self._clock()
        if self._stop.is_set() or (self._purged is not None and now - self._purged < PURGE_SECONDS):
            return Counts()
        counts = Counts() if self._glance is None else self._each(self._store.known, self._glance.known)
        counts += Counts(forgotten=self._store.purge(self._retention))
        self._purged = now
        return counts

    def _sign(self) -> None:
        """Give a sign of life if the last one is a third of a lease ago, as every worker does."""
        if self._until_sign() <= 0:
            now = self._clock()
            self._store.renew(_WORKER, HOST, {})
            self._signed = now

    def _until_sign(self) -> float:
        return 0.0 if self._signed is None else max(0.0, self._signed + self._lease / 3 - self._clock())
