"""Assembles the filter from the options of its paste section; the only place that knows all parts."""

import logging
from collections.abc import Callable
from typing import Final

from imgguard.errors import ConfigurationError, StoreUnavailable
from imgguard.guard import Guard
from imgguard.images import GlanceImages
from imgguard.leases import Heartbeat
from imgguard.metadata import Metadata
from imgguard.middleware import ImageGuard
from imgguard.operations import Action
from imgguard.opts import OPTIONS
from imgguard.presenter import Presenter
from imgguard.reads import Reads
from imgguard.settings import FILE_OPTION, Settings, resolve
from imgguard.store import Store
from imgguard.uploads import Uploads
from imgguard.wsgi import Application

LOG: Final = logging.getLogger(__name__)


def filter_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[[Application], ImageGuard]:
    """The paste filter factory (``paste.filter_factory = imgguard.factory:filter_factory``).

    :param global_conf: ``[DEFAULT]`` of the paste file; holds no option of the filter
    :param local_conf: the options of the filter's own section
    :raises ConfigurationError: for an unknown option or a bad value, which stops the load
    """
    where = f"the filter's section of {global_conf.get('__file__', 'the paste file')}"
    _refuse_defaults(global_conf, where)
    settings = resolve(local_conf, where)
    store = Store(settings.connection, settings.lease_seconds)
    _prepare(store, settings.connection)

    return lambda application: _assemble(application, settings, store)


def _assemble(application: Application, settings: Settings, store: Store) -> ImageGuard:
    heartbeat = Heartbeat(store, settings.lease_seconds)
    guard = Guard(store, heartbeat, settings)
    images = GlanceImages()
    presenter = Presenter(store, settings)
    reads = Reads(application, settings, store, presenter, images)
    metadata = Metadata(application, settings, store, guard, presenter, images)
    uploads = Uploads(application, settings, store, guard, heartbeat, images)
    return ImageGuard(application, {
        Action.CREATE: metadata.create, Action.UPDATE: metadata.update, Action.UPLOAD: uploads,
        Action.SHOW: reads.show, Action.LIST: reads.list, Action.DOWNLOAD: reads.download,
        Action.SCHEMA: reads.schema, Action.LIST_SCHEMA: reads.schema})


def _refuse_defaults(global_conf: dict[str, str], where: str) -> None:
    # PasteDeploy hands on no key of a section that stands in [DEFAULT] too (paste/deploy/loadwsgi.py).
    for name in sorted(global_conf.keys() & {option.name for option in OPTIONS} | global_conf.keys() & {FILE_OPTION}):
        raise ConfigurationError(f'imgguard: the option {name} stands in [DEFAULT] of the paste file, which takes it '
                                 f'away from filters; move it to {where}')


def _prepare(store: Store, connection: str) -> None:
    # A worker must load while the store is down: it is respawned at any time.
    try:
        if connection.startswith('sqlite'):
            store.upgrade()
        else:
            store.check()
    except StoreUnavailable as error:
        LOG.error('nothing can be guarded now: %s', error)
