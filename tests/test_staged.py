"""Data is staged on one host, and what is asked about it comes in at another: Glance hands the request on.

Two or more real Glances with one database, one store and one store of the guard (:mod:`tests.hosts`).
"""

import json
import os
import re
import socketserver
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from demo.client import Answer
from demo.private_glance import Options, Sections
from demo.server import HOST
from imgguard.attempts import Kind, NewAttempt, State
from imgguard.store import AttemptRow, Store
from tests.cases import proves
from tests.conftest import StartHost
from tests.hosts import Host, Shared
from tests.identity import reader_token, token
from tests.sockets import Exchange, GuardsStore, eventually
from tests.uploading import ALICE, ERROR, KEEP, KEPT

OCTETS = {'Content-Type': 'application/octet-stream'}
JSON = {'Content-Type': 'application/json'}
DONT_KEEP = {'X-OpenStack-Image-Keep-On-Failure': 'false'}
DATA = b'data of an image' * 1000
GUARD = {'lease_seconds': '5', 'fence_seconds': '3600'}
TWO_STORES = {'DEFAULT': {'enabled_backends': 'fs:file, more:file'}}
#: Its guard refuses everything but what is not to be kept.
CUT_OFF = {'connection': 'postgresql+psycopg://postgres@127.0.0.1:1/none', 'keep_default': 'always',
           'on_store_failure': 'refuse'}


@pytest.fixture(scope='module')
def first(start_module_host: StartHost) -> Host:
    return start_module_host(GUARD)


@pytest.fixture(scope='module')
def second(start_module_host: StartHost, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """It knows a store that the others do not."""
    more = {'more': {'filesystem_store_datadir': str(tmp_path_factory.mktemp('more'))}}
    return start_module_host(GUARD, settings={**TWO_STORES, **more})


@pytest.fixture
def guards_store(shared: Shared) -> Iterator[GuardsStore]:
    store = shared.guards_store(5)
    yield store
    store.close()


def staged(host: Host, headers: Mapping[str, str] | None = None, **fields: object) -> str:
    """An image whose data waits on this host; unless ``headers`` say so, the guard does not know it."""
    image_id: str = host.client(ALICE).create(headers, **fields).json['id']
    assert stage(host, image_id, headers).status == 204
    return image_id


def stage(host: Host, image_id: str, headers: Mapping[str, str] | None = None) -> Answer:
    return host.client(ALICE).request('PUT', f'/v2/images/{image_id}/stage', DATA, {**OCTETS, **(headers or {})})


def start_import(host: Host, image_id: str, headers: Mapping[str, str] | None = None, caller: str = ALICE,
                 **options: object) -> Answer:
    body = json.dumps({'method': {'name': 'glance-direct'}, **options}).encode()
    return host.client(caller).request('POST', f'/v2/images/{image_id}/import', body, {**JSON, **(headers or {})})


def correct(host: Host, image_id: str) -> Answer:
    """Say of what format the data is; refused by Glance while the image is not ``queued``."""
    patch = json.dumps([{'op': 'replace', 'path': '/disk_format', 'value': 'raw'}]).encode()
    content = {'Content-Type': 'application/openstack-images-v2.1-json-patch'}
    return host.client(ALICE).request('PATCH', f'/v2/images/{image_id}', patch, content)


def show(host: Host, image_id: str) -> dict[str, Any]:
    image: dict[str, Any] = host.client(ALICE).show(image_id).json
    return image


def wait_for(host: Host, image_id: str, status: str) -> dict[str, Any]:
    eventually(lambda: show(host, image_id)['status'] == status, f'{image_id} is {status}')
    return show(host, image_id)


def the_attempt(store: GuardsStore, image_id: str, kind: Kind = Kind.IMPORT) -> AttemptRow:
    """The one attempt of this kind, once it has ended."""
    eventually(lambda: not store.running(image_id), f'the attempt on {image_id} has ended')
    found, = [each for each in store.attempts(image_id) if each.kind is kind]
    return found


def runs_on(host: Host, attempt: AttemptRow) -> bool:
    return attempt.worker.split(':')[1] == str(host.server.process.pid)


def test_the_attempt_is_the_host_s_that_does_the_work(first: Host, second: Host, guards_store: GuardsStore) -> None:
    image_id = staged(first)
    answer = start_import(second, image_id, KEEP)
    assert (answer.status, answer.headers[KEPT.lower()]) == (202, 'guarded')
    assert wait_for(second, image_id, 'active')['size'] == len(DATA)
    attempt = the_attempt(guards_store, image_id)
    assert (attempt.state, attempt.guarded, attempt.handed_on) == (State.SUCCEEDED, True, False)
    assert runs_on(first, attempt)
    # Glance answers with the id that the request has on the other host.
    assert attempt.request_id == answer.headers['x-openstack-request-id']


def test_what_the_client_asked_for_is_kept(first: Host, second: Host, guards_store: GuardsStore) -> None:
    """The data is not what it is said to be; the cause is known to the process only that imports."""
    image_id = staged(first, disk_format='qcow2')
    assert start_import(second, image_id, KEEP).status == 202
    image = wait_for(second, image_id, 'error')
    assert image[f'{ERROR}_code'] == 'format_rejected'
    assert image[f'{ERROR}_attempts'] == '1'
    assert runs_on(first, the_attempt(guards_store, image_id))

    # And can be tried again anywhere.
    eventually(lambda: not first.staged().get(image_id), 'the staged data is cleared away')
    eventually(lambda: correct(second, image_id).status == 200, 'it is queued again')
    assert stage(second, image_id).status == 204
    assert start_import(first, image_id).status == 202
    wait_for(first, image_id, 'active')


def test_what_the_client_did_not_ask_for(first: Host, second: Host, guards_store: GuardsStore) -> None:
    image_id = staged(first, KEEP, disk_format='qcow2')
    assert start_import(second, image_id, DONT_KEEP).status == 202
    attempt = the_attempt(guards_store, image_id)
    assert (attempt.state, attempt.guarded) == (State.FAILED, False)
    assert ERROR not in show(second, image_id)


def test_a_refusal_at_the_door_of_the_other_host(
    first: Host, second: Host, start_host: StartHost, guards_store: GuardsStore,
) -> None:
    """The answer is a 500 all the same, by Glance 33, but it says nothing of the image."""
    for host in (first, start_host(None)):
        image_id = staged(host)
        answer = start_import(second, image_id, KEEP, stores=['more'])
        assert answer.status == 500
        assert KEPT.lower() not in answer.headers
        assert guards_store.attempts(image_id) == []
        assert show(second, image_id)['status'] == 'uploading'
        assert start_import(second, image_id, KEEP).status == 202
        wait_for(second, image_id, 'active')


def test_the_other_host_cannot_do_it(start_host: StartHost, second: Host, guards_store: GuardsStore) -> None:
    """Its guard has lost its store, and was told to let nothing through then."""
    image_id = staged(start_host(CUT_OFF), DONT_KEEP)
    answer = start_import(second, image_id, KEEP)
    assert (answer.status, answer.headers[KEPT.lower()]) == (500, 'error')
    image = show(second, image_id)
    assert (image['status'], image[f'{ERROR}_code']) == ('error', 'backend_error')
    assert image[ERROR] == 'Glance failed with status 500 before the import began.'
    assert runs_on(second, the_attempt(guards_store, image_id))


def test_a_host_without_guard(
    start_host: StartHost, second: Host, guards_store: GuardsStore,
) -> None:
    bare = start_host(None)
    image_id = staged(bare)
    assert start_import(second, image_id, KEEP).headers[KEPT.lower()] == 'guarded'
    wait_for(second, image_id, 'active')
    attempt = the_attempt(guards_store, image_id)
    assert (attempt.state, attempt.handed_on) == (State.SUCCEEDED, True)
    assert runs_on(second, attempt)

    image_id = staged(bare, disk_format='qcow2')
    assert start_import(second, image_id, KEEP).headers[KEPT.lower()] == 'guarded'
    image = wait_for(second, image_id, 'error')
    assert image[f'{ERROR}_code'] == 'import_failed'
    eventually(lambda: correct(second, image_id).status == 200, 'it is queued again')
    assert second.client(ALICE).upload(image_id, DATA).status == 204

    image_id = staged(bare)
    bare.kill()
    bare = start_host(None, again=bare)
    start_import(second, image_id, KEEP)
    wait_for(second, image_id, 'active')


@proves('3.10')
def test_the_other_host_is_away(start_host: StartHost, second: Host, guards_store: GuardsStore) -> None:
    away = start_host(GUARD)
    image_id, another = staged(away, KEEP), staged(away, KEEP)
    away.kill()
    start_import(second, another)
    answer = start_import(second, image_id)
    assert (answer.status, answer.headers[KEPT.lower()]) == (500, 'error')
    image = show(second, image_id)
    assert (image['status'], image[f'{ERROR}_code']) == ('error', 'storage_unavailable')
    assert image[ERROR].startswith('The host that has the staged data of this image does not answer.')
    assert '127.0.0.1' not in image[ERROR]

    back = start_host(None, again=away)
    assert back.staged() == {image_id: len(DATA), another: len(DATA)}
    deletes_after_a_failure(second, another)
    assert another not in back.staged()

    assert start_import(second, image_id).headers[KEPT.lower()] == 'guarded'
    wait_for(second, image_id, 'active')
    eventually(lambda: not guards_store.running(image_id), 'the attempt has ended')
    assert [each.state for each in guards_store.attempts(image_id)] == [
        State.SUCCEEDED, State.FAILED, State.SUCCEEDED]


def deletes_after_a_failure(host: Host, image_id: str) -> None:
    """A clean-up is absorbed where it comes in; a wish to delete is none for the host it is handed on to, either."""
    def delete(headers: Mapping[str, str]) -> Answer:
        return host.client(ALICE).request('DELETE', f'/v2/images/{image_id}', headers=headers)

    answer = delete({})
    assert (answer.status, answer.headers[KEPT.lower()]) == (204, 'error')
    assert show(host, image_id)['status'] == 'error'
    answer = delete(DONT_KEEP)
    assert (answer.status, answer.headers.get(KEPT.lower())) == (204, None)
    assert host.client(ALICE).show(image_id).status == 404


def test_the_death_of_the_host_that_was_asked(first: Host, start_host: StartHost, guards_store: GuardsStore) -> None:
    asked = start_host(GUARD)
    image_id = staged(first)

    def taken_over() -> bool:
        claimed = guards_store.attempts(image_id)
        return bool(claimed) and runs_on(first, claimed[0])

    with ThreadPoolExecutor() as threads:
        # Whether its answer still comes is chance.
        threads.submit(start_import, asked, image_id, KEEP)
        eventually(taken_over, 'the claim is taken over')
        asked.kill()
    wait_for(first, image_id, 'active')
    attempt = the_attempt(guards_store, image_id)
    assert (attempt.state, attempt.guarded, runs_on(first, attempt)) == (State.SUCCEEDED, True, True)


class Relay:
    """Hands one request after the other on to a host, and hangs up when there is an answer."""

    def __init__(self) -> None:
        self.port = 0
        relay = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head = b''.join(iter(self.rfile.readline, b'\r\n')) + b'\r\n'
                size = re.search(rb'(?i)content-length: *(\d+)', head)
                body = self.rfile.read(int(size[1])) if size else b''
                with Exchange(relay.port) as exchange:
                    exchange.send(head + body).arrives()

        self._server = socketserver.ThreadingTCPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.05})
        self._thread.start()

    @property
    def settings(self) -> Sections:
        """For the host whose answers are to be lost."""
        return {'DEFAULT': {'worker_self_reference_url': f'http://{HOST}:{self._server.server_address[1]}'}}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay()
    yield made
    made.close()


@pytest.mark.parametrize('guard', [GUARD, None], ids=['guarded', 'bare'])
def test_the_answer_of_the_other_host_is_lost(
    guard: Options | None, relay: Relay, start_host: StartHost, second: Host, guards_store: GuardsStore,
) -> None:
    """The client gets Glance's 500, but the import goes on, and nothing else is said of the image."""
    works = start_host(guard, settings=relay.settings)
    relay.port = works.server.port
    image_id = staged(works)
    hold(works, image_id)
    answer = start_import(second, image_id, KEEP)
    assert (answer.status, answer.headers[KEPT.lower()]) == (500, 'guarded')
    attempt, = guards_store.attempts(image_id)
    assert (attempt.state, attempt.guarded) == (State.RUNNING, True)
    assert runs_on(works if guard else second, attempt)
    eventually(lambda: guards_store.attempts(image_id)[0].task_id, 'its task is known')
    assert show(second, image_id)['status'] in ('uploading', 'importing')


def hold(host: Host, image_id: str) -> None:
    """Let the import of what is staged stand still: nobody ever writes what it is to read."""
    path = host.glance.staging / image_id
    path.unlink()
    os.mkfifo(path)


def test_the_death_of_the_host_that_does_the_work(
    start_host: StartHost, second: Host, guards_store: GuardsStore,
) -> None:
    works = start_host(GUARD)
    image_id = staged(works, KEEP)
    hold(works, image_id)
    assert start_import(second, image_id).status == 202
    eventually(lambda: show(second, image_id)['status'] == 'importing', 'it is being imported')
    works.kill()
    image = wait_for(second, image_id, 'error')
    assert image[f'{ERROR}_code'] == 'worker_lost'
    attempt = the_attempt(guards_store, image_id)
    assert (attempt.state, runs_on(works, attempt)) == (State.LOST, True)

    # What lies on the dead host nobody else can clear away, and Glance there would refuse every stage for it.
    back = start_host(None, again=works)
    assert image_id in back.staged()
    eventually(lambda: stage(back, image_id).status == 204, 'it can be staged again')
    assert start_import(second, image_id).status == 202
    wait_for(second, image_id, 'active')


@pytest.mark.parametrize(('claimed', 'caller', 'status'), [
    ({}, ALICE, 202),
    ({'handed_on': False}, ALICE, 409),
    ({'user_id': 'bob'}, ALICE, 409),
    ({'project_id': 'blue'}, ALICE, 409),
    ({'kind': Kind.STAGE}, ALICE, 409),
    ({}, token('bob', 'red'), 409),
    ({}, reader_token('alice', 'red'), 403),
    ({}, token('alice', 'blue'), 404),
])
def test_only_a_claim_that_was_made_for_it_is_taken_over(
    first: Host, shared: Shared, guards_store: GuardsStore, claimed: Mapping[str, Any], caller: str, status: int,
) -> None:
    image_id = staged(first)
    image = show(first, image_id)
    new = NewAttempt(**{
        'kind': Kind.IMPORT, 'guarded': True, 'request_id': 'req-1', 'user_id': 'alice', 'project_id': 'red',
        'host': 'elsewhere', 'worker': 'elsewhere:1:a', 'bytes_expected': None, 'handed_on': True, **claimed})
    store = Store(shared.guard_url, 5)
    store.begin(image_id, image['created_at'], image['owner'], new)
    store.close()
    assert start_import(first, image_id, DONT_KEEP, caller).status == status
    attempt, = guards_store.attempts(image_id)
    assert attempt.guarded
    assert (attempt.worker == 'elsewhere:1:a') == (status != 202)


def test_a_claim_is_not_taken_over_where_the_data_is_not(
    first: Host, second: Host, shared: Shared, guards_store: GuardsStore,
) -> None:
    image_id = staged(first)
    image = show(first, image_id)
    store = Store(shared.guard_url, 5)
    store.begin(image_id, image['created_at'], image['owner'], NewAttempt(
        Kind.IMPORT, True, 'req-1', 'alice', 'red', 'elsewhere', 'elsewhere:1:a', None, handed_on=True))
    store.close()
    assert start_import(second, image_id).status == 409
    assert guards_store.attempts(image_id)[0].worker == 'elsewhere:1:a'
