"""A real Glance with the guard under uWSGI, its own database on each backend, and a look into that database past both.

Images that nobody asked to keep are Glance's alone: the guard in front neither records nor clears them. Of the others
it would settle and clear what is due by itself, were its lease not so long: here that is left to the commands.
"""

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import MetaData, create_engine, insert, make_url, select, update

from demo.client import Answer, Client
from demo.private_glance import PrivateGlance, lay_out
from demo.server import Kind, Server, Size, start
from imgguard.attempts import Claim, NewAttempt
from imgguard.store import Store
from tests.harness import IDENTITY
from tests.identity import token
from tests.sockets import eventually
from tests.store.conftest import backend, new_database

__all__ = ['backend', 'new_database']

LEASE_SECONDS: Final = 5
#: Of the guard in front: too long to do anything that nobody asks it for.
QUIET: Final = {'lease_seconds': '3600', 'fence_seconds': '7200'}
DATA: Final = b'data that is right ' * 10_000
LOCK: Final = 'os_glance_import_task'


class Rows:
    """What Glance's database holds, read and changed past Glance and past the guard."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        metadata = MetaData()
        metadata.reflect(self._engine, only=['images', 'image_properties', 'image_locations', 'tasks', 'task_info'])
        self._tables = metadata.tables

    def image(self, image_id: str) -> dict[str, Any]:
        """The row of the image with its properties; of its locations, the statuses of those that are not deleted."""
        images, properties, locations = (
            self._tables[name] for name in ('images', 'image_properties', 'image_locations'))
        with self._engine.connect() as connection:
            row = dict(connection.execute(select(images).where(images.c.id == image_id)).mappings().one())
            row['properties'] = {each.name: each.value for each in connection.execute(
                select(properties).where(properties.c.image_id == image_id)) if not each.deleted}
            row['locations'] = [each.status for each in connection.execute(
                select(locations).where(locations.c.image_id == image_id)) if not each.deleted]
        del row['updated_at']
        return row

    def status(self, image_id: str) -> str:
        """The status in the row of the image."""
        return str(self.image(image_id)['status'])

    def tasks(self, image_id: str) -> list[tuple[str, str]]:
        """Status and message of the image's tasks."""
        tasks, info = self._tables['tasks'], self._tables['task_info']
        with self._engine.connect() as connection:
            return [(row.status, row.message) for row in connection.execute(select(
                tasks.c.status, info.c.message).join_from(tasks, info, info.c.task_id == tasks.c.id).where(
                    tasks.c.image_id == image_id))]

    def set(self, image_id: str, **values: object) -> None:
        """Change the row of the image."""
        images = self._tables['images']
        with self._engine.begin() as connection:
            assert connection.execute(update(images).where(images.c.id == image_id).values(**values)).rowcount == 1

    def set_property(self, image_id: str, name: str, value: str) -> None:
        """Give the image a property."""
        properties = self._tables['image_properties']
        with self._engine.begin() as connection:
            made = connection.execute(select(self._tables['images'].c.created_at)).scalars().first()
            connection.execute(insert(properties).values(
                image_id=image_id, name=name, value=value, deleted=False, created_at=made))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


class Outside:
    """One Glance under a server, its owner's requests, and everything that is kept of images.

    :param url: of Glance's database
    """

    def __init__(self, server: Server, url: str) -> None:
        self.server = server
        self.glance: PrivateGlance = server.glance
        self.url = url
        self.rows = Rows(url)
        self.store = Store(f'sqlite:///{self.glance.guard_database}', LEASE_SECONDS)
        self.caller = token('alice', f'project-{uuid4().hex[:8]}')
        self.client = Client(server.port, {'X-Auth-Token': self.caller})

    def ask(self, method: str, path: str, body: bytes | None = None,
            headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request until it is answered: a worker may have been killed just now."""
        def answered() -> Answer | None:
            with contextlib.suppress(OSError):
                answer = self.client.request(method, path, body, headers)
                if answer.status not in (502, 503, 504):
                    return answer
            return None

        answer = eventually(answered, f'an answer to {method} {path}')
        assert answer is not None
        return answer

    def created(self, headers: Mapping[str, str] | None = None, **fields: object) -> str:
        """Create an image and return its id."""
        document = {'disk_format': 'raw', 'container_format': 'bare', **fields}
        answer = self.ask('POST', '/v2/images', json.dumps(document).encode(),
                          {'Content-Type': 'application/json', **(headers or {})})
        assert answer.status == 201, answer.text
        return str(answer.json['id'])

    def put(self, image_id: str, data: bytes, to: str = 'file') -> Answer:
        """Upload or stage."""
        return self.ask('PUT', f'/v2/images/{image_id}/{to}', data, {'Content-Type': 'application/octet-stream'})

    def start_import(self, image_id: str, url: str) -> Answer:
        """Let Glance download the data of the image."""
        document = {'method': {'name': 'web-download', 'uri': url}}
        return self.ask('POST', f'/v2/images/{image_id}/import', json.dumps(document).encode(),
                        {'Content-Type': 'application/json'})

    def show(self, image_id: str) -> dict[str, Any]:
        """The image as its owner sees it."""
        image: dict[str, Any] = self.ask('GET', f'/v2/images/{image_id}').json
        return image

    def created_at(self, image_id: str) -> str:
        """When it was created, as the API spells it."""
        return str(self.show(image_id)['created_at'])

    def begun(self, image_id: str, new: NewAttempt) -> Claim:
        """Let the guard know of an attempt on this image that it did not see."""
        claim = self.store.begin(image_id, self.created_at(image_id), 'owner', new)
        assert isinstance(claim, Claim)
        return claim

    def holder(self, image_id: str) -> str:
        """Wait until an attempt holds the image, and return the name of its worker."""
        def held() -> str | None:
            found = self.store.find(image_id)
            return found[-1].running.worker if found and found[-1].running is not None else None

        worker = eventually(held, f'an attempt on {image_id}')
        assert worker is not None
        return worker

    def files(self, image_id: str) -> list[Path]:
        """What lies in store and staging under the name of the image."""
        return [folder / image_id for folder in (self.glance.store, self.glance.staging)
                if (folder / image_id).exists()]

    def silent_for(self, seconds: float, *image_ids: str) -> None:
        """Let the last signs of life for these images be so long ago; another worker has lived all the while."""
        now = "((julianday('now') - 2440587.5) * 86400.0)"
        marks = ', '.join('?' * len(image_ids))
        engine = create_engine(f'sqlite:///{self.glance.guard_database}?timeout=60')
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f'UPDATE imgguard_images SET running_at = {now} - {seconds} '
                f'WHERE running_number IS NOT NULL AND image_id IN ({marks})', image_ids)
            connection.exec_driver_sql(
                f'UPDATE imgguard_attempts SET updated_at = {now} - {seconds} WHERE image_key IN '
                f'(SELECT key FROM imgguard_images WHERE image_id IN ({marks}))', image_ids)
            connection.exec_driver_sql('INSERT OR REPLACE INTO imgguard_workers (worker, host, since, seen_at) '
                                       f"VALUES ('witness', 'here', {now} - {seconds} - 100, {now})")
        engine.dispose()

    def assert_works_again(self, image_id: str) -> None:
        """A retry on the same id brings the right bytes, and nothing is left behind."""
        answer = self.put(image_id, DATA)
        assert answer.status == 204, answer.text
        image = self.show(image_id)
        assert (image['status'], image['checksum']) == ('active', hashlib.md5(DATA).hexdigest())
        assert not [name for name in image if name.startswith('os_glance_image_error')]
        assert self.ask('GET', f'/v2/images/{image_id}/file').body == DATA
        assert self.files(image_id) == [self.glance.store / image_id]

    def close(self) -> None:
        """Close all connections."""
        self.rows.close()
        self.store.close()


def killed(worker: str) -> None:
    """Kill the process of that name, and wait until it is gone."""
    process = int(worker.split(':')[1])
    os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f'/proc/{process}').exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def of_glance(url: str) -> str:
    """The URL as Glance takes it, which knows MariaDB as mysql."""
    parsed = make_url(url)
    if parsed.get_backend_name() == 'mariadb':
        parsed = parsed.set(drivername='mysql+pymysql')
    return parsed.render_as_string(hide_password=False)


@pytest.fixture(scope='session')
def outside(
    backend: str, new_database: Callable[[], str], glance_template: PrivateGlance,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Outside]:
    """Two processes of three threads; the database is made by Glance's own db_sync."""
    settings: dict[str, dict[str, str]] = {
        'import_filtering_opts': {'allowed_hosts': '[127.0.0.1]', 'allowed_ports': '[]'}}
    url = None
    if backend != 'sqlite':
        url = of_glance(new_database())
        settings['database'] = {'connection': url}
    glance = lay_out(
        tmp_path_factory.mktemp('glance') / 'glance', guard=QUIET, identity=IDENTITY, settings=settings,
        database=glance_template.database if url is None else None)
    with start(glance, Kind.UWSGI_HTTP, Size(2, 3)) as server:
        opened = Outside(server, url or f'sqlite:///{glance.database}')
        yield opened
        opened.close()
