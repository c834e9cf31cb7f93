"""``PUT /v2/images/{id}/file``."""

import base64
import hashlib
import importlib
import struct
from typing import Any

import glance_store
from glance_store import exceptions as store_errors
from webtest import TestResponse

from tests.cases import NOTHING_LEFT, Case, Does, Left, Mends, Sends, Way
from tests.cases.scene import Scene
from tests.identity import reader_token, token
from tests.sources import DATA
from tests.uploading import KEEP, Body, Images, new_project

BLOCK = b'x' * 100000
GUNICORN: Any = importlib.import_module('gunicorn.http.errors')
RESET = OSError('Connection reset by peer')
NO_SHA_256 = f'sha-256=:{base64.b64encode(hashlib.sha256(b"other data").digest()).decode()}:'
SIGNATURE = {
    'img_signature': base64.b64encode(b'signature').decode(), 'img_signature_hash_method': 'SHA-256',
    'img_signature_key_type': 'RSA-PSS', 'img_signature_certificate_uuid': '7f0c5a0e-0000-4000-8000-000000000000'}
#: The header of a qcow2 image that names a file it is to be read over.
BACKED = struct.pack('>4sIQIIQ', b'QFI\xfb', 2, 72, 11, 16, 2 ** 20).ljust(72, b'\0') + b'/etc/passwd'.ljust(65536)
NO_FORMATS = {'disk_format': None, 'container_format': None}
LOST = 'The connection to the client was lost during the upload'
STUCK = Left('saving', retry_works=False)
MAKE_ROOM = 'the operator makes room'
REPAIR = 'the operator repairs the store'


def whole(scene: Scene, images: Images, image_id: str) -> TestResponse:
    """The right data, its length announced."""
    return images.upload(image_id, DATA)


def chunked(scene: Scene, images: Images, image_id: str) -> TestResponse:
    """The right data, in chunks."""
    return images.upload(image_id, Body([DATA]))


def cut(scene: Scene, images: Images, image_id: str) -> TestResponse:
    """300 of 1000 bytes."""
    return images.upload_cut(image_id)


def breaking(error: Exception, length: int | None = None) -> Sends:
    """An upload whose reading fails after some of its data, as servers let it fail."""
    environ = {} if length is None else {'CONTENT_LENGTH': str(length)}
    return lambda scene, images, image_id: images.upload(image_id, Body([BLOCK, error]), environ=environ)


def given(body: bytes = DATA, environ: dict[str, Any] | None = None, **headers: str) -> Sends:
    """An upload with these headers."""
    named = {name.replace('_', '-'): value for name, value in headers.items()}
    return lambda scene, images, image_id: images.upload(image_id, body, named, environ)


def option(name: str, value: object) -> Does:
    """An option of Glance has this value."""
    return lambda scene, images, image_id: scene.option(name, value)


def store_fails(error: Exception, after: int = 0) -> Does:
    """The driver of the store raises this."""
    return lambda scene, images, image_id: scene.fails('fs', error, after)


def mounted(store: str, *options: str) -> Does:
    """A file system of its own is in the place of the store's directory."""
    return lambda scene, images, image_id: scene.mount(scene.stores.folders[store], *options)


def checksum_is_set(scene: Scene, images: Images, image_id: str) -> None:
    """As a client of v1 may have done."""
    scene.inside(image_id).write(checksum='0' * 32)


def change(**properties: str | None) -> Mends:
    """Properties of the image are set, or removed."""
    def mend(scene: Scene, images: Images, image_id: str) -> bool:
        changes: list[dict[str, object]] = [
            {'op': 'remove', 'path': f'/{name}'} if value is None else
            {'op': 'replace', 'path': f'/{name}', 'value': value} for name, value in properties.items()]
        return bool(images.patch(image_id, *changes).status_int == 200)
    return mend


def active(scene: Scene, images: Images) -> str:
    """An image that has its data."""
    image_id = images.created(KEEP)
    assert images.upload(image_id, DATA).status_int == 204
    return image_id


def by(roles: str) -> Sends:
    """An upload by somebody else."""
    def send(scene: Scene, images: Images, image_id: str) -> TestResponse:
        project = images.caller.split(':')[1]
        callers = {'reader': reader_token('rita', project), 'stranger': token('eve', new_project()), 'nobody': ''}
        return Images(images.application, callers[roles]).upload(image_id, DATA, KEEP)
    return send


def duplicate(scene: Scene, images: Images, image_id: str) -> None:
    """A dead upload has left a file."""
    (scene.stores.folders['fs'] / image_id).write_bytes(b'left over')


UPLOADS = (
    # The numbers up to 1.33 follow the order in which Glance's code meets these things.
    Case('1.1', 'The connection to the client is lost; the length was announced', 'none, or 500', NOTHING_LEFT,
         'client_disconnected', {
             'cut': Way(cut, 500, words=(LOST, '300 of 1000 bytes had arrived')),
             'reset': Way(breaking(RESET, 200000), 500, words=(LOST, 'of 200000 bytes had arrived')),
             'timeout of the server': Way(breaking(TimeoutError('timed out'), 200000), 500, words=(LOST,)),
         }),
    Case('1.2', 'The connection to the client is lost; the body was chunked', 'none, 500, or 400 (cheroot)',
         NOTHING_LEFT, 'client_disconnected', {
             'reset': Way(breaking(RESET), 500), 'timeout of the server': Way(breaking(TimeoutError('timed out')), 500),
             'gunicorn': Way(breaking(GUNICORN.NoMoreData()), 500),
             'cheroot': Way(breaking(ValueError("Bad chunked transfer size: b''")), 400),
         }, (LOST, 'bytes had arrived')),
    Case('1.3', 'A chunked body is malformed (for uWSGI see 1.44)', '400 or 500', NOTHING_LEFT, 'bad_request', {
        'cheroot': Way(breaking(ValueError("Bad chunked transfer size: b'zz'")), 400, words=("b'zz'",)),
        'gunicorn': Way(breaking(GUNICORN.InvalidChunkSize(b'zz')), 500),
    }, ('The body of the upload was malformed',), False, 'correct the client'),
    Case('1.4', 'A body of zero bytes (volume-backed snapshots send one)', '204', '``active``, size 0', None, {
        'length': Way(given(b''), 204), 'chunked': Way(lambda scene, images, image_id: images.upload(
            image_id, Body([])), 204),
    }),
    Case('1.4a', '``Content-Length`` that is no number, or beside ``Transfer-Encoding``; a ``Transfer-Encoding`` other '
         'than ``chunked``', '204', '``active``, size 0 (uWSGI)', 'bad_request', {
             'abc': Way(given(environ={'CONTENT_LENGTH': 'abc'}), 400, by_the_guard=True,
                        words=('Content-Length is not a number',)),
             'negative': Way(given(environ={'CONTENT_LENGTH': '-1'}), 400, by_the_guard=True,
                             words=('Content-Length is not a number',)),
             'both': Way(given(environ={'HTTP_TRANSFER_ENCODING': 'chunked'}), 400, by_the_guard=True,
                         words=('exclude each other',)),
             'gzip': Way(given(environ={'HTTP_TRANSFER_ENCODING': 'gzip'}), 400, by_the_guard=True,
                         words=('Transfer-Encoding',)),
         }, (), False, 'correct the client'),
    Case('1.4b', 'An empty chunked body after an attempt that had data: a client repeats a body it has used up', '204',
         '``active``, size 0', 'empty_retry', retryable=False, first='correct the client'),
    Case('1.5', 'Larger than ``image_size_cap``', '413', NOTHING_LEFT, 'size_limit_exceeded', {
        'length': Way(whole, 413, option('image_size_cap', 1000)),
        'chunked': Way(chunked, 413, option('image_size_cap', 1000)),
    }, ('The incoming image is too large',), False, 'send a smaller image, or the operator raises the limit'),
    Case('1.6', 'Over ``user_storage_quota``; the length was announced', '413', NOTHING_LEFT, 'quota_exceeded', {
        'length': Way(whole, 413, option('user_storage_quota', '1000')),
    }, ('Image exceeds the storage quota', '1000 bytes remaining'), first='delete images, or get a larger quota'),
    Case('1.7', 'Over ``user_storage_quota``; the body was chunked', '413', STUCK, 'quota_exceeded', {
        'chunked': Way(chunked, 413, option('user_storage_quota', '1000')),
    }, ('Image exceeds the storage quota',), first='delete images, or get a larger quota'),
    Case('1.8', 'The store is full', '413 or 500', NOTHING_LEFT, 'storage_full', {
        'at once': Way(whole, 413, store_fails(glance_store.StorageFull())),
        'a file system': Way(given(X_Image_Meta_Store='fs2'), 413, mounted('fs2', 'size=64k')),
        'a file system, chunked': Way(lambda scene, images, image_id: images.upload(
            image_id, Body([DATA]), {'X-Image-Meta-Store': 'fs2'}), 413, mounted('fs2', 'size=64k')),
        'half-way': Way(whole, 413, store_fails(glance_store.StorageFull(), after=65536)),
        'half-way, chunked': Way(chunked, 413, store_fails(glance_store.StorageFull(), after=65536)),
        'told by the system': Way(whole, 500, store_fails(OSError(28, 'No space left on device')),
                                  words=('No space left',)),
    }, ('Image storage media is full',), first=MAKE_ROOM),
    Case('1.9', 'Glance may not write to the store', '503', NOTHING_LEFT, 'storage_unavailable', {
        'denied': Way(whole, 503, store_fails(glance_store.StorageWriteDenied())),
    }, ('Insufficient permissions on image storage media',), first=REPAIR),
    Case('1.9a', 'The store does not answer in time', '503', NOTHING_LEFT, 'storage_unavailable', {
        'timeout': Way(whole, 503, store_fails(store_errors.TimeoutError(message='the store timed out'))),
    }, ('timed out',), first=REPAIR),
    Case('1.10', 'The directory of the store is missing, or on a read-only file system', '500, no reason', NOTHING_LEFT,
         'storage_unavailable', {
             'missing': Way(whole, 500, lambda scene, *_: scene.take_away('fs'), words=('[Errno 2', '(path)')),
             'read-only': Way(given(X_Image_Meta_Store='fs2'), 500, mounted('fs2', 'ro'), words=(
                 'Read-only file system', '(path)')),
             'read-only, half-way': Way(whole, 500, store_fails(OSError(30, 'Read-only file system'), after=65536),
                                        words=('Read-only file system',)),
         }, ('Glance logged: ',), first=REPAIR),
    Case('1.11', 'The store was unwritable when Glance started', '410', NOTHING_LEFT, 'storage_unavailable', {
        'disabled': Way(whole, 410, lambda scene, *_: scene.disable('fs')),
    }, ('Adding images to store is disabled',), first='the operator repairs the store and restarts Glance'),
    Case('1.12', '``X-Image-Meta-Store`` names no store', '400', NOTHING_LEFT, 'bad_request', {
        'unknown': Way(given(X_Image_Meta_Store='nope'), 400),
    }, ('Store for identifier nope not found',), False, 'name a store there is'),
    Case('1.13', 'An image that has its data', '409', '``active``', None, {
        'active': Way(whole, 409, created=active)}),
    Case('1.14', 'An image that does not exist, or is another project\'s', '404', NOTHING_LEFT, None, {
        'stranger': Way(by('stranger'), 404)}),
    Case('1.15', 'A caller who may not upload', '403', NOTHING_LEFT, None, {'reader': Way(by('reader'), 403)}),
    Case('1.16', 'The same while an upload runs', '403', '``queued``; the running upload then fails with 410', None),
    Case('1.16a', 'The same while staged data waits', '403', '``queued``, staged data, **no stage works**', None),
    Case('1.17', 'A second upload while one runs', '409', '``saving``; the first one goes on', None),
    Case('1.18', 'Several uploads at the same moment', '204 once, else 410', '``active`` by one of them', None),
    Case('1.19', 'The image is deleted while it is uploaded', '410', 'deleted', None),
    # 1.20 to 1.23 are played on servers.
    Case('1.24', 'Another ``Content-Type`` than ``application/octet-stream``, or none', '415', NOTHING_LEFT,
         'bad_request', {
             'text': Way(given(Content_Type='text/plain'), 415, words=('Invalid content type text/plain',)),
             'none': Way(given(Content_Type=''), 415, words=('Invalid content type',)),
         }, (), False, 'correct the client'),
    Case('1.25', 'The image has no ``disk_format`` or ``container_format``', '400', NOTHING_LEFT, 'bad_request', {
        'both': Way(whole, 400, properties=NO_FORMATS)}, ('must be set prior to saving data',), False,
        'set both with a PATCH', change(disk_format='raw', container_format='bare')),
    Case('1.26', 'The data is not of the ``disk_format``, or fails Glance\'s safety checks', '415',
         Left('queued', stored=True, retry_works=False), 'format_rejected', {
             'length': Way(whole, 415, properties={'disk_format': 'qcow2'}),
             'chunked': Way(chunked, 415, properties={'disk_format': 'qcow2'}),
             'backing file': Way(given(BACKED), 415, properties={'disk_format': 'qcow2'}, words=(
                 'Image failed safety checks',)),
         }, ('disk_format qcow2 does not match stream data raw',), False,
         'correct ``disk_format`` with a PATCH, or the data', change(disk_format='raw')),
    Case('1.27', 'The signature cannot be verified', '400', NOTHING_LEFT, 'signature_rejected', {
        'no certificate': Way(whole, 400, properties=SIGNATURE),
        'unknown key': Way(whole, 400, properties={**SIGNATURE, 'img_signature_key_type': 'UNKNOWN'}),
    }, ('Signature verification failed',), False,
        'correct or remove the ``img_signature`` properties', change(**dict.fromkeys(SIGNATURE))),
    Case('1.28', 'The image names a checksum already (as v1 allows), of other data', '500, no reason',
         Left('queued', stored=True, retry_works=False), 'digest_mismatch', {
             'set': Way(whole, 500, checksum_is_set)}, ('Glance logged: checksum of uploaded data is different',)),
    Case('1.29', '``X-OpenStack-Image-Size`` that is no number', '400', NOTHING_LEFT, 'bad_request', {
        'big': Way(given(X_OpenStack_Image_Size='big'), 400)}, ('Invalid or missing image size',), False,
        'correct the client'),
    Case('1.30', 'Other bytes than ``X-OpenStack-Image-Size`` announced', '400', NOTHING_LEFT, 'size_mismatch', {
        'too few': Way(given(X_OpenStack_Image_Size='900000'), 400, words=('131072 bytes', '900000'),
                       by_the_guard=True),
        'too many': Way(given(X_OpenStack_Image_Size='100'), 400, words=('131072 bytes', 'announced 100'),
                        by_the_guard=True),
        'negative': Way(given(X_OpenStack_Image_Size='-5'), 400, words=('-5',)),
    }),
    Case('1.30a', 'Other bytes than ``Content-Digest`` or ``Repr-Digest`` announced', '204', '``active``, wrong data',
         'digest_mismatch', {
             'Content-Digest': Way(given(Content_Digest=NO_SHA_256), 400, words=('Content-Digest',), by_the_guard=True),
             'Repr-Digest': Way(given(Repr_Digest=NO_SHA_256), 400, words=('Repr-Digest',), by_the_guard=True),
             'no data': Way(given(b'', Content_Digest=NO_SHA_256), 400, by_the_guard=True),
         }, ('sha-256',)),
    Case('1.30b', 'A malformed digest field', '204', '``active``', 'bad_request', {
        'malformed': Way(given(Content_Digest='sha-256=abc'), 400, by_the_guard=True),
    }, ('Content-Digest must look like',), False, 'correct the client'),
    Case('1.31', 'A caller without identity', '401', NOTHING_LEFT, None, {'nobody': Way(by('nobody'), 401)}),
    Case('1.32', "Keystone's limit ``image_size_total``", '413', '``queued``, a retry works', 'quota_exceeded',
         first='delete images, or get a larger limit',
         untried='Unified limits need a Keystone; the answer is judged by its status, as 1.6 is.'),
    Case('1.33', "Keystone's limit ``image_count_uploading``", '413', '``queued``, a retry works', 'quota_exceeded',
         first='wait for other uploads of the project',
         untried='Unified limits need a Keystone; the answer is judged by its status, as 1.6 is.'),
    Case('1.34', 'The store breaks, before or while it takes the data', '500, no reason', NOTHING_LEFT,
         'backend_error', {
             'half-way': Way(whole, 500, store_fails(OSError('Connection to rados lost'), after=65536),
                             words=('of 131072 bytes had arrived', 'Glance logged: Connection to rados lost')),
             'half-way, chunked': Way(chunked, 500, store_fails(ConnectionResetError('Connection reset'), after=65536),
                                      words=('bytes had arrived', 'Glance logged: Connection reset')),
             'without a word': Way(whole, 500, store_fails(RuntimeError()), words=('Glance logged: RuntimeError',)),
         }, first=REPAIR),
    Case('1.35', 'A driver of a store raises ``ValueError``', '400', NOTHING_LEFT, 'backend_error', {
        'at once': Way(whole, 400, store_fails(ValueError('Invalid endpoint: rgw'))),
        'half-way': Way(whole, 400, store_fails(ValueError('Invalid endpoint: rgw'), after=65536)),
        'half-way, chunked': Way(chunked, 400, store_fails(ValueError('Invalid endpoint: rgw'), after=65536)),
    }, ('Glance failed with status 400', 'bytes had arrived',
        'Glance answered: Invalid endpoint: rgw'), first=REPAIR),
    Case('1.36', 'The store has lost what it was to write to', '410', STUCK, 'backend_error', {
        'half-way': Way(whole, 410, store_fails(glance_store.NotFound(image='its container'), after=65536)),
        'at the end, chunked': Way(chunked, 410, store_fails(glance_store.NotFound(image='its pool'), after=2**20)),
    }, ('could not be found after upload',), first=REPAIR),
    Case('1.37', 'The token expires while the store takes the data', '401', STUCK, 'credentials_expired', {
        'half-way': Way(whole, 401, lambda scene, *_: scene.fails('fs', _not_authenticated(), after=65536)),
        'at once': Way(whole, 401, lambda scene, *_: scene.fails('fs', _not_authenticated())),
    }, ('the token may have expired',), first='send it with a fresh token'),
    Case('1.38', 'A file of the image is in the store already, left by a dead upload', '409 or 500',
         Left('queued', stored=True, retry_works=False), 'backend_error', {
             'left over': Way(whole, 500, duplicate)}, ('already exists',)),
)


def _not_authenticated() -> Exception:
    from glance.common import exception
    error: Exception = exception.NotAuthenticated()
    return error
