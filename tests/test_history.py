"""The attempts resource: every try to bring data into an image, for whoever may see the image."""

import gc
import re
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from webtest import TestResponse

from imgguard.attempts import Claim, Failure, Kind, NewAttempt, State
from imgguard.store import Store
from tests.harness import InProcessGlance
from tests.identity import admin_token, reader_token, token
from tests.uploading import KEEP, Images, Pipelines, comparable, new_project

DATA = b'data of an image' * 4096
MISSING = '00000000-0000-4000-8000-000000000000'
TIME = re.compile(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ')

FOR_ALL = ['number', 'kind', 'state', 'code', 'started_at', 'updated_at', 'finished_at']
FOR_OWNERS = ['number', 'kind', 'state', 'code', 'message', 'retryable', 'http_status', 'request_id', 'started_at',
              'updated_at', 'finished_at', 'bytes_received', 'bytes_expected', 'user_id', 'project_id']


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'))


@pytest.fixture
def project() -> str:
    return new_project()


@pytest.fixture
def images(pipelines: Pipelines, project: str) -> Images:
    return Images(pipelines.guarded, token('alice', project))


def ask(images: Images, image_id: str, query: str = '', headers: Mapping[str, str] | None = None) -> TestResponse:
    return images.request('GET', f'/v2/images/{image_id}/attempts{query}', headers)


def attempts(images: Images, image_id: str, query: str = '') -> list[dict[str, Any]]:
    answer = ask(images, image_id, query)
    assert (answer.status_int, answer.headers['Content-Type']) == (200, 'application/json')
    assert list(answer.json) == ['attempts']
    found: list[dict[str, Any]] = answer.json['attempts']
    return found


def test_a_failure_a_declaration_and_a_success(images: Images, project: str) -> None:
    image_id = images.in_error()
    images.patch(image_id, {'op': 'replace', 'path': '/status', 'value': 'error'})
    images.upload(image_id, DATA)
    success, declaration, failure = attempts(images, image_id)
    assert list(failure) == FOR_OWNERS
    assert all(TIME.fullmatch(failure[name]) for name in ('started_at', 'updated_at', 'finished_at'))
    assert failure['request_id'].startswith('req-')
    assert {name: value for name, value in failure.items() if not name.endswith(('_at', 'request_id'))} == {
        'number': 1, 'kind': 'upload', 'state': 'failed', 'code': 'client_disconnected',
        'message': 'The connection to the client was lost during the upload: 300 of 1000 bytes had arrived.',
        'retryable': True, 'http_status': 500, 'bytes_received': 300, 'bytes_expected': 1000,
        'user_id': 'alice', 'project_id': project}
    assert (declaration['number'], declaration['kind'], declaration['state'], declaration['code'],
            declaration['retryable'], declaration['bytes_received'], declaration['bytes_expected']) == (
        2, 'declare', 'failed', 'declared', False, 0, None)
    assert (success['number'], success['state'], success['code'], success['message'], success['retryable'],
            success['http_status'], success['bytes_received']) == (3, 'succeeded', None, None, None, 204, len(DATA))


def test_a_running_attempt(images: Images) -> None:
    image_id = images.in_error()
    with images.uploading(image_id):
        running = attempts(images, image_id)[0]
        assert (running['number'], running['state'], running['finished_at'], running['http_status']) == (
            2, 'running', None, None)
    assert attempts(images, image_id)[0]['state'] == 'succeeded'


def test_one_that_died_is_judged_by_whoever_looks(pipelines: Pipelines, images: Images) -> None:
    image = images.create(KEEP).json
    new = NewAttempt(Kind.UPLOAD, True, None, 'alice', image['owner'], 'host', 'dead worker', None)
    claim = pipelines.store.begin(image['id'], image['created_at'], image['owner'], new)
    assert isinstance(claim, Claim)
    pipelines.store.renew('living worker', 'host', {})
    with closing(sqlite3.connect(pipelines.connection.removeprefix('sqlite:///'))) as database, database:
        database.execute('UPDATE imgguard_images SET running_at = running_at - 900 WHERE key = ?', (claim.key,))
        database.execute('UPDATE imgguard_attempts SET updated_at = updated_at - 900 WHERE image_key = ?', (claim.key,))
        database.execute('UPDATE imgguard_workers SET since = since - 9000')
    lost, = attempts(images, image['id'])
    assert (lost['state'], lost['code'], lost['retryable']) == ('lost', 'worker_lost', True)


def test_an_image_that_waits_has_none_yet(images: Images) -> None:
    assert attempts(images, images.created(KEEP)) == []


# Who sees what

def test_the_host_is_for_admins(pipelines: Pipelines, images: Images) -> None:
    attempt, = attempts(Images(pipelines.guarded, admin_token()), images.in_error())
    assert list(attempt) == [*FOR_OWNERS, 'host']
    assert attempt['host']


def test_the_owners_project_sees_all_else(pipelines: Pipelines, images: Images, project: str) -> None:
    image_id = images.in_error()
    expected = attempts(images, image_id)
    for caller in (reader_token('carol', project), token('bob', project)):
        assert attempts(Images(pipelines.guarded, caller), image_id) == expected


def test_others_who_see_the_image_see_what_how_it_ended_and_when(pipelines: Pipelines, images: Images) -> None:
    image_id = images.in_error(visibility='community')
    expected = [{name: attempt[name] for name in FOR_ALL} for attempt in attempts(images, image_id)]
    stranger = Images(pipelines.guarded, token('mallory', new_project()))
    found = attempts(stranger, image_id)
    assert found == expected and list(found[0]) == FOR_ALL


@pytest.mark.parametrize('accept', ['application/json', 'text/html', 'text/plain'])
def test_to_who_does_not_see_the_image_it_is_not_there(
    pipelines: Pipelines, images: Images, accept: str,
) -> None:
    image_id = images.in_error()
    twin = Images(pipelines.bare, images.caller).created()
    headers = {'Accept': accept}
    for caller in (token('mallory', new_project()), ''):
        found = ask(Images(pipelines.guarded, caller), image_id, headers=headers)
        expected = Images(pipelines.bare, caller).request('GET', f'/v2/images/{twin}', headers)
        assert found.status_int in (401, 404)
        assert comparable(found) == comparable(expected)


def test_an_image_that_is_not_there(images: Images) -> None:
    answer = ask(images, MISSING, headers={'Accept': 'application/json'})
    assert (answer.status_int, answer.json['title']) == (404, 'Not Found')
    assert f'No image found with ID {MISSING}' in answer.json['message']


def test_an_image_the_guard_does_not_know(images: Images) -> None:
    image_id = images.created()
    answer = ask(images, image_id)
    assert answer.status_int == 404 and f'No attempts are known of image {image_id}' in answer.text


# Pages

@pytest.fixture
def five(images: Images) -> str:
    """An image with five attempts."""
    image_id = images.created(KEEP)
    for _ in range(5):
        images.upload_cut(image_id)
    return image_id


@pytest.mark.parametrize(('query', 'numbers'), [
    ('', [5, 4, 3, 2, 1]), ('?limit=2', [5, 4]), ('?limit=2&marker=4', [3, 2]), ('?marker=1', []), ('?limit=0', []),
    ('?marker=3', [2, 1]), ('?limit=2147483647', [5, 4, 3, 2, 1]), ('?limit=1&limit=2', [5, 4]),
    ('?other=1', [5, 4, 3, 2, 1]),
])
def test_pages(images: Images, five: str, query: str, numbers: list[int]) -> None:
    assert [attempt['number'] for attempt in attempts(images, five, query)] == numbers


@pytest.mark.parametrize(('query', 'said'), [
    ('?limit=-1', 'limit'), ('?limit=x', 'limit'), ('?limit=', 'limit'), ('?limit=1.5', 'limit'),
    ('?limit=99999999999', 'limit'), ('?limit=%D9%A3', 'limit'), ('?limit=%FF', 'UTF-8'),
    ('?marker=x', 'marker'), ('?marker=', 'marker'), ('?marker=-1', 'marker'), ('?marker=' + '9' * 5000, 'marker'),
    ('?marker=6', 'No attempt 6 is known'), ('?marker=0', 'No attempt 0 is known'),
])
def test_bad_pages(images: Images, five: str, query: str, said: str) -> None:
    answer = ask(images, five, query)
    assert answer.status_int == 400 and said in answer.text


# The history outlives the image

@pytest.mark.parametrize('pipeline', ['guarded', 'bare'])
def test_after_its_deletion_it_is_for_the_owners_project_and_admins(
    pipelines: Pipelines, images: Images, project: str, pipeline: str,
) -> None:
    image_id = images.in_error(visibility='community')
    expected = attempts(images, image_id)
    deleter = Images(getattr(pipelines, pipeline), images.caller)
    assert deleter.request('DELETE', f'/v2/images/{image_id}', {
        'X-OpenStack-Image-Keep-On-Failure': 'false'}).status_int == 204
    for caller in (images.caller, reader_token('carol', project)):
        assert attempts(Images(pipelines.guarded, caller), image_id) == expected
    assert 'host' in attempts(Images(pipelines.guarded, admin_token()), image_id)[0]
    for caller in (token('mallory', new_project()), token('alice', project, 'no_role_of_glance')):
        answer = ask(Images(pipelines.guarded, caller), image_id)
        assert answer.status_int == 404 and f'No image found with ID {image_id}' in answer.text


def test_an_id_that_is_used_again_has_a_history_of_its_own(pipelines: Pipelines, images: Images) -> None:
    image = images.create(KEEP).json
    earlier = Failure('backend_error', 'of an earlier image')
    new = NewAttempt(Kind.UPLOAD, True, None, 'mallory', 'another project', 'host', 'worker', None)
    claim = pipelines.store.begin(image['id'], '2001-01-01T00:00:00Z', 'another project', new)
    assert isinstance(claim, Claim)
    pipelines.store.finish(claim, State.FAILED, earlier, shown=True, http_status=500, bytes_received=1)
    assert attempts(images, image['id']) == []
    before = attempts(Images(pipelines.guarded, token('mallory', 'another project')), image['id'])
    assert [attempt['message'] for attempt in before] == ['of an earlier image']


# When the guard's store is down

def test_an_outage_of_the_store(
    in_process_glance: InProcessGlance, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    images = Pipelines(in_process_glance, tmp_path).images()
    image_id = images.in_error()
    # An open SQLite file outlives its removal.
    for each in gc.get_objects():
        if type(each) is Store:
            each.close()
    shutil.rmtree(tmp_path)
    answer = ask(images, image_id)
    assert answer.status_int == 500 and 'cannot be read now; try again later.' in answer.text
    assert [record for record in caplog.records if 'attempts cannot be shown' in record.getMessage()]
