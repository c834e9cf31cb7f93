"""The store as the rest of the guard sees it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, update

from imgguard import codes
from imgguard.attempts import Busy, Claim, Failure, ImageRecord, NewAttempt, State
from imgguard.store import schema
from imgguard.store.claims import Claims
from imgguard.store.clock import Clock
from imgguard.store.engine import Database
from imgguard.store.lookups import Lookups
from imgguard.store.models import fit, images
from imgguard.store.rows import AttemptRow, make_or_update
from imgguard.store.statements import NO_ERROR


class Store:
    """What is known of images and attempts, in SQLite, PostgreSQL or MariaDB.

    Making one does not connect. It may be used by many threads, and goes on working in a process
    that was forked from the one that made it. Every method but the constructor raises
    :class:`imgguard.errors.StoreUnavailable` when the database cannot be read or written; a method that
    writes has then done nothing, unless the connection broke just while it committed.

    :param url: the option ``connection``
    :param lease_seconds: how long an attempt may be silent before it is no longer alive
    :param skew_seconds: what is added to the lease, for workers that renew late
    :param clock: gives the SQL expression of the present time; ``None`` for the database's own
    :raises imgguard.errors.ConfigurationError: the URL cannot be used; the text names the option and the remedy
    """

    def __init__(self, url: str, lease_seconds: float, skew_seconds: float = 5.0,
                 clock: Callable[[], ColumnElement[float]] | None = None) -> None:
        time = Clock(clock, lease_seconds + skew_seconds)
        self._database: Final = Database(url)
        self._clock: Final = time
        self._claims: Final = Claims(self._database, time)
        self._lookups: Final = Lookups(self._database, time)

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
        """What is known of a page of images, by image id and time of creation: one query."""
        return self._lookups.records(image_ids)

    def remember(self, image_id: str, created_at: str, owner: str | None, keep: bool | None,
                 give_up_at_after: float | None = None) -> None:
        """Make or update what is known of an image. What is given as ``None`` stays as it was.

        :param keep: the sticky request made at create
        :param give_up_at_after: how long from now the image may wait for its data, seconds; an image that was
            given up before waits again
        """
        changes: dict[str, Any] = {}
        if owner is not None:
            changes['owner'] = fit(images.c.owner, owner)
        if keep is not None:
            changes['keep'] = keep
        if give_up_at_after is not None:
            changes['give_up_at'] = self._clock.now() + give_up_at_after

        def change(connection: Connection) -> None:
            make_or_update(connection, image_id, created_at, changes)
            if give_up_at_after is not None:
                connection.execute(update(images).where(
                    images.c.image_id == image_id, images.c.created_at == created_at,
                    images.c.error_code == codes.NEVER_ARRIVED).values(**NO_ERROR))

        self._database.write(change)

    def begin(self, image_id: str, created_at: str, owner: str | None, new: NewAttempt) -> Claim | Busy:
        """Claim an image for a new attempt and record it, guarded or not.

        Refused only while an attempt is alive. One that runs but is not alive is ended as lost first and,
        if it was guarded, becomes the verdict of the image (and ``error`` of the claim). Of several that
        begin at once exactly one gets the claim. Forgets old attempts: the first, the newest and the
        shown one are kept, at most 100.
        """
        return self._claims.begin(image_id, created_at, owner, new)

    def renew(self, bytes_received: Mapping[tuple[int, int], int]) -> set[tuple[int, int]]:
        """Give a sign of life of many attempts.

        :param bytes_received: so far, by key of the image and number of the attempt
        :return: those that still hold their claim; the others must not go on
        """
        return self._claims.renew(bytes_received)

    def finish(self, claim: Claim, state: State, failure: Failure | None, *, shown: bool, http_status: int | None,
               bytes_received: int) -> bool:
        """End an attempt and free the image.

        Success clears the verdict of the image. The result of an attempt that lost its claim changes nothing
        of the image.

        :param failure: why it failed; with success, its text (if any) becomes the message of the attempt
        :param shown: whether a failure becomes the verdict of the image
        :return: whether the attempt still held its claim
        :raises ValueError: ``state`` is no end, or a failure is missing
        """
        return self._claims.finish(claim, state, failure, shown=shown, http_status=http_status,
                                   bytes_received=bytes_received)

    def withdraw(self, claim: Claim) -> None:
        """Take back an attempt whose request was refused at the door, and free the image."""
        self._claims.withdraw(claim)

    def give_up(self, key: int, failure: Failure) -> bool:
        """Put an image in error whose deadline has passed, if it still waits: no attempt runs and none failed.

        It stands in the history as a declaration and is not counted among the attempts.

        :return: whether this call did it, which is true for exactly one of several callers
        """
        return self._claims.give_up(key, failure)

    def lose(self, key: int, number: int) -> bool:
        """End a running attempt that is not alive as lost; shown if it was guarded.

        :return: whether this call did it, which is true for exactly one of several callers
        """
        return self._claims.lose(key, number)

    def candidates(self, limit: int, code: str | None = None) -> list[str]:
        """Distinct ids of images with a verdict, the newest verdict first.

        :param code: only verdicts with this code
        """
        return self._lookups.candidates(limit, code)

    def due(self, limit: int) -> list[str]:
        """Ids of images that a verdict is due on: their deadline has passed, and none was given yet."""
        return self._lookups.due(limit)

    def attempts(self, key: int, limit: int, marker: int | None = None) -> list[AttemptRow]:
        """The history of one image, the newest attempt first.

        :param marker: only attempts with a lower number
        """
        return self._lookups.attempts(key, limit, marker)

    def close(self) -> None:
        """Close the idle connections of this process. A later call opens new ones."""
        self._database.close()
