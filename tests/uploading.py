"""What tests of behaviour share: a client of one caller, bodies as servers deliver them, the two pipelines."""

import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import create_engine, text
from webtest import TestApp, TestResponse

from imgguard.attempts import Claim, ImageRecord
from imgguard.store import AttemptRow, Store
from tests.harness import InProcessGlance
from tests.identity import token

ALICE = token('alice', 'red')
KEEP = {'X-OpenStack-Image-Keep-On-Failure': 'true'}
KEPT = 'X-OpenStack-Image-Kept'
ERROR = 'os_glance_image_error'
ERROR_PROPERTIES = {ERROR, *(f'{ERROR}_{name}' for name in ('code', 'at', 'retryable', 'request_id', 'attempts'))}
WAIT_SECONDS = 60.0


class Body:
    """A ``wsgi.input`` that delivers these blocks, an exception among them being raised."""

    def __init__(self, blocks: Iterable[bytes | BaseException]) -> None:
        self._blocks = iter(blocks)
        self._rest = b''
        self.reads = 0

    def read(self, size: int) -> bytes:
        """Return exactly ``size`` bytes, fewer only at the end."""
        self.reads += 1
        while len(self._rest) < size:
            block = next(self._blocks, b'')
            if isinstance(block, BaseException):
                raise block
            if not block:
                break
            self._rest += block
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def readline(self, size: int = -1) -> bytes:
        """Never used by Glance; WSGI asks for it."""
        raise io.UnsupportedOperation

    readlines = __iter__ = readline


class Meanwhile(dict[str, Any]):
    """Does something while Glance handles an upload: after it has read the image, before it writes ``saving``.

    Glance looks for the roles of the token just there (``glance/api/v2/image_data.py``, ``upload``) and
    goes on when it finds none. Put it into the environ of the upload as ``keystone.token_info``.
    """

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def __getitem__(self, name: str) -> Any:
        self._action()
        raise KeyError(name)


class Images:
    """One caller's requests about images, through one pipeline."""

    def __init__(self, application: TestApp, caller: str = ALICE) -> None:
        self.application = application
        self.caller = caller

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None,
                body: bytes | Body | None = None, environ: Mapping[str, Any] | None = None) -> TestResponse:
        """Send a request; a :class:`Body` without ``CONTENT_LENGTH`` in ``environ`` is chunked."""
        extra: dict[str, Any] = dict(environ or {})
        if isinstance(body, Body):
            extra['wsgi.input'] = body
            if 'CONTENT_LENGTH' not in extra:
                extra |= {'HTTP_TRANSFER_ENCODING': 'chunked', 'wsgi.input_terminated': True}
        elif body is not None:
            extra = {'wsgi.input': io.BytesIO(body), 'CONTENT_LENGTH': str(len(body))} | extra
        request = self.application.RequestClass.blank(
            path, method=method, headers={'X-Auth-Token': self.caller, **(headers or {})})
        request.environ.pop('webob.is_body_seekable', None)
        request.environ.update(extra)
        return self.application.do_request(request, status='*', expect_errors=True)

    def json(self, method: str, path: str, document: object, headers: Mapping[str, str] | None = None) -> TestResponse:
        """Send a JSON document."""
        return self.request(method, path, {'Content-Type': 'application/json', **(headers or {})},
                            json.dumps(document).encode())

    def create(self, headers: Mapping[str, str] | None = None, **properties: object) -> TestResponse:
        """Create an image that data can be uploaded to."""
        document = {'name': f'image-{uuid4().hex[:8]}', 'disk_format': 'raw', 'container_format': 'bare', **properties}
        return self.json('POST', '/v2/images', document, headers)

    def created(self, headers: Mapping[str, str] | None = None, **properties: object) -> str:
        """Create an image and return its id."""
        image_id: str = self.create(headers, **properties).json['id']
        return image_id

    def upload(self, image_id: str, body: bytes | Body, headers: Mapping[str, str] | None = None,
               environ: Mapping[str, Any] | None = None) -> TestResponse:
        """Upload data."""
        return self.request('PUT', f'/v2/images/{image_id}/file',
                            {'Content-Type': 'application/octet-stream', **(headers or {})}, body, environ)

    def upload_cut(self, image_id: str, arrived: bytes = b'x' * 300, announced: int = 1000,
                   headers: Mapping[str, str] | None = None) -> TestResponse:
        """Announce more than arrives."""
        return self.upload(image_id, Body([arrived]), headers, {'CONTENT_LENGTH': str(announced)})

    def in_error(self, **properties: object) -> str:
        """Create an image to be kept whose first upload is cut, and return its id."""
        image_id = self.created(KEEP, **properties)
        self.upload_cut(image_id)
        return image_id

    def patch(self, image_id: str, *operations: Mapping[str, object], media_type: str = '2.1',
              headers: Mapping[str, str] | None = None) -> TestResponse:
        """Update the image with JSON patch operations."""
        content = {'Content-Type': f'application/openstack-images-v{media_type}-json-patch'}
        return self.json('PATCH', f'/v2/images/{image_id}', operations, {**content, **(headers or {})})

    def show(self, image_id: str) -> dict[str, Any]:
        """The image as shown to this caller."""
        image: dict[str, Any] = self.request('GET', f'/v2/images/{image_id}').json
        return image

    def download(self, image_id: str, headers: Mapping[str, str] | None = None) -> TestResponse:
        """The data of the image."""
        return self.request('GET', f'/v2/images/{image_id}/file', headers)

    def listed(self, query: str) -> list[str]:
        """The ids of one page."""
        return [image['id'] for image in self.request('GET', f'/v2/images?{query}').json['images']]

    @contextmanager
    def uploading(self, image_id: str, data: bytes = b'held' * 50000,
                  headers: Mapping[str, str] | None = None) -> Iterator['UnderWay']:
        """An upload that has begun and stands still within the block; at its end it gets the rest of its data."""
        under_way = UnderWay(self, image_id, data, headers or {})
        try:
            under_way.wait_until_it_stands()
            yield under_way
        finally:
            under_way.finish()


class UnderWay:
    """An upload in a thread of its own, held back in the middle of its chunked body."""

    def __init__(self, images: Images, image_id: str, data: bytes, headers: Mapping[str, str]) -> None:
        self.data = data
        self.answer: TestResponse | None = None
        self._stands, self._go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(images, image_id, headers))
        self._thread.start()

    def wait_until_it_stands(self) -> None:
        """Return when Glance has begun to take the data."""
        assert self._stands.wait(WAIT_SECONDS) and self._thread.is_alive(), self.answer

    def finish(self) -> None:
        """Let the rest of the data come, and wait for the answer."""
        self._go_on.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()

    def _run(self, images: Images, image_id: str, headers: Mapping[str, str]) -> None:
        self.answer = images.upload(image_id, Body(self._blocks()), headers)
        self._stands.set()

    def _blocks(self) -> Iterator[bytes]:
        # More than the guard and Glance read ahead, so that Glance has seen some of it.
        half = 3 * len(self.data) // 4
        yield self.data[:half]
        self._stands.set()
        assert self._go_on.wait(WAIT_SECONDS)
        yield self.data[half:]


class Pipelines:
    """The same Glance with the guard and without it, and the guard's store."""

    def __init__(self, glance: InProcessGlance, folder: Path, lint: bool = True, **options: str) -> None:
        self._glance = glance
        self.connection = f'sqlite:///{folder}/imgguard.db'
        self.guarded = TestApp(glance.load({'connection': self.connection, **options}), lint=lint)
        self.store = Store(self.connection, lease_seconds=60)

    @cached_property
    def bare(self) -> TestApp:
        """The Glance without the guard; without lint too, for Glance itself closes ``wsgi.input``."""
        return TestApp(self._glance.load(None), lint=False)

    def images(self) -> Images:
        """A member of a project that has no images yet, in front of the guard."""
        return Images(self.guarded, token('alice', new_project()))

    def callers(self, caller: str | None = None) -> tuple[Images, Images]:
        """The same caller in front of the guard and of the bare Glance; without one given, of a new project."""
        caller = caller or token('alice', new_project())
        return Images(self.guarded, caller), Images(self.bare, caller)

    def record(self, image_id: str) -> ImageRecord | None:
        """What the guard's store knows of an image."""
        return next(iter(self.store.records([image_id]).values()), None)

    def attempts(self, image_id: str) -> list[AttemptRow]:
        """The history of an image, the oldest attempt first."""
        record = self.record(image_id)
        return [] if record is None else self.store.attempts(record.key, 100)[::-1]


def silence(connection: str, claim: Claim, seconds: float) -> None:
    """Let the last sign of life of an attempt be so long ago, and another worker have lived all the while.

    :param connection: the guard's store, on SQLite
    """
    engine = create_engine(connection)
    now = "((julianday('now') - 2440587.5) * 86400.0)"
    with engine.begin() as opened:
        opened.execute(text(f'UPDATE imgguard_images SET running_at = {now} - :s WHERE "key" = :key '
                            'AND running_number IS NOT NULL'), {'s': seconds, 'key': claim.key})
        opened.execute(text(f'UPDATE imgguard_attempts SET updated_at = {now} - :s WHERE image_key = :key'),
                       {'s': seconds, 'key': claim.key})
        opened.execute(text('INSERT OR REPLACE INTO imgguard_workers (worker, host, since, seen_at) '
                            f"VALUES ('witness', 'here', {now} - :s - 100, {now})"), {'s': seconds})
    engine.dispose()


def new_project() -> str:
    """A project that has no images yet."""
    return f'project-{uuid4().hex[:8]}'


_CHANGING = re.compile(
    r'[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|(?:image|project)-[0-9a-f]{8}|'
    r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z?')


def comparable(answer: TestResponse) -> tuple[str, list[tuple[str, str]], str]:
    """Status, headers and body of an answer without what differs each time: ids, names, times."""
    # WebTest tells the port of its host, and a Glance behind a server spells it in its links.
    headers = [(name, _CHANGING.sub('…', value.replace('//localhost:80/', '//localhost/')))
               for name, value in answer.headerlist
               if name.lower() not in ('x-openstack-request-id', 'date', 'content-length', 'server')]
    return answer.status, headers, _CHANGING.sub('…', answer.text)
