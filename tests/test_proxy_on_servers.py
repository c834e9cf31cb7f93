"""The proxy on real servers: what comes in byte for byte, and that whatever breaks on one side is seen on the other."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from demo.private_glance import script
from demo.server import HOST, Kind, free_port
from tests.proxying import OK, SAMPLE, Backend, Front, Peer, answering, listens, once, sample
from tests.sockets import Exchange, chunked, eventually

SERVERS = [Kind.CHEROOT, Kind.GUNICORN_GTHREAD, Kind.UWSGI_HTTP, Kind.UWSGI_HTTP_SOCKET]
UWSGI = (Kind.UWSGI_HTTP, Kind.UWSGI_HTTP_SOCKET)
BODY = b'abcdefgh' * 1000
REFUSED = b'HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno'


@pytest.fixture(scope='module')
def listening() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@pytest.fixture(scope='module', params=SERVERS)
def front(
    request: pytest.FixtureRequest, listening: Backend, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    with Front(request.param, listening.url, tmp_path_factory.mktemp('front')) as server:
        yield server


@pytest.fixture
def backend(listening: Backend, front: Front) -> Backend:
    listening.reset(answering(OK))
    return listening


CLOSE = [('Connection', 'close')]
TARGETS = ['/v2/images?name=%41&x=a+b', '/v2/im%61ges/%C3%A4/x', '/v2/b?', '/v2/c;p=1?x=%2F/../', '/v2//images']
AMBIGUOUS = ['/v2/a/../b', '/v2/a/%2e%2e/b', '/v2/./b', '/v2/images%2Fa', '/v2/images/file%', '/v2/images/fil%ze']


@pytest.mark.parametrize('target', TARGETS)
def test_targets_byte_for_byte(front: Front, backend: Backend, target: str) -> None:
    with Exchange(front.port) as exchange:
        assert exchange.head('GET', target, CLOSE).answer().status == 200
    assert backend.received[0].line.decode() == f'GET {target} HTTP/1.1'


@pytest.mark.parametrize('target', AMBIGUOUS)
def test_a_path_of_which_servers_make_different_ones_is_refused(front: Front, backend: Backend, target: str) -> None:
    with Exchange(front.port) as exchange:
        answer = exchange.head('GET', target, CLOSE).answer()
    assert (answer.status, backend.received) == (400, [])
    assert b'understood in several ways' in answer.body


def test_a_whole_url_as_target(front: Front, backend: Backend) -> None:
    with Exchange(front.port) as exchange:
        status = exchange.head('GET', f'http://{HOST}/v2/%41?x=%42', CLOSE).answer().status
    if front.kind is Kind.CHEROOT:
        assert (status, backend.received) == (400, [])
    else:
        assert backend.received[0].line == b'GET /v2/%41?x=%42 HTTP/1.1'


@pytest.mark.parametrize('path', ['/x', '/read'])
@pytest.mark.parametrize('in_chunks', [False, True], ids=['length', 'chunked'])
def test_bodies(front: Front, backend: Backend, in_chunks: bool, path: str) -> None:
    with Exchange(front.port) as exchange:
        if in_chunks:
            exchange.head('PUT', path, [('Transfer-Encoding', 'chunked'), *CLOSE]).chunk(BODY).chunk(b'x').chunk(b'')
        else:
            exchange.head('PUT', path, [('Content-Length', str(len(BODY) + 1)), *CLOSE]).send(BODY + b'x')
        answer = exchange.answer()
    assert (answer.status, answer.body) == (200, b'ok')
    [request] = backend.received
    assert (request.body, request.whole) == (BODY + b'x', True)
    assert (request.header(b'transfer-encoding') is not None) == in_chunks


@pytest.mark.parametrize('path', ['/x', '/read'])
def test_an_empty_body_in_chunks_stays_one(front: Front, backend: Backend, path: str) -> None:
    """Glance's v1 takes it for data, and no body for none."""
    with Exchange(front.port) as exchange:
        assert exchange.head('PUT', path, [('Transfer-Encoding', 'chunked'), *CLOSE]).chunk(b'').answer().status == 200
    assert backend.received[0].header(b'transfer-encoding') == b'chunked'


def test_underscored_headers_get_through(front: Front, backend: Backend) -> None:
    with Exchange(front.port) as exchange:
        headers = [('x-image-meta-disk_format', 'raw'), ('Content-Length', '0'), *CLOSE]
        assert exchange.head('POST', '/v1/images', headers).answer().status == 200
    assert backend.received[0].header(b'x-image-meta-disk-format') == b'raw'


BROKEN = [b'Content-Length: 30\r\n\r\nabc', b'Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n']


@pytest.mark.parametrize('kept', [[], CLOSE], ids=['keep-alive', 'close'])
@pytest.mark.parametrize('sent', BROKEN, ids=['length', 'chunked'])
def test_an_answer_that_breaks_off_looks_broken(
    front: Front, backend: Backend, sent: bytes, kept: list[tuple[str, str]],
) -> None:
    backend.behave = once(b'HTTP/1.1 200 OK\r\n' + sent)
    with Exchange(front.port) as exchange, pytest.raises((http.client.IncompleteRead, ConnectionError)):
        exchange.head('GET', '/x', kept).answer()


@pytest.mark.parametrize('kept', [[], CLOSE], ids=['keep-alive', 'close'])
def test_an_answer_in_chunks_looks_whole(front: Front, backend: Backend, kept: list[tuple[str, str]]) -> None:
    backend.behave = answering(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n' + chunked(BODY) + chunked(b''))
    with Exchange(front.port) as exchange:
        answer = exchange.head('GET', '/x', kept).answer()
    assert (answer.body, answer.headers.get('transfer-encoding')) == (BODY, 'chunked')


@pytest.mark.parametrize('method', ['HEAD', 'GET'])
@pytest.mark.parametrize('status', [b'204 No Content', b'304 Not Modified', b'200 OK'])
def test_answers_without_a_body(front: Front, backend: Backend, method: str, status: bytes) -> None:
    if status == b'200 OK' and method == 'GET':
        length = b'Content-Length: 0\r\n'
    else:
        length = b'' if status == b'204 No Content' else b'Content-Length: 300\r\n'
    backend.behave = answering(b'HTTP/1.1 %s\r\n%sX-Last: 1\r\n\r\n' % (status, length))
    with socket.create_connection((HOST, front.port), timeout=60) as client:
        client.sendall(f'{method} /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n'.encode())
        received = b''.join(iter(lambda: client.recv(65536), b''))
    head, _, body = received.partition(b'\r\n\r\n')
    assert (head.split(b' ', 1)[1].startswith(status[:3]), b'X-Last: 1' in head, body) == (True, True, b'')


@pytest.mark.parametrize('reset', [False, True], ids=['closed', 'reset'])
@pytest.mark.parametrize('in_chunks', [False, True], ids=['length', 'chunked'])
def test_a_client_that_breaks_looks_broken_to_the_backend(
    front: Front, backend: Backend, in_chunks: bool, reset: bool,
) -> None:
    rest: list[bool] = []
    began = threading.Event()

    def behave(peer: Peer) -> None:
        if (request := peer.head()) is not None:
            began.set()
            peer.body(request)
            rest.append(peer.ends())

    backend.behave = behave
    exchange = Exchange(front.port)
    length = ('Transfer-Encoding', 'chunked') if in_chunks else ('Content-Length', str(2 * len(BODY)))
    exchange.head('PUT', '/x', [length]).send(chunked(BODY) if in_chunks else BODY)
    assert began.wait(60)
    if reset:
        exchange.reset()
    else:
        exchange.close()
    backend.wait_for_end()
    assert (backend.received[0].whole, rest) == (False, [True])


def test_a_client_that_does_not_read_on_breaks_the_answer(front: Front, backend: Backend) -> None:
    def behave(peer: Peer) -> None:
        peer.receive()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % 2**40)
        while True:
            peer.send(bytes(2**20))

    backend.behave = behave
    with Exchange(front.port) as exchange:
        exchange.head('GET', '/x', []).arrives()
    backend.wait_for_end()
    assert backend.raised


@pytest.mark.parametrize('expects', [[], [('Expect', '100-continue')]], ids=['unasked', 'asked'])
def test_a_refusal_comes_before_the_whole_body(front: Front, backend: Backend, expects: list[tuple[str, str]]) -> None:
    """The client has sent a part of what it announced, and waits."""
    def behave(peer: Peer) -> None:
        peer.head()
        peer.send(REFUSED)
        peer.ends()

    backend.behave = behave
    with Exchange(front.port) as exchange:
        exchange.head('PUT', '/x', [('Content-Length', str(10**12)), *expects, *CLOSE])
        if not expects:
            with suppress(ConnectionError):
                for _ in range(256):
                    exchange.send(BODY * 16)
        if front.kind is Kind.UWSGI_HTTP and not expects:
            # Its router may hang up on a client that goes on sending when the worker has answered.
            assert exchange.status() in (409, None)
            return
        answer = exchange.answer()
    assert (answer.status, answer.body) == (409, b'no')


def test_a_client_that_asks_first_is_told_to_go_on(front: Front, backend: Backend) -> None:
    with Exchange(front.port) as exchange:
        exchange.head('PUT', '/x', [('Content-Length', str(len(BODY))), ('Expect', '100-continue'), *CLOSE])
        # uWSGI tells nobody; such a client goes on by itself after a while (RFC 9110, section 10.1.1).
        assert front.kind in UWSGI or exchange.arrives().startswith(b'HTTP/1.1 100 ')
        assert exchange.send(BODY).answer().status == 200
    assert backend.received[0].body == BODY


def test_the_command_of_the_sample_takes_as_many_properties_as_glance(listening: Backend, tmp_path: Path) -> None:
    """128 of 255 bytes each (``image_property_quota``)."""
    listening.reset(answering(OK))
    sample(tmp_path, listening.url)
    command, = re.findall(r'^#   (uwsgi (?:.*\\\n#)?.*)$', SAMPLE.read_text(), re.MULTILINE)
    port = free_port()
    given = {'uwsgi': script('uwsgi'), ':9292': f'{HOST}:{port}', 'FILE': str(tmp_path / 'paste.ini')}
    started = [given.get(word, word) for word in command.replace('\\\n#', ' ').split()]
    with (tmp_path / 'log').open('wb') as log, subprocess.Popen(
            [*started, f'--virtualenv={sys.prefix}'], stdout=log, stderr=log, start_new_session=True) as server:
        try:
            eventually(lambda: listens(port), 'uWSGI')
            with Exchange(port) as exchange:
                properties = [(f'x-image-meta-property-p{number}', 'v' * 255) for number in range(128)]
                answer = exchange.head('POST', '/v1/images', [*properties, ('Content-Length', '0'), *CLOSE]).answer()
        finally:
            # Its master may still be starting workers, and deaf to gentler signals.
            os.killpg(server.pid, signal.SIGKILL)
    came = [name for name, _ in listening.received[-1].headers if b'property' in name]
    assert (answer.status, len(came)) == (200, len(properties))


CONTRADICTIONS = [[('Content-Length', '3'), ('Transfer-Encoding', 'chunked')], [('Transfer-Encoding', 'gzip')],
                  [('Content-Length', '3'), ('Content-Length', '5')]]


@pytest.mark.parametrize('headers', CONTRADICTIONS, ids=['both', 'gzip', 'two lengths'])
def test_framing_that_contradicts_itself(front: Front, backend: Backend, headers: list[tuple[str, str]]) -> None:
    with Exchange(front.port) as exchange:
        status = exchange.head('PUT', '/x', [*headers, *CLOSE]).send(b'3\r\nabc\r\n0\r\n\r\n').status()
    if front.kind is Kind.CHEROOT and headers == CONTRADICTIONS[-1]:
        # cheroot knows the last of them only; so does the backend then.
        assert [request.header(b'content-length') for request in backend.received] == [b'5']
    else:
        assert (status in (400, 501), backend.received) == (True, [])
