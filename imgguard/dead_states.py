"""The states in which Glance holds an image dead, and how one is held while it is put back.

What both ways of putting back share: in Glance's own process (:mod:`imgguard.requeue`) and by SQL on its database
(:mod:`imgguard.database_requeue`). No I/O here.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

from imgguard import names

LOCK: Final = 'os_glance_import_task'
"""The property that holds the import lock: the id of the task that has it."""

IMPORTING: Final = 'os_glance_importing_to_stores'
FAILED: Final = 'os_glance_failed_import'

BLOCKING: Final = (LOCK, *names.HOSTS)
"""Properties that stand in the way of an import, whatever their value; :data:`IMPORTING` does unless it is empty."""

#: What is sent to a host that is gone never comes back.
LEFT_OVER: Final = (IMPORTING, FAILED, *names.HOSTS)
"""Properties that are deleted when an image is put back."""

OF_DATA: Final = ('size', 'virtual_size', 'checksum', 'os_hash_algo', 'os_hash_value')
"""What Glance knows of data; empty on an image that waits for some."""

HANGING: Final = frozenset({'saving', 'uploading', 'importing'})

#: v1 gives an image up as ``killed``, from which nothing leads on (glance 15, ``glance/domain/__init__.py``).
DEAD: Final = HANGING | {'killed'}

#: An upload goes on from ``saving`` only, a stage from ``uploading``, an import from ``importing``. No request
#: begins from ``saving`` or ``importing``, and an import goes on only while it has its lock.
HELD: Final[Mapping[str, str]] = {
    'queued': 'importing', 'saving': 'importing', 'uploading': 'importing', 'importing': 'saving'}


class WayBack(Protocol):
    """One way of putting images back to ``queued``."""

    @property
    def deletes_data(self) -> bool:
        """Whether it deletes data that is left in Glance's stores and in staging, too."""

    def needed(self, image_id: str) -> bool:
        """Whether something stands in the way of a new attempt, as far as this way can clear it.

        True for every image in ``saving``, ``uploading`` or ``importing``, also while an attempt is alive
        and when staged data waits soundly for its import: that is the caller's to know. False for an image
        that has data, is deleted or unknown.

        :raises imgguard.requeue.CannotRequeue: Glance's database, or a store, does not answer
        """

    def clear(self, image_id: str, still_mine: Callable[[], bool], tasks: Collection[str] = ()) -> bool:
        """Put the image back to a clean ``queued``; one that needs nothing stays as it is, one that is gone stays gone.

        :param still_mine: asked before each step that cannot be undone; ``False`` stops at once
        :param tasks: of Glance, whose workers are dead
        :returns: whether there was anything to be done
        :raises imgguard.requeue.Overtaken: stopped, by ``still_mine`` or because the image changed meanwhile
        :raises imgguard.requeue.CannotRequeue: something could not be done; the image has the status it had
        """
