"""What a dead attempt left in Glance's stores, and deleting it: for :mod:`imgguard.requeue` and its callers.

Glance tells its database where data lies only when it has arrived whole. What was written before is
found by its name: the file driver (``glance_store/_drivers/filesystem.py``, ``add``) and staging name
a file by the image's id and refuse to write a second one. Other drivers cannot be searched this way:
of theirs, only what Glance's database knows is deleted.

Everything happens in Glance's process, with its configuration and its store library.
"""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from imgguard import text
from imgguard.about import About
from imgguard.errors import ImgguardError

LOG: Final = logging.getLogger(__name__)

_PLAIN: Final = re.compile(r'[0-9A-Za-z][0-9A-Za-z_-]{0,35}')


class Undeletable(ImgguardError):
    """Data could not be deleted; the text names the store and the reason, no path and no address."""


def is_plain(image_id: str) -> bool:
    """Whether this id is fit to be the name of a file: no separator, no dot, nothing but letters, digits, ``-_``.

    Glance's API v2 takes only UUIDs as ids (``glance/api/v2/images.py``, ``get_base_properties``); v1 took any text.
    """
    return _PLAIN.fullmatch(image_id) is not None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The place of an image's data in one directory of a store of the file driver; there may be no file.

    :param store: as in ``enabled_backends``; ``None`` where Glance has none, but one default store
    """

    store: str | None
    driver: Any
    path: str

    def exists(self) -> bool:
        """Whether there is a file.

        A directory that cannot be read counts as without one: a broken store must not keep an image
        from being uploaded to a sound one, and a file that comes to light later defeats one attempt,
        after which it is found here.

        :raises Undeletable: the store did not answer in the time set for it
        """
        import glance_store
        try:
            self.driver.get_size(self._location())
        except glance_store.NotFound:
            return False
        except glance_store.exceptions.TimeoutError as error:
            raise _undeletable(self.store, error) from error
        except OSError as error:
            LOG.warning('Store %s cannot be searched for remains: %s', self.store, error)
            return False
        return True

    def delete(self) -> None:
        """Delete the file, if there is one.

        :raises Undeletable: the driver refuses
        """
        import glance_store
        try:
            self.driver.delete(self._location())
        except glance_store.NotFound:
            return
        except glance_store.GlanceStoreException as error:
            raise _undeletable(self.store, error) from error
        LOG.info('Deleted %s, which a dead attempt had left in store %s', self.path, self.store)

    def _location(self) -> Any:
        import glance_store
        # Not from an address: a directory's name may hold what has a meaning there.
        return glance_store.location.Location(
            'file', self.driver.get_store_location_class(), self.driver.conf,
            store_specs={'scheme': 'file', 'path': self.path}, backend=self.store)


def stored_files(image_id: str) -> list[StoredFile]:
    """Where data of this image can lie in the stores of the file driver, known to Glance's database or not.

    :param image_id: a plain one, see :func:`is_plain`
    """
    return [StoredFile(store, driver, os.path.join(directory, image_id))
            for store, driver in _file_stores() for directory in _directories(driver)]


def unknown_files(image_id: str, locations: Collection[Mapping[str, Any]]) -> list[StoredFile]:
    """Files of this image in stores that Glance's database knows no data of: what a copy that died has written.

    :param locations: of the image, as Glance's database has them; without any nothing is known, and nothing returned
    """
    stores = {(location['metadata'] or {}).get('store') for location in locations}
    if not stores or None in stores:
        return []
    return [file for file in stored_files(image_id)
            if file.store is not None and file.store not in stores and file.exists()]


def _file_stores() -> Iterator[tuple[str | None, Any]]:
    """The file driver's stores by their names, without those that Glance keeps for itself."""
    import glance_store
    from oslo_config import cfg
    if not cfg.CONF.enabled_backends:
        single = glance_store.location.SCHEME_TO_CLS_MAP.get('file')
        if single is not None:
            yield None, single['store']
        return
    for name, entry in glance_store.location.SCHEME_TO_CLS_BACKEND_MAP.get('file', {}).items():
        # glance/common/wsgi_app.py, RESERVED_STORES: staging, and the work of tasks.
        if not name.startswith('os_glance_'):
            yield name, entry['store']


def _directories(driver: Any) -> list[str]:
    if getattr(driver, 'multiple_datadirs', False):
        return [path for paths in driver.priority_data_map.values() for path in paths]
    # Without the attribute its options were refused when Glance started: it has stored nothing since.
    directory: str | None = getattr(driver, 'datadir', None)
    return [] if directory is None else [directory]


def staged_files(image_id: str) -> list[Path]:
    """The staged data of this image on this host, and what import plugins have made of it beside it.

    ``<id>.uc`` is of the decompression, ``<id>.<format>`` of the conversion (``glance/async_/flows/plugins``).

    :param image_id: a plain one, see :func:`is_plain`: so that ``<id>.`` begins no other image's file
    """
    directory = _staging()
    try:
        found = [] if directory is None else list(directory.iterdir())
    except OSError as error:
        LOG.debug('Staging cannot be searched for remains: %s', error)
        return []
    return sorted(path for path in found if path.name == image_id or path.name.startswith(f'{image_id}.'))


def staged_images() -> set[str]:
    """The ids of images that may have staged data on this host, as :func:`staged_files` finds it."""
    directory = _staging()
    try:
        names = [] if directory is None else os.listdir(directory)
    except OSError as error:
        LOG.debug('Staging cannot be searched for remains: %s', error)
        return set()
    return {image_id for image_id in (name.partition('.')[0] for name in names) if is_plain(image_id)}


def is_staged(image_id: str) -> bool:
    """Whether there is staged data of this image on this host; ``image_id`` as in :func:`staged_files`."""
    directory = _staging()
    return directory is not None and os.path.lexists(directory / image_id)


def make_room_for_stage(image_id: str, is_queued: Callable[[], bool]) -> None:
    """Delete what lies staged on this host of an image behind which another host has cleared away.

    Glance would refuse every stage for it ("has data on staging").

    :param is_queued: asks Glance whether the image is ``queued``, so that no stage has brought this
    :raises Undeletable: it cannot be deleted
    """
    # In this order: a stage that runs has set the status before there is a file.
    if is_plain(image_id) and is_staged(image_id) and is_queued():
        for path in staged_files(image_id):
            delete_staged(path)


def _staging() -> Path | None:
    from glance import housekeeping
    from glance.common import exception
    try:
        return Path(housekeeping.staging_store_path())
    except exception.GlanceException:
        # No staging that is a directory: Glance cannot stage here either.
        return None


def delete_staged(path: Path) -> None:
    """Delete a staged file, as Glance does it itself: without a driver.

    :raises Undeletable: it cannot be deleted
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Undeletable(f'its staged data could not be deleted ({error.strerror})') from error
    LOG.info('Deleted %s, which a dead attempt had left in staging', path)


def delete_all_staged(image_id: str, ask: Callable[[], None]) -> bool:
    """Delete all :func:`staged_files` of an image, and say whether there were any.

    :param ask: called before each; what it raises ends it
    :raises Undeletable: one cannot be deleted
    """
    found = staged_files(image_id)
    for path in found:
        ask()
        delete_staged(path)
    return bool(found)


def delete_by_name(image_id: str, ask: Callable[[], None]) -> bool:
    """Delete what is staged of an image on this host, and what lies under its name in stores of the file driver.

    The parameters, the answer and what is raised are those of :func:`delete_all_staged`.
    """
    staged = delete_all_staged(image_id, ask)
    found = [file for file in stored_files(image_id) if file.exists()]
    for file in found:
        ask()
        file.delete()
    return staged or bool(found)


def delete_located(image_id: str, url: str, store: str | None, context: Any) -> None:
    """Delete the data at a location that Glance's database holds for this image.

    Data that Glance did not write for this image is let be: a web address, another image's file, an
    object somebody registered, which a retry may want to register again.

    :param store: as the location's metadata name it
    :raises Undeletable: the driver refuses, or the store is not known here
    """
    import glance_store
    from oslo_config import cfg
    if not _written_for(image_id, url):
        About(LOG, image_id).info('the data at one of its locations is not its own and stays')
        return
    try:
        if cfg.CONF.enabled_backends:
            glance_store.delete(url, store, context=context)
        else:
            glance_store.delete_from_backend(url, context=context)
    except glance_store.NotFound:
        return
    # The drivers do not say what they raise (glance/async_/flows/api_image_import.py says so too).
    except Exception as error:
        About(LOG, image_id).exception('its data in store %s could not be deleted', store)
        raise _undeletable(store, error) from error
    About(LOG, image_id).info('deleted its rejected data from store %s', store)


def _written_for(image_id: str, url: str) -> bool:
    """Whether this is how a driver names what it writes for this image.

    All drivers that write put the id into the address, but Cinder's: there it is the volume's id.
    """
    parts = urlsplit(url)
    if parts.scheme in ('http', 'https'):
        return False
    return parts.scheme == 'cinder' or image_id in map(unquote, f'{parts.netloc}/{parts.path}'.split('/'))


def _undeletable(store: str | None, error: Exception) -> Undeletable:
    reason = text.reason(str(error)) or type(error).__name__
    return Undeletable(f'its data in store {store or "(default)"} could not be deleted ({reason})')
