"""The guard outside Glance's process, for the commands and for the proxy.

Glance is looked at, and put right, by its database.
"""

from typing import Final, Self

from imgguard.attempts import ImageRecord
from imgguard.database_requeue import DatabaseRequeue
from imgguard.database_tasks import DatabaseTasks
from imgguard.glance_database import GlanceDatabase
from imgguard.guard import Guard
from imgguard.leases import Heartbeat
from imgguard.recovery import Recovery
from imgguard.settings import Settings
from imgguard.settling import WithGlance
from imgguard.store import Store
from imgguard.workers import Workers


class Outside:
    """All that is done by Glance's database; making it does not connect.

    :param url: the option ``glance_connection``
    :raises imgguard.errors.ConfigurationError: the URL cannot be used
    """

    @classmethod
    def of_commands(cls, url: str, store: Store, settings: Settings) -> Self:
        """The same for commands, which bring no data: the thread that gives signs of life never runs."""
        workers = Workers()
        return cls(url, store, settings, Guard(store, Heartbeat(store, settings.lease_seconds, workers), settings),
                   workers)

    def __init__(self, url: str, store: Store, settings: Settings, guard: Guard, workers: Workers) -> None:
        requeue = DatabaseRequeue(database := GlanceDatabase(url))
        self._database: Final = database
        self.tasks: Final = DatabaseTasks(database)
        self.recovery: Final = Recovery(store, guard, self.tasks, requeue, workers, settings)
        self.settling: Final = WithGlance(store, settings, database, requeue, self.recovery)

    def status(self, record: ImageRecord) -> str | None:
        """What Glance says of this image; ``None`` when it does not know it.

        :raises GlanceUnavailable: its database cannot be used
        """
        return self._database.statuses([record.image_id]).get((record.image_id, record.created_at))

    def settle(self, record: ImageRecord, status: str) -> None:
        """Speak the verdict that is due on one image.

        :param status: what Glance says of it
        :raises GlanceUnavailable: its database cannot be used
        """
        self.settling.one(record, status)

    def close(self) -> None:
        """Close the idle connections."""
        self._database.close()
