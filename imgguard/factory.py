"""Assembles the filter from the options of its paste section; the only place that knows all parts."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Final, Self

from imgguard import counts
from imgguard.admission import Admission
from imgguard.creates import Creates
from imgguard.deletes import Deletes
from imgguard.errors import ConfigurationError, StoreUnavailable
from imgguard.glance_tasks import GlanceTasks
from imgguard.guard import Guard
from imgguard.handlers_v1 import CreatesV1, ReadsV1, unreserved
from imgguard.history import History
from imgguard.housekeeping import Housekeeping
from imgguard.images import Caller, Images
from imgguard.glance_images import GlanceImages, caller
from imgguard.imports import Imports
from imgguard.killed_images import KilledImages
from imgguard.leases import Heartbeat
from imgguard.lists_v1 import ListsV1
from imgguard.middleware import Handler, image_guard
from imgguard.notify import POLL_SECONDS, Publisher
from imgguard.operations import Action, Operation, recognise
from imgguard.operations_v1 import recognise_negotiated
from imgguard.opts import OPTIONS, PROXY_OPTIONS
from imgguard.outside import Outside
from imgguard.presenter import Presenter, PresenterV1
from imgguard.reads import Reads, looking
from imgguard.recovery import Recovery
from imgguard.remote_images import Remote, RemoteImages
from imgguard.remote_images_v1 import RemoteImagesV1, delete_v1
from imgguard.remote_requeue import NoWayBack
from imgguard.remote_tasks import RemoteTasks
from imgguard.requeue import Requeue
from imgguard.settings import FILE_OPTION, ProxySettings, Settings, refuse_defaults, resolve, resolve_proxy
from imgguard.stopwatch import Stopwatch
from imgguard.store import Store
from imgguard.store.address import identity
from imgguard.sweep import Sweep
from imgguard.tasks import Tasks
from imgguard.updates import Updates
from imgguard.uploads import Uploads
from imgguard.watch import Watch
from imgguard.workers import Workers
from imgguard.wsgi import Application, Environ

LOG: Final = logging.getLogger(__name__)


def filter_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[[Application], Application]:
    """The paste filter factory (``paste.filter_factory = imgguard.factory:filter_factory``).

    :param global_conf: ``[DEFAULT]`` of the paste file; holds no option of the filter
    :param local_conf: the options of the filter's own section
    :raises ConfigurationError: for an unknown option or a bad value, which stops the load
    """
    where = f"the filter's section of {global_conf.get('__file__', 'the paste file')}"
    refuse_defaults(global_conf, where, [FILE_OPTION, *(option.name for option in OPTIONS)])
    parts = _Parts.of(resolve(local_conf, where))
    return lambda application: _assemble(application, parts, _inside)


def proxy_factory(global_conf: dict[str, str], **local_conf: str) -> Application:
    """The paste application factory of the reverse proxy (``paste.app_factory = imgguard.factory:proxy_factory``).

    :param global_conf: ``[DEFAULT]`` of the paste file; holds no option of the proxy
    :param local_conf: the options of the proxy's own section
    :raises ConfigurationError: for an unknown option, a bad value or a missing extra, which stops the load
    """
    where = f"the proxy's section of {global_conf.get('__file__', 'the paste file')}"
    refuse_defaults(global_conf, where, [FILE_OPTION, *(option.name for option in (*OPTIONS, *PROXY_OPTIONS))])
    settings, proxy = resolve_proxy(local_conf, where)
    way = partial(_outside, proxy=proxy)
    return _in_front(proxy, where, lambda backend: _assemble(backend, _Parts.of(settings), way))


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a filter is made of before it is known what stands below it."""

    settings: Settings
    store: Store
    publisher: Publisher | None
    stopwatch: Stopwatch
    workers: Workers
    heartbeat: Heartbeat

    @classmethod
    def of(cls, settings: Settings) -> Self:
        counted = counts.of(identity(settings.connection))
        store = Store(settings.connection, settings.lease_seconds, with_events=settings.notifications is not None,
                      observer=counted, stall_seconds=settings.import_stall_seconds)
        publisher = None if settings.notifications is None else Publisher(store.outbox, settings.notifications)
        _prepare(store, settings.connection)
        workers = Workers()
        return cls(settings, store, publisher, Stopwatch(counted), workers,
                   Heartbeat(store, settings.lease_seconds, workers))


@dataclass(frozen=True, slots=True)
class _V1:
    """How an old Glance is asked by its API v1, and the status that shows an image in error there."""

    images: Images
    error_status: str


@dataclass(frozen=True, slots=True)
class _Glance:
    """How the Glance below is asked and put right, and what is done beside its requests.

    :param release: as of :class:`imgguard.watch.Watch`
    :param around: called with who sent a request, for as long as it is handled
    :param v1: ``None`` where it has no API v1
    :param elsewhere: whether requests for it go over a wire
    """

    guard: Guard
    images: Images
    tasks: Tasks
    recovery: Recovery
    identify: Callable[[Environ], Caller | None]
    housekeeping: Callable[[], object] | None
    recognise: Callable[[Environ], Operation | None] = recognise_negotiated
    around: Callable[[Caller], AbstractContextManager[None]] | None = None
    release: Callable[[str, str], object] = lambda image_id, task_id: None
    v1: _V1 | None = None
    elsewhere: bool = False


def _inside(application: Application, parts: _Parts) -> _Glance:
    """Glance runs in this very process."""
    settings = parts.settings
    guard, tasks = Guard(parts.store, parts.heartbeat, settings), GlanceTasks()
    recovery = Recovery(parts.store, guard, tasks, Requeue(), parts.workers, settings)
    housekeeping = Housekeeping(parts.store, recovery, tasks, clears=settings.requeue != 'off')
    return _Glance(guard, GlanceImages(), tasks, recovery, caller, housekeeping.run_once, recognise,
                   release=tasks.release)


def _outside(application: Application, parts: _Parts, proxy: ProxySettings) -> _Glance:
    """Glance runs behind the proxy that ``application`` is."""
    settings, store, remote = parts.settings, parts.store, Remote(application)
    guard = Guard(store, parts.heartbeat, settings, elsewhere=True)
    identify, v1 = remote.identify(proxy.forward_identity), _V1(RemoteImagesV1(), proxy.v1_error_status)
    if settings.glance_connection is None:
        tasks = RemoteTasks(remote)
        recovery = Recovery(store, guard, tasks, NoWayBack(remote), parts.workers, settings)
        return _Glance(guard, RemoteImages(), tasks, recovery, identify, None, around=remote.asked_by, v1=v1,
                       elsewhere=True)
    by_database = Outside(settings.glance_connection, store, settings, guard, parts.workers)
    sweep = Sweep(store, settings, time.monotonic, Event(), by_database.settling, purges=False)
    return _Glance(guard, RemoteImages(), by_database.tasks, by_database.recovery, identify, sweep.try_to_run,
                   around=remote.asked_by, v1=v1, elsewhere=True)


def _in_front(settings: ProxySettings, where: str, guarded: Callable[[Application], Application]) -> Application:
    """The proxy with the guard in it.

    :raises ConfigurationError: what it is made with is not installed
    """
    try:
        from imgguard.proxy import Edge, Proxy
    except ImportError as error:
        raise ConfigurationError(f'imgguard: {where} needs the extra "proxy" ({error}); install it with '
                                 "pip install 'imgguard[proxy]'") from error
    backend = Proxy(settings.backend_url, settings.connect_timeout, settings.read_timeout, settings.forward_identity,
                    settings.cafile, settings.insecure)
    return Edge(guarded(backend))


def _assemble(below: Application, parts: _Parts, way: Callable[[Application, _Parts], _Glance]) -> Application:
    settings, store, stopwatch, heartbeat = parts.settings, parts.store, parts.stopwatch, parts.heartbeat
    application = stopwatch.below(below)
    glance = way(application, parts)
    guard, recovery = glance.guard, glance.recovery
    admission = Admission(application, settings, store, guard, recovery)
    watch = Watch(store, guard, heartbeat, glance.tasks, recovery.after_failure, settings.import_stall_seconds,
                  glance.release, around=glance.around)
    if glance.housekeeping is not None:
        heartbeat.accompany('imgguard-housekeeping', glance.housekeeping, settings.lease_seconds)
    if parts.publisher is not None:
        store.outbox.committed = heartbeat.accompany('imgguard-notify', parts.publisher.try_to_publish, POLL_SECONDS)

    def bringing(images: Images) -> dict[Action, Handler]:
        uploads = Uploads(application, admission, guard, heartbeat, images, recovery)
        imports = Imports(application, admission, store, guard, heartbeat, images, glance.tasks, watch,
                          recovery.after_failure)
        return {Action.UPLOAD: uploads, Action.STAGE: uploads, Action.IMPORT: imports, Action.ADD_LOCATION: imports}

    def deletes(presenter: Presenter, images: Images) -> Handler:
        return Deletes(application, settings, store, guard, presenter, images, parts.workers.is_gone)

    presenter = Presenter(store, settings, recovery)
    killed = None if glance.v1 is None else KilledImages(application, store, presenter).listed
    reads = Reads(application, settings, store, presenter, glance.images, glance.elsewhere, killed)

    def of_v2() -> dict[Action, Handler]:
        images = glance.images
        return {
            **bringing(images),
            Action.CREATE: Creates(application, settings, store, guard, presenter),
            Action.UPDATE: Updates(application, store, guard, presenter, images),
            Action.DELETE: deletes(presenter, images),
            Action.SHOW: reads.show, Action.LIST: reads.list, Action.DOWNLOAD: reads.download,
            Action.LOCATIONS: reads.locations,
            Action.ATTEMPTS: History(store, presenter, images),
            Action.SCHEMA: reads.schema, Action.LIST_SCHEMA: reads.schema}

    def of_v1(v1: _V1) -> dict[Action, Handler]:
        presenter = PresenterV1(store, settings, recovery, v1.error_status)
        reads, bring = ReadsV1(application, presenter), bringing(v1.images)
        lists = ListsV1(application, store, presenter, v1.error_status)
        create = CreatesV1(application, settings, store, guard, presenter, v1.images,
                           {action: bring[action] for action in (Action.UPLOAD, Action.IMPORT)}, delete_v1)

        def create_or(handler: Handler) -> Handler:
            return lambda environ, start_response, operation, by: (
                handler if operation.image_id else create)(environ, start_response, operation, by)

        writing: dict[Action, Handler] = {
            Action.CREATE: create, Action.UPLOAD: create_or(bring[Action.UPLOAD]),
            Action.IMPORT: create_or(bring[Action.IMPORT]), Action.UPDATE: reads.update,
            # A location is no data on its way: Glance takes it, or does not, at once.
            Action.ADD_LOCATION: create_or(reads.update)}
        return {**{action: unreserved(handler) for action, handler in writing.items()},
                Action.DELETE: deletes(presenter, v1.images), Action.SHOW: reads.show,
                Action.LIST: lists, Action.LIST_DETAIL: lists}

    versions = {1: {} if glance.v1 is None else of_v1(glance.v1), 2: of_v2()}
    look = None if glance.around else looking(below, glance.identify, reads.tell)
    return image_guard(below, versions, glance.recognise, glance.identify, heartbeat.start, glance.around, stopwatch,
                       look)


def _prepare(store: Store, connection: str) -> None:
    # A worker must load while the store is down: it is respawned at any time.
    try:
        if connection.startswith('sqlite'):
            store.upgrade()
        else:
            store.check()
    except StoreUnavailable as error:
        LOG.error('nothing can be guarded now: %s', error)
