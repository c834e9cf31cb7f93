"""DELETE: what is a client's clean-up after a failure, and what is a wish to delete."""

import logging
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from webob import Request, Response
from webtest import TestResponse

from imgguard.attempts import Claim, Failure, Kind, NewAttempt, State
from imgguard.deletes import Deletes
from imgguard.glance_tasks import GlanceTasks
from imgguard.guard import Guard
from imgguard.glance_images import GlanceImages, caller
from imgguard.leases import Heartbeat
from imgguard.operations import Action, Operation
from imgguard.presenter import Presenter
from imgguard.recovery import Recovery
from imgguard.requeue import Requeue
from imgguard.settings import Settings, resolve
from imgguard.store import Store
from imgguard.workers import Workers
from tests.harness import InProcessGlance
from tests.identity import admin_token, reader_token, token
from tests.uploading import KEEP, KEPT, Body, Images, Pipelines, comparable, new_project

HEADER = 'X-OpenStack-Image-Keep-On-Failure'
DO_NOT_KEEP = {HEADER: 'false'}
DATA = b'data of an image' * 4096
WINDOW = 30


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'))


@pytest.fixture(scope='module')
def always(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    """A section in which everything is kept."""
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('always'), keep_default='always')


@pytest.fixture
def project() -> str:
    return new_project()


@pytest.fixture
def images(pipelines: Pipelines, project: str) -> Images:
    return Images(pipelines.guarded, token('alice', project))


def delete(images: Images, image_id: str, headers: Mapping[str, str] | None = None) -> TestResponse:
    return images.request('DELETE', f'/v2/images/{image_id}', headers)


def is_kept(images: Images, image_id: str, answer: TestResponse) -> bool:
    """Whether the DELETE so answered was absorbed; it is either that or a real one."""
    shown = images.request('GET', f'/v2/images/{image_id}')
    if answer.headers.get(KEPT) == 'error':
        assert (answer.status_int, answer.body) == (204, b'')
        assert (shown.status_int, shown.json['status']) == (200, 'error')
        return True
    assert (answer.status_int, KEPT in answer.headers, shown.status_int) == (204, False, 404)
    return False


def age(pipelines: Pipelines, image_id: str, seconds: float) -> None:
    """Let everything that is known of an image have happened that much earlier."""
    record = pipelines.record(image_id)
    assert record is not None
    with closing(sqlite3.connect(pipelines.connection.removeprefix('sqlite:///'))) as database, database:
        database.execute('UPDATE imgguard_images SET error_at = error_at - ? WHERE key = ?', (seconds, record.key))
        database.execute('UPDATE imgguard_attempts SET started_at = started_at - ?, updated_at = updated_at - ?, '
                         'finished_at = finished_at - ? WHERE image_key = ?', (seconds, seconds, seconds, record.key))


# What clients send after a failed upload

def test_a_client_that_cleans_up_after_its_failure(pipelines: Pipelines, images: Images) -> None:
    image_id = images.in_error()
    before = images.show(image_id)
    answer = delete(images, image_id)
    assert is_kept(images, image_id, answer)
    assert images.show(image_id) == before
    assert images.upload(image_id, DATA).status_int == 204
    assert images.show(image_id)['status'] == 'active'


def test_an_absorbed_delete_looks_like_a_real_one(pipelines: Pipelines, project: str) -> None:
    guarded, bare = pipelines.callers(token('alice', project))
    absorbed, real = delete(guarded, guarded.in_error()), delete(bare, bare.created())
    assert absorbed.headers.pop(KEPT) == 'error'
    assert comparable(absorbed) == comparable(real)


def test_its_repeats_in_the_window_are_absorbed_too(images: Images) -> None:
    image_id = images.in_error()
    for _ in range(3):
        assert is_kept(images, image_id, delete(images, image_id))


@pytest.mark.parametrize(('seconds', 'kept'), [(0, True), (WINDOW - 3, True), (WINDOW + 1, False), (86400, False)])
def test_the_window_begins_with_the_failure(
    pipelines: Pipelines, images: Images, seconds: float, kept: bool,
) -> None:
    image_id = images.in_error()
    delete(images, image_id)
    age(pipelines, image_id, seconds)
    assert is_kept(images, image_id, delete(images, image_id)) is kept


def test_the_window_can_be_set(in_process_glance: InProcessGlance, tmp_path: Path) -> None:
    none = Pipelines(in_process_glance, tmp_path, cleanup_window='0')
    image_id = none.images().in_error()
    admin = Images(none.guarded, admin_token())
    age(none, image_id, 0.5)
    assert not is_kept(admin, image_id, delete(admin, image_id))


def test_a_retry_that_fails_opens_a_window_of_its_own(pipelines: Pipelines, images: Images) -> None:
    image_id = images.in_error()
    age(pipelines, image_id, 86400)
    images.upload_cut(image_id)
    assert is_kept(images, image_id, delete(images, image_id))


def test_so_does_an_empty_retry_though_it_is_not_shown(pipelines: Pipelines, images: Images) -> None:
    image_id = images.in_error()
    age(pipelines, image_id, 86400)
    assert images.upload(image_id, Body([])).status_int == 400
    assert images.show(image_id)['os_glance_image_error_code'] == 'client_disconnected'
    assert is_kept(images, image_id, delete(images, image_id))


# What is never absorbed

@pytest.mark.parametrize('who', ['colleague', 'admin', 'the same user in another project'])
def test_another_actor_deletes(pipelines: Pipelines, images: Images, project: str, who: str) -> None:
    image_id = images.in_error()
    others = {'colleague': token('bob', project), 'admin': admin_token(),
              'the same user in another project': token('alice', 'elsewhere', 'admin', 'member', 'reader')}
    assert not is_kept(images, image_id, delete(Images(pipelines.guarded, others[who]), image_id))


def test_the_header_false_deletes(images: Images) -> None:
    image_id = images.in_error()
    assert not is_kept(images, image_id, delete(images, image_id, DO_NOT_KEEP))


def test_a_failure_that_nobody_asked_to_keep_is_deleted(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created()
    images.upload_cut(image_id)
    assert not is_kept(images, image_id, delete(images, image_id))
    image_id = images.created(KEEP)
    images.upload_cut(image_id, headers=DO_NOT_KEEP)
    assert [attempt.guarded for attempt in pipelines.attempts(image_id)] == [False]
    assert not is_kept(images, image_id, delete(images, image_id))


def test_an_active_image_is_deleted(pipelines: Pipelines, images: Images) -> None:
    for headers in ({}, KEEP, {HEADER: 'maybe'}):
        image_id = images.in_error()
        images.upload(image_id, DATA)
        assert not is_kept(images, image_id, delete(images, image_id, headers))
        assert [record.deleted for record in pipelines.store.find(image_id)] == [True]


def test_a_protected_image_is_refused_by_glance(pipelines: Pipelines, project: str) -> None:
    guarded, bare = pipelines.callers(token('alice', project))
    image_id = guarded.in_error(protected=True)
    twin = bare.created(protected=True)
    for headers in ({}, KEEP, DO_NOT_KEEP):
        refused = delete(guarded, image_id, headers)
        assert refused.status_int == 403
        assert comparable(refused) == comparable(delete(bare, twin))
    assert guarded.show(image_id)['status'] == 'error'


@pytest.mark.parametrize('headers', [{}, KEEP, DO_NOT_KEEP, {HEADER: 'maybe'}], ids=str)
@pytest.mark.parametrize('waits', [True, False], ids=['waiting', 'in error'])
@pytest.mark.parametrize('who', ['reader', 'stranger', 'nobody'])
def test_who_may_not_delete_gets_glances_answer(
    pipelines: Pipelines, images: Images, project: str, who: str, waits: bool, headers: dict[str, str],
) -> None:
    outsider = {'reader': reader_token('carol', project), 'stranger': token('mallory', new_project()), 'nobody': ''}
    image_id = images.created(KEEP) if waits else images.in_error()
    twin = Images(pipelines.bare, images.caller).created()
    before = images.show(image_id), pipelines.record(image_id) is not None, pipelines.attempts(image_id)
    refused = delete(Images(pipelines.guarded, outsider[who]), image_id, headers)
    assert refused.status_int in (401, 403, 404)
    assert comparable(refused) == comparable(delete(Images(pipelines.bare, outsider[who]), twin))
    assert (images.show(image_id), True, pipelines.attempts(image_id)) == before


def test_a_delete_with_a_body_is_refused_by_glance(images: Images) -> None:
    image_id = images.in_error()
    refused = images.request('DELETE', f'/v2/images/{image_id}', body=b'body')
    assert (refused.status_int, KEPT in refused.headers) == (400, False)
    assert images.show(image_id)['status'] == 'error'


def test_an_image_that_is_not_there(pipelines: Pipelines, project: str) -> None:
    guarded, bare = pipelines.callers(token('alice', project))
    missing = '00000000-0000-4000-8000-000000000000'
    for headers in ({}, KEEP, {HEADER: 'maybe'}):
        assert comparable(delete(guarded, missing, headers)) == comparable(delete(bare, missing))


# No attempt was made

def test_a_client_that_gave_up_before_it_sent_anything(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created()
    assert is_kept(images, image_id, delete(images, image_id, KEEP))
    shown = images.show(image_id)
    assert shown['os_glance_image_error_code'] == 'abandoned'
    assert shown['os_glance_image_error'] == 'The client gave the image up before any data was sent.'
    assert shown['os_glance_image_error_attempts'] == '0'
    assert [(attempt.kind, attempt.user_id) for attempt in pipelines.attempts(image_id)] == [(Kind.DECLARE, 'alice')]
    assert images.upload(image_id, DATA).status_int == 204


def test_nested_cleanups_give_it_up_once(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created()
    for headers in (KEEP, KEEP, {}):
        assert is_kept(images, image_id, delete(images, image_id, headers))
    assert len(pipelines.attempts(image_id)) == 1
    age(pipelines, image_id, WINDOW + 1)
    assert not is_kept(images, image_id, delete(images, image_id, KEEP))


def test_an_image_that_waits_is_deleted_unless_the_delete_asks_to_keep_it(images: Images) -> None:
    image_id = images.created(KEEP)
    assert not is_kept(images, image_id, delete(images, image_id))


def test_whoever_may_delete_may_give_up(pipelines: Pipelines, images: Images, project: str) -> None:
    image_id = images.created(KEEP)
    colleague = Images(pipelines.guarded, token('bob', project))
    assert is_kept(images, image_id, delete(colleague, image_id, KEEP))


def test_data_that_the_guard_knows_nothing_of_is_no_missing_attempt(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created()
    staged = Images(pipelines.bare, images.caller).request(
        'PUT', f'/v2/images/{image_id}/stage', {'Content-Type': 'application/octet-stream'}, DATA)
    assert staged.status_int == 204
    assert not is_kept(images, image_id, delete(images, image_id, KEEP))


def test_a_bad_header_is_refused_before_anything_is_deleted(images: Images) -> None:
    for image_id in (images.created(), images.in_error()):
        refused = delete(images, image_id, {HEADER: 'maybe'})
        assert refused.status_int == 400 and f'The header {HEADER} must be true or false' in refused.text
        assert images.request('GET', f'/v2/images/{image_id}').status_int == 200


def test_where_everything_is_kept_a_waiting_image_is_given_up_too(always: Pipelines) -> None:
    images = always.images()
    image_id = images.created()
    assert is_kept(images, image_id, delete(images, image_id))
    assert images.show(image_id)['os_glance_image_error_code'] == 'abandoned'
    age(always, image_id, WINDOW + 1)
    assert not is_kept(images, image_id, delete(images, image_id))


def test_but_not_one_that_opted_out(always: Pipelines) -> None:
    images = always.images()
    for image_id, headers in ((images.created(DO_NOT_KEEP), {}), (images.created(), DO_NOT_KEEP)):
        assert not is_kept(images, image_id, delete(images, image_id, headers))


def test_one_whose_time_is_over_may_be_given_up_as_well(always: Pipelines) -> None:
    images = always.images()
    image_id = images.created()
    with closing(sqlite3.connect(always.connection.removeprefix('sqlite:///'))) as database, database:
        database.execute('UPDATE imgguard_images SET give_up_at = 1 WHERE image_id = ?', (image_id,))
    always.store.remember(image_id, images.show(image_id)['created_at'], None, None, 0.001)
    assert images.show(image_id)['os_glance_image_error_code'] == 'never_arrived'
    assert is_kept(images, image_id, delete(images, image_id))
    assert images.show(image_id)['os_glance_image_error_code'] == 'abandoned'


def test_the_reason_of_a_declaration_outlives_its_cleanup(always: Pipelines) -> None:
    images = always.images()
    project = images.caller.split(':')[1]
    image_id = images.created()
    Images(always.guarded, token('hook', project)).patch(
        image_id, {'op': 'replace', 'path': '/status', 'value': 'error'},
        {'op': 'add', 'path': '/os_glance_image_error', 'value': 'no space on the compute host'})
    assert is_kept(images, image_id, delete(images, image_id))
    shown = images.show(image_id)
    assert (shown['os_glance_image_error_code'], shown['os_glance_image_error']) == (
        'abandoned', 'no space on the compute host')


# A real delete is remembered

def test_what_was_deleted_is_no_candidate_any_more(pipelines: Pipelines, images: Images) -> None:
    image_id = images.in_error()
    assert image_id in pipelines.store.candidates(1000)
    delete(images, image_id, DO_NOT_KEEP)
    assert image_id not in pipelines.store.candidates(1000)
    assert [record.deleted for record in pipelines.store.find(image_id)] == [True]


# While an attempt is alive. The guard's handler alone, so that waiting takes no time.

LEASE = 60.0


class Waiting:
    """The handler of DELETE before an application that counts what reaches it; the images are Glance's."""

    def __init__(self, folder: Path, images: Images, **options: str) -> None:
        self.images = images
        self.image = images.create().json
        self.connection = f'sqlite:///{folder}/imgguard.db'
        self.store = Store(self.connection, LEASE)
        self.store.upgrade()
        self.waited = 0.0
        self.deleted = 0
        self.gone: bool | None = None
        self.meanwhile: Callable[[], object] = bool
        self._settings: Settings = resolve({'connection': self.connection, **options}, 'the test')

    def begin(self, user: str = 'alice', guarded: bool = True) -> Claim:
        """Begin an attempt of this user in the project of the image."""
        new = NewAttempt(Kind.UPLOAD, guarded, 'req-1', user, self.image['owner'], 'host', 'worker', None)
        claim = self.store.begin(self.image['id'], self.image['created_at'], self.image['owner'], new)
        assert isinstance(claim, Claim)
        return claim

    def fail(self, claim: Claim) -> None:
        """End it."""
        self.store.finish(claim, State.FAILED, Failure('backend_error', 'It failed.'), shown=True, http_status=500,
                          bytes_received=1)

    def delete(self, headers: Mapping[str, str] | None = None) -> Response:
        """Send the DELETE as alice."""
        workers = Workers()
        guard = Guard(self.store, Heartbeat(self.store, LEASE, workers), self._settings)
        recovery = Recovery(self.store, guard, GlanceTasks(), Requeue(), workers, self._settings)
        presenter = Presenter(self.store, self._settings, recovery)
        handler = Deletes(self._glance, self._settings, self.store, guard, presenter, GlanceImages(),
                          lambda host, worker: self.gone, self._pause)
        environ = self._environ(headers or {})
        by = caller(environ)
        assert by is not None
        operation = Operation(Action.DELETE, self.image['id'])
        return Request(environ).get_response(
            lambda environ, start_response: handler(environ, start_response, operation, by))

    def _environ(self, headers: Mapping[str, str]) -> dict[str, Any]:
        from glance.api import policy
        from glance.context import RequestContext
        context = RequestContext(user_id='alice', project_id=self.image['owner'], roles=['member', 'reader'],
                                 policy_enforcer=policy.Enforcer())
        request = Request.blank(f'/v2/images/{self.image["id"]}', method='DELETE', headers=dict(headers))
        request.environ['webob.adhoc_attrs'] = {'context': context}
        environ: dict[str, Any] = request.environ
        return environ

    def _glance(self, environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        self.deleted += 1
        start_response('204 No Content', [])
        return []

    def _pause(self, seconds: float) -> None:
        self.waited += seconds
        self.meanwhile()


@pytest.fixture
def waiting(images: Images, tmp_path: Path) -> Waiting:
    return Waiting(tmp_path, images)


def test_its_own_attempt_is_waited_for(waiting: Waiting) -> None:
    claim = waiting.begin()

    def meanwhile() -> None:
        if waiting.waited > 1.0:
            waiting.fail(claim)

    waiting.meanwhile = meanwhile
    answer = waiting.delete()
    assert (answer.status_int, answer.headers[KEPT], waiting.deleted) == (204, 'error', 0)
    assert 1.0 < waiting.waited < 1.5


def test_it_is_waited_for_five_seconds_and_no_more(waiting: Waiting) -> None:
    waiting.begin()
    answer = waiting.delete()
    assert (answer.status_int, KEPT in answer.headers, waiting.deleted) == (204, False, 1)
    assert waiting.waited == pytest.approx(5.0)


@pytest.mark.parametrize(('user', 'guarded', 'headers'), [
    ('bob', True, {}), ('alice', False, {}), ('alice', True, DO_NOT_KEEP)], ids=['another', 'unguarded', 'false'])
def test_no_other_attempt_is_waited_for(
    waiting: Waiting, user: str, guarded: bool, headers: dict[str, str],
) -> None:
    waiting.begin(user, guarded)
    assert KEPT not in waiting.delete(headers).headers
    assert (waiting.waited, waiting.deleted) == (0.0, 1)


def test_one_that_succeeds_meanwhile_makes_it_a_real_delete(waiting: Waiting) -> None:
    claim = waiting.begin()

    def meanwhile() -> None:
        if waiting.images.show(waiting.image['id'])['status'] == 'queued':
            waiting.images.upload(waiting.image['id'], DATA)
            waiting.store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=1)

    waiting.meanwhile = meanwhile
    assert KEPT not in waiting.delete().headers
    assert waiting.deleted == 1


def test_one_whose_process_is_known_to_be_dead_is_not_waited_for_and_kept(waiting: Waiting) -> None:
    waiting.begin()
    waiting.gone = True
    assert waiting.delete().headers[KEPT] == 'error'
    assert (waiting.waited, waiting.deleted) == (0.0, 0)


def test_one_that_is_silent_for_longer_than_its_lease_is_lost_and_kept(waiting: Waiting) -> None:
    claim = waiting.begin()
    now = waiting.store.attempts(claim.key, 1)[0].updated_at
    waiting.store.renew('another worker', 'host', {})
    with closing(sqlite3.connect(waiting.connection.removeprefix('sqlite:///'))) as database, database:
        database.execute('UPDATE imgguard_images SET running_at = ?', (now - LEASE - 10,))
        database.execute('UPDATE imgguard_attempts SET updated_at = ?', (now - LEASE - 10,))
        database.execute('UPDATE imgguard_workers SET since = ?', (now - 1000,))
    assert waiting.delete().headers[KEPT] == 'error'
    assert [attempt.state for attempt in waiting.store.attempts(claim.key, 1)] == [State.LOST]
    assert (waiting.waited, waiting.deleted) == (0.0, 0)


def test_its_window_begins_when_the_silence_became_a_failure(waiting: Waiting) -> None:
    claim = waiting.begin()
    now = waiting.store.attempts(claim.key, 1)[0].updated_at
    waiting.store.renew('another worker', 'host', {})
    with closing(sqlite3.connect(waiting.connection.removeprefix('sqlite:///'))) as database, database:
        database.execute('UPDATE imgguard_images SET running_at = ?', (now - 86400,))
        database.execute('UPDATE imgguard_attempts SET updated_at = ?', (now - 86400,))
        database.execute('UPDATE imgguard_workers SET since = ?', (now - 90000,))
    assert KEPT not in waiting.delete().headers
    assert waiting.deleted == 1


# When the guard's store is down

def break_store(connection: str) -> None:
    """Leave a file that is no database."""
    path = Path(connection.removeprefix('sqlite:///'))
    for each in path.parent.glob(f'{path.name}*'):
        each.unlink()
    path.mkdir()


@pytest.mark.parametrize(('policy', 'headers', 'kept', 'deleted'), [
    ('pass', {}, None, 1), ('pass', KEEP, 'unavailable', 1),
    ('refuse', {}, None, 1), ('refuse', DO_NOT_KEEP, None, 1), ('refuse', KEEP, None, 0)])
def test_an_outage_of_the_store(
    images: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    policy: str, headers: dict[str, str], kept: str | None, deleted: int,
) -> None:
    waiting = Waiting(tmp_path, images, on_store_failure=policy)
    waiting.store.close()
    break_store(waiting.connection)
    with caplog.at_level(logging.ERROR, 'imgguard'):
        answer = waiting.delete(headers)
    assert (answer.status_int, answer.headers.get(KEPT)) == (204 if deleted else 500, kept)
    assert waiting.deleted == deleted
    assert caplog.records


# Another way to say DELETE

@pytest.mark.parametrize('form', ['_method=DELETE', '%5Fmethod=DELETE', 'x=1&_method=delete'])
def test_a_form_does_not_replace_the_method(images: Images, form: str) -> None:
    image_id = images.in_error()
    answer = images.request('POST', f'/v2/images/{image_id}', {'Content-Type': 'application/x-www-form-urlencoded'},
                            form.encode())
    assert answer.status_int == 400 and 'form' in answer.text
    assert images.show(image_id)['status'] == 'error'


def test_a_document_that_calls_itself_a_form_is_glances(images: Images) -> None:
    # As curl sends it.
    answer = images.request('POST', '/v2/images', {**KEEP, 'Content-Type': 'application/x-www-form-urlencoded'},
                            b'{"name": "n"}')
    assert (answer.status_int, answer.headers[KEPT]) == (201, 'guarded')
