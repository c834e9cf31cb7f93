"""Glance's tasks and the images they work on, read in Glance's database from outside its process.

As :mod:`imgguard.glance_tasks`, but for the files, which only Glance's hosts see: neither staged data nor a growing
file counts as progress here.
"""

import json
from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Select, select

from imgguard import dead_states
from imgguard.glance_database import GlanceDatabase, alive, spelled
from imgguard.tasks import TYPES, Seen, Task


class DatabaseTasks:
    """Tasks of a Glance that runs elsewhere; every method raises GlanceUnavailable when its database cannot be read."""

    def __init__(self, database: GlanceDatabase) -> None:
        self._database: Final = database

    def holder(self, image_id: str) -> str | None:
        """See :class:`imgguard.tasks.Tasks`."""
        properties = self._database.tables().properties
        return next((row.value for row in self._rows(select(properties.c.value).where(
            properties.c.image_id == image_id, properties.c.name == dead_states.LOCK, alive(properties)))), None)

    def find(self, image_id: str, request_ids: Collection[str | None]) -> str | None:
        """See :class:`imgguard.tasks.Tasks`; ``None`` where Glance does not note the request with its tasks."""
        wanted = {each.removeprefix('req-') for each in request_ids if each}

        tasks = self._database.tables().tasks
        if tasks is None or not {'image_id', 'request_id'} <= set(tasks.c.keys()):
            return None
        found = self._rows(select(tasks.c.id, tasks.c.request_id).where(
            tasks.c.image_id == image_id, tasks.c.type.in_(TYPES)).order_by(tasks.c.created_at.desc()))
        return next((task.id for task in found if (task.request_id or '').removeprefix('req-') in wanted), None)

    def look(self, image_id: str, created_at: str, task_id: str | None, stores_too: bool = False) -> Seen:
        """See :class:`imgguard.tasks.Tasks`."""
        # The task first: when it has ended, what it did to the image is done.
        task = None if task_id is None else self._task(task_id)
        images, properties = self._database.tables().images, self._database.tables().properties
        image = next(iter(self._rows(select(
            images.c.status, images.c.size, images.c.created_at, images.c.updated_at, images.c.deleted,
        ).where(images.c.id == image_id))), None)
        if image is None or image.deleted or spelled(image.created_at) != created_at:
            return Seen(None)
        failed = [row.value for row in self._rows(select(properties.c.value).where(
            properties.c.image_id == image_id, properties.c.name == dead_states.FAILED, alive(properties)))]
        return Seen(image.status, tuple(filter(None, ','.join(filter(None, failed)).split(','))), image.size or 0, None,
                    None if task is None else _as_task(task),
                    (task and (task.status, task.message, task.updated_at), image.status, image.updated_at))

    def _task(self, task_id: str) -> Any:
        tasks, info = self._database.tables().tasks, self._database.tables().task_info
        if tasks is None or info is None:
            return None
        return next(iter(self._rows(select(
            tasks.c.id, tasks.c.status, tasks.c.updated_at, info.c.input, info.c.message,
        ).outerjoin_from(tasks, info, info.c.task_id == tasks.c.id).where(tasks.c.id == task_id))), None)

    def _rows(self, statement: Select[Any]) -> list[Any]:
        return list(self._database.read(lambda connection: connection.execute(statement).all()))


def _as_task(row: Any) -> Task:
    try:
        given = json.loads(row.input or '{}')
    except ValueError:
        given = None
    return Task.of(row.id, row.status, row.message, given)
