"""The events that wait to be published: written in the very transaction that makes them true, then taken out.

Nobody has to say what happened: the verdict of the image before a change and after it say so. What is to be
published is claimed for some time first, so that many may publish at once and nothing is published twice unless
a publisher dies. The events of one image are given out in their order, the next when the one before is published.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, exists, insert, or_, select, update

from imgguard import codes
from imgguard.attempts import Event, Happening, Kind
from imgguard.store.clock import Clock
from imgguard.store.engine import Database
from imgguard.store.models import attempts, images, outbox

CLAIM_SECONDS: Final = 120.0
"""For how long what was claimed is left to who claimed it; it must last for publishing one event (notify.py)."""

MOST_WAITING: Final = 10000
"""How many events wait at most; of more the oldest are dropped."""

_COLUMNS: Final = (images.c.image_id, images.c.created_at, images.c.owner, images.c.deleted_at,
                   images.c.error_number, images.c.error_code, images.c.error_text, images.c.error_at,
                   images.c.error_request_id, images.c.error_bytes)

Result = TypeVar('Result')


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that waits, and its key in the outbox."""

    key: int
    event: Event


class _Verdict(NamedTuple):
    number: int
    code: str
    text: str
    at: float
    kind: str
    request_id: str | None
    bytes_received: int


class Outbox:
    """Events of one store; every method raises :class:`imgguard.errors.StoreUnavailable` when it cannot.

    :param used: whether anything is written into it
    """

    def __init__(self, database: Database, clock: Clock, used: bool) -> None:
        self._database: Final = database
        self._clock: Final = clock
        self._used: Final = used
        self._of_thread: Final = threading.local()
        #: Called after a commit that put an event in.
        self.committed: Callable[[], None] = _nothing
        self._image: Final = clock.prepared(lambda: select(
            *_COLUMNS, clock.now().label('now')).where(images.c.key == bindparam('of_key')).with_for_update())

    def write(self, change: Callable[[Connection], Result]) -> Result:
        """As :meth:`imgguard.store.engine.Database.write`, for changes that may use :meth:`noting`."""
        self._of_thread.noted = False
        result = self._database.write(change)
        if self._of_thread.noted:
            self.committed()
        return result

    def noting(self, connection: Connection, key: int, change: Callable[[], Result]) -> Result:
        """Make a change of an image, and put in what it means to the error that the image shows.

        A deleted image shows none, and that it was deleted is for Glance to tell.
        """
        if not self._used:
            return change()
        _, before = self._look(connection, key)
        result = change()
        image, after = self._look(connection, key)
        happening = _happening(before, after)
        of = before if happening is Happening.CLEARED else after
        if image is not None and image.deleted_at is None and happening is not None and of is not None:
            connection.execute(insert(outbox), {
                'image_key': key, 'image_id': image.image_id, 'created_at': image.created_at, 'owner': image.owner,
                'event': happening.value, **of._asdict(), 'at': image.now if of is before else of.at})
            self._of_thread.noted = True
        return result

    def claim(self, by: str, limit: int) -> list[Waiting]:
        """Claim events to publish them, the oldest first, at most one of each image.

        :param by: who claims; no other claim was made by that name
        """
        older = outbox.alias('older')
        first = ~exists().where(older.c.image_key == outbox.c.image_key, older.c.key < outbox.c.key)
        statement = select(outbox.c.key).where(first, self._unclaimed()).order_by(outbox.c.key).limit(limit)
        keys = self._database.read(lambda connection: connection.execute(statement).scalars().all())
        if not keys:
            return []
        claiming = update(outbox).where(outbox.c.key.in_(keys), self._unclaimed()).values(
            claimed_by=by, claimed_at=self._clock.now())
        claimed = select(outbox).where(outbox.c.key.in_(keys), outbox.c.claimed_by == by).order_by(outbox.c.key)

        def change(connection: Connection) -> Sequence[Row[Any]]:
            connection.execute(claiming)
            return connection.execute(claimed).all()

        return [_waiting(row) for row in self._database.write(change)]

    def end(self, by: str, published: Sequence[int], left: Sequence[int]) -> None:
        """Take out what was published, by its keys, and give back what was not."""
        def change(connection: Connection) -> None:
            connection.execute(delete(outbox).where(outbox.c.key.in_(published), outbox.c.claimed_by == by))
            connection.execute(update(outbox).where(outbox.c.key.in_(left), outbox.c.claimed_by == by).values(
                claimed_by=None, claimed_at=None))

        self._database.write(change)

    def trim(self) -> int:
        """Drop the oldest of too many events; the answer counts them."""
        statement = select(outbox.c.key).order_by(outbox.c.key.desc()).offset(MOST_WAITING).limit(1)
        newest = self._database.read(lambda connection: connection.execute(statement).scalar())
        if newest is None:
            return 0
        dropping = delete(outbox).where(outbox.c.key <= newest)
        return self._database.write(lambda connection: connection.execute(dropping).rowcount)

    def _unclaimed(self) -> ColumnElement[bool]:
        return or_(outbox.c.claimed_at.is_(None), outbox.c.claimed_at < self._clock.now() - CLAIM_SECONDS)

    def _look(self, connection: Connection, key: int) -> tuple[Any, _Verdict | None]:
        """Lock the image; its row, if it is not forgotten, and its verdict."""
        row = connection.execute(self._image(), {'of_key': key}).first()
        if row is None or row.error_number is None:
            return row, None
        # Not joined to the row: where a join is locked, the attempts would be too.
        kind = connection.execute(select(attempts.c.kind).where(
            attempts.c.image_key == key, attempts.c.number == row.error_number)).scalar_one()
        return row, _Verdict(row.error_number, row.error_code, row.error_text, row.error_at, kind,
                             row.error_request_id, row.error_bytes)


def _nothing() -> None:
    pass


def _happening(before: _Verdict | None, after: _Verdict | None) -> Happening | None:
    if after is None:
        return None if before is None else Happening.CLEARED
    if before is not None and before[:4] == after[:4]:
        return None
    return Happening.GIVE_UP if after.code == codes.NEVER_ARRIVED else Happening.ERROR


def _waiting(row: Row[Any]) -> Waiting:
    return Waiting(row.key, Event(
        Happening(row.event), row.image_id, row.created_at, row.owner, row.at, row.number, Kind(row.kind), row.code,
        row.text, row.request_id, row.bytes_received))
