"""Putting an image that Glance holds dead back to a clean ``queued``, by SQL on Glance's database from outside.

For the proxy and the commands, which run without Glance's stores: what a dead attempt left in files is *not* deleted,
and nobody is told that it was. The order is that of :mod:`imgguard.requeue`: the import lock first, for without it an
import writes nothing more to the image; then the image is held by compare-and-set, so that neither a worker that wakes
up nor a new request can go on; then all the rest and ``queued``, in one transaction.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, or_, select, update

from imgguard import dead_states
from imgguard.about import About
from imgguard.errors import GlanceUnavailable
from imgguard.glance_database import GlanceDatabase, Tables, alive, now, present
from imgguard.requeue import CannotRequeue, Overtaken

LOG: Final = logging.getLogger(__name__)

_HELD: Final = {**dead_states.HELD, 'killed': 'importing'}
#: As long as Glance itself keeps a task that has ended, unless it is told otherwise (``task_time_to_live``).
_TASK_HOURS: Final = 48
_TASK_ENDED: Final = 'The worker of this import is gone; the image was put back to queued'


class DatabaseRequeue:
    """Puts images of a Glance that runs elsewhere back to ``queued``."""

    deletes_data: Final = False

    def __init__(self, database: GlanceDatabase) -> None:
        self._database: Final = database

    def needed(self, image_id: str) -> bool:
        """See :class:`imgguard.dead_states.WayBack`; ``killed``, the status of v1, counts like ``saving``."""
        with _database_errors():
            return bool(self._found([image_id]))

    def among(self, image_ids: Collection[str]) -> set[str]:
        """Those of a page of images for which :meth:`needed` is true, but for rejected data: one query.

        The location of rejected data is all that leads a guard in Glance's process to it; without need, which only a
        retry has, it is not taken away.

        :raises GlanceUnavailable: Glance's database cannot be read
        """
        if not image_ids:
            return set()
        return {row.id for row in self._found(image_ids) if row.status != 'queued' or not row.located}

    def clear(self, image_id: str, still_mine: Callable[[], bool], tasks: Collection[str] = ()) -> bool:
        """See :class:`imgguard.dead_states.WayBack`; an image that has its data is left to Glance's own process."""
        with _database_errors():
            for row in self._found([image_id]):
                _Clearing(self._database, image_id, row.status, still_mine).run()
                return True
            return False

    def _found(self, image_ids: Collection[str]) -> Sequence[Any]:
        statement = _dead(self._database.tables(), image_ids)
        return self._database.read(lambda connection: connection.execute(statement).all())


class _Clearing:
    """One image being put back.

    :param found: the status it was found with
    """

    def __init__(self, database: GlanceDatabase, image_id: str, found: str, still_mine: Callable[[], bool]) -> None:
        self._database: Final = database
        self._tables: Final = database.tables()
        self._id: Final = image_id
        self._found: Final = found
        self._held: Final = _HELD[found]
        self._still_mine: Final = still_mine

    def run(self) -> None:
        lock = self._database.read(self._lock)
        if lock is not None:
            self._ask()
            self._must(lambda connection: self._unlock(connection, lock))
        self._ask()
        self._must(lambda connection: self._change(connection, self._found, self._held, {}))
        if self._database.read(self._lock) is not None:
            # Another import has begun while this one was being unlocked.
            self._ask()
            self._must(lambda connection: self._change(connection, self._held, self._found, {}))
            raise self._overtaken()
        self._ask()
        stores: list[str] = []
        self._must(lambda connection: self._put_back(connection, stores))
        about = About(LOG, self._id)
        about.info('it was put back from %s to queued; files that may be left of it stay', self._found)
        if stores:
            about.warning('its rejected data stays in the stores (%s), until somebody deletes it there',
                          ', '.join(stores))

    def _ask(self) -> None:
        if not self._still_mine():
            raise Overtaken(f'Image {self._id} is being cleared by another worker.')

    def _must(self, change: Callable[[Connection], bool]) -> None:
        if not self._database.write(change):
            raise self._overtaken()

    def _lock(self, connection: Connection) -> str | None:
        properties = self._tables.properties
        lock: str | None = connection.execute(select(properties.c.value).where(
            properties.c.image_id == self._id, properties.c.name == dead_states.LOCK, alive(properties))).scalar()
        return lock

    def _unlock(self, connection: Connection, task_id: str) -> bool:
        properties = self._tables.properties
        # Deleted for good, as Glance does it: the row of a deleted property would keep its name.
        if connection.execute(delete(properties).where(
                properties.c.image_id == self._id, properties.c.name == dead_states.LOCK,
                properties.c.value == task_id, alive(properties))).rowcount != 1:
            return False
        tasks, info = self._tables.tasks, self._tables.task_info
        if tasks is not None and connection.execute(update(tasks).where(
                tasks.c.id == task_id, tasks.c.status.in_(('pending', 'processing'))).values(present(tasks, {
                    'status': 'failure', 'updated_at': now(),
                    'expires_at': now() + timedelta(hours=_TASK_HOURS)}))).rowcount == 1 and info is not None:
            connection.execute(update(info).where(info.c.task_id == task_id).values(message=_TASK_ENDED))
        return True

    def _change(self, connection: Connection, status: str, to: str, values: Mapping[str, int | None]) -> bool:
        """Compare-and-set of the status."""
        images = self._tables.images
        return connection.execute(update(images).where(
            images.c.id == self._id, images.c.status == status, alive(images)).values(
                present(images, {'status': to, 'updated_at': now(), **values}))).rowcount == 1

    def _put_back(self, connection: Connection, stores: list[str]) -> bool:
        # Stores of a Glance with v1 take an image without a size for one of 0 bytes, and stumble over None
        # (glance 15, glance/api/v1/upload_utils.py, upload_data_to_store).
        empty = {} if 'os_hash_algo' in self._tables.images.c else {'size': 0}
        if not self._change(connection, self._held, 'queued', dict.fromkeys(dead_states.OF_DATA) | empty):
            return False
        properties, locations = self._tables.properties, self._tables.locations
        connection.execute(delete(properties).where(
            properties.c.image_id == self._id, properties.c.name.in_(dead_states.LEFT_OVER), alive(properties)))
        of_image = and_(locations.c.image_id == self._id, alive(locations))
        # Anew each time: the transaction may be run again.
        stores[:] = _stores(connection.execute(select(locations.c.meta_data).where(of_image)).scalars().all())
        # Not for the scrubber (pending_delete): it would delete the file of this name when a retry has written its own.
        connection.execute(update(locations).where(of_image).values(present(locations, {
            'deleted': True, 'deleted_at': now(), 'updated_at': now(), 'status': 'deleted'})))
        return True

    def _overtaken(self) -> Overtaken:
        return Overtaken(f'Image {self._id} was changed while it was being cleared.')


def _dead(tables: Tables, image_ids: Collection[str]) -> Select[Any]:
    """Id, status and whether data is known of those of these images in whose way something stands."""
    images, properties, locations = tables.images, tables.properties, tables.locations
    name = properties.c.name
    blocking = or_(name.in_(dead_states.BLOCKING), and_(name == dead_states.IMPORTING, properties.c.value != ''))
    # Of an image that has none v1 says that its size is 0.
    of_data: list[ColumnElement[bool]] = [images.c.size > 0, *(
        images.c[each].is_not(None) for each in dead_states.OF_DATA if each in images.c and each != 'size')]
    located = exists().where(locations.c.image_id == images.c.id, alive(locations))
    left = or_(*of_data, exists().where(properties.c.image_id == images.c.id, alive(properties), blocking), located)
    return select(images.c.id, images.c.status, located.label('located')).where(
        images.c.id.in_(image_ids), alive(images),
        or_(images.c.status.in_(dead_states.DEAD), and_(images.c.status == 'queued', left)))


def _stores(found: Sequence[str | None]) -> list[str]:
    """The names of stores in the metadata of locations; of an address nothing is told, for it may hold a password."""
    names = []
    for each in found:
        given: Any = None
        with suppress(ValueError):
            given = json.loads(each or '{}')
        names.append(str(given.get('store') or 'default') if isinstance(given, dict) else 'default')
    return names


@contextmanager
def _database_errors() -> Iterator[None]:
    """Turn errors of Glance's database into what callers of either way know."""
    try:
        yield
    except GlanceUnavailable as error:
        LOG.error('an image could not be looked at or cleared: %s', error)
        raise CannotRequeue("Glance's database does not answer.") from error
