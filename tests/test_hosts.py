"""Several Glance hosts that serve the same images: what Glance itself does, and what the guards of all promise.

How they are set up: :mod:`tests.hosts`. What is handed on from one to another: :mod:`tests.test_staged`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from sqlalchemy import create_engine

from demo.client import Answer
from imgguard.attempts import State
from tests.conftest import StartHost
from tests.hosts import Host, Shared
from tests.sockets import Exchange, GuardsStore, eventually
from tests.uploading import ALICE, ERROR, KEEP, KEPT

OCTETS = {'Content-Type': 'application/octet-stream'}
IMPORT = json.dumps({'method': {'name': 'glance-direct'}}).encode()
JSON = {'Content-Type': 'application/json'}
FIRST, SECOND = b'first' * 20_000, b'second' * 10_000
LEASE_SECONDS = 5
#: The fence is short, so that it opens while a test waits.
GUARD = {'lease_seconds': str(LEASE_SECONDS), 'fence_seconds': '20'}
TEN_MINUTES = 600


@pytest.fixture(scope='module')
def here(start_module_host: StartHost) -> Host:
    """A host that stays."""
    return start_module_host(GUARD)


@pytest.fixture
def guards_store(shared: Shared) -> Iterator[GuardsStore]:
    store = shared.guards_store(LEASE_SECONDS)
    yield store
    store.close()


def created(host: Host) -> str:
    image_id: str = host.client(ALICE).create(KEEP).json['id']
    return image_id


def show(host: Host, image_id: str) -> dict[str, Any]:
    image: dict[str, Any] = host.client(ALICE).show(image_id).json
    return image


def wait_for(host: Host, image_id: str, status: str) -> dict[str, Any]:
    eventually(lambda: show(host, image_id)['status'] == status, f'{image_id} is {status}')
    return show(host, image_id)


def listed(host: Host, query: str) -> set[str]:
    return {each['id'] for each in host.client(ALICE).request('GET', f'/v2/images?{query}&limit=1000').json['images']}


def begun(host: Host, store: GuardsStore, image_id: str, what: str = 'file') -> Exchange:
    """A request that has sent half of its data, of which Glance has seen some."""
    exchange = Exchange(host.server.port)
    exchange.head('PUT', f'/v2/images/{image_id}/{what}', {
        **OCTETS, 'X-Auth-Token': ALICE, 'Content-Length': str(len(FIRST))}).send(FIRST[:len(FIRST) // 2])
    store.wait_for_claim(image_id)
    wait_for(host, image_id, 'saving' if what == 'file' else 'uploading')
    return exchange


def end(exchange: Exchange, sent: int = len(FIRST) // 2) -> int | None:
    """Send the rest of the data; the status of the answer."""
    with exchange:
        # The host may be gone, or have answered already: what it has not read breaks the connection.
        with suppress(OSError):
            exchange.send(FIRST[sent:])
        return exchange.status()


def upload(host: Host, image_id: str) -> Answer:
    return host.client(ALICE).upload(image_id, SECOND)


def is_whole(host: Host, shared: Shared, image_id: str) -> bool:
    """Whether the image is active with the second data and nothing else."""
    image = show(host, image_id)
    assert (image['status'], image['size'], ERROR in image) == ('active', len(SECOND), False)
    assert host.client(ALICE).request('GET', f'/v2/images/{image_id}/file').body == SECOND
    return (shared.store / image_id).read_bytes() == SECOND


def test_hosts_share_images_and_hand_on_what_is_about_staged_data(start_host: StartHost, shared: Shared) -> None:
    """Glance's own doing, without a guard."""
    first, second = start_host(None), start_host(None)
    here, there = first.client(ALICE), second.client(ALICE)
    image_id = here.create().json['id']
    assert here.request('PUT', f'/v2/images/{image_id}/stage', b'data', OCTETS).status == 204
    assert first.staged() == {image_id: 4}

    assert there.request('POST', f'/v2/images/{image_id}/import', IMPORT, JSON).status == 202
    eventually(lambda: there.show(image_id).json['status'] == 'active', 'the image is active')
    eventually(lambda: not first.staged(), 'the staged data is gone')
    assert (shared.store / image_id).read_bytes() == b'data'

    # Its caller's own error of a host that cannot be reached, which Glance does not expect from keystoneauth.
    image_id = here.create().json['id']
    assert here.request('PUT', f'/v2/images/{image_id}/stage', b'data', OCTETS).status == 204
    first.kill()
    assert there.request('POST', f'/v2/images/{image_id}/import', IMPORT, JSON).status == 500
    assert there.request('DELETE', f'/v2/images/{image_id}').status == 500
    assert there.show(image_id).json['status'] == 'uploading'

    first = start_host(None, again=first)
    assert there.request('DELETE', f'/v2/images/{image_id}').status == 204
    assert not first.staged()


def test_an_error_of_one_host_is_seen_on_the_other_at_once(
    here: Host, start_host: StartHost, guards_store: GuardsStore, shared: Shared,
) -> None:
    there = start_host(GUARD, apart=True)
    image_id = created(here)
    with begun(there, guards_store, image_id) as exchange:
        assert show(here, image_id)['status'] == 'saving'
        assert image_id not in listed(here, 'status=error')
        exchange.half_close()
        assert exchange.answer().headers[KEPT.lower()] == 'error'
    image = show(here, image_id)
    assert (image['status'], image[f'{ERROR}_code']) == ('error', 'client_disconnected')
    assert image_id in listed(here, 'status=error')
    assert image_id in listed(here, f'{ERROR}_code=client_disconnected')
    assert image_id not in listed(here, 'status=queued')
    assert show(there, image_id) == image

    assert upload(here, image_id).status == 204
    assert ERROR not in show(there, image_id)
    assert image_id not in listed(there, 'status=error')
    assert is_whole(there, shared, image_id)


@pytest.mark.parametrize('what', ['file', 'stage'])
def test_one_writer_on_all_hosts(
    what: str, here: Host, start_host: StartHost, guards_store: GuardsStore, shared: Shared,
) -> None:
    there = start_host(GUARD, apart=True)
    image_id = created(here)
    exchange = begun(there, guards_store, image_id, what)
    for another in ('file', 'stage'):
        answer = here.client(ALICE).request('PUT', f'/v2/images/{image_id}/{another}', SECOND, OCTETS)
        assert answer.status == 409
        assert 'under way' in answer.text
    assert end(exchange) == 204
    assert [each.state for each in guards_store.attempts(image_id)] == [State.SUCCEEDED]
    if what == 'stage':
        assert here.client(ALICE).request('POST', f'/v2/images/{image_id}/import', IMPORT, JSON).status == 202
    assert wait_for(here, image_id, 'active')['size'] == len(FIRST)
    assert (shared.store / image_id).read_bytes() == FIRST


def test_two_hosts_at_the_same_instant(here: Host, start_host: StartHost, shared: Shared) -> None:
    there = start_host(GUARD, apart=True)
    for _ in range(5):
        image_id = created(here)
        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(lambda host: upload(host, image_id), (here, there)))
        assert sorted(answer.status for answer in answers) == [204, 409]
        assert is_whole(there, shared, image_id)


def test_a_host_that_dies(here: Host, start_host: StartHost, guards_store: GuardsStore, shared: Shared) -> None:
    """Nobody can prove it: the error shows after the lease, a retry works after the fence, or at an operator's word."""
    there = start_host(GUARD, apart=True)
    waits, vouched = created(here), created(here)
    exchanges = [begun(there, guards_store, image_id) for image_id in (waits, vouched)]
    there.kill()
    assert upload(here, waits).status == 409
    assert requeue(here, vouched, '--worker-is-dead') == 1
    for image_id in (waits, vouched):
        image = wait_for(here, image_id, 'error')
        assert image[f'{ERROR}_code'] == 'worker_lost'
        answer = upload(here, image_id)
        assert answer.status == 409
        assert 'A new attempt works from' in answer.text
        assert (shared.store / image_id).exists()

    assert requeue(here, vouched) == 1
    assert upload(here, vouched).status == 409
    assert requeue(here, vouched, '--worker-is-dead') == 0
    assert upload(here, vouched).status == 204
    assert is_whole(here, shared, vouched)
    eventually(lambda: upload(here, waits).status == 204, 'the fence is open')
    assert is_whole(here, shared, waits)
    assert [end(exchange) for exchange in exchanges] == [None, None]


def requeue(host: Host, image_id: str, *more: str) -> int:
    """What an operator does on this host; the exit status."""
    command = [sys.executable, '-c', 'import sys; from imgguard.cli import main; sys.exit(main())',
               '--paste-file', str(host.glance.paste_file), 'requeue', image_id, *more]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize('what', ['file', 'stage'])
def test_a_host_that_is_stopped_and_goes_on(
    what: str, here: Host, start_host: StartHost, guards_store: GuardsStore, shared: Shared,
) -> None:
    """It wakes up after its images were cleared, and one tried again: it activates, restores and deletes nothing."""
    there = start_host(GUARD, apart=True)
    images = tried, left = created(here), created(here)
    exchanges = [begun(there, guards_store, image_id, what) for image_id in images]
    pause(there, shared)
    try:
        for image_id in images:
            wait_for(here, image_id, 'error')
        assert upload(here, tried).status == 409
        eventually(lambda: is_cleared(guards_store, left), 'it is cleared without being asked')
        eventually(lambda: upload(here, tried).status == 204, 'the fence is open')
        ends = [ThreadPoolExecutor(1).submit(end, exchange) for exchange in exchanges]
    finally:
        there.go_on()
    assert {each.result() for each in ends} <= {409, None}, 'the answer may be lost with the connection'

    assert is_whole(here, shared, tried)
    image = show(there, left)
    assert (image['status'], image[f'{ERROR}_code']) == ('error', 'worker_lost')
    assert not (shared.store / left).exists()
    eventually(lambda: not there.staged(), 'what it had staged is cleared away')
    assert [each.state for each in guards_store.attempts(left)] == [State.LOST]
    assert upload(there, left).status == 204
    assert is_whole(there, shared, left)


def is_cleared(store: GuardsStore, image_id: str) -> bool:
    record = store.record(image_id)
    return record is not None and record.cleared_number == record.last_number


def pause(host: Host, shared: Shared) -> None:
    """Stop the host where it holds no lock in the databases, which nobody else could get then."""
    def free() -> bool:
        host.pause()
        if not any(idle(url) for url in (shared.glance_url, shared.guard_url)):
            return True
        host.go_on()
        return False

    eventually(free, 'an instant without locks')


def idle(url: str) -> bool:
    """Whether a transaction is open that nobody works on."""
    if not url.startswith('postgresql'):
        return False
    engine = create_engine(url, isolation_level='AUTOCOMMIT')
    try:
        with engine.connect() as connection:
            return all(connection.exec_driver_sql(
                'SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()'
                " AND state LIKE 'idle in transaction%%'").scalar_one() for _ in range(10))
    finally:
        engine.dispose()


@pytest.mark.parametrize('off', [TEN_MINUTES, -TEN_MINUTES])
def test_a_host_whose_clock_is_off(
    off: int, here: Host, start_host: StartHost, guards_store: GuardsStore, shared: Shared,
) -> None:
    """Time is the database's: neither host takes the other's attempts for lost, and what they tell is true."""
    there = start_host(GUARD, apart=True, clock=off)
    assert abs(clock_of(there) - time.time()) > TEN_MINUTES / 2
    images = created(here), created(there)
    exchanges = [begun(host, guards_store, image_id) for host, image_id in zip((there, here), images, strict=True)]
    begin = [guards_store.wait_for_claim(image_id).updated_at for image_id in images]
    sent = len(FIRST) // 2

    def outlived() -> bool:
        # Slowly, for a server gives a silent client up.
        nonlocal sent
        for exchange in exchanges:
            exchange.send(FIRST[sent:sent + 1])
        sent += 1
        return all(guards_store.wait_for_claim(image_id).updated_at > then + 2 * LEASE_SECONDS + 3
                   for image_id, then in zip(images, begin, strict=True))

    eventually(outlived, 'both have outlived their lease')
    for host in (here, there):
        assert {show(host, image_id)['status'] for image_id in images} == {'saving'}
        assert {upload(host, image_id).status for image_id in images} == {409}
    assert [end(exchange, sent) for exchange in exchanges] == [204, 204]

    image_id = created(there)
    with begun(there, guards_store, image_id) as exchange:
        exchange.half_close().answer()
    at = datetime.fromisoformat(show(here, image_id)[f'{ERROR}_at'])
    assert abs((datetime.now(UTC) - at).total_seconds()) < TEN_MINUTES / 10
    # Within the window for a clean-up, on either host.
    for host in (here, there):
        answer = host.client(ALICE).request('DELETE', f'/v2/images/{image_id}')
        assert (answer.status, answer.headers[KEPT.lower()]) == (204, 'error')

    # A death is neither seen earlier nor later, and proven by neither.
    dies = created(here)
    begun(there, guards_store, dies)
    there.kill()
    assert show(here, dies)['status'] == 'saving'
    assert wait_for(here, dies, 'error')[f'{ERROR}_code'] == 'worker_lost'
    eventually(lambda: upload(here, dies).status == 204, 'the fence is open')
    assert is_whole(here, shared, dies)


def clock_of(host: Host) -> float:
    """What time it is there, by the server's own answers."""
    return parsedate_to_datetime(host.client(ALICE).request('GET', '/versions').headers['date']).timestamp()
