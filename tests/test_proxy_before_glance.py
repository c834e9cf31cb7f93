"""A real Glance behind the proxy: what a client does with images works as without it, however large they are."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.client import Client
from demo.server import HOST, Kind, Server
from tests import conftest
from tests.harness import skip_or_fail
from tests.identity import token
from tests.proxying import Backend, Front, Peer
from tests.sockets import Exchange, chunked

ALICE = token('alice', 'project')
FRONTS = [Kind.CHEROOT, Kind.GUNICORN_GTHREAD, Kind.UWSGI_HTTP]


# uWSGI closes each connection as Glance's sample has it, gunicorn keeps them. cheroot does too, but fails the request
# after an upload in chunks on the same connection (500, "I/O operation on closed file"), whoever sends it.
@pytest.fixture(scope='module', params=[Kind.UWSGI_HTTP, Kind.GUNICORN_GTHREAD])
def glance(request: pytest.FixtureRequest, start_module_server: conftest.StartServer) -> Server:
    return start_module_server(request.param, None)


@pytest.fixture(params=FRONTS)
def client(request: pytest.FixtureRequest, glance: Server, tmp_path: Path) -> Iterator[Client]:
    with Front(request.param, glance.url, tmp_path) as front:
        yield Client(front.port, {'X-Auth-Token': ALICE})


def test_create_upload_show_list_download(client: Client) -> None:
    data = bytes(range(256)) * 3000
    for content in (data, iter([data[:100], data[100:]])):
        created = client.create(name='a image')
        image_id = created.json['id']
        assert created.headers['location'] == f'http://{HOST}:{client.port}/v2/images/{image_id}'
        assert client.upload(image_id, content).status == 204
        shown = client.show(image_id).json
        assert (shown['status'], shown['checksum']) == ('active', hashlib.md5(data).hexdigest())
        listed = client.request('GET', '/v2/images?name=a%20image&limit=1').json
        assert [image['id'] for image in listed['images']] == [image_id]
        downloaded = client.request('GET', f'/v2/images/{image_id}/file')
        assert (downloaded.status, downloaded.body) == (200, data)
        assert client.request('DELETE', f'/v2/images/{image_id}').status == 204
        assert client.show(image_id).status == 404


def test_the_version_document_leads_back(client: Client) -> None:
    """Glance makes its links from the Host it is sent."""
    [*links] = [link['href'] for version in client.request('GET', '/versions').json['versions']
                for link in version['links']]
    assert links
    assert {link.startswith(f'http://{HOST}:{client.port}/v2/') for link in links} == {True}


def test_a_cut_upload_is_one_for_glance(client: Client) -> None:
    image_id = client.create().json['id']
    with Exchange(client.port) as exchange:
        exchange.head('PUT', f'/v2/images/{image_id}/file', {
            'X-Auth-Token': ALICE, 'Content-Type': 'application/octet-stream', 'Content-Length': '100000'})
        exchange.send(b'abc').half_close()
        exchange.status()
    assert client.show(image_id).json['status'] in ('queued', 'saving')


MEBIBYTE = 1024**2
MOST = 8 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class Grown:
    """How much memory a process had at its peak (proc(5), VmHWM), summed over it and its children."""

    front: Front

    def peak(self) -> int:
        """In bytes."""
        main = self.front.process.pid
        children = Path(f'/proc/{main}/task/{main}/children').read_text().split()
        return sum(_peak(process) for process in (str(main), *children))


def _peak(process: str) -> int:
    for line in Path(f'/proc/{process}/status').read_text().splitlines():
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) * 1024
    raise AssertionError('no VmHWM')


def swallowing(peer: Peer) -> None:
    """Take any body and keep nothing of it; give back as much as the path asks for."""
    while (request := peer.head()) is not None:
        size = int(request.line.split()[1].rpartition(b'/')[2])
        if request.header(b'transfer-encoding') is None and request.header(b'content-length') is None:
            peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size)
            for _ in range(size // MEBIBYTE):
                peer.send(bytes(MEBIBYTE))
        else:
            peer.skip(request)
            peer.send(b'HTTP/1.1 204 No Content\r\n\r\n')


def exchanged(front: Front, mebibytes: int) -> None:
    """Send so much by length, as much in chunks, and get as much."""
    block, size = bytes(MEBIBYTE), mebibytes * MEBIBYTE
    for headers, part in (({'Content-Length': str(size)}, block),
                          ({'Transfer-Encoding': 'chunked'}, chunked(block[:65536]) * 16)):
        with Exchange(front.port) as exchange:
            exchange.head('PUT', f'/{size}', headers)
            for _ in range(mebibytes):
                exchange.send(part)
            if part is not block:
                exchange.chunk(b'')
            assert exchange.answer().status == 204
    with Exchange(front.port) as exchange:
        assert len(exchange.head('GET', f'/{size}', {'Connection': 'close'}).answer().body) == size


@pytest.mark.parametrize('kind', FRONTS)
def test_a_large_image_takes_no_more_memory_than_a_small_one(kind: Kind, tmp_path: Path) -> None:
    if not Path('/proc/self/status').exists():
        skip_or_fail('proc', 'no /proc')
    with Backend() as backend, Front(kind, backend.url, tmp_path) as front:
        backend.behave = swallowing
        exchanged(front, 8)
        before = Grown(front).peak()
        exchanged(front, 256)
        grown = Grown(front).peak() - before
        print(f'{kind}: grown by {grown / MEBIBYTE:.1f} MiB over {before / MEBIBYTE:.1f} MiB')
        assert grown < MOST
        assert not backend.raised
