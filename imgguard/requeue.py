"""Putting an image that Glance holds dead back to a clean ``queued``, in Glance's own process.

The other way, by SQL from outside, is :mod:`imgguard.database_requeue`.

What each failure leaves is told in the manual, case by case: a status nobody will ever change, an
import lock, rejected or partial data, size and checksum of it, staged data, a dead worker's name. All
of it goes through Glance's database layer and store library. Who may clear, and when it is safe to,
is the caller's: this module knows nothing of attempts and of the guard's store.

The order is what keeps others' data safe. A file is deleted by its name, and the next upload to the
same image writes a file of that very name. So the image is first *held*: brought by compare-and-set
into a status from which neither the dead worker, should it wake up, nor any new request can go on.
Only then is anything deleted, and only the last step makes it ``queued``. Whoever dies in between leaves
an image that is dead as before, and the next to clear it begins anew.

Of an image that was deleted meanwhile the files are left that Glance was not told of: it then deletes none of them.

An image that has its data is never changed, but what a dead import or copy has not put away is: its lock, its
staged data, what it wrote into a store that Glance then was not told of.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

from imgguard import dead_states, glance_stores, names
from imgguard.about import About
from imgguard.errors import ImgguardError
from imgguard.glance_stores import Undeletable
from imgguard.tasks import DATA

LOG: Final = logging.getLogger(__name__)


class CannotRequeue(ImgguardError):
    """The image cannot be put back to ``queued``; the text says why, in a sentence for users and operators."""


class Overtaken(CannotRequeue):
    """Somebody else has changed the image or cleared it meanwhile; another look at it tells what to do."""


class Requeue:
    """Puts images back to ``queued``; one instance serves all threads of a process."""

    deletes_data: Final = True

    def needed(self, image_id: str) -> bool:
        """See :class:`imgguard.dead_states.WayBack`; data of a dead attempt that is still there counts, too."""
        with _database_errors():
            image = self._look(image_id)
            return image is not None and self._has_remains(image)

    def clear(self, image_id: str, still_mine: Callable[[], bool], tasks: Collection[str] = ()) -> bool:
        """See :class:`imgguard.dead_states.WayBack`; an image that has its data is tidied up."""
        with _database_errors():
            image = self._look(image_id)
            if image is not None and image.status not in dead_states.HELD.keys() | DATA:
                return False
            if not glance_stores.is_plain(image_id):
                raise CannotRequeue('The id of this image cannot be the name of a file, so what is left of its data '
                                    'cannot be looked for: an operator has to delete the image.')
            if image is None:
                return glance_stores.delete_by_name(image_id, _asking(image_id, still_mine))
            if image.status in DATA:
                _Tidying(self._database, self._context, image, still_mine).run(tasks)
                return True
            if not self._has_remains(image):
                return False
            _Clearing(self._database, self._context, image, still_mine).run()
            return True

    def _look(self, image_id: str) -> Any:
        import glance.db
        from glance.common import exception
        try:
            return glance.db.ImageRepo(self._context, self._database).get(image_id)
        except exception.NotFound:
            return None

    def _has_remains(self, image: Any) -> bool:
        if image.status in dead_states.HANGING:
            return True
        if image.status != 'queued':
            return False
        properties = image.extra_properties
        if properties.get(dead_states.IMPORTING) or any(name in properties for name in dead_states.BLOCKING):
            return True
        if image.locations or any(getattr(image, name) is not None for name in dead_states.OF_DATA):
            return True
        image_id = image.image_id
        return glance_stores.is_plain(image_id) and (
            glance_stores.is_staged(image_id) or any(file.exists() for file in glance_stores.stored_files(image_id)))

    @property
    def _database(self) -> Any:
        import glance.db
        return glance.db.get_api()

    @cached_property
    def _context(self) -> Any:
        # Dear to make, for it loads the policy; Glance's housekeeping keeps one for good, too.
        from glance import context
        return context.get_admin_context()


class _Steps:
    """The steps in which the remains of one image go; each may find that the right to take it is lost.

    :param image: as it was found
    """

    def __init__(self, database: Any, context: Any, image: Any, still_mine: Callable[[], bool]) -> None:
        self._database = database
        self._context = context
        self._id: str = image.image_id
        self._found: str = image.status
        self._lock: str | None = image.extra_properties.get(dead_states.LOCK)
        self._ask = _asking(self._id, still_mine)

    def _unlock(self, task_id: str) -> None:
        from glance.common import exception
        self._ask()
        try:
            self._database.image_delete_property_atomic(self._id, dead_states.LOCK, task_id)
        except exception.NotFound as error:
            raise self._overtaken() from error

    def _end_task(self, task_id: str) -> None:
        """End the task of the dead import, as Glance does it when a lock has expired (``_bust_import_lock``)."""
        import glance.db
        from glance.common import exception
        tasks = glance.db.TaskRepo(self._context, self._database)
        try:
            task = tasks.get(task_id)
            task.fail('The worker of this import is gone; what it left was cleared away')
            tasks.save(task)
        except (exception.NotFound, exception.InvalidTaskStatusTransition):
            About(LOG, self._id).debug('its import task %s had ended', task_id)

    def _unlocked(self) -> Any:
        """The image as it is now that no import goes on.

        :raises Overtaken: another import has begun meanwhile
        """
        import glance.db
        from glance.common import exception
        try:
            image = glance.db.ImageRepo(self._context, self._database).get(self._id)
        except exception.NotFound as error:
            raise self._overtaken() from error
        if dead_states.LOCK in image.extra_properties:
            raise self._overtaken()
        return image

    def _delete_properties(self, image: Any, names: Collection[str]) -> None:
        from glance.common import exception
        for name in names:
            value = image.extra_properties.get(name)
            if value is None:
                continue
            self._ask()
            try:
                self._database.image_delete_property_atomic(self._id, name, value)
            except exception.NotFound as error:
                raise self._overtaken() from error

    def _overtaken(self) -> Overtaken:
        return Overtaken(f'Image {self._id} was changed while it was being cleared.')


class _Tidying(_Steps):
    """An image that has its data, and that a dead import or copy did not leave as Glance leaves it."""

    def run(self, tasks: Collection[str]) -> None:
        if self._lock is not None:
            if self._lock not in tasks:
                raise self._overtaken()
            self._unlock(self._lock)
        for task_id in tasks:
            self._end_task(task_id)
        image = self._unlocked()
        try:
            glance_stores.delete_all_staged(self._id, self._ask)
            for file in glance_stores.unknown_files(self._id, image.locations):
                self._ask()
                file.delete()
        except Undeletable as error:
            raise CannotRequeue(f'What a dead import left beside image {self._id} is still there: {error}.') from error
        # Glance itself leaves these empty.
        left = (dead_states.IMPORTING, *names.HOSTS)
        self._delete_properties(image, [name for name in left if image.extra_properties.get(name)])


class _Clearing(_Steps):
    """One image being put back."""

    @property
    def _held(self) -> str:
        return dead_states.HELD[self._found]

    def run(self) -> None:
        # Without its lock an import writes nothing more to the image (api_image_import.py, ImportActionWrapper),
        # so the lock goes before the status.
        if self._lock is not None:
            self._unlock(self._lock)
            self._end_task(self._lock)
        self._ask()
        self._change(self._found, self._held, {})
        try:
            image = self._held_image()
            self._delete_data(image)
        except Undeletable as error:
            self._let_go()
            raise CannotRequeue(f'Image {self._id} cannot be uploaded again: {error}. '
                                'It can be once an operator has removed the cause.') from error
        self._delete_properties(image, dead_states.LEFT_OVER)
        self._ask()
        self._change(self._held, 'queued', dict.fromkeys(dead_states.OF_DATA))
        About(LOG, self._id).info('it was put back from %s to queued', self._found)

    def _held_image(self) -> Any:
        """The image as it is now that nobody else writes to it."""
        try:
            return self._unlocked()
        except Overtaken:
            self._let_go()
            raise

    def _delete_data(self, image: Any) -> None:
        for location in image.locations:
            self._ask()
            store = (location['metadata'] or {}).get('store')
            glance_stores.delete_located(self._id, location['url'], store, self._context)
            # Not through Glance's own helper, which would leave it to the scrubber where delayed_delete
            # is set: that deletes the file of this name later, when a retry has written its own.
            self._database.image_location_delete(self._context, self._id, location['id'], 'deleted')
        glance_stores.delete_by_name(self._id, self._ask)

    def _change(self, status: str, to: str, values: dict[str, None]) -> None:
        """Compare-and-set of the status.

        :raises Overtaken: the image has another status, or is gone
        """
        from glance.common import exception
        try:
            self._database.image_update(self._context, self._id, {'status': to, **values}, from_state=status)
        except (exception.Conflict, exception.NotFound) as error:
            raise self._overtaken() from error

    def _let_go(self) -> None:
        """Give the image the status it was found with, unless it is another's by now."""
        self._ask()
        self._change(self._held, self._found, {})


def _asking(image_id: str, still_mine: Callable[[], bool]) -> Callable[[], None]:
    """What raises Overtaken when the right to clear is lost."""
    def ask() -> None:
        if not still_mine():
            raise Overtaken(f'Image {image_id} is being cleared by another worker.')

    return ask


@contextmanager
def _database_errors() -> Iterator[None]:
    """Turn errors of Glance's database into our own."""
    from oslo_db import exception  # type: ignore[import-untyped]
    from sqlalchemy.exc import SQLAlchemyError
    try:
        yield
    except Undeletable as error:
        raise CannotRequeue(f'What is left of this image cannot be looked for: {error}.') from error
    except (exception.DBError, SQLAlchemyError) as error:
        LOG.exception("Glance's database failed while an image was looked at or cleared")
        raise CannotRequeue("Glance's database does not answer.") from error
