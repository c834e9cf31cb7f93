"""Glance's tasks and the images they work on, read in Glance's own process through its database layer.

It reads as an administrator: a task is over when it is over, whoever may see it, and nothing of what is
read here is shown but through the verdict. Tasks are read when they are expired, too.
"""

import contextlib
import os
from collections.abc import Collection
from typing import Any

from imgguard import dead_states, glance_stores
from imgguard.tasks import TYPES, Seen, Task


class GlanceTasks:
    """Tasks of the Glance in whose process the guard runs."""

    def holder(self, image_id: str) -> str | None:
        """See :class:`imgguard.tasks.Tasks`."""
        from glance.common import exception
        try:
            image = _database().image_get(_administrator(), image_id)
        except exception.NotFound:
            return None
        return _properties(image).get(dead_states.LOCK)

    def release(self, image_id: str, task_id: str) -> None:
        """Take the import lock away from a task that is over, if it has it."""
        from glance.common import exception
        with contextlib.suppress(exception.NotFound):
            _database().image_delete_property_atomic(image_id, dead_states.LOCK, task_id)

    def is_gone(self, image_id: str) -> bool:
        """Whether there is no image of this id, of whatever time."""
        from glance.common import exception
        try:
            return bool(_database().image_get(_administrator(), image_id)['deleted'])
        except exception.NotFound:
            return True

    def find(self, image_id: str, request_ids: Collection[str | None]) -> str | None:
        """See :class:`imgguard.tasks.Tasks`."""
        from glance.common import exception
        wanted = {each.removeprefix('req-') for each in request_ids if each}
        database, administrator = _database(), _administrator()
        try:
            locked_by = self.holder(image_id)
            if locked_by and _is_of(database.task_get(administrator, locked_by), wanted):
                return locked_by
        except exception.NotFound:
            pass
        # Only when it has ended or there is none: this writes, too (it forgets expired tasks), and a Glance on SQLite
        # loses a task that begins to run while another thread writes.
        tasks = [task for task in database.tasks_get_by_image(administrator, image_id) if _is_of(task, wanted)]
        newest = max(tasks, key=lambda task: task['created_at'], default=None)
        return None if newest is None else str(newest['id'])

    def look(self, image_id: str, created_at: str, task_id: str | None, stores_too: bool = False) -> Seen:
        """See :class:`imgguard.tasks.Tasks`."""
        from glance.common import exception
        database, administrator = _database(), _administrator()
        try:
            # Before the image: when the task has ended, what it did to the image is done.
            task = None if task_id is None else database.task_get(administrator, task_id, force_show_deleted=True)
        except exception.NotFound:
            task = None
        try:
            image = database.image_get(administrator, image_id)
        except exception.NotFound:
            return Seen(None)
        if image['created_at'].replace(microsecond=0, tzinfo=None).isoformat() + 'Z' != created_at:
            return Seen(None)
        failed = tuple(filter(None, (_properties(image).get('os_glance_failed_import') or '').split(',')))
        staged = _size(glance_stores.staged_files(image_id)) if glance_stores.is_plain(image_id) else None
        stored = _stored(image_id) if stores_too else None
        return Seen(image['status'], failed, image['size'] or 0, staged, None if task is None else _task(task),
                    (task and (task['status'], task['message'], task['updated_at']), image['status'],
                     image['updated_at'], staged, stored))


def _task(task: dict[str, Any]) -> Task:
    return Task.of(task['id'], task['status'], task['message'], task.get('input'))


def _is_of(task: dict[str, Any], request_ids: set[str]) -> bool:
    return task['type'] in TYPES and (task['request_id'] or '').removeprefix('req-') in request_ids


def _properties(image: dict[str, Any]) -> dict[str, str]:
    return {each['name']: each['value'] for each in image['properties'] if not each['deleted']}


def _size(paths: Collection[Any]) -> int | None:
    sizes = []
    for path in paths:
        try:
            sizes.append(os.path.getsize(path))
        except OSError:
            # It went away meanwhile, as staged files do.
            continue
    return sum(sizes) if sizes else None


def _stored(image_id: str) -> int | None:
    if not glance_stores.is_plain(image_id):
        return None
    return _size([stored.path for stored in glance_stores.stored_files(image_id)])


def _database() -> Any:
    import glance.db
    return glance.db.get_api()


def _administrator() -> Any:
    import glance.context
    return glance.context.get_admin_context()
