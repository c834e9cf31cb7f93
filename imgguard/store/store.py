"""The store as the rest of the guard sees it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sqlalchemy import ColumnElement

from imgguard.attempts import Busy, Claim, Failure, ImageRecord, NewAttempt, State
from imgguard.counts import Counts
from imgguard.store import schema
from imgguard.store.claims import Claims
from imgguard.store.clearing import Clearing
from imgguard.store.clock import Clock
from imgguard.store.engine import Database
from imgguard.store.held import Rows
from imgguard.store.lookups import Lookups
from imgguard.store.outbox import Outbox
from imgguard.store.retention import Retention
from imgguard.store.rows import AttemptRow
from imgguard.store.statements import Statements
from imgguard.store.verdicts import Verdicts


class Store:
    """What is known of images and attempts, in SQLite, PostgreSQL or MariaDB.

    Making one does not connect. It may be used by many threads, and goes on working in a process that was forked from
    the one that made it. Every method but the constructor raises :class:`imgguard.errors.StoreUnavailable` when the
    database cannot be used; one that writes has then done nothing, unless the connection broke while it committed.

    :param url: the option ``connection``
    :param lease_seconds: how long an attempt may be silent before it is no longer alive
    :param skew_seconds: what is added to the lease, for workers that renew late
    :param clock: gives the SQL expression of the present time; ``None`` for the database's own
    :param with_events: whether what happens to images is put into the outbox, to be published
    :param observer: is told what this object has committed, and its errors
    :param stall_seconds: how long an import that Glance may work on without its worker (``handed_on``) holds its image
        after its last sign of life
    :raises imgguard.errors.ConfigurationError: the URL cannot be used; the text names the option and the remedy
    """

    def __init__(self, url: str, lease_seconds: float, skew_seconds: float = 5.0,
                 clock: Callable[[], ColumnElement[float]] | None = None, with_events: bool = False,
                 observer: Counts | None = None, stall_seconds: float = 0.0) -> None:
        time = Clock(clock, lease_seconds, skew_seconds, stall_seconds)
        self._database: Final = Database(url, observer)
        self._clock: Final = time
        #: The events that wait to be published.
        self.outbox: Final = Outbox(self._database, time, with_events)
        sql = Statements(time, self._database.backend)
        rows = Rows(self.outbox, sql, time)
        self._claims: Final = Claims(self._database, self.outbox, time, sql, rows)
        self._verdicts: Final = Verdicts(self._database, self.outbox, time, sql, rows)
        self._clearing: Final = Clearing(self._database, sql, rows)
        self._lookups: Final = Lookups(self._database, time)
        self._retention: Final = Retention(self._database, time)

    def upgrade(self) -> None:
        """Bring the store to the newest revision. Quick when it is there; many processes may do so at once."""
        schema.upgrade(self._database)

    def version(self) -> str | None:
        """The revision the store is at; ``None`` when it was never upgraded."""
        return schema.version(self._database)

    def check(self) -> None:
        """See that the store is at the newest revision and can be written; the error's text names the remedy."""
        schema.check(self._database)

    def records(self, image_ids: Sequence[str]) -> dict[tuple[str, str], ImageRecord]:
        """What is known of a page of images, by image id and time of creation: one query, or two while attempts run."""
        return self._lookups.records(image_ids)

    def remember(self, image_id: str, created_at: str, owner: str | None, keep: bool | None,
                 give_up_at_after: float | None = None) -> None:
        """Make or update what is known of an image. What is given as ``None`` stays as it was.

        :param keep: the sticky request made at create
        :param give_up_at_after: how long from now the image may wait for its data, seconds; an image that was
            given up before waits again
        """
        self._verdicts.remember(image_id, created_at, owner, keep, give_up_at_after)

    def begin(self, image_id: str, created_at: str, owner: str | None, new: NewAttempt,
              instead_of: int | None = None, seen: ImageRecord | None = None) -> Claim | Busy:
        """Claim an image for a new attempt and record it, guarded or not.

        Refused only while an attempt holds it (:attr:`imgguard.attempts.Running.holds`), or while somebody has the
        right to clear the remains of earlier ones. One that runs but does not hold it is ended as lost first and, if it
        was guarded, becomes the verdict of the image (and ``error`` of the claim). Of several that begin at once
        exactly one gets the claim. Forgets old attempts: the first, the newest, the shown one and the last lost one
        whose remains were not cleared away are kept, at most 100.

        :param instead_of: the number of an attempt that, if it still runs, is forgotten and gives its place to this one
        :param seen: what was known of the image a moment ago, if anything was; that only makes it quicker
        """
        return self._claims.begin(image_id, created_at, owner, new, instead_of, seen)

    def set_task(self, claim: Claim, task_id: str) -> None:
        """Note the task of Glance that does the work of an attempt."""
        self._claims.set_task(claim, task_id)

    def renew(self, worker: str, host: str, bytes_received: Mapping[tuple[int, int], int]) -> set[tuple[int, int]]:
        """Give a sign of life of a worker and of its attempts.

        The newest attempt of an image that was given up as lost is taken back, with its verdict, unless
        somebody began to clear it away.

        :param bytes_received: so far, by key of the image and number of the attempt; may be empty
        :return: those that still hold their claim; the others must not go on
        """
        return self._claims.renew(worker, host, bytes_received)

    def finish(self, claim: Claim, state: State, failure: Failure | None, *, shown: bool, http_status: int | None,
               bytes_received: int, remains: bool | None = None) -> bool:
        """End an attempt and free the image.

        Success clears the verdict of the image. The end of an attempt that was given up as lost counts as long as no
        newer one began and its remains were not cleared away: its failure replaces that verdict of it. Any other
        end of an attempt that lost its claim changes nothing.

        :param failure: why it failed; with success, its text (if any) becomes the message of the attempt
        :param shown: whether a failure becomes the verdict of the image
        :param remains: whether the attempt may have left something in Glance that is to be cleared away; ``None`` for
            what ``shown`` says
        :return: whether the end counts
        :raises ValueError: ``state`` is no end, or a failure is missing
        """
        return self._claims.finish(claim, state, failure, shown=shown, remains=shown if remains is None else remains,
                                   http_status=http_status, bytes_received=bytes_received)

    def withdraw(self, claim: Claim) -> None:
        """Take back an attempt whose request was refused at the door, and free the image."""
        self._claims.withdraw(claim)

    def give_up(self, key: int, failure: Failure) -> bool:
        """Put an image in error whose deadline has passed, if it still waits: no attempt runs and none failed.

        It stands in the history as a declaration and is not counted among the attempts.

        :return: whether this call did it, which is true for exactly one of several callers
        """
        return self._verdicts.give_up(key, failure)

    def lose(self, key: int, number: int) -> bool:
        """End a running attempt that is not alive as lost; shown if it was guarded.

        :return: whether this call did it, which is true for exactly one of several callers
        """
        return self._verdicts.lose(key, number)

    def arrive(self, key: int, number: int, remark: str | None) -> bool:
        """End a running attempt that is not alive, or the newest if it was lost, as succeeded: its image has its data.

        What its worker had still to put away remains to be cleared away.

        :param remark: what is to be said all the same
        :return: whether this call did it, which is true for exactly one of several callers
        """
        return self._verdicts.arrive(key, number, remark)

    def declare_dead(self, key: int) -> Busy | int:
        """Take an operator's word that the workers of an image's silent attempts are dead.

        These attempts are *failed* from then on, at their last sign of life, with the code they had: they are not
        taken back, no late end of them counts, and what they left may be cleared away at once. One that still runs
        is ended first if it was silent for longer than its lease, also when nobody proved that the store could be
        reached meanwhile.

        :return: how many attempts it was; :class:`Busy` while one is alive
        """
        return self._verdicts.declare_dead(key)

    def declare(self, image_id: str, created_at: str, owner: str | None, new: NewAttempt,
                failure: Failure) -> Busy | int:
        """Put an image in error without an attempt, known or not; refused while one is alive.

        An attempt that runs but is not alive is ended as lost first. It stands in the history as ``new`` says
        and is not counted among the attempts; old ones are forgotten, as by :meth:`begin`.

        :return: its number in the history
        """
        return self._verdicts.declare(image_id, created_at, owner, new, failure)

    def clear_error(self, image_id: str, created_at: str) -> Busy | bool:
        """Let an image wait for its data again; refused while an attempt is alive. The history stays.

        A deadline that has passed is removed, or it would speak the next verdict at once.

        :return: whether it had a verdict, or one was due
        """
        return self._verdicts.clear_error(image_id, created_at)

    def deleted(self, image_id: str, created_at: str) -> None:
        """Note that Glance has deleted the image, if it is known. An attempt that runs goes on."""
        self._verdicts.deleted(image_id, created_at)

    def unwanted(self, image_id: str, created_at: str) -> None:
        """Note on all attempts of an image that somebody wishes to delete it, and does not clean up after them."""
        self._verdicts.unwanted(image_id, created_at)

    def begin_clearing(self, key: int, number: int, worker: str) -> bool:
        """Get the right to clear away what the attempts up to ``number`` left in Glance.

        While it is held no attempt begins. From here on those attempts are not taken back, even if the
        clearing breaks off. Whether they can still touch Glance is for the caller to know.

        :param number: of the newest attempt (``last_number`` of the record)
        :param worker: names who clears; two threads that may clear the same image need two names
        :return: ``False`` while an attempt is alive, when a newer one began, or when somebody else has the right
            and gave a sign of life within a lease
        """
        return self._clearing.begin(key, number, worker)

    def keep_clearing(self, key: int, worker: str) -> bool:
        """Give a sign of life of the clearing, before each step that destroys; ``False``: stop, the right is lost."""
        return self._clearing.keep(key, worker)

    def end_clearing(self, key: int, worker: str, cleared: bool) -> bool:
        """Give the right to clear back.

        :param cleared: whether nothing is left of the attempts
        :return: whether the right was still held; if not, nothing was noted
        """
        return self._clearing.end(key, worker, cleared)

    def postpone_clearing(self, key: int, seconds: float) -> None:
        """Let :meth:`remaining` name this image only after so many seconds, if it names it at all."""
        self._clearing.postpone(key, seconds)

    def purge(self, older_than_seconds: float) -> int:
        """Forget images with their history that were deleted, or whose data came, and workers not seen for a day.

        An image in error is remembered as long as it is there, and so is one that waits for its data.

        :param older_than_seconds: how long ago the last change must have been
        :return: the number of images forgotten
        """
        return self._retention.purge(older_than_seconds)

    def find(self, image_id: str) -> list[ImageRecord]:
        """All images that ever had this id and are remembered, deleted ones too; the one created last at the end."""
        return self._lookups.find(image_id)

    def failures(self, limit: int, after_key: int = 0) -> list[ImageRecord]:
        """Images with a verdict that are not deleted, in the order of their keys.

        :param after_key: only images with a higher key
        """
        return self._lookups.failures(limit, after_key)

    def verdicts(self, page: Sequence[ImageRecord]) -> dict[int, AttemptRow]:
        """The attempts whose verdicts the images of a page show, by the key of the image."""
        return self._lookups.verdicts(page)

    def running(self, limit: int, after_key: int = 0) -> list[ImageRecord]:
        """As :meth:`failures`, but images with a running attempt, alive or not, deleted ones too."""
        return self._lookups.running(limit, after_key)

    def known(self, limit: int, after_key: int = 0) -> list[ImageRecord]:
        """As :meth:`failures`, but all images that are not deleted, whatever is known of them."""
        return self._lookups.known(limit, after_key)

    def candidates(self, limit: int, code: str | None = None) -> list[str]:
        """Distinct ids of images with a verdict that are not deleted, the newest verdict first.

        :param code: only verdicts with this code
        """
        return self._lookups.candidates(limit, code)

    def in_error(self, limit: int) -> int:
        """How many images are in error while no attempt runs, counted up to the limit."""
        return self._lookups.in_error(limit)

    def due(self, limit: int) -> list[str]:
        """Ids of images, not deleted, whose deadline passed without verdict or whose attempt runs and is not alive."""
        return self._lookups.due(limit)

    def remaining(self, limit: int) -> list[str]:
        """Ids of images whose attempts may have left something, without those held, deleted or postponed."""
        return self._lookups.remaining(limit)

    def attempts(self, key: int, limit: int, marker: int | None = None) -> list[AttemptRow]:
        """The history of one image, the newest attempt first.

        :param marker: only attempts with a lower number
        """
        return self._lookups.attempts(key, limit, marker)

    def attempt(self, key: int, number: int) -> AttemptRow | None:
        """One attempt of one image; ``None`` when it is not (or no longer) known."""
        return self._lookups.attempt(key, number)

    def close(self) -> None:
        """Close the idle connections of this process. A later call opens new ones."""
        self._database.close()
