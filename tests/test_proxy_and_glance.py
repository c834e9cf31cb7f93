"""What the guard in the proxy knows of a Glance that works on without it: lost answers, and imports nobody watches."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from webtest import TestResponse

from demo.private_glance import Sections
from demo.server import Kind, Server
from imgguard.attempts import Claim, Kind as What, NewAttempt, State
from imgguard.store import AttemptRow, Store
from imgguard.wsgi import Environ
from tests import conftest
from tests.identity import reader_token, token
from tests.proxying import Between, sample
from tests.sockets import eventually
from tests.sources import DATA, Source, serving
from tests.uploading import KEEP, KEPT, Body, Images, new_project, silence

OCTETS = {'Content-Type': 'application/octet-stream'}
IMPORT = NewAttempt(What.IMPORT, True, 'req-1', 'alice', 'red', 'host', 'worker', None, handed_on=True)


@pytest.fixture(scope='module')
def glances_database(new_glance_database: conftest.NewGlanceDatabase) -> Sections:
    return new_glance_database()


@pytest.fixture(scope='module')
def glance(start_module_server: conftest.StartServer, glances_database: Sections) -> Server:
    return start_module_server(Kind.GUNICORN_GTHREAD, None, settings={
        **glances_database, 'import_filtering_opts': {'allowed_hosts': '[127.0.0.1]', 'allowed_ports': '[]'}})


@pytest.fixture
def glances_url(glance: Server, glances_database: Sections) -> str:
    """Where Glance's own database is."""
    return glances_database['database']['connection'] if glances_database else f'sqlite:///{glance.glance.database}'


@pytest.fixture
def between(glance: Server) -> Iterator[Between]:
    with Between(glance.url) as backend:
        yield backend


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as source:
        yield source


class Scene:
    """The proxy in front of a Glance, and what its guard has stored."""

    def __init__(self, folder: Path, between: Between) -> None:
        self._folder = folder
        self._between = between
        self.connection = f'sqlite:///{folder}/imgguard.db'
        self.project = new_project()
        self.caller = token('alice', self.project)

    def load(self, **options: str) -> Images:
        """The proxy as the paste file makes it."""
        return Images(sample(self._folder, self._between.url, **options), self.caller)

    def lose(self, method: str, part: str, when: str) -> None:
        """Lose these requests, or their answers; for ``when`` see :class:`tests.proxying.Between`."""
        def loses(environ: Environ) -> str | None:
            wanted = (environ['REQUEST_METHOD'], environ['PATH_INFO'].rpartition('/')[2]) == (method, part)
            return when if wanted else None

        self._between.loses = loses

    def attempts(self, image_id: str) -> list[AttemptRow]:
        """The history of the image, the oldest attempt first."""
        with closing(Store(self.connection, 60)) as store:
            record = next(iter(store.records([image_id]).values()))
            return store.attempts(record.key, 100)[::-1]


@pytest.fixture
def scene(tmp_path: Path, between: Between) -> Scene:
    return Scene(tmp_path, between)


def stage(images: Images, image_id: str, body: bytes | Body = DATA) -> TestResponse:
    return images.request('PUT', f'/v2/images/{image_id}/stage', OCTETS, body)


def web(images: Images, image_id: str, url: str) -> TestResponse:
    return images.json('POST', f'/v2/images/{image_id}/import', {'method': {'name': 'web-download', 'uri': url}})


# Lost answers

@pytest.mark.parametrize(('chunked', 'how'), [(False, 'after'), (True, 'after'), (False, '504')])
def test_a_stage_whose_answer_is_lost_is_there(scene: Scene, chunked: bool, how: str) -> None:
    images = scene.load(read_timeout='3')
    image_id = images.created(KEEP)
    scene.lose('PUT', 'stage', how)
    answer = stage(images, image_id, Body([DATA]) if chunked else DATA)
    assert (answer.status_int, answer.headers[KEPT]) == (504, 'guarded')
    assert [each.state for each in scene.attempts(image_id)] == [State.SUCCEEDED]
    assert images.show(image_id)['status'] == 'uploading'
    imported = images.json('POST', f'/v2/images/{image_id}/import', {'method': {'name': 'glance-direct'}})
    assert imported.status_int == 202
    eventually(lambda: images.show(image_id)['status'] == 'active', 'it is imported')


@pytest.mark.parametrize('how', ['after', '504'])
def test_an_upload_whose_answer_is_lost_is_there(scene: Scene, how: str) -> None:
    images = scene.load(read_timeout='3')
    image_id = images.created(KEEP)
    scene.lose('PUT', 'file', how)
    answer = images.upload(image_id, DATA)
    assert (answer.status_int, answer.headers[KEPT]) == (504, 'guarded')
    assert images.show(image_id)['status'] == 'active'


@pytest.mark.parametrize('part', ['file', 'stage'])
def test_of_one_that_glance_has_not_begun_it_is_not_known_that_it_ended(scene: Scene, part: str) -> None:
    """It may still lie in a server between, or in a backlog, and begin when nobody expects it."""
    images = scene.load(read_timeout='3')
    image_id = images.created(KEEP)
    scene.lose('PUT', part, 'before')
    answer = images.request('PUT', f'/v2/images/{image_id}/{part}', OCTETS, DATA)
    assert (answer.status_int, answer.headers[KEPT]) == (504, 'error')
    attempt, = scene.attempts(image_id)
    assert (attempt.state, attempt.code, attempt.http_status) == (State.FAILED, 'backend_error', None)


def test_of_one_that_glance_has_put_back_it_is_known_that_it_ended(scene: Scene, glances_url: str) -> None:
    images = scene.load()
    image_id = images.created(KEEP)
    engine = create_engine(glances_url)
    with engine.begin() as connection:
        # It tells whole seconds only.
        connection.execute(text("UPDATE images SET updated_at = '2026-01-01 00:00:00' WHERE id = :id"),
                           {'id': image_id})
    engine.dispose()
    scene.lose('PUT', 'file', '504')
    assert images.upload_cut(image_id).status_int == 504
    attempt, = scene.attempts(image_id)
    assert (attempt.code, attempt.http_status) == ('client_disconnected', 504)


def test_an_import_that_never_reached_glance(scene: Scene, source: Source) -> None:
    images = scene.load(read_timeout='3')
    image_id = images.created(KEEP)
    scene.lose('POST', 'import', 'before')
    answer = web(images, image_id, source.url('good'))
    assert (answer.status_int, answer.headers[KEPT]) == (504, 'error')
    attempt, = scene.attempts(image_id)
    assert (attempt.state, attempt.http_status) == (State.FAILED, None)
    assert not source.asked.is_set()


@pytest.mark.parametrize('how', ['after', '504'])
def test_an_import_whose_answer_is_lost_is_followed(scene: Scene, source: Source, how: str) -> None:
    images = scene.load(read_timeout='3')
    image_id = images.created(KEEP)
    scene.lose('POST', 'import', how)
    answer = web(images, image_id, source.url('slow'))
    assert (answer.status_int, answer.headers[KEPT]) == (504, 'guarded')
    assert source.asked.wait(60)
    source.release()
    eventually(lambda: scene.attempts(image_id)[0].state is State.SUCCEEDED, 'its end is known')


# Deletes

def test_a_clean_up_by_one_who_may_not_delete_can_be_left_to_glance(
    start_server: conftest.StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    policy = tmp_path / 'policy.yaml'
    policy.write_text('"delete_image": "role:admin"\n')
    strict = start_server(Kind.CHEROOT, None, settings={'oslo_policy': {'policy_file': str(policy)}})
    images = Images(sample(tmp_path, strict.url, cleanup_window='0'), token('alice', new_project()))
    image_id = images.in_error()
    assert images.request('DELETE', f'/v2/images/{image_id}').status_int == 403
    assert 'set cleanup_window = 0' in caplog.text
    assert images.show(image_id)['status'] == 'error'


# Imports

def test_an_import_is_followed_as_who_began_it(scene: Scene, between: Between, source: Source) -> None:
    images = scene.load()
    reader = Images(images.application, reader_token('bob', scene.project))
    image_id = images.created(KEEP)
    assert web(images, image_id, source.url('slow')).status_int == 202
    assert reader.show(image_id)['status'] in ('queued', 'importing')
    between.asked.clear()
    eventually(lambda: len(between.asked) > 1, 'it is looked at')
    assert {caller for _, _, caller in between.asked} == {images.caller}
    assert source.asked.wait(60)
    source.release()
    eventually(lambda: scene.attempts(image_id)[0].state is State.SUCCEEDED, 'its end is known')
    assert reader.show(image_id)['status'] == 'active'


def test_an_import_that_makes_no_progress_is_given_up_and_cleared(
    scene: Scene, source: Source, glances_url: str,
) -> None:
    images = scene.load(glance_connection=glances_url, import_stall_seconds='1', lease_seconds='5', fence_seconds='6')
    image_id = images.created(KEEP)
    assert web(images, image_id, source.url('silent')).status_int == 202
    eventually(lambda: images.show(image_id)['status'] == 'error', 'it is given up')
    shown = images.show(image_id)
    assert (shown['os_glance_image_error_code'], shown['os_glance_image_error']) == (
        'import_failed', 'The import made no progress for 1 seconds.')
    refused = images.upload(image_id, DATA)
    assert refused.status_int == 409 and 'may still wake up' in refused.text
    eventually(lambda: images.upload(image_id, DATA).status_int == 204, 'the fence opens')
    source.release()
    assert images.download(image_id).body == DATA


def test_a_list_asks_of_few_imports_that_go_on_without_their_worker(scene: Scene, between: Between) -> None:
    images = scene.load()
    found = []
    with closing(Store(scene.connection, 60)) as store:
        for _ in range(8):
            image = images.create().json
            claim = store.begin(image['id'], image['created_at'], scene.project, IMPORT)
            assert isinstance(claim, Claim)
            silence(scene.connection, claim, 100)
            found.append(claim)
    between.asked.clear()
    assert len(images.listed('')) == 8
    lists = {'/v2/images', '/v1/images/detail'}
    assert 0 < len({path for _, path, _ in between.asked} - lists) <= 10
    for claim in found:
        silence(scene.connection, claim, 3700)
    assert len(images.listed('status=error')) == 8
