"""Metrics under real servers with several processes: one scrape, answered by any of them, tells the sum of all."""

import contextlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from demo.client import Client
from demo.private_glance import PrivateGlance, lay_out
from demo.server import HOST, Kind, Server, Size, free_port, start
from tests.conftest import NewGlanceDatabase
from tests.harness import IDENTITY
from tests.identity import token
from tests.metering import Samples, asked, scraped, switch_on
from tests.sockets import Exchange, eventually

ATTEMPTS, FAILURES, RECEIVED = 'imgguard_attempts_total', 'imgguard_failures_total', 'imgguard_received_bytes_total'
KEEP = {'X-OpenStack-Image-Keep-On-Failure': 'true'}
DATA = b'x' * 1000
UPLOADS, CUT, PROCESSES = 8, 4, 4


@pytest.fixture
def glance(glance_template: PrivateGlance, new_glance_database: NewGlanceDatabase, tmp_path: Path) -> PrivateGlance:
    """A Glance with metrics, of which nothing runs yet."""
    made = lay_out(tmp_path / 'glance', guard={}, identity=IDENTITY, settings=new_glance_database(),
                   database=glance_template.database)
    switch_on(made.paste_file, {
        'connection': f'sqlite:///{made.guard_database}', 'multiprocess_directory': f'{tmp_path}/metrics'})
    return made


def _uploads(server: Server) -> None:
    """So many good uploads and so many cut ones, at the same time."""
    def one(number: int) -> None:
        client = Client(server.port, {'X-Auth-Token': token('user', 'project')})
        image_id = client.create(KEEP).json['id']
        length = len(DATA) * (2 if number < CUT else 1)
        with Exchange(server.port) as exchange:
            exchange.head('PUT', f'/v2/images/{image_id}/file', {
                'X-Auth-Token': token('user', 'project'), 'Content-Type': 'application/octet-stream',
                'Content-Length': str(length)}).send(DATA).half_close().status()

    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(one, range(CUT + UPLOADS)))


def _workers(server: Server) -> list[int]:
    """The processes that serve, by what the kernel says of the children of the first."""
    children = Path(f'/proc/{server.process.pid}/task/{server.process.pid}/children').read_text()
    return [int(child) for child in children.split()]


def _check(samples: Samples, times: int) -> None:
    assert samples.nonzero(ATTEMPTS) == {'upload succeeded': times * UPLOADS, 'upload failed': times * CUT}
    assert samples.nonzero(FAILURES) == {'client_disconnected': times * CUT}
    assert samples['imgguard_images_in_error'] == times * CUT


@pytest.mark.parametrize(('kind', 'arguments'), [
    (Kind.UWSGI_HTTP_SOCKET, ()),
    (Kind.UWSGI_FORKED, ()),
    (Kind.GUNICORN_SYNC, ('--preload',)),
], ids=['uwsgi', 'uwsgi forked', 'gunicorn --preload'])
def test_the_sum_is_right_and_the_killed_lose_nothing(
    glance: PrivateGlance, kind: Kind, arguments: tuple[str, ...], tmp_path: Path,
) -> None:
    with start(glance, kind, Size(processes=PROCESSES), arguments) as server:
        _uploads(server)
        eventually(lambda: scraped(server.port).sum(ATTEMPTS) == UPLOADS + CUT, 'all have ended')
        for _ in range(PROCESSES):
            _check(scraped(server.port), 1)
        for worker in _workers(server)[:2]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        samples = eventually(_answering(server), 'new workers answer')
        assert samples is not None
        _check(samples, 1)
        _uploads(server)
        eventually(lambda: scraped(server.port).sum(ATTEMPTS) == 2 * (UPLOADS + CUT), 'all have ended')
        _check(scraped(server.port), 2)
    assert len(list((tmp_path / 'metrics').glob('counter_*'))) <= PROCESSES + 1


def _answering(server: Server) -> Callable[[], Samples | None]:
    def ask() -> Samples | None:
        with contextlib.suppress(OSError):
            status, text = asked(server.port)
            return Samples(text) if status == 200 else None
        return None

    return ask


def test_a_port_of_its_own(glance_template: PrivateGlance, tmp_path: Path) -> None:
    """A second one of the same server; tenants, who know the first, find nothing there."""
    own = free_port()
    glance = lay_out(tmp_path / 'glance', guard={}, identity=IDENTITY, database=glance_template.database)
    switch_on(glance.paste_file, {
        'connection': f'sqlite:///{glance.guard_database}', 'multiprocess_directory': f'{tmp_path}/metrics',
        'port': str(own)})
    with start(glance, Kind.UWSGI_HTTP_SOCKET, Size(processes=1), (f'--http-socket={HOST}:{own}',)) as server:
        assert scraped(own)['imgguard_store_up'] == 1
        assert asked(server.port)[0] == 404
