"""Glance's tasks and the images they work on, asked for by requests: the way of a proxy without ``glance_connection``.

They are asked for by whoever looks at the image; when nobody does, :mod:`imgguard.watch` asks as the one who began the
import, as long as that one's token is good.
"""

from collections.abc import Callable, Collection
from typing import Any, Final

from imgguard import dead_states
from imgguard.remote_images import Asker, Remote, TokenRefused
from imgguard.tasks import TYPES, CannotLook, Seen, Task

Json = dict[str, Any]


class RemoteTasks:
    """Tasks of the Glance behind the proxy, as far as it shows them to whom the thread asks for."""

    def __init__(self, remote: Remote) -> None:
        self._remote: Final = remote

    def holder(self, image_id: str) -> str | None:
        """See :class:`imgguard.tasks.Tasks`."""
        image = self._asked(lambda asker: asker.image(image_id))
        return None if image is None else image.get(dead_states.LOCK)

    def find(self, image_id: str, request_ids: Collection[str | None]) -> str | None:
        """See :class:`imgguard.tasks.Tasks`; ``None`` where Glance does not show tasks to this caller.

        Whoever holds the import lock is the one: a second import does not get it.
        """
        holder = self.holder(image_id)
        if holder is not None:
            return holder
        wanted = {each.removeprefix('req-') for each in request_ids if each}
        return next((task['id'] for task in self._tasks(image_id)
                     if (task.get('request_id') or '').removeprefix('req-') in wanted), None)

    def look(self, image_id: str, created_at: str, task_id: str | None, stores_too: bool = False) -> Seen:
        """See :class:`imgguard.tasks.Tasks`."""
        image = self._asked(lambda asker: asker.image(image_id))
        task = None
        if task_id is not None and image is not None:
            # To ask for tasks makes Glance write (it forgets expired ones), so not as long as the lock tells enough.
            holder = image.get(dead_states.LOCK)
            if holder == task_id:
                task = Task(task_id, 'processing', str(image.get(dead_states.IMPORTING)))
            else:
                found = next((each for each in self._tasks(image_id) if each['id'] == task_id), None)
                if found is not None:
                    task = Task.of(found['id'], found['status'], found['message'], found.get('input'))
                # When the task has ended, what it did to the image is done.
                image = self._asked(lambda asker: asker.image(image_id))
        if image is None or image.get('created_at') != created_at:
            return Seen(None)
        failed = tuple(filter(None, str(image.get(dead_states.FAILED) or '').split(',')))
        return Seen(image.get('status'), failed, image.get('size') or 0, None, task,
                    (task, image.get('status'), image.get('updated_at')))

    def _tasks(self, image_id: str) -> list[Json]:
        """The tasks that bring data into this image, the newest first; an old Glance does not tell them."""
        document = self._asked(lambda asker: asker.find(f'/v2/images/{image_id}/tasks'))
        found = [] if document is None else document.get('tasks') or []
        return sorted((task for task in found if task.get('type') in TYPES),
                      key=lambda task: str(task.get('created_at')), reverse=True)

    def _asked(self, ask: Callable[[Asker], Json | None]) -> Json | None:
        """What Glance answers.

        :raises CannotLook: there is nobody to ask as, or Glance refuses the token
        """
        asker = self._remote.asker
        if asker is None:
            raise CannotLook('there is nobody to ask Glance as')
        try:
            return ask(asker)
        except TokenRefused as error:
            raise CannotLook('Glance refuses the token it is asked with') from error
