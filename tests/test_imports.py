"""Imports that copy, that meet another one, that nobody asked to keep, that do not end, or whose watcher died.

The ways in which imports fail are rows of the table of cases, see :mod:`tests.cases`.
"""

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from webtest import TestResponse

from imgguard import glance_log
from imgguard.attempts import Claim, Kind, NewAttempt, State
from imgguard.glance_tasks import GlanceTasks
from imgguard.guard import Guard
from imgguard.images import Image
from imgguard.leases import Heartbeat
from imgguard.settings import resolve
from imgguard.store import AttemptRow, Store
from imgguard.watch import Import, Watch, settle
from imgguard.workers import Workers
from tests.cases import proves
from tests.cases.scene import until
from tests.conftest import OverrideGlance
from tests.harness import InProcessGlance
from tests.identity import admin_token
from tests.sources import DATA, Source, Stores, more_stores, serving
from tests.uploading import ERROR, KEEP, KEPT, Images, Pipelines

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


def ended_task(image_id: str, request_id: str) -> str:
    """The task that this request made, once it has ended.

    Only by reading, as Glance's own GET …/tasks does not: on SQLite a task is lost whose beginning meets a writer.
    """
    import glance.db
    from glance.context import get_admin_context
    database, context = glance.db.get_api(), get_admin_context()
    task_id: str = until(lambda: GlanceTasks().find(image_id, [request_id]))
    until(lambda: database.task_get(context, task_id, force_show_deleted=True)['status'] in ('success', 'failure'))
    return task_id


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


# copy-image: the image is active before and after

@pytest.fixture
def administrator(pipelines: Pipelines) -> Images:
    return Images(pipelines.guarded, admin_token())


def copied(administrator: Images, image_id: str, **more: object) -> TestResponse:
    return administrator.json('POST', f'/v2/images/{image_id}/import', {'method': {'name': 'copy-image'}, **more}, KEEP)


@proves('4.24')
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


@proves('4.25')
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

@proves('4.26')
def test_copies_that_are_refused(scene: Scene, pipelines: Pipelines, administrator: Images) -> None:
    """By the default policy only administrators copy; what is refused at once leaves the image and Glance's answer."""
    image_id = scene.images.created(KEEP)
    assert scene.images.upload(image_id, DATA).status_int == 204
    assert copied(scene.images, image_id, stores=['fs2']).status_int == 403
    there = copied(administrator, image_id, stores=['fs'])
    assert (there.status_int, KEPT in there.headers) == (400, False)
    assert (scene.images.show(image_id)['status'], scene.images.listed('status=error')) == ('active', [])
    assert [attempt.code for attempt in pipelines.attempts(image_id)] == [None, 'bad_request']


def test_a_refused_retry_leaves_the_error(scene: Scene, pipelines: Pipelines) -> None:
    image_id = scene.images.in_error()
    before = scene.images.show(image_id)
    refused = scene.web(image_id, stores=['nonsense'])
    assert (refused.status_int, refused.headers[KEPT]) == (409, 'error')
    assert scene.images.show(image_id) == before


@proves('3.9')
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

@proves('4.4')
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


@proves('4.23')
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
        # Its log stays with the process that died.
        glance_log.forget(ended_task(image_id, request_id))
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
    assert not settle(pipelines.store, guard, tasks, record, 3600), 'alive: its own watcher decides'
    silent_record = next(iter(silent.records([image_id]).values()))
    if silent_record.running is not None and silent_record.running.alive:
        silent_record = silent_record._replace(running=replace(silent_record.running, alive=False))
    assert settle(silent, guard, tasks, silent_record, 3600)
    attempt = ended(pipelines, image_id)
    assert (attempt.state, attempt.code) == (state, code)
    assert images.show(image_id)['status'] == ('active' if state is State.SUCCEEDED else 'error')


def test_an_import_that_ends_during_an_outage_of_the_store(
    scene: Scene, pipelines: Pipelines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its end is told once and waits in the worker, as that of an upload does."""
    folder, away = tmp_path / 'store', tmp_path / 'away'
    folder.mkdir()
    store = Store(f'sqlite:///{folder}/imgguard.db', lease_seconds=60)
    store.upgrade()
    image_id = scene.images.created()
    bare = Images(pipelines.bare, scene.images.caller)
    image = bare.show(image_id)
    with glance_log.reasons():
        # From the first guarded request on a process listens to what Glance logs.
        pass
    answer = bare.json('POST', f'/v2/images/{image_id}/import', {
        'method': {'name': 'web-download', 'uri': scene.source.url('404')}})
    task_id = ended_task(image_id, answer.headers['X-OpenStack-Request-Id'])
    claim = store.begin(image_id, image['created_at'], image['owner'], NewAttempt(
        Kind.IMPORT, True, 'req-1', 'alice', image['owner'], 'host', 'worker', None))
    assert isinstance(claim, Claim)
    monkeypatch.setattr('imgguard.servers.threads_run', lambda: False)
    heartbeat = Heartbeat(store, 60, Workers())
    guard = Guard(store, heartbeat, resolve({}, 'this test'))
    # It looks when it is told to.
    watch = Watch(store, guard, heartbeat, GlanceTasks(), lambda image_id, created_at: None, 3600, poll_seconds=600)
    watch.add(Import(Kind.IMPORT, Image(image_id, image['created_at'], 'queued', image['owner'], None), claim, True,
                     task_id, []))
    store.close()
    folder.rename(away)
    for _ in range(3):
        watch.look()
    assert caplog.text.count('its end could not be stored') == 1
    away.rename(folder)
    heartbeat.beat()
    attempt, = store.attempts(claim.key, 10)
    assert (attempt.state, attempt.code) == (State.FAILED, 'source_unreachable')


def test_a_lock_that_glance_does_not_let_go_of(
    scene: Scene, pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its database went away after the task had ended and before the lock went, which comes last."""
    import glance.db
    image_id = scene.images.created()
    bare = Images(pipelines.bare, scene.images.caller)
    image = bare.show(image_id)
    answer = bare.json('POST', f'/v2/images/{image_id}/import', {
        'method': {'name': 'web-download', 'uri': scene.source.url('good')}})
    task_id = ended_task(image_id, answer.headers['X-OpenStack-Request-Id'])
    until(lambda: GlanceTasks().holder(image_id) is None)
    glance.db.get_api().image_set_property_atomic(image_id, 'os_glance_import_task', task_id)
    store = pipelines.store
    claim = store.begin(image_id, image['created_at'], image['owner'], NewAttempt(
        Kind.IMPORT, True, 'req-1', 'alice', image['owner'], 'host', 'worker', None))
    assert isinstance(claim, Claim)
    monkeypatch.setattr('imgguard.servers.threads_run', lambda: False)
    heartbeat, now = Heartbeat(store, 60, Workers()), [1000.0]
    watch = Watch(store, Guard(store, heartbeat, resolve({}, 'this test')), heartbeat, GlanceTasks(),
                  lambda image_id, created_at: None, 3600, GlanceTasks().release, 600, lambda: now[0])
    watch.add(Import(Kind.IMPORT, Image(image_id, image['created_at'], 'queued', image['owner'], None), claim, True,
                     task_id, []))
    for _ in range(2):
        watch.look()
        assert GlanceTasks().holder(image_id) == task_id, 'Glance may be about to'
        assert store.attempts(claim.key, 1)[0].state is State.RUNNING
        now[0] += 4.9
    now[0] += 1
    watch.look()
    assert GlanceTasks().holder(image_id) is None
    assert store.attempts(claim.key, 1)[0].state is State.SUCCEEDED
