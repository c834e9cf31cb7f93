"""Several uWSGI processes with several threads write to one SQLite file of the guard, and some of them die."""

import hashlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from demo.client import Answer, Client
from demo.private_glance import PrivateGlance, Sections, lay_out
from demo.server import Kind, Server, Size
from imgguard.attempts import State
from imgguard.store import AttemptRow
from tests import conftest
from tests.harness import IDENTITY
from tests.identity import token
from tests.sockets import Exchange, GuardsStore, chunked, eventually
from tests.uploading import ERROR, KEEP

CALLER = token('alice', 'project')
HEADERS = {'X-Auth-Token': CALLER, 'Content-Type': 'application/octet-stream'}
DATA = bytes(range(251)) * 2000
KEPT = 'x-openstack-image-kept'
UPLOADS = 40
LEASE_SECONDS = 5.0
SKEW_SECONDS = 5.0


def test_eight_workers_start_at_once_where_no_store_is(start_server: conftest.StartServer) -> None:
    with start_server(Kind.UWSGI_HTTP_SOCKET, {}, size=Size(processes=8)) as server:
        ready = server.glance.server_log
        eventually(lambda: ready.read_text().count('WSGI app 0 (') == 8, 'eight workers that have loaded')
        client = Client(server.port, {'X-Auth-Token': CALLER})
        with ThreadPoolExecutor(8) as threads:
            kept = list(threads.map(lambda _: client.create(KEEP).headers[KEPT], range(16)))
        assert kept == ['guarded'] * 16
        log = server.log_text()
        assert ' ERROR imgguard' not in log and 'nothing can be guarded' not in log


@pytest.fixture(scope='module')
def glances_database(new_glance_database: conftest.NewGlanceDatabase) -> Sections:
    return new_glance_database()


@pytest.fixture(scope='module')
def glance(
    glances_database: Sections, glance_template: PrivateGlance, tmp_path_factory: pytest.TempPathFactory,
) -> PrivateGlance:
    """A Glance with the guard; the lease is the shortest there is."""
    return lay_out(
        tmp_path_factory.mktemp('glance') / 'glance', guard={'lease_seconds': '5'}, identity=IDENTITY,
        settings=glances_database, database=glance_template.database)


@pytest.fixture(scope='module')
def server(glance: PrivateGlance, start_module_server: conftest.StartServer) -> Iterator[Server]:
    """Four processes of two threads."""
    with start_module_server(Kind.UWSGI_HTTP, None, size=Size(4, 2), again=glance) as running:
        yield running


@pytest.fixture(scope='module')
def guards_store(server: Server) -> Iterator[GuardsStore]:
    """What the guard has stored."""
    store = GuardsStore(server, LEASE_SECONDS)
    yield store
    store.close()


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.port, {'X-Auth-Token': CALLER})


def begin(server: Server, image_id: str, in_chunks: bool) -> Exchange:
    """Send the head of an upload."""
    framing = {'Transfer-Encoding': 'chunked'} if in_chunks else {'Content-Length': str(len(DATA))}
    return Exchange(server.port).head('PUT', f'/v2/images/{image_id}/file', {**HEADERS, **framing})


def test_many_uploads_at_once(
    server: Server, client: Client, guards_store: GuardsStore, glances_database: Sections,
) -> None:
    ids = [client.create(KEEP).json['id'] for _ in range(UPLOADS)]

    def upload(number: int) -> Answer | None:
        in_chunks = number % 4 >= 2
        with begin(server, ids[number], in_chunks) as exchange:
            if number % 2:
                exchange.send(chunked(DATA)[:-1000] if in_chunks else DATA[:-1000])
                # Hung up only when it is this upload's turn: it shall fail as an upload, not at the door.
                guards_store.wait_for_claim(ids[number])
                return None
            return exchange.send(chunked(DATA) + chunked(b'') if in_chunks else DATA).answer()

    with ThreadPoolExecutor(UPLOADS) as threads:
        answers = list(threads.map(upload, range(UPLOADS)))

    def ended(image_id: str) -> list[AttemptRow]:
        return [each for each in guards_store.attempts(image_id) if each.state is not State.RUNNING]

    for number, (image_id, answer) in enumerate(zip(ids, answers, strict=True)):
        [attempt] = eventually(partial(ended, image_id), 'the end of the attempt')
        if not glances_database and 'database is locked' in (attempt.message or ''):
            continue  # Glance's own database, not the guard's
        image = client.show(image_id).json
        if answer is None:
            assert (attempt.state, attempt.code) == (State.FAILED, 'client_disconnected'), number
            assert (image['status'], image[f'{ERROR}_attempts']) == ('error', '1')
        else:
            assert (answer.status, answer.headers[KEPT]) == (204, 'guarded'), (number, answer.text)
            assert (attempt.state, attempt.bytes_received) == (State.SUCCEEDED, len(DATA))
            assert (image['status'], image['checksum']) == ('active', hashlib.md5(DATA).hexdigest())
    assert ' ERROR imgguard' not in server.log_text()


def refused(client: Client, image_id: str) -> bool:
    """Whether the guard refuses another upload because one is under way."""
    answer = client.upload(image_id, DATA)
    return answer.status == 409 and 'under way' in answer.text


def test_a_client_that_is_slow_for_longer_than_a_lease_keeps_it(
    server: Server, client: Client, guards_store: GuardsStore,
) -> None:
    image_id = client.create(KEEP).json['id']

    def outlived_its_lease() -> bool:
        running = guards_store.running(image_id)
        assert running is not None
        return running.updated_at - running.started_at > LEASE_SECONDS + SKEW_SECONDS

    with begin(server, image_id, in_chunks=True) as exchange:
        exchange.chunk(DATA[:1000])
        guards_store.wait_for_claim(image_id)
        # Not one byte comes in all that time.
        eventually(outlived_its_lease, 'renewed leases')
        assert refused(client, image_id)
        answer = exchange.chunk(DATA[1000:]).chunk(b'').answer()
    assert (answer.status, answer.headers[KEPT]) == (204, 'guarded')
    image = client.show(image_id).json
    assert (image['status'], image['checksum']) == ('active', hashlib.md5(DATA).hexdigest())


def test_a_worker_that_is_killed_holds_its_image_no_longer_than_a_lease(
    server: Server, client: Client, guards_store: GuardsStore,
) -> None:
    image_id = client.create(KEEP).json['id']
    with begin(server, image_id, in_chunks=False) as exchange:
        worker = guards_store.wait_for_claim(image_id).worker
        exchange.send(DATA[:1000])
        os.kill(int(worker.split(':')[1]), signal.SIGKILL)

        def lost() -> bool:
            record = guards_store.record(image_id)
            return record is not None and (record.running is None or not record.running.alive)

        assert refused(client, image_id)
        eventually(lost, 'the end of the lease')
        # What Glance says of an image that it still has in "saving" is another matter.
        assert not refused(client, image_id)
