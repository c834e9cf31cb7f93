"""``POST /v2/images/{id}/import`` and ``POST /v2/images/{id}/locations``."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from webtest import TestResponse

from tests.cases import NOTHING_LEFT, By, Case, Does, Left, Sends, Way
from tests.cases.scene import Scene, stage, start
from tests.cases.stages import direct, staged
from tests.cases.uploads import REPAIR, active, change, option
from tests.identity import reader_token, token
from tests.sources import DATA, SHORT, unused_port
from tests.uploading import Images, new_project

UNREADABLE = 'The source of the data could not be read: '
IN_FS2 = 'The data could not be stored in the store fs2: '
QCOW2 = {'disk_format': 'qcow2'}
WRONG_HASH = {'os_hash_algo': 'sha512', 'os_hash_value': '0' * 128}
SOURCE = 'repair the source, or name another'
MAKE_ROOM = 'delete images, or get a larger quota'
HANGS = Left('importing', staged=True, retry_works=False)


def web(path: str, **more: object) -> Sends:
    """A download of one of the answers of the source, or from a whole address."""
    def send(scene: Scene, images: Images, image_id: str) -> TestResponse:
        uri = path if '://' in path else scene.source.url(path)
        return start(images, image_id, {'name': 'web-download', 'uri': uri}, **more)
    return send


def refused(scene: Scene, images: Images, image_id: str) -> TestResponse:
    """A download from where nobody listens."""
    return web(f'http://127.0.0.1:{unused_port()}/')(scene, images, image_id)


def import_staged(spoil: Callable[[Path], object] | None = None, **more: object) -> Sends:
    """Data is staged, something may happen to it, and it is imported."""
    def send(scene: Scene, images: Images, image_id: str) -> TestResponse:
        assert stage(images, image_id).status_int == 204
        if spoil is not None:
            spoil(scene.staging / image_id)
        return start(images, image_id, {'name': 'glance-direct'}, **more)
    return send


def location(path: str, **validation: str) -> Sends:
    """An address is added as the place of the data."""
    def send(scene: Scene, images: Images, image_id: str) -> TestResponse:
        document: dict[str, object] = {'url': path if '://' in path else scene.source.url(path)}
        if validation:
            document['validation_data'] = validation
        return images.json('POST', f'/v2/images/{image_id}/locations', document)
    return send


def remote(path: str | None) -> Sends:
    """From a Glance of another region, which is one of the answers of the source."""
    def send(scene: Scene, images: Images, image_id: str) -> TestResponse:
        from glance.common import exception

        def endpoint(*_: object) -> str:
            if path is None:
                raise exception.GlanceEndpointNotFound(interface='public', region='other')
            return scene.source.url(path)

        _other_regions(scene)
        # Where the other Glance is, Keystone's catalog tells.
        scene.patch().setattr('glance.async_.utils.get_glance_endpoint', endpoint)
        return start(images, image_id, {
            'name': 'glance-download', 'glance_region': 'other', 'glance_image_id': str(uuid4())})
    return send


def _other_regions(scene: Scene) -> None:
    scene.option('enabled_import_methods', ['glance-download', 'glance-direct', 'web-download', 'copy-image'])


def request(document: object, headers: dict[str, str] | None = None) -> Sends:
    """This document."""
    return lambda scene, images, image_id: images.json('POST', f'/v2/images/{image_id}/import', document, headers)


def without_region(scene: Scene, images: Images, image_id: str) -> TestResponse:
    """A download from another Glance that does not name its region."""
    _other_regions(scene)
    return start(images, image_id, {'name': 'glance-download'})


def by(who: str, send: Sends) -> Sends:
    """The request of somebody else, who asks to keep it."""
    def send_as(scene: Scene, images: Images, image_id: str) -> TestResponse:
        project = images.caller.split(':')[1]
        caller = reader_token('rita', project) if who == 'reader' else token('eve', new_project())
        return send(scene, Images(images.application, caller), image_id)
    return send_as


def missing(*stores: str) -> Does:
    """The directories of these stores are missing."""
    return lambda scene, images, image_id: scene.take_away(*stores)


def store_fails(store: str, error: Exception, after: int = 0) -> Does:
    """The driver of the store raises this."""
    return lambda scene, images, image_id: scene.fails(store, error, after)


STORE_LOST = ConnectionRefusedError(111, 'Connection refused')
REFUSED = (
    Case('3.1', 'The request names no method, or one that does not exist', '400', NOTHING_LEFT, 'bad_request', {
        'none': Way(request({}), 400, words=("Import request requires a 'method' field.",)),
        'unknown': Way(request({'method': {'name': 'nonsense'}}), 400, words=("Unknown import method name",)),
    }, (), False, 'correct the request', again=By.WEB),
    Case('3.2', 'The request is a list, or its method is no object', '500, no reason', NOTHING_LEFT, 'bad_request', {
        'list': Way(request([]), 500), 'string': Way(request({'method': 'web-download'}), 500),
    }, ('The request does not name an import method',), False, 'correct the request'),
    Case('3.3', 'glance-direct without staged data; copy-image of an image without data; a store that does not exist',
         '409', NOTHING_LEFT, None, {
             'direct': Way(direct, 409), 'copy': Way(request({'method': {'name': 'copy-image'}}), 409),
             'store': Way(web('good', stores=['nonsense']), 409),
         }),
    Case('3.3a', 'The image has no ``disk_format`` or ``container_format`` and no data (staged: see 2.10)', '409',
         NOTHING_LEFT, None, {
             'web': Way(web('good'), 409, properties={'disk_format': None, 'container_format': None})},
         first='set both with a PATCH', mend=change(disk_format='raw', container_format='bare')),
    Case('3.4', 'An image that has its data, or whose staged data waits (web-download; a store that does not exist)',
         '409', '``active``, ``uploading``', None, {
             'active': Way(web('good'), 409, created=active), 'staged': Way(web('good'), 409, created=staged),
             'store': Way(request({'method': {'name': 'glance-direct'}, 'stores': ['nope']}), 409, created=staged),
         }),
    Case('3.5', 'A caller who may not; another project\'s image', '403, 404', NOTHING_LEFT, None, {
        'reader': Way(by('reader', web('good')), 403), 'stranger': Way(by('stranger', web('good')), 404),
        'location, reader': Way(by('reader', location('good')), 403),
    }),
    Case('3.6', 'Stores are named in the header and in the request', '400', NOTHING_LEFT, 'bad_request', {
        'both': Way(request({'method': {'name': 'web-download', 'uri': 'http://127.0.0.1/'}, 'stores': ['fs']},
                            {'X-Image-Meta-Store': 'fs'}), 400),
    }, ('Stores parameter and x-image-meta-store header',), False, 'correct the request'),
    Case('3.7', 'web-download: no address, or one that the operator\'s filter does not let pass', '400', NOTHING_LEFT,
         'bad_request', {
             'forbidden': Way(web('http://forbidden.test/image'), 400, words=('does not pass filtering: (address)',)),
             'none': Way(request({'method': {'name': 'web-download'}}), 400),
         }, ('does not pass filtering',), False, 'name another address'),
    Case('3.8', 'glance-download without a region', '400', NOTHING_LEFT, 'bad_request', {
        'none': Way(without_region, 400)}, ("'glance_region' needs to be set",), False, 'correct the request'),
    Case('3.9', 'A second import while one runs', '409', '``importing``; the first one goes on', None),
    Case('3.10', 'The host that has the staged data is away', '504, or 500', '``uploading``, staged data, a retry '
         'works when it is back', 'storage_unavailable', first='the host comes back, or the data is sent again'),
    Case('3.11', 'locations: an address that the operator\'s filter does not let pass',
         '400', NOTHING_LEFT, 'bad_request', {
             'forbidden': Way(location('http://forbidden.test/image'), 400)}, (), False, 'name another address'),
    Case('3.12', 'locations: a file of the server, or a scheme without a store', '403', NOTHING_LEFT, None, {
        'file': Way(location('file:///etc/passwd'), 403), 'scheme': Way(location('nonsense://host/image'), 403)}),
)

ACCEPTED = (
    # web-download: the source
    Case('4.1', 'web-download: the source answers 404, 500 or another error', '202', NOTHING_LEFT,
         'source_unreachable', {
             '404': Way(web('404'), 202, words=(UNREADABLE, 'HTTP Error 404: Not Found')),
             '500': Way(web('500'), 202, words=(UNREADABLE, 'HTTP Error 500: Internal Server Error')),
         }, first=SOURCE, again=By.WEB),
    Case('4.2', 'web-download: the source breaks off, or resets the connection', '202', NOTHING_LEFT,
         'source_unreachable', {
             'cut': Way(web('cut'), 202, words=(UNREADABLE, f'{len(DATA)} bytes', f'{SHORT} bytes')),
             'chunks cut': Way(web('chunks-cut'), 202, words=(UNREADABLE, 'IncompleteRead')),
             'reset': Way(web('reset'), 202), 'hangs up': Way(web('hangs-up'), 202, words=(
                 UNREADABLE, 'closed connection without response')),
         }, (UNREADABLE,), first=SOURCE, again=By.WEB),
    Case('4.3', 'web-download: nobody listens, what answers is no HTTP, redirects run in a circle or to a forbidden '
         'place', '202', NOTHING_LEFT, 'source_unreachable', {
             'refused': Way(refused, 202, words=(UNREADABLE, 'Connection refused')),
             'garbage': Way(web('garbage'), 202, words=(UNREADABLE, 'BadStatusLine', 'this is no HTTP')),
             'loop': Way(web('loop'), 202, words=(UNREADABLE, 'infinite loop')),
             'forbidden redirect': Way(web('forbidden-redirect'), 202, words=(
                 UNREADABLE, 'Redirect to disallowed URL')),
         }, first=SOURCE, again=By.WEB),
    Case('4.4', 'web-download: the source stands still', '202',
         '``importing`` for ever, staged data, the import lock, **no retry works**', 'import_failed', first=SOURCE),
    Case('4.5', 'web-download: a source that announces no length is cut', '202', '``active``, truncated', None, {
        'cut': Way(web('no-length'), 202)}),
    Case('4.6', 'web-download: a source of zero bytes', '202', '``active``, size 0', None, {
        'empty': Way(web('empty'), 202)}),
    # web-download: the data and the stores
    Case('4.7', 'web-download: larger than ``image_size_cap``', '202', NOTHING_LEFT, 'size_limit_exceeded', {
        'web': Way(web('good'), 202, option('image_size_cap', 1000))}, ('too large',), False,
        'import a smaller image, or the operator raises the limit', again=By.WEB),
    Case('4.8', 'web-download: over ``user_storage_quota``', '202', NOTHING_LEFT, 'quota_exceeded', {
        'web': Way(web('good'), 202, option('user_storage_quota', '1000'))}, (str(len(DATA)), 'exceed'),
        first=MAKE_ROOM, again=By.WEB),
    Case('4.9', 'web-download: the data is not of the ``disk_format``', '202',
         Left('queued', stored=True, retry_works=False), 'format_rejected', {
             'web': Way(web('good'), 202, properties=QCOW2)}, ('qcow2', 'raw'), False,
         'correct ``disk_format`` with a PATCH, or the data', change(disk_format='raw'), By.WEB),
    Case('4.10', 'web-download: a store is missing, and all must succeed', '202', NOTHING_LEFT,
         'storage_unavailable', {
             'the only one': Way(web('good', stores=['fs2']), 202, missing('fs2'), words=(
                 IN_FS2, 'No such file or directory')),
             'the second': Way(web('good', stores=['fs', 'fs2']), 202, missing('fs2'), words=(
                 'fs2', 'No such file or directory')),
         }, first=REPAIR, again=By.WEB),
    Case('4.11', 'web-download: the only store is missing, ``all_stores_must_succeed`` is false', '202',
         Left('queued', locked=True, retry_works=False), 'storage_unavailable', {
             'web': Way(web('good', stores=['fs2'], all_stores_must_succeed=False), 202, missing('fs2'))},
         (IN_FS2, 'No such file or directory'), first=REPAIR, again=By.WEB),
    Case('4.12', 'web-download: the connection to the store is lost, or the store breaks', '202', NOTHING_LEFT,
         'storage_unavailable', {
             'refused': Way(web('good', stores=['fs2']), 202, store_fails('fs2', STORE_LOST)),
             'half-way': Way(web('good', stores=['fs2']), 202, store_fails('fs2', STORE_LOST, 65536)),
         }, (IN_FS2, 'Connection refused'), first=REPAIR, again=By.WEB),
    Case('4.13', 'Import into several stores, some fail, ``all_stores_must_succeed`` is false', '202',
         '``active``; the failed stores in ``os_glance_failed_import``', None, {
             'web': Way(web('good', stores=['fs', 'fs2'], all_stores_must_succeed=False), 202, missing('fs2'), words=(
                 IN_FS2, 'No such file or directory')),
             'direct': Way(import_staged(stores=['fs', 'fs2', 'fs3'], all_stores_must_succeed=False), 202,
                           missing('fs2', 'fs3'), words=('the stores fs2, fs3',)),
         }),
    # glance-direct
    Case('4.14', 'glance-direct: a store is missing, and all must succeed', '202', HANGS, 'storage_unavailable', {
        'the only one': Way(import_staged(stores=['fs2']), 202, missing('fs2'), words=(
            IN_FS2, 'No such file or directory')),
        'the second': Way(import_staged(stores=['fs', 'fs2']), 202, missing('fs2')),
    }, (IN_FS2,), first=REPAIR, again=By.DIRECT),
    Case('4.14a', 'glance-direct: the connection to the store is lost', '202', HANGS, 'storage_unavailable', {
        'refused': Way(import_staged(stores=['fs2']), 202, store_fails('fs2', STORE_LOST)),
    }, (IN_FS2, 'Connection refused'), first=REPAIR, again=By.DIRECT),
    Case('4.15', 'glance-direct: the only store is missing, ``all_stores_must_succeed`` is false', '202', NOTHING_LEFT,
         'storage_unavailable', {
             'direct': Way(import_staged(stores=['fs2'], all_stores_must_succeed=False), 202, missing('fs2'))},
         (IN_FS2,), first=REPAIR, again=By.DIRECT),
    Case('4.16', 'glance-direct: over ``user_storage_quota``', '202', HANGS, 'quota_exceeded', {
        'direct': Way(import_staged(), 202, option('user_storage_quota', '1000'))}, (str(len(DATA)), 'exceed'),
        first=MAKE_ROOM, again=By.DIRECT),
    Case('4.17', 'glance-direct: the staged data was lost', '202', Left('importing', retry_works=False),
         'import_failed', {'lost': Way(import_staged(lambda path: path.unlink()), 202)},
         ('The staged data was lost', 'Stage it again.'), first='nothing; stage it again', again=By.DIRECT),
    Case('4.18', 'glance-direct: the staged data was cut', '202', HANGS, 'size_mismatch', {
        'cut': Way(import_staged(lambda path: path.write_bytes(DATA[:SHORT])), 202)}, (str(len(DATA)), str(SHORT)),
        first='nothing; stage it again', again=By.DIRECT),
    Case('4.19', 'glance-direct: the data is not of the ``disk_format``', '202',
         Left('importing', stored=True, staged=True, retry_works=False), 'format_rejected', {
             'direct': Way(import_staged(), 202, properties=QCOW2)}, ('qcow2', 'raw'), False,
         'correct ``disk_format`` with a PATCH, or the data', change(disk_format='raw'), By.DIRECT),
    # glance-download
    Case('4.20', 'glance-download: the other Glance is not in the catalog, or has no such image', '202', NOTHING_LEFT,
         'source_unreachable', {
             'no catalog': Way(remote(None), 202, words=(UNREADABLE, 'endpoint not found for region other')),
             '404': Way(remote('404'), 202, words=(UNREADABLE, 'HTTP Error 404: Not Found')),
         }, first=SOURCE, again=By.WEB),
    Case('4.21', 'glance-download: the other image is not active, or has no size', '202', NOTHING_LEFT,
         'source_unreachable', {
             'not active': Way(remote('remote-queued'), 202, words=(UNREADABLE, 'active instead of queued',)),
             'no size': Way(remote('remote-no-size'), 202, words=(UNREADABLE, 'Size attribute of remote image',)),
         }, first=SOURCE, again=By.WEB),
    Case('4.22', 'glance-download: the data of the other image is missing, or short', '202',
         Left('queued', locked=True, retry_works=False), 'source_unreachable', {
             '404': Way(remote('remote-file-404'), 202, words=(UNREADABLE, 'HTTP Error 404: Not Found',)),
             'short': Way(remote('remote-file-short'), 202, words=(UNREADABLE, str(len(DATA)), str(SHORT))),
         }, first=SOURCE, again=By.WEB),
    # locations
    Case('5.1', 'locations: the address answers 404', '202', NOTHING_LEFT, 'source_unreachable', {
        '404': Way(location('404'), 202)}, (UNREADABLE, 'Invalid location'), first=SOURCE),
    Case('5.2', 'locations: the hash does not match', '202', Left('queued', retry_works=False), 'digest_mismatch', {
        'wrong': Way(location('good', **WRONG_HASH), 202)}, ('os_hash_value', '0000'),
        first='correct the hash, or the address'),
    Case('5.3', 'locations: the address breaks off; a hash was given', '202', Left('queued', retry_works=False),
         'source_unreachable', {'cut': Way(location('cut', **WRONG_HASH), 202)}, (UNREADABLE, 'IncompleteRead'),
         first=SOURCE),
    Case('5.4', 'locations: the address breaks off; no hash was given', '202',
         '``active``, no checksum, the task failed', None, {
             'cut': Way(location('cut'), 202, words=('IncompleteRead',))}),
    # What became of imports in other ways
    Case('4.23', 'The image is deleted during the import', '202', 'deleted', None),
    Case('4.24', 'copy-image: a store fails', '202', '``active``', None),
    Case('4.25', 'copy-image: the data to be copied is missing', '202',
         '``active``; the store stays in ``os_glance_importing_to_stores``', None),
    Case('4.26', 'copy-image by one who may not, or to where the data is already', '403, 400', '``active``', None),
    Case('4.27', 'A task of type ``import`` (``POST /v2/tasks``, for administrators)', '201', 'no image', None,
         untried='The image is made by the task and unmade when it fails: there is none to be shown in error.'),
)
IMPORTS = (*REFUSED, *ACCEPTED)
