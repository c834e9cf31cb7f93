"""Every way an upload can fail: what the client is answered, and what the image then says.

One row of the table is one way. Glance's own failures are answered as the bare Glance answers them,
which each row checks with the same request; where the guard itself refuses, the row says so.
"""

import base64
import hashlib
import importlib
import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import glance_store
import pytest
from glance_store import exceptions as store_errors
from webtest import TestResponse

from tests.conftest import OverrideGlance
from tests.harness import InProcessGlance
from tests.uploading import ERROR, KEEP, KEPT, Body, Images, Pipelines, comparable

DATA = b'data of an image' * 8192
BLOCK = b'x' * 100000
GUNICORN: Any = importlib.import_module('gunicorn.http.errors')
NO_SHA_256 = f'sha-256=:{base64.b64encode(hashlib.sha256(b"other data").digest()).decode()}:'
SIGNATURE = {
    'img_signature': base64.b64encode(b'signature').decode(), 'img_signature_hash_method': 'SHA-256',
    'img_signature_key_type': 'RSA-PSS', 'img_signature_certificate_uuid': '7f0c5a0e-0000-4000-8000-000000000000'}


@dataclass(frozen=True)
class Scene:
    """What a row may use to bring its failure about."""

    glance: InProcessGlance
    override: OverrideGlance
    patch: pytest.MonkeyPatch


Sends = Callable[[Images, str], TestResponse]
Prepares = Callable[[Scene, str], None]


@dataclass(frozen=True)
class Cause:
    """One way an upload fails.

    :param send: the upload
    :param status: of the answer
    :param code: shown by the image
    :param words: some of the text the image shows
    :param prepare: what is wrong at the server beforehand
    :param properties: of the image
    :param by_the_guard: whether the guard refuses what the bare Glance takes or answers in another way
    """

    send: Sends
    status: int
    code: str
    words: tuple[str, ...]
    retryable: bool
    prepare: Prepares = lambda scene, image_id: None
    properties: Mapping[str, Any] = field(default_factory=dict)
    by_the_guard: bool = False


def whole(images: Images, image_id: str) -> TestResponse:
    return images.upload(image_id, DATA)


def chunked(images: Images, image_id: str) -> TestResponse:
    return images.upload(image_id, Body([DATA]))


def breaking(error: Exception) -> Sends:
    """A chunked upload whose reading fails after some of its data, as servers let it fail."""
    return lambda images, image_id: images.upload(image_id, Body([BLOCK, error]))


def with_headers(body: bytes = DATA, environ: dict[str, Any] | None = None, **headers: str) -> Sends:
    named = {name.replace('_', '-'): value for name, value in headers.items()}
    return lambda images, image_id: images.upload(image_id, body, named, environ)


def option(name: str, value: object) -> Prepares:
    return lambda scene, image_id: scene.override(name, value)


def store_fails(error: Exception, after: int = 0) -> Prepares:
    """The driver of the store raises this, as those of real stores do, after it has read so many bytes."""
    def prepare(scene: Scene, image_id: str) -> None:
        def add(image_id: str, image_file: Any, image_size: int, *rest: Any, **options: Any) -> None:
            if after:
                image_file.read(after)
            raise error
        scene.patch.setattr(glance_store.get_store_from_store_identifier('fs'), 'add', add)
    return prepare


def checksum_is_set(scene: Scene, image_id: str) -> None:
    with sqlite3.connect(scene.glance.glance.database) as database:
        database.execute('UPDATE images SET checksum = ? WHERE id = ?', ('0' * 32, image_id))
    database.close()


RESET = OSError('Connection reset by peer')
CAUSES = {
    # The client and its connection
    'cut, Content-Length': Cause(
        lambda images, image_id: images.upload_cut(image_id), 500, 'client_disconnected',
        ('connection to the client was lost', '300 of 1000 bytes had arrived'), True),
    'reset, Content-Length': Cause(
        lambda images, image_id: images.upload(image_id, Body([BLOCK, RESET]), environ={'CONTENT_LENGTH': '200000'}),
        500, 'client_disconnected', ('connection to the client was lost', 'of 200000 bytes had arrived'), True),
    'reset, chunked': Cause(
        breaking(RESET), 500, 'client_disconnected', ('connection to the client was lost', 'bytes had arrived'), True),
    'timeout of the server': Cause(
        breaking(TimeoutError('timed out')), 500, 'client_disconnected', ('had arrived',), True),
    'chunked cut, gunicorn': Cause(
        breaking(GUNICORN.NoMoreData()), 500, 'client_disconnected', ('had arrived',), True),
    'chunked cut, cheroot': Cause(
        breaking(ValueError("Bad chunked transfer size: b''")), 400, 'client_disconnected', ('had arrived',), True),
    'malformed chunk, cheroot': Cause(
        breaking(ValueError("Bad chunked transfer size: b'zz'")), 400, 'bad_request',
        ('body of the upload was malformed', "b'zz'"), False),
    'malformed chunk, gunicorn': Cause(
        breaking(GUNICORN.InvalidChunkSize(b'zz')), 500, 'bad_request',
        ('body of the upload was malformed',), False),

    # What the client announced
    'Content-Length: abc': Cause(
        with_headers(environ={'CONTENT_LENGTH': 'abc'}), 400, 'bad_request', ('Content-Length is not a number',), False,
        by_the_guard=True),
    'Content-Length: -1': Cause(
        with_headers(environ={'CONTENT_LENGTH': '-1'}), 400, 'bad_request', ('Content-Length is not a number',), False,
        by_the_guard=True),
    'Content-Length and Transfer-Encoding': Cause(
        with_headers(environ={'HTTP_TRANSFER_ENCODING': 'chunked'}), 400, 'bad_request', ('exclude each other',), False,
        by_the_guard=True),
    'unknown Transfer-Encoding': Cause(
        with_headers(environ={'HTTP_TRANSFER_ENCODING': 'gzip'}), 400, 'bad_request', ('Transfer-Encoding',), False,
        by_the_guard=True),
    'X-OpenStack-Image-Size, too few bytes': Cause(
        with_headers(X_OpenStack_Image_Size='900000'), 400, 'size_mismatch', ('131072 bytes', '900000'), True,
        by_the_guard=True),
    'X-OpenStack-Image-Size, too many bytes': Cause(
        with_headers(X_OpenStack_Image_Size='100'), 400, 'size_mismatch', ('131072 bytes', 'announced 100'), True,
        by_the_guard=True),
    'X-OpenStack-Image-Size, no number': Cause(
        with_headers(X_OpenStack_Image_Size='big'), 400, 'bad_request', ('Invalid or missing image size',), False),
    'X-OpenStack-Image-Size, negative': Cause(
        with_headers(X_OpenStack_Image_Size='-5'), 400, 'size_mismatch', ('-5',), True),
    'digest of other data': Cause(
        with_headers(Content_Digest=NO_SHA_256), 400, 'digest_mismatch', ('sha-256', 'Content-Digest'), True,
        by_the_guard=True),
    'digest of other data, Repr-Digest': Cause(
        with_headers(Repr_Digest=NO_SHA_256), 400, 'digest_mismatch', ('sha-256', 'Repr-Digest'), True,
        by_the_guard=True),
    'digest of other data, no data': Cause(
        with_headers(b'', Content_Digest=NO_SHA_256), 400, 'digest_mismatch', ('sha-256',), True, by_the_guard=True),
    'malformed digest': Cause(
        with_headers(Content_Digest='sha-256=abc'), 400, 'bad_request', ('Content-Digest must look like',), False,
        by_the_guard=True),
    'wrong Content-Type': Cause(
        with_headers(Content_Type='text/plain'), 415, 'bad_request', ('Invalid content type text/plain',), False),
    'unknown store': Cause(
        with_headers(X_Image_Meta_Store='nope'), 400, 'bad_request', ('Store for identifier nope not found',), False),

    # The image
    'no formats': Cause(
        whole, 400, 'bad_request', ('must be set prior to saving data',), False,
        properties={'disk_format': None, 'container_format': None}),
    'another format': Cause(
        whole, 415, 'format_rejected', ('disk_format qcow2 does not match stream data raw',), False,
        properties={'disk_format': 'qcow2'}),
    'signature that cannot be verified': Cause(
        whole, 400, 'signature_rejected', ('Signature verification failed',), False, properties=SIGNATURE),
    'checksum that is set already': Cause(
        whole, 500, 'digest_mismatch', ('Glance logged: checksum of uploaded data is different',), True,
        checksum_is_set),

    # Limits
    'image_size_cap': Cause(
        whole, 413, 'size_limit_exceeded', ('The incoming image is too large',), False, option('image_size_cap', 1000)),
    'image_size_cap, chunked': Cause(
        chunked, 413, 'size_limit_exceeded', ('The incoming image is too large',), False,
        option('image_size_cap', 1000)),
    'user_storage_quota': Cause(
        whole, 413, 'quota_exceeded', ('Image exceeds the storage quota', '1000 bytes remaining'), True,
        option('user_storage_quota', '1000')),

    # The store
    'store full': Cause(
        whole, 413, 'storage_full', ('Image storage media is full',), True, store_fails(glance_store.StorageFull())),
    'store full half-way': Cause(
        whole, 413, 'storage_full', ('Image storage media is full',), True,
        store_fails(glance_store.StorageFull(), after=65536)),
    'store full half-way, chunked': Cause(
        chunked, 413, 'storage_full', ('Image storage media is full',), True,
        store_fails(glance_store.StorageFull(), after=65536)),
    'store denies': Cause(
        whole, 503, 'storage_unavailable', ('Insufficient permissions on image storage media',), True,
        store_fails(glance_store.StorageWriteDenied())),
    'store timed out': Cause(
        whole, 503, 'storage_unavailable', ('timed out',), True,
        store_fails(store_errors.TimeoutError(message='the store timed out'))),
    'store disabled': Cause(
        whole, 410, 'storage_unavailable', ('Adding images to store is disabled',), True,
        store_fails(glance_store.StoreAddDisabled())),
    'store breaks half-way': Cause(
        whole, 500, 'backend_error', ('of 131072 bytes had arrived', 'Glance logged: Connection to rados lost'), True,
        store_fails(OSError('Connection to rados lost'), after=65536)),
    'store breaks without a word': Cause(
        whole, 500, 'backend_error', ('Glance logged: RuntimeError',), True, store_fails(RuntimeError())),
    'store read-only': Cause(
        whole, 500, 'storage_unavailable', ('Read-only file system',), True,
        store_fails(OSError(30, 'Read-only file system', '/srv/glance/images/1'))),
    'store without room, told by the system': Cause(
        whole, 500, 'storage_full', ('No space left',), True, store_fails(OSError(28, 'No space left on device'))),
}


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    # Without lint, which refuses a wrong Content-Length by itself.
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'), lint=False)


@pytest.fixture
def scene(
    in_process_glance: InProcessGlance, override_glance: OverrideGlance, monkeypatch: pytest.MonkeyPatch,
) -> Scene:
    return Scene(in_process_glance, override_glance, monkeypatch)


@pytest.mark.parametrize('cause', CAUSES.values(), ids=CAUSES)
def test_an_upload_fails(pipelines: Pipelines, scene: Scene, cause: Cause) -> None:
    images, bare = pipelines.callers()
    image_id, image_of_bare = images.created(KEEP, **cause.properties), bare.created(**cause.properties)
    cause.prepare(scene, image_id)
    cause.prepare(scene, image_of_bare)

    failed = cause.send(images, image_id)
    assert (failed.status_int, failed.headers[KEPT]) == (cause.status, 'error'), failed.text
    image = images.show(image_id)
    assert (image['status'], image[f'{ERROR}_code']) == ('error', cause.code), image[ERROR]
    assert not [words for words in cause.words if words not in image[ERROR]], image[ERROR]
    assert image[f'{ERROR}_retryable'] == ('true' if cause.retryable else 'false')
    assert str(scene.glance.glance.folder) not in image[ERROR] and '/srv' not in image[ERROR]
    assert bare.show(image_id)['status'] == 'queued'

    if not cause.by_the_guard:
        del failed.headers[KEPT]
        assert comparable(failed) == comparable(cause.send(bare, image_of_bare))


def test_no_format_can_be_given_afterwards(pipelines: Pipelines) -> None:
    images, _ = pipelines.callers()
    image_id = images.created(KEEP, disk_format=None, container_format=None)
    assert images.upload(image_id, DATA).status_int == 400
    added = images.patch(image_id, {'op': 'replace', 'path': '/disk_format', 'value': 'raw'},
                         {'op': 'replace', 'path': '/container_format', 'value': 'bare'})
    assert (added.status_int, added.json['status']) == (200, 'error'), 'only data ends the error'
    assert images.upload(image_id, DATA).status_int == 204
    assert images.show(image_id)['status'] == 'active'


@pytest.mark.parametrize('in_its_place', ['nothing', 'a file'])
def test_the_directory_of_the_store_is_missing(
    pipelines: Pipelines, in_process_glance: InProcessGlance, in_its_place: str,
) -> None:
    images, bare = pipelines.callers()
    image_id, image_of_bare = images.created(KEEP), bare.created()
    store = in_process_glance.glance.store
    away = store.rename(store.with_name('away'))
    try:
        if in_its_place == 'a file':
            store.write_text('not a directory')
        failed, failed_bare = images.upload(image_id, DATA), bare.upload(image_of_bare, DATA)
    finally:
        store.unlink(missing_ok=True)
        away.rename(store)
    assert (failed.status_int, failed.headers[KEPT]) == (500, 'error')
    del failed.headers[KEPT]
    assert comparable(failed) == comparable(failed_bare)
    image = images.show(image_id)
    assert 'Glance logged: [Errno 2' in image[ERROR] and '(path)' in image[ERROR]
    assert str(in_process_glance.glance.folder) not in image[ERROR] and image_id not in image[ERROR]
    assert images.upload(image_id, DATA).status_int == 204, 'the same image, once the store is back'


@pytest.mark.parametrize('accept', ['*/*', 'text/plain', 'text/html', 'application/json'])
def test_the_text_is_the_same_in_whatever_form_the_client_was_answered(
    pipelines: Pipelines, override_glance: OverrideGlance, accept: str,
) -> None:
    images, _ = pipelines.callers()
    override_glance('image_size_cap', 1000)
    image_id = images.created(KEEP)
    images.upload(image_id, DATA, {'Accept': accept})
    assert images.show(image_id)[ERROR] == 'The incoming image is too large: The provided image is too large.'


ORDER = {
    'Content-Length': lambda images, image_id: images.upload(image_id, DATA, {'Content-Digest': NO_SHA_256}),
    'chunked': lambda images, image_id: images.upload(image_id, Body([DATA]), {'Content-Digest': NO_SHA_256}),
    'chunked, size': lambda images, image_id: images.upload(
        image_id, Body([DATA]), {'X-OpenStack-Image-Size': str(len(DATA) + 1)}),
}


@pytest.mark.parametrize('send', ORDER.values(), ids=ORDER)
def test_data_that_is_not_what_was_announced_never_becomes_active(
    pipelines: Pipelines, in_process_glance: InProcessGlance, send: Sends,
) -> None:
    images, bare = pipelines.callers()
    image_id = images.created(KEEP)
    assert send(images, image_id).status_int == 400
    assert bare.show(image_id)['status'] == 'queued'
    assert not (in_process_glance.glance.store / image_id).exists(), 'the store has nothing of it'
    assert images.upload(image_id, DATA).status_int == 204


def test_the_guards_own_refusals_have_the_form_of_glances(pipelines: Pipelines) -> None:
    images, _ = pipelines.callers()
    image_id = images.created(KEEP)
    for accept, form in (
            ('text/plain', r'400 Bad Request\n\n'), ('text/html', r'<html>\s*<head>'),
            ('application/json', r'\{"message": ".*", "code": "400 Bad Request", "title": "Bad Request"\}')):
        refused = images.upload(image_id, DATA, {'Accept': accept, 'Content-Digest': 'sha-256=abc'})
        assert refused.content_type == accept
        assert re.match(form, refused.text), refused.text
        assert 'Content-Digest must look like sha-256=:BASE64: (RFC 9530).' in refused.text
