"""A proxy without ``glance_connection`` cannot put an image back to ``queued``, but it can tell when that is needed."""

from collections.abc import Callable, Collection
from typing import Final

from imgguard import dead_states
from imgguard.remote_images import Remote
from imgguard.requeue import CannotRequeue

_NO_WAY: Final = ('Glance holds this image in the status {status}, from which no new attempt can begin, and the guard '
                  "has no way to Glance's database: an operator has to set glance_connection, or to put the image back "
                  'to queued. The image can also be deleted and made anew.')


class NoWayBack:
    """See :class:`imgguard.dead_states.WayBack`."""

    deletes_data: Final = False

    def __init__(self, remote: Remote) -> None:
        self._remote: Final = remote

    def needed(self, image_id: str) -> bool:
        """Never true: where something stands in the way of a new attempt, it is told so.

        :raises CannotRequeue: Glance holds the image dead
        """
        asker = self._remote.asker
        image = None if asker is None else asker.image(image_id)
        status = None if image is None else image.get('status')
        if status in dead_states.DEAD:
            raise CannotRequeue(_NO_WAY.format(status=status))
        return False

    def clear(self, image_id: str, still_mine: Callable[[], bool], tasks: Collection[str] = ()) -> bool:
        """Nothing is ever cleared."""
        return False
