"""Assembles the filter from the options of its paste section; the only place that knows all parts."""

import logging
from collections.abc import Callable
from typing import Final

from imgguard import counts
from imgguard.admission import Admission
from imgguard.creates import Creates
from imgguard.deletes import Deletes
from imgguard.errors import StoreUnavailable
from imgguard.glance_tasks import GlanceTasks
from imgguard.guard import Guard
from imgguard.history import History
from imgguard.housekeeping import Housekeeping
from imgguard.images import GlanceImages
from imgguard.imports import Imports
from imgguard.leases import Heartbeat
from imgguard.middleware import Handler, ImageGuard
from imgguard.notify import POLL_SECONDS, Publisher
from imgguard.operations import Action
from imgguard.opts import OPTIONS
from imgguard.presenter import Presenter
from imgguard.reads import Reads
from imgguard.recovery import Recovery
from imgguard.requeue import Requeue
from imgguard.settings import FILE_OPTION, Settings, refuse_defaults, resolve
from imgguard.stopwatch import Stopwatch
from imgguard.store import Store
from imgguard.updates import Updates
from imgguard.uploads import Uploads
from imgguard.watch import Watch
from imgguard.workers import Workers
from imgguard.wsgi import Application

LOG: Final = logging.getLogger(__name__)


def filter_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[[Application], ImageGuard]:
    """The paste filter factory (``paste.filter_factory = imgguard.factory:filter_factory``).

    :param global_conf: ``[DEFAULT]`` of the paste file; holds no option of the filter
    :param local_conf: the options of the filter's own section
    :raises ConfigurationError: for an unknown option or a bad value, which stops the load
    """
    where = f"the filter's section of {global_conf.get('__file__', 'the paste file')}"
    refuse_defaults(global_conf, where, [FILE_OPTION, *(option.name for option in OPTIONS)])
    settings = resolve(local_conf, where)
    counted = counts.of(settings.connection)
    store = Store(settings.connection, settings.lease_seconds, with_events=settings.notifications is not None,
                  observer=counted)
    publisher = None if settings.notifications is None else Publisher(store.outbox, settings.notifications)
    _prepare(store, settings.connection)

    return lambda application: _assemble(application, settings, store, publisher, Stopwatch(counted))


def _assemble(glance: Application, settings: Settings, store: Store, publisher: Publisher | None,
              stopwatch: Stopwatch) -> ImageGuard:
    application = stopwatch.below(glance)
    workers = Workers()
    heartbeat = Heartbeat(store, settings.lease_seconds, workers)
    guard = Guard(store, heartbeat, settings)
    images = GlanceImages()
    tasks = GlanceTasks()
    recovery = Recovery(store, guard, tasks, Requeue(), workers, settings)
    presenter = Presenter(store, settings, recovery)
    reads = Reads(application, settings, store, presenter, images)
    creates = Creates(application, settings, store, guard, presenter)
    updates = Updates(application, store, guard, presenter, images)
    deletes = Deletes(application, settings, store, guard, presenter, images, workers.is_gone)
    history = History(store, presenter, images)
    admission = Admission(application, settings, store, guard, recovery)
    uploads = Uploads(application, admission, guard, heartbeat, images, recovery)
    watch = Watch(store, guard, heartbeat, tasks, recovery.after_failure, settings.import_stall_seconds)
    imports = Imports(application, admission, store, guard, heartbeat, images, tasks, watch,
                      recovery.after_failure)
    housekeeping = Housekeeping(store, recovery, tasks, clears=settings.requeue != 'off')
    heartbeat.accompany('imgguard-housekeeping', housekeeping.run_once, settings.lease_seconds)
    if publisher is not None:
        store.outbox.committed = heartbeat.accompany('imgguard-notify', publisher.try_to_publish, POLL_SECONDS)
    handlers: dict[Action, Handler] = {
        Action.CREATE: creates, Action.UPDATE: updates, Action.DELETE: deletes, Action.UPLOAD: uploads,
        Action.STAGE: uploads, Action.IMPORT: imports, Action.ADD_LOCATION: imports,
        Action.SHOW: reads.show, Action.LIST: reads.list, Action.DOWNLOAD: reads.download,
        Action.LOCATIONS: reads.locations,
        Action.ATTEMPTS: history,
        Action.SCHEMA: reads.schema, Action.LIST_SCHEMA: reads.schema}
    return ImageGuard(glance, {action: stopwatch.whole(action, handler) for action, handler in handlers.items()},
                      heartbeat.start)


def _prepare(store: Store, connection: str) -> None:
    # A worker must load while the store is down: it is respawned at any time.
    try:
        if connection.startswith('sqlite'):
            store.upgrade()
        else:
            store.check()
    except StoreUnavailable as error:
        LOG.error('nothing can be guarded now: %s', error)
