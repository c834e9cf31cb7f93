"""The guard outside Glance's process, for the commands: Glance as its database shows it, and what is done by that."""

from typing import Final

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
    """All that the commands need of Glance; making it does not connect.

    :param url: the option ``glance_connection``
    :raises imgguard.errors.ConfigurationError: the URL cannot be used
    """

    def __init__(self, url: str, store: Store, settings: Settings) -> None:
        workers = Workers()
        # Its thread never runs: the commands bring no data.
        guard = Guard(store, Heartbeat(store, settings.lease_seconds, workers), settings)
        requeue = DatabaseRequeue(database := GlanceDatabase(url))
        self._database: Final = database
        self.recovery: Final = Recovery(store, guard, DatabaseTasks(database), requeue, workers, settings)
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
