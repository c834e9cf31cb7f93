"""What a sweep does about the images of a page: by what the guard's store tells alone, or by Glance's database, too.

Every change is one that happens exactly once, however many sweeps and workers are at it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Final, Self

from imgguard import codes
from imgguard.about import About
from imgguard.attempts import IMPORTS, Failure, ImageRecord, Running, State
from imgguard.database_requeue import DatabaseRequeue
from imgguard.errors import GlanceUnavailable
from imgguard.glance_database import GlanceDatabase
from imgguard.fence import NotYet
from imgguard.recovery import BeingCleared, Recovery, keeps_staged
from imgguard.requeue import CannotRequeue
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.tasks import AWAITED, DATA, GONE

LOG: Final = logging.getLogger(__name__)

_NEVER: Final = Failure(codes.NEVER_ARRIVED, codes.default_text(codes.NEVER_ARRIVED))
_SKEW: Final = 5

Statuses = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Counts:
    """What one run did.

    :param lost: attempts ended as lost
    :param settled: attempts ended by what Glance says: how its task ended, or that the data is there
    :param given_up: images whose deadline had passed, put in error
    :param requeued: images that Glance held dead, put back to ``queued`` in its database
    :param deleted: images noted as deleted in Glance
    :param forgotten: images forgotten with their history, as ``retention_days`` says
    :param published: events that waited to be published, from this run or before
    :param unproven: attempts silent for longer than their lease that were left alone, because nobody has proved
        since that the store could be reached
    :param fenced: dead images left alone, because a worker that was lost may still wake up
    """

    lost: int = 0
    settled: int = 0
    given_up: int = 0
    requeued: int = 0
    deleted: int = 0
    forgotten: int = 0
    published: int = 0
    unproven: int = 0
    fenced: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return any(astuple(self)[:-2])


class StoreAlone:
    """Settles leases and deadlines, knowing nothing of Glance."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store: Final = store
        self._silence: Final = settings.lease_seconds + _SKEW

    def silent(self, page: Iterable[ImageRecord]) -> Counts:
        """End the running attempts of these images that are not alive."""
        counts = Counts()
        for record in page:
            running = record.running
            if running is not None and running.goes_on and not running.alive:
                # How it ended is Glance's word.
                continue
            if running is not None and not running.alive:
                counts += Counts(lost=self._store.lose(record.key, running.number))
            elif running is not None and self.is_silent(running):
                counts += Counts(unproven=1)
        return counts

    def overdue(self, page: Iterable[ImageRecord]) -> Counts:
        """Give up those of these images that wait for their data and whose deadline has passed."""
        # Between the question and the change others may have spoken the verdict.
        return Counts(given_up=sum(self._store.give_up(record.key, _NEVER) for record in page if is_due(record)))

    def is_silent(self, running: Running) -> bool:
        """Whether this attempt is silent for longer than its lease, proven or not."""
        return running.silent_for > self._silence


def is_due(record: ImageRecord) -> bool:
    """Whether the deadline of this image has passed while it waits for its data."""
    return record.overdue and record.error is None and record.running is None


class WithGlance:
    """Settles by what Glance's database says, and puts dead images back in it.

    While that database is down, leases and deadlines are settled without it; imports wait, for how they ended is
    Glance's word.

    :param recovery: assembled with the same database
    """

    def __init__(self, store: Store, settings: Settings, database: GlanceDatabase, requeue: DatabaseRequeue,
                 recovery: Recovery) -> None:
        self._store: Final = store
        self._puts_back: Final = settings.requeue != 'off'
        self._database: Final = database
        self._requeue: Final = requeue
        self._recovery: Final = recovery
        self._alone: Final = StoreAlone(store, settings)
        self.outage: GlanceUnavailable | None = None
        """Why Glance's database could not be used in this run; ``None`` when it could."""

    def begin(self) -> None:
        """Begin a run: Glance's database may be back."""
        self.outage = None

    def silent(self, page: Iterable[ImageRecord]) -> Counts:
        """End the running attempts of these images whose workers are silent."""
        silent = [record for record in page if record.running is not None and self._alone.is_silent(record.running)]
        statuses = self._statuses(silent)
        counts = Counts()
        for record in silent:
            try:
                if self.outage is None:
                    counts += self._ended(record, statuses.get(_name(record)))
                    continue
            except GlanceUnavailable as error:
                self._fail(error)
            if record.running is not None and record.running.kind not in IMPORTS:
                counts += self._alone.silent([record])
        return counts

    def one(self, record: ImageRecord, status: str) -> None:
        """Speak the verdict that is due on one image.

        :param status: what Glance says of it
        :raises GlanceUnavailable: its database cannot be used
        """
        if record.running is not None and self._alone.is_silent(record.running):
            self._ended(record, status)
        else:
            self._arrived(record, status)

    def overdue(self, page: Iterable[ImageRecord]) -> Counts:
        """Give up those of these images that wait for their data and whose deadline has passed."""
        due = [record for record in page if is_due(record)]
        statuses = self._statuses(due)
        counts = Counts()
        for record in due:
            status = statuses.get(_name(record))
            if status in DATA:
                self._recovery.settle(record, status)
            elif status in GONE and status is not None:
                counts += self._deleted(record)
            elif status is None or status in AWAITED:
                counts += self._alone.overdue([record])
        return counts

    def in_error(self, page: Iterable[ImageRecord]) -> Counts:
        """Put those of these images that Glance holds dead back to ``queued``, where that is safe."""
        page = [record for record in page if record.error is not None and record.running is None]
        statuses = self._statuses(page)
        dead = self._dead(page, statuses)
        counts = Counts()
        for record in page:
            status = statuses.get(_name(record))
            if self.outage is not None or record.error is None or status is None:
                continue
            try:
                if status in GONE:
                    counts += self._deleted(record)
                elif status in DATA:
                    counts += self._arrived(record, status)
                elif record.image_id in dead and not keeps_staged(self._store, record, status):
                    counts += self._put_back(record, status)
            except GlanceUnavailable as error:
                self._fail(error)
        return counts

    def known(self, page: Iterable[ImageRecord]) -> Counts:
        """Note which of these images Glance has deleted.

        One that its database does not know at all is left as it is: the database may be the wrong one.
        """
        page = list(page)
        statuses = self._statuses(page)
        counts = Counts()
        for record in page:
            if statuses.get(_name(record), 'unknown') in GONE:
                counts += self._deleted(record)
        return counts

    def _ended(self, record: ImageRecord, status: str | None) -> Counts:
        running = record.running
        if running is None:
            return Counts()
        counts = Counts()
        if status is not None and status in GONE and not record.deleted:
            counts += self._deleted(record)
        if running.alive:
            return counts + Counts(unproven=1)
        if not self._recovery.settle(record, status or 'deleted'):
            return counts
        ended = self._store.attempt(record.key, running.number)
        lost = ended is not None and ended.state is State.LOST
        return counts + (Counts(lost=1) if lost else Counts(settled=1))

    def _arrived(self, record: ImageRecord, status: str) -> Counts:
        """Settle an attempt that was given up as lost, when its image has data all the same."""
        return Counts(settled=status in DATA and self._recovery.settle(record, status))

    def _put_back(self, record: ImageRecord, status: str) -> Counts:
        try:
            return Counts(requeued=self._recovery.clear(record, status))
        except BeingCleared:
            return Counts()
        except NotYet:
            return Counts(fenced=1)
        except CannotRequeue as error:
            if isinstance(error.__cause__, GlanceUnavailable):
                raise error.__cause__ from error
            About(LOG, record.image_id).warning('%s', error)
            return Counts()

    def _deleted(self, record: ImageRecord) -> Counts:
        self._store.deleted(record.image_id, record.created_at)
        return Counts(deleted=1)

    def _dead(self, page: Iterable[ImageRecord], statuses: Statuses) -> set[str]:
        left = [record.image_id for record in page
                if _name(record) in statuses and record.remains]
        if self.outage is not None or not self._puts_back:
            return set()
        try:
            return self._requeue.among(left)
        except GlanceUnavailable as error:
            self._fail(error)
            return set()

    def _statuses(self, page: Sequence[ImageRecord]) -> Statuses:
        """What Glance says of these images; nothing in an outage of its database."""
        if self.outage is None:
            try:
                return self._database.statuses([record.image_id for record in page])
            except GlanceUnavailable as error:
                self._fail(error)
        return {}

    def _fail(self, error: GlanceUnavailable) -> None:
        self.outage = error


def _name(record: ImageRecord) -> tuple[str, str]:
    return record.image_id, record.created_at
