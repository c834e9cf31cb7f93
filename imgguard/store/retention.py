"""What nobody needs to know any more is forgotten, in bounded steps."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, or_, select

from imgguard.attempts import Kind, State
from imgguard.store.clock import Clock
from imgguard.store.engine import Database
from imgguard.store.models import attempts, images, workers

_STEP: Final = 1000
_WORKER_SECONDS: Final = 86400


class Retention:
    """Deletes from the store; every method raises :class:`imgguard.errors.StoreUnavailable` when it cannot."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database: Final = database
        self._clock: Final = clock

    def purge(self, older_than: float) -> int:
        """Forget images that were deleted or became active so long ago; the answer counts them."""
        now = self._clock.now()
        self._database.write(lambda connection: connection.execute(
            delete(workers).where(workers.c.seen_at < now - _WORKER_SECONDS)).close())
        purged = after = 0
        while True:
            found = self._found(self._clock.fixed_now() - older_than, after)
            purged += self._forgotten(found) if found else 0
            if len(found) < _STEP:
                return purged
            after = found[-1].key

    def _found(self, limit: ColumnElement[float], after: int) -> Sequence[Any]:
        of_image = attempts.c.image_key == images.c.key
        gone = and_(images.c.deleted_at < limit, or_(images.c.running_at.is_(None), images.c.running_at < limit))
        # Once the data was there the image is active for good: a copy of it may fail, and that is no error of it. An
        # image whose data is only staged waits.
        active = and_(images.c.error_number.is_(None), images.c.running_number.is_(None),
                      exists().where(of_image, attempts.c.state == State.SUCCEEDED.value,
                                     attempts.c.kind != Kind.STAGE.value),
                      ~exists().where(of_image, attempts.c.updated_at >= limit))
        statement = select(images.c.key, images.c.last_number).where(
            images.c.key > after, or_(gone, active)).order_by(images.c.key).limit(_STEP)
        return self._database.read(lambda connection: connection.execute(statement).all())

    def _forgotten(self, found: Sequence[Any]) -> int:
        names = {(key, last_number) for key, last_number in found}
        locking = select(images.c.key, images.c.last_number, images.c.deleted_at, images.c.error_number,
                         images.c.running_number).where(
            images.c.key.in_([key for key, _ in names])).order_by(images.c.key).with_for_update()

        def change(connection: Connection) -> int:
            # Whatever began since it was found has another number, or holds the image.
            keys = [row.key for row in connection.execute(locking) if (row.key, row.last_number) in names and (
                row.deleted_at is not None or (row.error_number is None and row.running_number is None))]
            if keys:
                connection.execute(delete(attempts).where(attempts.c.image_key.in_(keys)))
                connection.execute(delete(images).where(images.c.key.in_(keys)))
            return len(keys)

        return self._database.write(change)
