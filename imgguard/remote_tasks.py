"""Glance's tasks and the images they work on, asked for by requests: the way of a proxy without ``glance_connection``.

They are asked for by whoever looks at the image; when nobody does, by whoever began the import, as long as their token
is good.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any, Final

from imgguard import dead_states
from imgguard.remote_images import Asker, Remote, TokenRefused
from imgguard.tasks import TYPES, CannotLook, Seen, Task

MOST_REMEMBERED: Final = 1000
"""How many imports are followed at most with the token that began them; of more the oldest wait to be looked at."""

Json = dict[str, Any]


class RemoteTasks:
    """Tasks of the Glance behind the proxy."""

    def __init__(self, remote: Remote) -> None:
        self._remote: Final = remote
        self._lock: Final = threading.Lock()
        self._began: OrderedDict[str, Asker] = OrderedDict()

    def holder(self, image_id: str) -> str | None:
        """See :class:`imgguard.tasks.Tasks`."""
        image = self._asker(image_id).document(f'/v2/images/{image_id}')
        return None if image is None else image.get(dead_states.LOCK)

    def find(self, image_id: str, request_ids: Collection[str | None]) -> str | None:
        """See :class:`imgguard.tasks.Tasks`; ``None`` where Glance does not show tasks to this caller.

        Whoever holds the import lock is the one: a second import does not get it.
        """
        asker = self._asker(image_id)
        with self._lock:
            self._began[image_id] = asker
            while len(self._began) > MOST_REMEMBERED:
                self._began.popitem(last=False)
        holder = self.holder(image_id)
        if holder is not None:
            return holder
        wanted = {each.removeprefix('req-') for each in request_ids if each}
        return next((task['id'] for task in _tasks(asker, image_id)
                     if (task.get('request_id') or '').removeprefix('req-') in wanted), None)

    def look(self, image_id: str, created_at: str, task_id: str | None, stores_too: bool = False) -> Seen:
        """See :class:`imgguard.tasks.Tasks`."""
        asker = self._asker(image_id)
        try:
            return self._look(asker, image_id, created_at, task_id)
        except TokenRefused as error:
            if asker is self._remote.asker:
                raise
            raise CannotLook('the token with which it was begun is no longer good') from error

    def _look(self, asker: Asker, image_id: str, created_at: str, task_id: str | None) -> Seen:
        image = asker.document(f'/v2/images/{image_id}')
        task = None
        if task_id is not None and image is not None:
            # To ask for tasks makes Glance write (it forgets expired ones), so not as long as the lock tells enough.
            holder = image.get(dead_states.LOCK)
            if holder == task_id:
                task = Task(task_id, 'processing', str(image.get(dead_states.IMPORTING)))
            else:
                found = next((each for each in _tasks(asker, image_id) if each['id'] == task_id), None)
                if found is not None:
                    task = Task.of(found['id'], found['status'], found['message'], found.get('input'))
                # When the task has ended, what it did to the image is done.
                image = asker.document(f'/v2/images/{image_id}')
        if image is None or image.get('created_at') != created_at:
            return Seen(None)
        failed = tuple(filter(None, str(image.get(dead_states.FAILED) or '').split(',')))
        return Seen(image.get('status'), failed, image.get('size') or 0, None, task,
                    (task, image.get('status'), image.get('updated_at')))

    def _asker(self, image_id: str) -> Asker:
        """Who can be asked as.

        :raises CannotLook: nobody
        """
        with self._lock:
            asker = self._remote.asker or self._began.get(image_id)
        if asker is None:
            raise CannotLook('nobody looks at the image, and who began its import is not known any more')
        return asker


def _tasks(asker: Asker, image_id: str) -> list[Json]:
    """The tasks that bring data into this image, the newest first; an old Glance does not tell them."""
    document = asker.document(f'/v2/images/{image_id}/tasks')
    found = [] if document is None else document.get('tasks') or []
    return sorted((task for task in found if task.get('type') in TYPES),
                  key=lambda task: str(task.get('created_at')), reverse=True)
