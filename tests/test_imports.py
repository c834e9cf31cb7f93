"""Every way an import can fail, on the real Glance: what it answers, what the image then says, what a retry meets.

Glance accepts an import with 202 and fails later, silently: its task says "Task failed due to Internal
Error", and its image is back in ``queued`` or hangs in ``importing``. One row of each table is one way.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from webtest import TestResponse

from imgguard import glance_log
from imgguard.attempts import Claim, Kind, NewAttempt, State
from imgguard.glance_tasks import GlanceTasks
from imgguard.guard import Guard
from imgguard.leases import Heartbeat
from imgguard.settings import resolve
from imgguard.store import AttemptRow, Store
from imgguard.watch import settle
from imgguard.workers import Workers
from tests.conftest import OverrideGlance
from tests.harness import InProcessGlance
from tests.identity import admin_token, reader_token, token
from tests.sources import DATA, SHORT, Source, Stores, more_stores, serving, unused_port
from tests.uploading import ERROR, KEEP, KEPT, Images, Pipelines, new_project

# Glance leaves files and connections that it read from open, for the garbage collector to close.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

GLANCE_SAYS = 'Task failed due to Internal Error'


@dataclass
class Scene:
    """What a row may use to bring its failure about."""

    images: Images
    source: Source
    stores: Stores
    staging: Path
    override: OverrideGlance
    patch: pytest.MonkeyPatch

    def repair(self) -> None:
        """Mend the server."""
        self.stores.repair()
        self.override('user_storage_quota', '0')
        self.override('image_size_cap', 2**40)

    def web(self, image_id: str, path: str = 'good', **more: object) -> TestResponse:
        """Import from one of the answers of the source, or from a whole address."""
        uri = path if '://' in path else self.source.url(path)
        return self.start(image_id, {'name': 'web-download', 'uri': uri}, more)

    def direct(self, image_id: str, spoil: Callable[[Path], object] | None = None,
               more: Mapping[str, object] | None = None) -> TestResponse:
        """Stage data, let something happen to it, and import it."""
        staged = self.images.request('PUT', f'/v2/images/{image_id}/stage',
                                     {'Content-Type': 'application/octet-stream'}, DATA)
        if staged.status_int != 204:
            return staged
        if spoil is not None:
            spoil(self.staging / image_id)
        return self.start(image_id, {'name': 'glance-direct'}, more)

    def location(self, image_id: str, path: str, **validation: str) -> TestResponse:
        """Add an address as the place of the data."""
        document: dict[str, object] = {'url': self.source.url(path)}
        if validation:
            document['validation_data'] = validation
        return self.images.json('POST', f'/v2/images/{image_id}/locations', document)

    def start(self, image_id: str, method: dict[str, str], more: Mapping[str, object] | None = None,
              headers: dict[str, str] | None = None) -> TestResponse:
        """Begin an import."""
        return self.images.json('POST', f'/v2/images/{image_id}/import', {'method': method, **(more or {})}, headers)


@pytest.fixture(scope='module')
def source() -> Iterator[Source]:
    with serving() as source:
        yield source
    # While the mark of this module still lets Glance's leaks pass.
    gc.collect()


@pytest.fixture(scope='module')
def stores(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with more_stores(in_process_glance.glance.store, tmp_path_factory.mktemp('stores')) as stores:
        yield stores


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'))


@pytest.fixture
def scene(pipelines: Pipelines, source: Source, stores: Stores, in_process_glance: InProcessGlance,
          override_glance: OverrideGlance, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    # Glance fetches nothing from loopback unless told to; then it fetches from nowhere else.
    override_glance('allowed_hosts', ['127.0.0.1'], 'import_filtering_opts')
    scene = Scene(pipelines.images(), source, stores, in_process_glance.glance.staging, override_glance,
                  monkeypatch)
    yield scene
    scene.repair()


def until(found: Callable[[], Any]) -> Any:
    """What this returns as soon as it is true: threads of Glance tell nobody when they are done."""
    end = time.monotonic() + 20
    while not (result := found()):
        assert time.monotonic() < end, 'nothing came of it'
        time.sleep(0.05)
    return result


def ended(pipelines: Pipelines, image_id: str, attempts: int = 1) -> AttemptRow:
    """The newest attempt, when so many were made and the newest has ended."""
    def last() -> AttemptRow | None:
        found = [each for each in pipelines.attempts(image_id) if each.kind is not Kind.STAGE]
        return found[-1] if len(found) >= attempts and found[-1].state is not State.RUNNING else None

    result: AttemptRow = until(last)
    if result.state is State.SUCCEEDED:
        until(lambda: not locked(image_id))
    return result


# What Glance writes last is waited for in this file: on SQLite it loses a task that begins while another one writes.

def over(attempt: AttemptRow) -> bool:
    """Whether Glance has done with the task of this attempt."""
    import glance.context
    import glance.db
    task = glance.db.get_api().task_get(glance.context.get_admin_context(), attempt.task_id)
    return task['status'] in ('success', 'failure')


def locked(image_id: str) -> bool:
    """Whether a task of Glance holds the image."""
    import glance.context
    import glance.db
    image = glance.db.get_api().image_get(glance.context.get_admin_context(), image_id)
    return any(each['name'] == 'os_glance_import_task' for each in image['properties'] if not each['deleted'])


# Failures that come after the 202

@dataclass(frozen=True)
class Case:
    """One way an import fails.

    :param start: begins the import
    :param code: shown by the image
    :param words: some of the text it shows
    :param prepare: what is wrong at the server
    """

    start: Callable[[Scene, str], TestResponse]
    code: str
    words: tuple[str, ...]
    retryable: bool = True
    prepare: Callable[[Scene, str], object] = lambda scene, image_id: None
    properties: Mapping[str, object] = field(default_factory=dict)


def web(path: str, **more: object) -> Callable[[Scene, str], TestResponse]:
    return lambda scene, image_id: scene.web(image_id, path, **more)


def direct(spoil: Callable[[Path], object] | None = None, **more: object) -> Callable[[Scene, str], TestResponse]:
    return lambda scene, image_id: scene.direct(image_id, spoil, more)


def location(path: str, **validation: str) -> Callable[[Scene, str], TestResponse]:
    return lambda scene, image_id: scene.location(image_id, path, **validation)


def remote(path: str | None) -> Callable[[Scene, str], TestResponse]:
    """From a Glance of another region, which is one of the answers of the source."""
    def start(scene: Scene, image_id: str) -> TestResponse:
        from glance.common import exception
        scene.override('enabled_import_methods', ['glance-download', 'glance-direct', 'web-download', 'copy-image'])

        def endpoint(*_: object) -> str:
            if path is None:
                raise exception.GlanceEndpointNotFound(interface='public', region='other')
            return scene.source.url(path)
        scene.patch.setattr('glance.async_.utils.get_glance_endpoint', endpoint)
        return scene.start(image_id, {
            'name': 'glance-download', 'glance_region': 'other', 'glance_image_id': str(uuid4())})
    return start


def missing(*names: str) -> Callable[[Scene, str], object]:
    return lambda scene, image_id: scene.stores.take_away(*names)


def option(name: str, value: object) -> Callable[[Scene, str], object]:
    return lambda scene, image_id: scene.override(name, value)


UNREADABLE = 'The source of the data could not be read: '
IN_FS2 = 'The data could not be stored in the store fs2: '
QCOW2 = {'disk_format': 'qcow2'}
WRONG_HASH = {'os_hash_algo': 'sha512', 'os_hash_value': '0' * 128}
CASES = {
    # web-download: the source
    'web: 404': Case(web('404'), 'source_unreachable', (UNREADABLE, 'HTTP Error 404: Not Found')),
    'web: 500': Case(web('500'), 'source_unreachable', (UNREADABLE, 'HTTP Error 500: Internal Server Error')),
    'web: cut': Case(web('cut'), 'source_unreachable', (UNREADABLE, f'{len(DATA)} bytes', f'{SHORT} bytes')),
    'web: chunks cut': Case(web('chunks-cut'), 'source_unreachable', (UNREADABLE, 'IncompleteRead')),
    'web: redirect to a forbidden place': Case(
        web('forbidden-redirect'), 'source_unreachable', (UNREADABLE, 'Redirect to disallowed URL')),
    'web: redirect loop': Case(web('loop'), 'source_unreachable', (UNREADABLE, 'infinite loop')),
    'web: reset': Case(web('reset'), 'source_unreachable', (UNREADABLE,)),
    'web: garbage': Case(web('garbage'), 'source_unreachable', (UNREADABLE, 'BadStatusLine', 'this is no HTTP')),
    'web: hangs up': Case(web('hangs-up'), 'source_unreachable', (UNREADABLE, 'closed connection without response')),
    'web: refused': Case(
        lambda scene, image_id: scene.web(image_id, f'http://127.0.0.1:{unused_port()}/'), 'source_unreachable',
        (UNREADABLE, 'Connection refused')),
    # web-download: the data and the stores
    'web: too big': Case(web('good'), 'size_limit_exceeded', ('too large',), False, option('image_size_cap', 1000)),
    'web: quota': Case(web('good'), 'quota_exceeded', (str(len(DATA)), 'exceed'), True,
                       option('user_storage_quota', '1000')),
    'web: format does not match': Case(web('good'), 'format_rejected', ('qcow2', 'raw'), False, properties=QCOW2),
    'web: the store is missing': Case(
        web('good', stores=['fs2']), 'storage_unavailable', (IN_FS2, 'No such file or directory'),
        prepare=missing('fs2')),
    'web: second of two stores is missing': Case(
        web('good', stores=['fs', 'fs2']), 'storage_unavailable', ('fs2', 'No such file or directory'),
        prepare=missing('fs2')),
    'web: the only store is missing, others would do': Case(
        web('good', stores=['fs2'], all_stores_must_succeed=False), 'storage_unavailable',
        (IN_FS2, 'No such file or directory'), prepare=missing('fs2')),
    # glance-direct
    'direct: store is missing': Case(
        direct(stores=['fs2']), 'storage_unavailable', (IN_FS2, 'No such file or directory'), prepare=missing('fs2')),
    'direct: second of two stores is missing': Case(
        direct(stores=['fs', 'fs2']), 'storage_unavailable', (IN_FS2,), prepare=missing('fs2')),
    'direct: the only store is missing, others would do': Case(
        direct(stores=['fs2'], all_stores_must_succeed=False), 'storage_unavailable', (IN_FS2,),
        prepare=missing('fs2')),
    'direct: quota': Case(direct(), 'quota_exceeded', (str(len(DATA)), 'exceed'), True,
                          option('user_storage_quota', '1000')),
    'direct: staged data was lost': Case(
        direct(lambda path: path.unlink()), 'import_failed', ('The staged data was lost', 'Stage it again.')),
    'direct: staged data was cut': Case(
        direct(lambda path: path.write_bytes(DATA[:SHORT])), 'size_mismatch', (str(len(DATA)), str(SHORT))),
    'direct: format does not match': Case(direct(), 'format_rejected', ('qcow2', 'raw'), False, properties=QCOW2),
    # POST /locations
    'location: 404': Case(location('404'), 'source_unreachable', (UNREADABLE, 'Invalid location')),
    'location: wrong hash': Case(location('good', **WRONG_HASH), 'digest_mismatch', ('os_hash_value', '0000')),
    'location: cut, with a hash': Case(
        location('cut', **WRONG_HASH), 'source_unreachable', (UNREADABLE, 'IncompleteRead')),
    # glance-download
    'remote: no catalog': Case(remote(None), 'source_unreachable', (UNREADABLE, 'endpoint not found for region other')),
    'remote: 404': Case(remote('404'), 'source_unreachable', (UNREADABLE, 'HTTP Error 404: Not Found')),
    'remote: not active': Case(remote('remote-queued'), 'source_unreachable', ('active instead of queued',)),
    'remote: no size': Case(remote('remote-no-size'), 'source_unreachable', ('Size attribute of remote image',)),
    'remote: file 404': Case(remote('remote-file-404'), 'source_unreachable', ('HTTP Error 404: Not Found',)),
    'remote: file is short': Case(remote('remote-file-short'), 'source_unreachable', (str(len(DATA)), str(SHORT))),
}


def is_cleared(pipelines: Pipelines, image_id: str) -> bool:
    """Whether what its attempts left in Glance was cleared away."""
    record = pipelines.record(image_id)
    return record is not None and record.cleared_number == record.last_number


def retried(scene: Scene, pipelines: Pipelines, case: str, image_id: str) -> bool:
    """Try the same image again with nothing wrong any more; whether it became active with the right bytes."""
    # Glance on SQLite loses a task whose beginning meets another writer.
    until(lambda: is_cleared(pipelines, image_id))
    scene.repair()
    if scene.images.show(image_id)['disk_format'] != 'raw':
        change = {'op': 'replace', 'path': '/disk_format', 'value': 'raw'}
        if scene.images.patch(image_id, change).status_int != 200:
            return False
    count = sum(each.kind is not Kind.STAGE for each in pipelines.attempts(image_id))
    data = DATA
    if case.startswith('location'):
        data = DATA[::-1]
        answer = scene.images.upload(image_id, data)
    else:
        answer = (scene.direct if case.startswith('direct') else scene.web)(image_id)
    if answer.status_int not in (202, 204):
        return False
    ended(pipelines, image_id, count + 1)
    image = scene.images.show(image_id)
    # Of several places of the data Glance serves the first: that of the rejected data.
    return (image['status'] == 'active' and 'ht' not in image['stores'].split(',')
            and bool(scene.images.download(image_id).body == data))


@pytest.mark.parametrize('name', CASES)
def test_an_import_that_fails_after_the_202(scene: Scene, pipelines: Pipelines, name: str) -> None:
    """The image is in error with the true reason; where Glance can take it again, the retry works on the same id."""
    case = CASES[name]
    image_id = scene.images.created(KEEP, **case.properties)
    case.prepare(scene, image_id)
    answer = case.start(scene, image_id)
    assert (answer.status_int, answer.body, answer.headers[KEPT]) == (202, b'', 'guarded')

    attempt = ended(pipelines, image_id)
    image = scene.images.show(image_id)
    assert (image['status'], image[f'{ERROR}_code']) == ('error', case.code), image.get(ERROR)
    assert [words for words in case.words if words not in image[ERROR]] == [], image[ERROR]
    assert image[f'{ERROR}_retryable'] == str(case.retryable).lower()
    assert image[f'{ERROR}_request_id'] == answer.headers['X-OpenStack-Request-Id'] == attempt.request_id
    for told in ('/', scene.source.url(''), 'Task ', GLANCE_SAYS):
        assert told not in image[ERROR].replace('n/a', '')
    kind = Kind.LOCATION if name.startswith('location') else Kind.IMPORT
    assert (attempt.kind, attempt.state, attempt.http_status, attempt.code) == (kind, State.FAILED, 202, case.code)
    assert attempt.task_id is not None
    assert scene.images.listed('status=error') == [image_id]

    assert retried(scene, pipelines, name, image_id)


# Imports that Glance takes for good

@dataclass(frozen=True)
class Taken:
    """An import after which the image is active.

    :param words: of what its attempt says all the same
    """

    start: Callable[[Scene, str], TestResponse]
    words: tuple[str, ...] = ()
    prepare: Callable[[Scene, str], object] = lambda scene, image_id: None


TAKEN = {
    'web': Taken(web('good')),
    'web: two stores': Taken(web('good', stores=['fs', 'fs2'])),
    'web: cut without a length, which nobody can see': Taken(web('no-length')),
    'web: empty': Taken(web('empty')),
    'web: second of two stores is missing, one will do': Taken(
        web('good', stores=['fs', 'fs2'], all_stores_must_succeed=False),
        (IN_FS2, 'No such file or directory'), missing('fs2')),
    'direct': Taken(direct()),
    'direct: two of three stores are missing, one will do': Taken(
        direct(stores=['fs', 'fs2', 'fs3'], all_stores_must_succeed=False), ('the stores fs2, fs3',),
        missing('fs2', 'fs3')),
    'location': Taken(location('good')),
    'location: cut, without a hash': Taken(location('cut'), ('IncompleteRead',)),
}


@pytest.mark.parametrize('name', TAKEN)
def test_an_image_that_became_active_is_not_in_error(scene: Scene, pipelines: Pipelines, name: str) -> None:
    """The attempt succeeded, and names the stores that failed."""
    taken = TAKEN[name]
    image_id = scene.images.created(KEEP)
    taken.prepare(scene, image_id)
    answer = taken.start(scene, image_id)
    assert (answer.status_int, answer.headers[KEPT]) == (202, 'guarded')
    attempt = ended(pipelines, image_id)
    assert (attempt.state, attempt.code) == (State.SUCCEEDED, None)
    assert [words for words in taken.words if words not in (attempt.message or '')] == [], attempt.message
    assert bool(attempt.message) == bool(taken.words)
    image = scene.images.show(image_id)
    assert image['status'] == 'active' and ERROR not in image
    assert attempt.bytes_received == image['size']


# copy-image: the image is active before and after

@pytest.fixture
def administrator(pipelines: Pipelines) -> Images:
    return Images(pipelines.guarded, admin_token())


def copied(administrator: Images, image_id: str, **more: object) -> TestResponse:
    return administrator.json('POST', f'/v2/images/{image_id}/import', {'method': {'name': 'copy-image'}, **more}, KEEP)


@pytest.mark.parametrize(('must', 'absent', 'state', 'words'), [
    (True, [], State.SUCCEEDED, ''),
    (True, ['fs2'], State.FAILED, 'The data could not be stored in the store fs2: '),
    (False, ['fs2'], State.SUCCEEDED, 'The data could not be stored in the store fs2: '),
    (False, ['fs2', 'fs3'], State.FAILED, 'The data could not be stored in the stores fs2, fs3: '),
])
def test_a_copy_never_puts_its_image_in_error(
    scene: Scene, pipelines: Pipelines, administrator: Images, must: bool, absent: list[str], state: State, words: str,
) -> None:
    """Its attempt tells which stores failed; copying again works."""
    image_id = scene.images.created(KEEP)
    assert scene.images.upload(image_id, DATA).status_int == 204
    scene.stores.take_away(*absent)
    answer = copied(administrator, image_id, stores=['fs2', 'fs3'], all_stores_must_succeed=must)
    assert (answer.status_int, answer.headers[KEPT]) == (202, 'guarded')
    attempt = ended(pipelines, image_id, 2)
    assert (attempt.kind, attempt.state) == (Kind.COPY, state)
    assert (attempt.message or '').startswith(words) and bool(attempt.message) == bool(words)
    assert attempt.code == ('storage_unavailable' if state is State.FAILED else None)
    image = scene.images.show(image_id)
    assert (image['status'], ERROR in image) == ('active', False)
    assert scene.images.download(image_id).body == DATA
    assert scene.images.listed('status=error') == []

    scene.repair()
    again = copied(administrator, image_id, all_stores=True, stores=[])
    if again.status_int == 202:
        assert ended(pipelines, image_id, 3).state is State.SUCCEEDED


def test_a_copy_whose_source_is_missing(scene: Scene, pipelines: Pipelines, administrator: Images) -> None:
    image_id = scene.images.created(KEEP)
    scene.images.upload(image_id, DATA)
    (scene.stores.folders['fs'] / image_id).unlink()
    assert copied(administrator, image_id, stores=['fs2']).status_int == 202
    attempt = ended(pipelines, image_id, 2)
    assert (attempt.state, attempt.code) == (State.FAILED, 'import_failed')
    assert attempt.message == 'Image not found in any configured store'
    assert scene.images.show(image_id)['status'] == 'active'


def test_a_copy_to_stores_that_have_it_all(scene: Scene, pipelines: Pipelines, administrator: Images) -> None:
    """Glance answers 202 and makes no task."""
    image_id = scene.images.created(KEEP)
    scene.web(image_id, stores=['fs', 'fs2', 'fs3'])
    ended(pipelines, image_id)
    scene.override('enabled_backends', dict.fromkeys(('fs', 'fs2', 'fs3'), 'file'))
    assert copied(administrator, image_id, all_stores=True).status_int == 202
    attempt = ended(pipelines, image_id, 2)
    assert (attempt.kind, attempt.state, attempt.task_id) == (Kind.COPY, State.SUCCEEDED, None)


# Refused at once

BAD_URL = {'name': 'web-download', 'uri': 'http://forbidden.test/image'}
COUNTED = {
    'no method': ({}, 400, 'bad_request', "Import request requires a 'method' field."),
    'unknown method': ({'method': {'name': 'nonsense'}}, 400, 'bad_request', "Unknown import method name 'nonsense'."),
    'a list': ([], 500, 'backend_error', 'Glance failed with status 500 before the import began.'),
    'method is a string': ({'method': 'web-download'}, 500, 'backend_error', 'Glance failed with status 500'),
    'forbidden address': ({'method': BAD_URL}, 400, 'bad_request', 'does not pass filtering: (address)'),
    'no address': ({'method': {'name': 'web-download'}}, 400, 'bad_request', 'does not pass filtering'),
}


@pytest.mark.parametrize('name', COUNTED)
def test_a_request_that_cannot_bring_the_data(scene: Scene, pipelines: Pipelines, name: str) -> None:
    """The image says what was wrong with it, and a good request works on the same id."""
    document, status, code, words = COUNTED[name]
    image_id = scene.images.created(KEEP)
    answer = scene.images.json('POST', f'/v2/images/{image_id}/import', document)
    assert (answer.status_int, answer.headers[KEPT]) == (status, 'error')
    image = scene.images.show(image_id)
    assert (image['status'], image[f'{ERROR}_code']) == ('error', code) and words in image[ERROR], image[ERROR]
    assert retried(scene, pipelines, 'web', image_id)


def test_refusals_that_say_nothing_of_the_image(scene: Scene, pipelines: Pipelines, administrator: Images) -> None:
    """409 for its status or a store, 403 and 404 for the caller: no attempt is left, and nothing is shown."""
    images, queued = scene.images, scene.images.created(KEEP)
    path = f'/v2/images/{queued}/import'
    good = {'method': {'name': 'web-download', 'uri': scene.source.url('good')}}
    project = images.caller.split(':')[1]
    reader = Images(pipelines.guarded, reader_token('bob', project))
    stranger = Images(pipelines.guarded, token('eve', new_project()))
    refused = [
        images.json('POST', path, {'method': {'name': 'glance-direct'}}),
        images.json('POST', path, {'method': {'name': 'copy-image'}}),
        images.json('POST', path, good | {'stores': ['nonsense']}),
        reader.json('POST', path, good, KEEP),
        stranger.json('POST', path, good, KEEP),
        images.json('POST', f'/v2/images/{uuid4()}/import', good, KEEP),
        reader.json('POST', f'/v2/images/{queued}/locations', {'url': scene.source.url('good')}, KEEP)]
    assert [answer.status_int for answer in refused] == [409, 409, 409, 403, 404, 404, 403]
    assert [answer.headers.get(KEPT) for answer in refused] == [None] * len(refused)
    assert pipelines.attempts(queued) == [] and images.show(queued)['status'] == 'queued'


def test_a_refused_retry_leaves_the_error(scene: Scene, pipelines: Pipelines) -> None:
    image_id = scene.images.in_error()
    before = scene.images.show(image_id)
    refused = scene.web(image_id, stores=['nonsense'])
    assert (refused.status_int, refused.headers[KEPT]) == (409, 'error')
    assert scene.images.show(image_id) == before


def test_a_second_import_while_one_is_alive(scene: Scene, pipelines: Pipelines) -> None:
    """Glance never sees it; the image shows Glance's own status meanwhile."""
    image_id = scene.images.in_error()
    scene.source.asked.clear()
    assert scene.web(image_id, 'silent').status_int == 202
    assert scene.source.asked.wait(20)
    until(lambda: scene.images.show(image_id)['status'] == 'importing')
    for refused in (scene.web(image_id), scene.images.upload(image_id, DATA)):
        assert refused.status_int == 409
        assert 'Another import to this image is under way' in refused.text
    assert ERROR not in scene.images.show(image_id)
    scene.source.release()
    assert ended(pipelines, image_id, 2).code == 'source_unreachable'
    assert scene.images.show(image_id)['status'] == 'error'


# What nobody asked to keep

def test_an_import_nobody_asked_to_keep(scene: Scene, pipelines: Pipelines) -> None:
    """Unknown to the guard it stays unknown; opted out, it is recorded and shows Glance's own status."""
    unknown, opted_out = scene.images.created(), scene.images.created(KEEP)
    assert KEPT not in scene.web(unknown, '404').headers
    until(lambda: scene.images.show(unknown).get('os_glance_failed_import') and not locked(unknown))
    method = {'name': 'web-download', 'uri': scene.source.url('404')}
    answer = scene.start(opted_out, method, headers=dict.fromkeys(KEEP, 'false'))
    assert answer.status_int == 202 and KEPT not in answer.headers
    assert ended(pipelines, opted_out).state is State.FAILED
    assert pipelines.record(unknown) is None
    assert [scene.images.show(each)['status'] for each in (unknown, opted_out)] == ['queued', 'queued']


def test_an_import_asked_for_by_header(scene: Scene, pipelines: Pipelines) -> None:
    image_id = scene.images.created()
    bad = scene.start(image_id, {'name': 'web-download'}, headers=dict.fromkeys(KEEP, 'maybe'))
    assert bad.status_int == 400 and 'must be true or false' in bad.text
    method = {'name': 'web-download', 'uri': scene.source.url('404')}
    assert scene.start(image_id, method, headers=KEEP).headers[KEPT] == 'guarded'
    ended(pipelines, image_id)
    assert scene.images.show(image_id)['status'] == 'error'


# Imports that do not end by themselves

def test_a_silent_source(in_process_glance: InProcessGlance, tmp_path: Path, scene: Scene) -> None:
    """Glance waits for ever; the guard does so for import_stall_seconds."""
    pipelines = Pipelines(in_process_glance, tmp_path, import_stall_seconds='2')
    scene.images.application = pipelines.guarded
    image_id = scene.images.created(KEEP)
    assert scene.web(image_id, 'silent').status_int == 202
    attempt = ended(pipelines, image_id)
    scene.source.release()
    until(lambda: over(attempt))
    assert (attempt.code, attempt.message) == ('import_failed', 'The import made no progress for 2 seconds.')


def test_an_image_deleted_during_its_import(scene: Scene, pipelines: Pipelines) -> None:
    image_id = scene.images.created(KEEP)
    scene.source.asked.clear()
    assert scene.web(image_id, 'silent').status_int == 202
    assert scene.source.asked.wait(20)
    assert scene.images.request('DELETE', f'/v2/images/{image_id}').status_int == 204
    scene.source.release()
    attempt = ended(pipelines, image_id)
    until(lambda: over(attempt))
    assert (attempt.state, attempt.code) == (State.FAILED, 'import_failed')
    assert attempt.message == 'The image was deleted while its data was on the way.'


# A worker that died: whoever looks next decides

@pytest.mark.parametrize(('path', 'noted', 'state', 'code'), [
    ('404', True, State.FAILED, 'import_failed'),
    ('404', False, State.FAILED, 'import_failed'),
    ('good', True, State.SUCCEEDED, None),
    (None, False, State.LOST, 'worker_lost'),
])
def test_an_import_whose_watcher_died(
    scene: Scene, pipelines: Pipelines, path: str | None, noted: bool, state: State, code: str | None,
) -> None:
    """The task says how it ended, noted or not; one that did not end died with its process."""
    silent = Store(pipelines.connection, lease_seconds=0, skew_seconds=-3600)
    images, image_id = scene.images, scene.images.created()
    image = images.show(image_id)
    request_id = 'req-unknown'
    if path is not None:
        bare = Images(pipelines.bare, images.caller)
        answer = bare.json('POST', f'/v2/images/{image_id}/import', {
            'method': {'name': 'web-download', 'uri': scene.source.url(path)}})
        request_id = answer.headers['X-OpenStack-Request-Id']

        def task() -> dict[str, Any] | None:
            found: dict[str, Any] = bare.request('GET', f'/v2/images/{image_id}/tasks').json['tasks'][0]
            return found if found['status'] in ('success', 'failure') else None

        # Its log stays with the process that died.
        glance_log.forget(until(task)['id'])
    claim = silent.begin(image_id, image['created_at'], image['owner'], NewAttempt(
        Kind.IMPORT, True, request_id, 'alice', image['owner'], 'host', 'worker', None))
    assert isinstance(claim, Claim)
    tasks = GlanceTasks()
    if noted:
        task_id = tasks.find(image_id, [request_id])
        assert task_id is not None
        silent.set_task(claim, task_id)
    record = pipelines.record(image_id)
    assert record is not None and record.running is not None
    guard = Guard(silent, Heartbeat(silent, 60, Workers()), resolve({}, 'this test'))
    assert not settle(pipelines.store, guard, tasks, record), 'alive: its own watcher decides'
    silent_record = next(iter(silent.records([image_id]).values()))
    if silent_record.running is not None and silent_record.running.alive:
        silent_record = replace(silent_record, running=replace(silent_record.running, alive=False))
    assert settle(silent, guard, tasks, silent_record)
    attempt = ended(pipelines, image_id)
    assert (attempt.state, attempt.code) == (state, code)
    assert images.show(image_id)['status'] == ('active' if state is State.SUCCEEDED else 'error')
