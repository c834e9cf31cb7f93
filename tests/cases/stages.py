"""``PUT /v2/images/{id}/stage``."""

from collections.abc import Callable

import glance_store
from webtest import TestResponse

from tests.cases import NOTHING_LEFT, By, Case, Does, Left, Sends, Way
from tests.cases.scene import Scene, stage, start
from tests.cases.uploads import BLOCK, LOST, MAKE_ROOM, NO_FORMATS, NO_SHA_256, RESET, active, change, option
from tests.identity import reader_token, token
from tests.sources import DATA
from tests.uploading import KEEP, Body, Images, new_project

STAGING = 'os_glance_staging_store'


def staging(body: bytes | Body = DATA, environ: dict[str, str] | None = None, **headers: str) -> Sends:
    """A stage with these headers."""
    named = {name.replace('_', '-'): value for name, value in headers.items()}
    return lambda scene, images, image_id: stage(images, image_id, body, named, environ)


def cut(scene: Scene, images: Images, image_id: str) -> TestResponse:
    """300 of 1000 bytes."""
    return stage(images, image_id, Body([b'x' * 300]), None, {'CONTENT_LENGTH': '1000'})


def chunked(error: Exception | None = None) -> Sends:
    """In chunks: all of it, or some of it until reading fails."""
    return lambda scene, images, image_id: stage(images, image_id, Body([BLOCK, error] if error else [DATA]))


def staging_fails(error: Exception, after: int = 0) -> Does:
    """The driver of the staging store raises this."""
    return lambda scene, images, image_id: scene.fails(STAGING, error, after)


def staged(scene: Scene, images: Images) -> str:
    """An image whose staged data waits for its import."""
    return staged_with()(scene, images)


def staged_with(**properties: object) -> Callable[[Scene, Images], str]:
    """The same, with these properties."""
    def create(scene: Scene, images: Images) -> str:
        image_id = images.created(KEEP, **properties)
        assert stage(images, image_id).status_int == 204
        return image_id
    return create


def by(who: str) -> Sends:
    """A stage by somebody else."""
    def send(scene: Scene, images: Images, image_id: str) -> TestResponse:
        project = images.caller.split(':')[1]
        caller = reader_token('rita', project) if who == 'reader' else token('eve', new_project())
        return stage(Images(images.application, caller), image_id, headers=KEEP)
    return send


def upload(scene: Scene, images: Images, image_id: str) -> TestResponse:
    """A plain upload."""
    return images.upload(image_id, DATA)


def direct(scene: Scene, images: Images, image_id: str) -> TestResponse:
    """An import of what is staged."""
    return start(images, image_id, {'name': 'glance-direct'})


def left_over(scene: Scene, images: Images, image_id: str) -> None:
    """Staged data that Glance has forgotten (see 1.16a)."""
    (scene.staging / image_id).write_bytes(b'left over')


STAGES = (
    Case('2.1', 'The connection to the client is lost', 'none, or 500', NOTHING_LEFT, 'client_disconnected', {
        'cut': Way(cut, 500, words=(LOST, '300 of 1000 bytes had arrived')), 'reset, chunked': Way(chunked(RESET), 500),
    }, (LOST,), again=By.STAGE),
    Case('2.3', 'Larger than ``image_size_cap``', '413', NOTHING_LEFT, 'size_limit_exceeded', {
        'length': Way(staging(), 413, option('image_size_cap', 1000)),
        'chunked': Way(chunked(), 413, option('image_size_cap', 1000)),
    }, ('The incoming image is too large',), False, 'stage a smaller image, or the operator raises the limit',
        again=By.STAGE),
    Case('2.4', 'The staging area is full', '413', NOTHING_LEFT, 'storage_full', {
        'at once': Way(staging(), 413, staging_fails(glance_store.StorageFull())),
        'a file system, chunked': Way(chunked(), 413, lambda scene, *_: scene.mount(scene.staging, 'size=64k')),
    }, ('Image storage media is full',), first=MAKE_ROOM, again=By.STAGE),
    Case('2.5', 'The staging directory is missing', '500, no reason', NOTHING_LEFT, 'storage_unavailable', {
        'missing': Way(staging(), 500, lambda scene, *_: scene.without(scene.staging)),
    }, ('No such file or directory', '(path)'), first='the operator repairs it', again=By.STAGE),
    Case('2.5a', 'Glance may not write to the staging directory', '503', NOTHING_LEFT, 'storage_unavailable', {
        'denied': Way(staging(), 503, staging_fails(glance_store.StorageWriteDenied())),
    }, ('Insufficient permissions',), first='the operator repairs it', again=By.STAGE),
    Case('2.5b', 'The staging store breaks', '500, no reason', NOTHING_LEFT, 'backend_error', {
        'half-way': Way(staging(), 500, staging_fails(OSError('Stale file handle'), after=65536)),
        'ValueError': Way(staging(), 500, staging_fails(ValueError('Bad block'), after=65536), words=('Bad block',)),
    }, ('Stale file handle',), first='the operator repairs it', again=By.STAGE),
    Case('2.6', 'Another ``Content-Type`` than ``application/octet-stream``', '415', NOTHING_LEFT, 'bad_request', {
        'text': Way(staging(Content_Type='text/plain'), 415),
    }, ('Invalid content type text/plain',), False, 'correct the client', again=By.STAGE),
    Case('2.6a', 'A caller who may not; another project\'s image; an image that has its data', '403, 404, 409',
         NOTHING_LEFT, None, {
             'reader': Way(by('reader'), 403), 'stranger': Way(by('stranger'), 404),
             'active': Way(staging(), 409, created=active),
         }, again=By.STAGE),
    Case('2.7', 'Other bytes than ``X-OpenStack-Image-Size`` or ``Content-Digest`` announced', '400 (digest: 204)',
         '``queued``, a retry works (digest: ``uploading``, wrong data)', 'size_mismatch', {
             'too few': Way(staging(X_OpenStack_Image_Size='900000'), 400, words=('131072 bytes', '900000'),
                            by_the_guard=True),
             'too many': Way(staging(X_OpenStack_Image_Size='100'), 400, words=('131072 bytes', 'announced 100'),
                             by_the_guard=True),
         }, again=By.STAGE),
    Case('2.7a', 'Other bytes than ``Content-Digest`` or ``Repr-Digest`` announced', '204',
         '``uploading``, wrong data', 'digest_mismatch', {
             'Content-Digest': Way(staging(Content_Digest=NO_SHA_256), 400, by_the_guard=True),
         }, ('sha-256',), again=By.STAGE),
    Case('2.8', 'A second stage', '409', '``uploading``', None, {'again': Way(staging(), 409, created=staged)}),
    Case('2.9', 'An upload to an image whose staged data waits', '409', '``uploading``', None, {
        'upload': Way(upload, 409, created=staged)}),
    Case('2.10', 'The image has no ``disk_format`` or ``container_format``: it can be staged, not imported, and Glance '
         'lets nobody set them then', '204; the import 409', Left('uploading', staged=True, retry_works=False),
         'bad_request', {'import': Way(direct, 409, created=staged_with(**NO_FORMATS))},
         ("'container_format' needs to be set before import",), False, 'set both with a PATCH',
         change(disk_format='raw', container_format='bare'), By.STAGE),
    Case('2.11', 'Staged data of the image that Glance has forgotten; with the guard the next stage works', '409',
         Left('queued', staged=True, retry_works=False), None),
    Case('2.12', 'The image is deleted while it is staged', '404', 'deleted', None),
    Case('2.13', "Keystone's limits ``image_stage_total`` and ``image_count_uploading``", '413',
         '``queued``, a retry works', 'quota_exceeded', first='delete images, or get a larger limit',
         untried='Unified limits need a Keystone; the answer is judged by its status, as 1.6 is.'),
)
