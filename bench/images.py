"""Images for the cases: some made by requests, the many written into both databases at once."""

import io
import itertools
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, create_engine, func, insert, select, text

from bench.pipelines import OCTETS, Application, Pipelines, Request, ask, expect
from imgguard import codes
from imgguard.attempts import Kind, State
from imgguard.store import models

KEEP: Final = {'HTTP_X_OPENSTACK_IMAGE_KEEP_ON_FAILURE': 'true'}

_BATCH: Final = 5000
_BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Images:
    """Makes images by requests.

    :param pipelines: of the Glance that gets them
    """

    def __init__(self, pipelines: Pipelines) -> None:
        self._pipelines = pipelines

    def queued(self, keep: bool = False) -> str:
        """The path of a new image."""
        image = ask(self._pipelines.guard.plain, creating(keep))
        return f'/v2/images/{image["id"]}'

    def active(self) -> str:
        """The path of an active image nobody asked to keep."""
        path = self.queued()
        expect(self._pipelines.bare, uploading(path), 204)
        return path

    def in_error(self) -> str:
        """The path of an image in error."""
        path = self.queued(keep=True)
        expect(self._pipelines.guard.plain, uploading(path, HTTP_X_OPENSTACK_IMAGE_SIZE='1'), 400)
        return path

    def delete(self, path: str) -> None:
        """Delete an image, its data too."""
        expect(self._pipelines.bare, Request('DELETE', path), 204)


def creating(keep: bool) -> Request:
    """The request for a new image."""
    document = json.dumps({
        'name': 'image', 'disk_format': 'raw', 'container_format': 'bare', **_properties(5)}).encode()
    return Request('POST', '/v2/images', body=lambda: io.BytesIO(document), length=len(document),
                   content_type='application/json', environ=KEEP if keep else {})


def uploading(path: str, **environ: str) -> Request:
    """The request that uploads a little."""
    return Request('PUT', f'{path}/file', body=lambda: io.BytesIO(b'data'), length=4, content_type=OCTETS,
                   environ=environ)


def _properties(count: int) -> dict[str, str]:
    return {f'property_{number}': 'value' for number in range(count)}


@dataclass(frozen=True, slots=True)
class Crowd:
    """The images of a project.

    :param images: how many there are, each a second younger than the one before
    :param every: each such one waits for its data, the others are active; 0 for none
    :param in_error: whether those that wait are in error
    :param properties: how many properties an image has
    """

    project: str
    images: int
    every: int = 0
    in_error: bool = True
    properties: int = 5

    def waits(self, number: int) -> bool:
        """Whether that image waits for its data."""
        return bool(self.every) and number % self.every == 0


def bring(crowd: Crowd, glance: str, store: str) -> None:
    """Write a crowd into both databases.

    :param glance: URL of Glance's own database
    :param store: URL of the guard's store
    """
    ids = [str(uuid.uuid4()) for _ in range(crowd.images)]
    times = [_BEGAN + timedelta(seconds=number) for number in range(crowd.images)]
    _write(glance, itertools.chain.from_iterable(
        _of_glance(crowd, number, ids[number], times[number]) for number in range(crowd.images)))
    failed = [(ids[number], times[number].strftime('%Y-%m-%dT%H:%M:%SZ'))
              for number in range(crowd.images) if crowd.in_error and crowd.waits(number)]
    remember(store, failed, crowd.project, in_error=True)


def remember(store: str, images: list[tuple[str, str]], project: str, in_error: bool) -> None:
    """Write images with one attempt each into the guard's store.

    :param images: their ids and times of creation
    :param in_error: whether the attempt failed and is shown; else it brought the data
    """
    first = _next_key(store)
    _write(store, itertools.chain.from_iterable(
        _of_store(first + number, *image, project, in_error) for number, image in enumerate(images)))
    _settle(store)


def _settle(store: str) -> None:
    """Bring PostgreSQL to where it is by itself after a while."""
    engine = create_engine(store, isolation_level='AUTOCOMMIT')
    if engine.dialect.name == 'postgresql':
        with engine.connect() as connection:
            connection.execute(text("SELECT setval(pg_get_serial_sequence('imgguard_images', 'key'), "
                                    'greatest(1, (SELECT max(key) FROM imgguard_images)))'))
            for table in (models.images, models.attempts):
                connection.execute(text(f'VACUUM ANALYZE {table.name}'))
    engine.dispose()


def strangers(count: int) -> Iterator[list[tuple[str, str]]]:
    """Images of which no Glance knows, by the hundred thousand, for a store that has seen much."""
    for begin in range(0, count, 100_000):
        yield [(str(uuid.uuid4()), '2025-01-01T00:00:00Z') for _ in range(min(100_000, count - begin))]


def _of_glance(crowd: Crowd, number: int, image_id: str, at: datetime) -> Iterator[tuple[Any, dict[str, Any]]]:
    from glance.db.sqlalchemy import models as of_glance

    times = {'created_at': at.replace(tzinfo=None), 'updated_at': at.replace(tzinfo=None), 'deleted': False}
    waits = crowd.waits(number)
    data: dict[str, Any] = {'size': None, 'checksum': None, 'os_hash_algo': None, 'os_hash_value': None} if waits else {
        'size': 4, 'checksum': '0' * 32, 'os_hash_algo': 'sha512', 'os_hash_value': '0' * 128}
    yield of_glance.Image, {
        'id': image_id, 'name': f'image {number}', 'disk_format': 'raw', 'container_format': 'bare', 'min_disk': 0,
        'min_ram': 0, 'owner': crowd.project, 'visibility': 'shared', 'protected': False, 'os_hidden': False,
        'status': 'queued' if waits else 'active', **data, **times}
    for name, value in _properties(crowd.properties).items():
        yield of_glance.ImageProperty, {'image_id': image_id, 'name': name, 'value': value, **times}
    if not waits:
        yield of_glance.ImageLocation, {
            'image_id': image_id, 'value': f'file:///nowhere/{image_id}', 'meta_data': {'store': 'fs'},
            'status': 'active', **times}


def _of_store(key: int, image_id: str, created_at: str, project: str,
              in_error: bool) -> Iterator[tuple[Any, dict[str, Any]]]:
    at = _BEGAN.timestamp() + key / 1000
    code = codes.SIZE_MISMATCH if in_error else None
    text = codes.default_text(code) if code else None
    yield models.images, {
        'key': key, 'image_id': image_id, 'created_at': created_at, 'owner': project, 'keep': True, 'attempts': 1,
        'last_number': 1, 'cleared_number': 1, 'clearing_number': 1, 'error_number': 1 if in_error else None,
        'error_code': code, 'error_text': text, 'error_at': at if in_error else None,
        'error_request_id': f'req-{image_id}' if in_error else None, 'error_bytes': 4 if in_error else None}
    yield models.attempts, {
        'image_key': key, 'number': 1, 'kind': Kind.UPLOAD.value, 'guarded': True, 'code': code, 'message': text,
        'state': (State.FAILED if in_error else State.SUCCEEDED).value, 'http_status': 400 if in_error else 204,
        'request_id': f'req-{image_id}', 'started_at': at - 1, 'updated_at': at, 'finished_at': at,
        'bytes_received': 4, 'bytes_expected': 4, 'user_id': 'alice', 'project_id': project, 'host': 'host',
        'worker': 'worker'}


def _next_key(store: str) -> int:
    engine = create_engine(store)
    with engine.connect() as connection:
        newest = connection.execute(select(func.max(models.images.c.key))).scalar()
    engine.dispose()
    return (newest or 0) + 1


def _write(url: str, rows: Iterator[tuple[Any, dict[str, Any]]]) -> None:
    engine = create_engine(url)
    # Tables in the order in which they come first, for others refer to them.
    waiting: dict[Any, list[dict[str, Any]]] = {}

    def flush(connection: Connection) -> None:
        for table, values in waiting.items():
            if values:
                connection.execute(insert(table), values)
                values.clear()

    with engine.begin() as connection:
        if engine.dialect.name == 'sqlite':
            # As the servers do.
            connection.exec_driver_sql('PRAGMA foreign_keys=ON')
        for table, values in rows:
            waiting.setdefault(table, []).append(values)
            if len(waiting[table]) >= _BATCH:
                flush(connection)
        flush(connection)
    engine.dispose()


def of(application: Application, path: str, project: str) -> list[dict[str, Any]]:
    """The images of a list."""
    found: list[dict[str, Any]] = ask(application, Request('GET', path, project))['images']
    return found
