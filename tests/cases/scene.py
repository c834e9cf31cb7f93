"""What a row of the table may use to make something go wrong at the Glance of this process, and to mend it."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import glance_store
import pytest
from oslo_config import cfg
from webtest import TestResponse

from imgguard.glance_tasks import GlanceTasks
from tests.harness import InProcessGlance
from tests.sources import DATA, Source, Stores
from tests.uploading import Images

LOCKS = ('os_glance_import_task', 'os_glance_stage_host', 'os_glance_hash_op_host')
WORKING = ('pending', 'processing')


@dataclass
class Scene:
    """The server's side of a row."""

    glance: InProcessGlance
    stores: Stores
    source: Source
    _wrong: ExitStack = field(default_factory=ExitStack)

    @property
    def staging(self) -> Path:
        """Where staged data lies."""
        return self.glance.glance.staging

    def repair(self) -> None:
        """Mend everything that was made wrong."""
        self._wrong.close()

    def option(self, name: str, value: object, group: str | None = None) -> None:
        """Set an option of Glance."""
        cfg.CONF.set_override(name, value, group)
        self._wrong.callback(cfg.CONF.clear_override, name, group)

    def patch(self) -> pytest.MonkeyPatch:
        """What changes things of Glance and its drivers."""
        return self._wrong.enter_context(pytest.MonkeyPatch.context())

    def take_away(self, *names: str) -> None:
        """Take the directories of these stores away."""
        self.stores.take_away(*(name for name in names if self.stores.folders[name].exists()))
        self._wrong.callback(self.stores.repair)

    def without(self, folder: Path) -> None:
        """Take this directory away."""
        if not folder.exists():
            return
        away = folder.rename(folder.with_name(f'{folder.name}.away'))
        self._wrong.callback(away.rename, folder)

    def mount(self, folder: Path, *options: str) -> None:
        """Put a file system in memory in the place of this directory; skips the test for one who may not."""
        if folder.is_mount():
            return
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', ','.join(options), 'tmpfs', str(folder)],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f'mount: {done.stderr.strip()}')
        self._wrong.callback(subprocess.run, ['umount', '--lazy', str(folder)], check=True)

    def disable(self, store: str) -> None:
        """What glance_store does when it finds a store unwritable at its start (``driver.py``, ``configure``)."""
        driver = glance_store.get_store_from_store_identifier(store)
        access = glance_store.capabilities.BitMasks.WRITE_ACCESS
        driver.unset_capabilities(access)
        self._wrong.callback(driver.set_capabilities, access)

    def fails(self, store: str, error: Exception, after: int = 0) -> None:
        """The driver of a store raises this, as those of other stores do, after it has read so many bytes."""
        def add(image_id: str, image_file: Any, image_size: int, *rest: Any, **options: Any) -> None:
            if after:
                _take(image_file, after)
            raise error
        self.patch().setattr(glance_store.get_store_from_store_identifier(store), 'add', add)

    def inside(self, image_id: str) -> 'Inside':
        """What Glance keeps of the image."""
        return Inside(self, image_id)


def _take(image_file: Any, size: int) -> None:
    if hasattr(image_file, 'read'):
        image_file.read(size)
    else:
        next(iter(image_file))


class Inside:
    """What Glance keeps of an image: its row, its tasks, its files."""

    def __init__(self, scene: Scene, image_id: str) -> None:
        import glance.db
        from glance.context import get_admin_context
        self._scene = scene
        self._id = image_id
        self._database = glance.db.get_api()
        self._context = get_admin_context()

    def row(self) -> dict[str, Any]:
        """The image with its properties that are not deleted."""
        row: dict[str, Any] = dict(self._database.image_get(self._context, self._id))
        row['properties'] = {each['name']: each['value'] for each in row['properties'] if not each['deleted']}
        return row

    def write(self, **values: object) -> None:
        """Change the row."""
        self._database.image_update(self._context, self._id, values)

    def stored(self) -> set[str]:
        """The stores that hold a file of the image."""
        return self._scene.stores.files(self._id)

    def staged(self) -> bool:
        """Whether something of it lies in staging."""
        return any(path.name.startswith(self._id) for path in self._scene.staging.glob('*'))

    def working(self) -> set[str]:
        """The statuses of those of its tasks that have not ended."""
        return set(self.tasks()) & set(WORKING)

    def locks(self) -> set[str]:
        """The properties by which Glance holds an image."""
        properties = self.row()['properties']
        return {name for name in LOCKS if name in properties} | (
            {'os_glance_importing_to_stores'} if properties.get('os_glance_importing_to_stores') else set())

    def tasks(self) -> list[str]:
        """The statuses of its tasks; to be asked for only when none is to begin (see :meth:`until_done`)."""
        return [task['status'] for task in self._database.tasks_get_by_image(self._context, self._id)]

    def until_done(self, answer: TestResponse) -> None:
        """Wait for the end of the import that was accepted with this answer.

        Only by reading: Glance on SQLite loses a task whose beginning meets another writer.
        """
        found = until(lambda: GlanceTasks().find(self._id, {answer.headers['X-OpenStack-Request-Id']}))
        until(lambda: self._database.task_get(self._context, found, force_show_deleted=True)['status'] not in WORKING)

    def remains(self) -> dict[str, object]:
        """Everything that must not be there when an attempt has failed and was cleared away."""
        row = self.row()
        found: dict[str, object] = {
            'status': row['status'] if row['status'] != 'queued' else '', 'stored': self.stored(),
            'staged': self.staged(), 'locks': self.locks(), 'locations': row['locations'],
            'tasks': self.working(),
            'data': [row[name] for name in ('size', 'checksum', 'os_hash_value') if row[name] is not None]}
        return {name: value for name, value in found.items() if value}


def until(found: Callable[[], Any]) -> Any:
    """What this returns as soon as it is true: threads of Glance tell nobody when they are done."""
    end = time.monotonic() + 20
    while not (result := found()):
        assert time.monotonic() < end, 'nothing came of it'
        time.sleep(0.05)
    return result


def stage(images: Images, image_id: str, data: Any = DATA, headers: Mapping[str, str] | None = None,
          environ: Mapping[str, Any] | None = None) -> TestResponse:
    """Stage data."""
    octets = {'Content-Type': 'application/octet-stream', **(headers or {})}
    return images.request('PUT', f'/v2/images/{image_id}/stage', octets, data, environ)


def start(images: Images, image_id: str, method: Mapping[str, object], **more: object) -> TestResponse:
    """Begin an import."""
    return images.json('POST', f'/v2/images/{image_id}/import', {'method': method, **more})


@contextmanager
def setting(glance: InProcessGlance, stores: Stores, source: Source) -> Iterator[Scene]:
    """A scene, within the block."""
    scene = Scene(glance, stores, source)
    # Glance fetches nothing from loopback unless told to; then it fetches from nowhere else.
    cfg.CONF.set_override('allowed_hosts', ['127.0.0.1'], 'import_filtering_opts')
    try:
        yield scene
    finally:
        scene.repair()
        cfg.CONF.clear_override('allowed_hosts', 'import_filtering_opts')
