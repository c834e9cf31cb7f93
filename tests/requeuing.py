"""What the tests of requeueing share: a client, bodies that die, and a look at everything Glance keeps of an image."""

import http.server
import json
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from oslo_config import cfg
from sqlalchemy import NullPool, column, create_engine, select, table
from webtest import TestApp, TestResponse

from demo.private_glance import PrivateGlance, lay_out
from imgguard.requeue import Requeue
from tests.harness import IDENTITY, InProcessGlance
from tests.identity import token

WAIT_SECONDS = 60.0
#: The smallest that Glance takes for a qcow2 image: the header of one of 1 MiB, and enough for several reads.
DATA = struct.pack('>4sIQIIQ', b'QFI\xfb', 2, 0, 0, 16, 2 ** 20).ljust(300_000, b'\0')
#: As long, but nothing that says what it is.
RAW = b'no image at all '.ljust(300_000, b'.')


class Died(BaseException):
    """Ends a request as the end of its process does: Glance cleans nothing up."""


class Body:
    """A ``wsgi.input`` that delivers these blocks; an exception among them is raised, a function called first."""

    def __init__(self, blocks: Iterable[bytes | BaseException | Callable[[], object]]) -> None:
        self._blocks = iter(blocks)
        self._rest = b''

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes."""
        while not self._rest:
            block = next(self._blocks, b'')
            if isinstance(block, BaseException):
                raise block
            if callable(block):
                block()
                continue
            if not block:
                return b''
            self._rest = block
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


class Client:
    """A member of a project that has no images yet, in front of a bare Glance."""

    def __init__(self, application: TestApp) -> None:
        self.application = application
        self.project = f'project-{uuid4().hex[:8]}'
        self.token = token('alice', self.project)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None,
                body: bytes | Body = b'') -> TestResponse:
        """Send a request; a :class:`Body` is chunked."""
        request = self.application.RequestClass.blank(
            path, method=method, headers={'X-Auth-Token': self.token, **(headers or {})},
            body=body if isinstance(body, bytes) else b'')
        if isinstance(body, Body):
            for name in ('CONTENT_LENGTH', 'webob.is_body_seekable'):
                request.environ.pop(name, None)
            request.environ |= {'wsgi.input': body, 'HTTP_TRANSFER_ENCODING': 'chunked', 'wsgi.input_terminated': True}
        return self.application.do_request(request, status='*', expect_errors=True)

    def json(self, method: str, path: str, document: object) -> TestResponse:
        """Send a JSON document."""
        return self.request(method, path, {'Content-Type': 'application/json'}, json.dumps(document).encode())

    def created(self, **properties: object) -> str:
        """Create an image of format qcow2 and return its id."""
        document = {'name': 'server', 'disk_format': 'qcow2', 'container_format': 'bare', **properties}
        answer = self.json('POST', '/v2/images', document)
        assert answer.status_int == 201, answer.text
        image_id: str = answer.json['id']
        return image_id

    def send(self, image_id: str, body: bytes | Body, to: str = 'file',
             headers: Mapping[str, str] | None = None) -> int:
        """Upload to ``file`` or ``stage`` and return the status of the answer."""
        path = f'/v2/images/{image_id}/{to}'
        content = {'Content-Type': 'application/octet-stream', **(headers or {})}
        return int(self.request('PUT', path, content, body).status_int)

    def start_import(self, image_id: str, method: Mapping[str, str], **options: object) -> int:
        """Ask for an import and return the status of the answer."""
        return int(self.json('POST', f'/v2/images/{image_id}/import', {'method': method, **options}).status_int)

    def show(self, image_id: str) -> dict[str, Any]:
        """The image as Glance shows it."""
        image: dict[str, Any] = self.request('GET', f'/v2/images/{image_id}').json
        return image


class Inside:
    """What a Glance in this process keeps of images: rows, properties, locations, files."""

    def __init__(self, *folders: Path) -> None:
        import glance.db
        from glance.context import get_admin_context
        self._folders = folders
        self.database = glance.db.get_api()
        self.context = get_admin_context()

    def image(self, image_id: str) -> dict[str, Any]:
        """The row of the image; its locations and properties are those that are not deleted."""
        row: dict[str, Any] = dict(self.database.image_get(self.context, image_id))
        row['properties'] = {each['name']: each['value'] for each in row['properties'] if not each['deleted']}
        del row['updated_at']
        return row

    def tasks(self, image_id: str) -> list[str]:
        """The statuses of the image's tasks.

        Not asked of Glance: it writes when it is asked (it forgets expired tasks), and on SQLite a task that begins
        just then is lost.
        """
        tasks = table('tasks', column('image_id'), column('status'), column('created_at'))
        engine = create_engine(cfg.CONF.database.connection, poolclass=NullPool)
        with engine.connect() as connection:
            return list(connection.execute(select(tasks.c.status).where(
                tasks.c.image_id == image_id).order_by(tasks.c.created_at)).scalars())

    def set(self, image_id: str, **values: object) -> None:
        """Change the row."""
        self.database.image_update(self.context, image_id, values)

    def files(self) -> dict[Path, tuple[int, int, int]]:
        """All files in store and staging, with what tells whether one was written to or replaced."""
        found = (path for folder in self._folders for path in folder.rglob('*') if path.is_file())
        return {path: (status.st_ino, status.st_size, status.st_mtime_ns)
                for path in found for status in (path.stat(),)}

    def usage(self, project: str) -> tuple[int, int, int]:
        """What the project's quotas are charged with: bytes stored, bytes staged, images being uploaded."""
        return (self.database.user_get_storage_usage(self.context, project),
                self.database.user_get_staging_usage(self.context, project),
                self.database.user_get_uploading_count(self.context, project))


class Source:
    """Where a web-download gets its data from: sends some of it, and the rest when it is told to.

    :param port: of 127.0.0.1, set within ``with source.open()``
    """

    def __init__(self, data: bytes, at_once: int | None = None) -> None:
        self._data = data
        self._at_once = len(data) if at_once is None else at_once
        self._go_on = threading.Event()
        self._ended = threading.Event()
        self.port = 0

    @property
    def method(self) -> dict[str, str]:
        """The import method for a request."""
        return {'name': 'web-download', 'uri': f'http://127.0.0.1:{self.port}/image'}

    def break_off(self) -> None:
        """End a transfer that hangs, in the middle, and wait until the connection is closed."""
        self._go_on.set()
        assert self._ended.wait(WAIT_SECONDS)

    @contextmanager
    def open(self) -> Iterator['Source']:
        """Listen within the block."""
        source = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header('Content-Length', str(len(source._data)))
                self.end_headers()
                self.wfile.write(source._data[:source._at_once])
                self.wfile.flush()
                if source._at_once < len(source._data):
                    source._go_on.wait(WAIT_SECONDS)
                    self.close_connection = True

            def finish(self) -> None:
                super().finish()
                source._ended.set()

            def log_message(self, *words: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
            thread.start()
            try:
                yield self
            finally:
                self._go_on.set()
                server.shutdown()
                thread.join()


def eventually(look: Callable[[], object], what: str) -> None:
    """Look again and again until what is seen is true: another thread, an import's, makes it so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not look():
        assert time.monotonic() < deadline, f'not within {WAIT_SECONDS:.0f} s: {what}'
        time.sleep(0.02)


def single_store(folder: Path) -> None:
    """In a process of its own: a Glance with one default store, which has no ``enabled_backends``."""
    glance = lay_out(folder, guard=None, identity=IDENTITY, settings={
        'DEFAULT': {'enabled_backends': '', 'node_staging_uri': f'file://{folder}/staging'},
        'glance_store': {'stores': 'file', 'default_store': 'file', 'filesystem_store_datadir': f'{folder}/images'},
    })
    with _running(glance) as (client, inside):
        _clear_and_retry(client, inside, died_uploading(client))
        poisoned = client.created()
        assert client.send(poisoned, RAW) == 415
        _clear_and_retry(client, inside, poisoned)
        staged = client.created()
        assert client.send(staged, DATA, 'stage') == 204
        assert Requeue().needed(staged)
        _clear_and_retry(client, inside, staged)


def several_directories(folder: Path) -> None:
    """In a process of its own: a Glance with a second store, which has several directories."""
    for name in ('big', 'small'):
        (folder.parent / name).mkdir()
    glance = lay_out(folder, guard=None, identity=IDENTITY, settings={
        'DEFAULT': {'enabled_backends': 'fs:file, many:file, web:http'},
        'many': {'filesystem_store_datadir': '', 'filesystem_store_datadirs':
                 f'{folder.parent}/small:1\nfilesystem_store_datadirs = {folder.parent}/big:2'},
    })
    with _running(glance) as (client, inside):
        image_id = died_uploading(client, {'X-Image-Meta-Store': 'many'})
        assert folder.parent / 'big' / image_id in inside.files()
        # Priorities change with a restart, and the partial file of an earlier attempt stays where it was.
        (folder.parent / 'small' / image_id).write_bytes(b'partial')
        _clear_and_retry(client, inside, image_id)
        _external_location(client, inside)
        _copy_that_died(client, inside, folder)


def _copy_that_died(client: 'Client', inside: Inside, folder: Path) -> None:
    """What it wrote into the other store is deleted, the data of the image is not."""
    image_id = client.created()
    assert client.send(image_id, DATA, headers={'X-Image-Meta-Store': 'fs'}) == 204
    half, staged = folder.parent / 'big' / image_id, folder / 'staging' / image_id
    half.write_bytes(DATA[:100])
    staged.write_bytes(DATA)
    Requeue().clear(image_id, lambda: True, ['a task nobody knows'])
    assert not half.exists() and not staged.exists()
    assert inside.image(image_id)['status'] == 'active'
    assert client.request('GET', f'/v2/images/{image_id}/file').body == DATA


def _external_location(client: 'Client', inside: Inside) -> None:
    """Data at a web address is not Glance's to delete; the address is forgotten."""
    image_id = client.created()
    location = {'url': f'http://files.test/{image_id}', 'status': 'active', 'metadata': {'store': 'web'}}
    inside.database.image_location_add(inside.context, image_id, location)
    _clear_and_retry(client, inside, image_id)


@contextmanager
def _running(glance: PrivateGlance) -> Iterator[tuple['Client', Inside]]:
    running = InProcessGlance(glance)
    try:
        yield Client(TestApp(running.load(None), lint=False)), Inside(glance.folder, glance.folder.parent)
    finally:
        running.close()


def _clear_and_retry(client: 'Client', inside: Inside, image_id: str) -> None:
    requeue = Requeue()
    assert requeue.needed(image_id)
    requeue.clear(image_id, lambda: True)
    assert not requeue.needed(image_id)
    assert inside.image(image_id)['status'] == 'queued'
    assert inside.image(image_id)['locations'] == []
    assert not [path for path in inside.files() if path.name.startswith(image_id)]
    assert client.send(image_id, DATA) == 204
    assert client.request('GET', f'/v2/images/{image_id}/file').body == DATA


def died_uploading(client: 'Client', headers: Mapping[str, str] | None = None) -> str:
    """An image whose upload died with its process: ``saving`` for ever, with a partial file."""
    image_id = client.created()
    with pytest.raises(Died):
        client.send(image_id, Body([DATA[:200_000], Died()]), headers=headers)
    return image_id
