"""A worker that guards an upload of 2 GiB needs hardly more memory than one of the bare Glance, at rest and at work."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.client import Client
from demo.private_glance import Options
from demo.server import Kind, Server, Size
from tests import conftest
from tests.harness import skip_or_fail
from tests.identity import token
from tests.sockets import Exchange, chunked
from tests.uploading import KEEP

SIZE = 2 * 1024**3
MOST = 8 * 1024**2
BLOCK = 1024**2
CALLER = token('alice', 'project')
# Most of the time of an upload goes into Glance's digests.
QUICK = {'DEFAULT': {'hashing_algorithm': 'sha256'}}


@dataclass(frozen=True, slots=True)
class Worker:
    """The one process that serves, and where its store is."""

    server: Server
    process: int

    def peak(self) -> int:
        """The most memory it ever had, in bytes (proc(5), VmHWM)."""
        for line in Path(f'/proc/{self.process}/status').read_text().splitlines():
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) * 1024
        raise AssertionError('no VmHWM')

    def upload(self, size: int, in_chunks: bool) -> None:
        """Upload zeros, and delete them."""
        client = Client(self.server.port, {'X-Auth-Token': CALLER})
        image_id = client.create(KEEP).json['id']
        headers = {'X-Auth-Token': CALLER, 'Content-Type': 'application/octet-stream'}
        framing = {'Transfer-Encoding': 'chunked'} if in_chunks else {'Content-Length': str(size)}
        block = chunked(bytes(BLOCK // 16)) * 16 if in_chunks else bytes(BLOCK)
        with Exchange(self.server.port) as exchange:
            exchange.head('PUT', f'/v2/images/{image_id}/file', {**headers, **framing})
            for _ in range(size // BLOCK):
                exchange.send(block)
            if in_chunks:
                exchange.chunk(b'')
            assert exchange.answer().status == 204
        image = client.show(image_id).json
        assert (image['status'], image['size']) == ('active', size)
        assert client.request('DELETE', f'/v2/images/{image_id}').status == 204


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Room for what is uploaded, and some more."""
    free = shutil.disk_usage(tmp_path_factory.getbasetemp()).free
    if free < SIZE + SIZE // 4:
        skip_or_fail('disk', f'{free // BLOCK} MiB free')


@pytest.fixture
def proc() -> None:
    """A system that tells how much memory a process had."""
    if not Path('/proc/self/status').exists():
        skip_or_fail('proc', 'no /proc')


def workers(start_server: conftest.StartServer, guard: Options | None) -> Iterator[Worker]:
    """A server of one process that found its store ready, then stopped and its data deleted."""
    size = Size(processes=1)
    # Who makes the store, or brings it up to date, loads Alembic, and keeps it until it is restarted.
    with start_server(Kind.UWSGI_HTTP_SOCKET, guard, settings=QUICK, size=size) as server:
        glance = server.glance
    with start_server(Kind.UWSGI_HTTP_SOCKET, guard, size=size, again=glance) as server:
        [child] = Path(f'/proc/{server.process.pid}/task/{server.process.pid}/children').read_text().split()
        yield Worker(server, int(child))
    shutil.rmtree(glance.folder)


@pytest.mark.usefixtures('disk', 'proc')
def test_the_guard_adds_little_to_the_peak_of_a_worker(start_server: conftest.StartServer) -> None:
    peaks = {}
    # The bare Glance gets less, which can only make the comparison stricter.
    for name, guard, size in (('bare', None, SIZE // 8), ('guarded', {}, SIZE)):
        for worker in workers(start_server, guard):
            peaks[name, 'at rest'] = worker.peak()
            for in_chunks in (False, True):
                worker.upload(size, in_chunks)
            peaks[name, 'at work'] = worker.peak()
    print('bytes at the peak:', peaks)
    assert peaks['guarded', 'at work'] - peaks['bare', 'at work'] < MOST
