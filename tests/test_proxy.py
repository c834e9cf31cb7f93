"""The proxy as an application: what goes over the wire to the backend, and what becomes of what comes back."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

from demo.server import HOST, free_port
from imgguard.errors import ConfigurationError
from imgguard.proxy import Proxy
from imgguard.wsgi import NO_ANSWER
from tests.harness import skip_or_fail
from tests.proxying import OK, Backend, Peer, answering, call, once, refusing

CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'
REFUSED = b'HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno'
MEGABYTE = bytes(1024**2)
ROOT = Path(__file__).resolve().parent.parent

To = Callable[..., Proxy]


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend() as listening:
        yield listening
        assert not [error for error in listening.raised if isinstance(error, TimeoutError)]


@pytest.fixture
def to() -> Iterator[To]:
    """``to(url, read_timeout=30, **options)``: a proxy whose connections are closed after the test."""
    with ExitStack() as made:
        def make(url: str, read_timeout: float = 30, connect_timeout: float = 5, **options: Any) -> Proxy:
            return made.enter_context(closing(Proxy(url, connect_timeout, read_timeout, **options)))
        yield make


@pytest.fixture
def proxy(backend: Backend, to: To) -> Proxy:
    return to(backend.url)


# Requests


def test_a_request_as_it_is_sent(backend: Backend, proxy: Proxy) -> None:
    answer = call(proxy, 'PATCH', '/v2/images/A', b'[]', REQUEST_URI='/v2/images/%41?x=%20', QUERY_STRING='x=%20',
                  CONTENT_TYPE='application/json', HTTP_X_AUTH_TOKEN='t')
    assert (answer.status, answer.body, NO_ANSWER in answer.environ) == ('200 OK', b'ok', False)
    [request] = backend.received
    assert (request.line, request.body) == (b'PATCH /v2/images/%41?x=%20 HTTP/1.1', b'[]')
    assert request.headers == [
        (b'host', b'front:9292'), (b'content-type', b'application/json'), (b'x-auth-token', b't'),
        (b'via', b'1.1 imgguard'), (b'x-forwarded-for', b'192.0.2.7'), (b'x-forwarded-proto', b'http'),
        (b'content-length', b'2')]


def chunked_by(server: str) -> dict[str, Any]:
    said: dict[str, dict[str, Any]] = {
        'cheroot': {'HTTP_TRANSFER_ENCODING': 'chunked'},
        'gunicorn': {'HTTP_TRANSFER_ENCODING': 'Chunked', 'wsgi.input_terminated': True},
        'a guard under uWSGI': {'wsgi.input_terminated': True}}
    return said[server]


@pytest.mark.parametrize('server', ['cheroot', 'gunicorn', 'a guard under uWSGI'])
def test_a_body_without_a_length_is_sent_in_chunks(backend: Backend, proxy: Proxy, server: str) -> None:
    call(proxy, 'PUT', '/', Blocks(b'abc', b'de'), **chunked_by(server))
    [request] = backend.received
    assert (request.header(b'transfer-encoding'), request.header(b'content-length')) == (b'chunked', None)
    assert (request.body, request.whole) == (b'abcde', True)


EMPTY: list[tuple[str, dict[str, Any], bytes | None]] = [
    ('GET', {}, None), ('DELETE', {}, None), ('PUT', {}, b'0'), ('POST', {'CONTENT_LENGTH': ''}, b'0'),
    ('GET', {'CONTENT_LENGTH': '0'}, b'0'), ('GET', {'wsgi.input_terminated': True}, None),
    ('PUT', {'wsgi.input_terminated': True}, b'0')]


@pytest.mark.parametrize(('method', 'environ', 'length'), EMPTY)
def test_a_request_without_a_body(
    backend: Backend, proxy: Proxy, method: str, environ: dict[str, Any], length: bytes | None,
) -> None:
    call(proxy, method, '/', **environ)
    [request] = backend.received
    assert (request.header(b'content-length'), request.header(b'transfer-encoding')) == (length, None)


@pytest.mark.parametrize(('environ', 'said'), [
    ({'HTTP_TRANSFER_ENCODING': 'chunked', 'CONTENT_LENGTH': '3'}, 'exclude each other'),
    ({'HTTP_TRANSFER_ENCODING': 'gzip, chunked'}, 'not supported'),
    ({'CONTENT_LENGTH': '3, 5'}, 'not a number'),
    ({'CONTENT_LENGTH': '-1'}, 'not a number'),
    ({'PATH_INFO': 'http://other/'}, 'no path'),
    ({'HTTP_X_AUTH_TOKEN': 'secret\x00'}, 'cannot be sent on'),
])
def test_what_contradicts_itself_is_refused(
    backend: Backend, proxy: Proxy, environ: dict[str, str], said: str,
) -> None:
    answer = call(proxy, 'PUT', '/', Blocks(b'abc'), **environ)
    assert (answer.status, answer.environ[NO_ANSWER], backend.received) == ('400 Bad Request', True, [])
    assert said in answer.body.decode() and 'secret' not in answer.body.decode()


def test_a_body_that_is_refused_while_it_is_read_is_refused_with_that_text(backend: Backend, proxy: Proxy) -> None:
    answer = call(proxy, 'PUT', '/', Blocks(b'abc', ValueError('Digest mismatch')), CONTENT_LENGTH='9')
    assert (answer.status, answer.body) == ('400 Bad Request', b'Digest mismatch\n')
    backend.wait_for_end()
    assert not backend.received[0].whole


CUT: list[tuple[list[bytes | Exception], dict[str, str]]] = [
    ([b'abc'], {'CONTENT_LENGTH': '9'}),
    ([b'abc', OSError('gone')], {'CONTENT_LENGTH': '9'}),
    ([b'abc', OSError('gone')], {'HTTP_TRANSFER_ENCODING': 'chunked'}),
]


@pytest.mark.parametrize(('blocks', 'framing'), CUT)
def test_a_client_that_breaks_looks_broken_to_the_backend(
    backend: Backend, proxy: Proxy, blocks: list[bytes | Exception], framing: dict[str, str],
) -> None:
    rest: list[bool] = []

    def behave(peer: Peer) -> None:
        if (request := peer.head()) is not None:
            peer.body(request)
            rest.append(peer.ends())

    backend.behave = behave
    answer = call(proxy, 'PUT', '/', Blocks(*blocks), **framing)
    assert (answer.status, NO_ANSWER in answer.environ) == ('400 Bad Request', True)
    backend.wait_for_end()
    [request] = backend.received
    assert (request.body, request.whole, rest) == (b'abc', False, [True])


def test_a_defect_of_ours_is_not_hidden_and_breaks_the_connection(backend: Backend, proxy: Proxy) -> None:
    with pytest.raises(SystemExit):
        call(proxy, 'PUT', '/', Blocks(b'abc', SystemExit()), CONTENT_LENGTH='9')
    backend.wait_for_end()
    assert not backend.received[0].whole


# Answers


@pytest.mark.parametrize('status', [b'200 OK', b'204 No Content'])
def test_its_manners_are_those_of_wsgi(backend: Backend, proxy: Proxy, status: bytes) -> None:
    headers = b'Content-Length: 0\r\nContent-Type: a/b\r\nConnection: close\r\n' if status[0:3] == b'200' else b''
    backend.behave = answering(b'HTTP/1.1 %s\r\n%s\r\n' % (status, headers))
    assert call(validator(proxy), 'PUT', '/', b'abc').status.encode() == status
    refused = call(validator(proxy), 'PUT', '/', HTTP_TRANSFER_ENCODING='gzip')
    assert refused.status == '400 Bad Request'


ANSWERS = [
    ('GET', b'HTTP/1.1 200 Fine\r\nContent-Length: 3\r\nX-A: 1\r\nX-B: 2\r\nX-A: 3\r\n\r\nabc', '200 Fine',
     [('Content-Length', '3'), ('X-A', '1'), ('X-B', '2'), ('X-A', '3')], b'abc'),
    ('GET', b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
     b'3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n', '200 OK', [], b'abcde'),
    ('HEAD', b'HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n', '200 OK', [('Content-Length', '300')], b''),
    ('DELETE', b'HTTP/1.1 204 No Content\r\n\r\n', '204 No Content', [], b''),
    ('GET', b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n', '304 Not Modified', [('ETag', '"a"')], b''),
    ('GET', b'HTTP/1.1 302 Found\r\nLocation: /v2/\r\nContent-Length: 0\r\n\r\n', '302 Found',
     [('Location', '/v2/'), ('Content-Length', '0')], b''),
    ('GET', b'HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n', '299 Unknown', [('Content-Length', '0')], b''),
    ('GET', CONTINUE + b'HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', '200 OK',
     [('Content-Length', '0')], b''),
]


@pytest.mark.parametrize(('method', 'sent', 'status', 'headers', 'body'), ANSWERS)
def test_an_answer_is_handed_back(
    backend: Backend, proxy: Proxy, method: str, sent: bytes, status: str, headers: list[tuple[str, str]], body: bytes,
) -> None:
    backend.behave = answering(sent)
    for _ in range(2):
        answer = call(proxy, method, '/')
        assert (answer.status, answer.headers, answer.body) == (status, headers, body)
    assert backend.accepted == 1


def test_an_answer_that_ends_with_the_connection(backend: Backend, proxy: Proxy) -> None:
    backend.behave = once(b'HTTP/1.0 200 OK\r\n\r\nabc')
    assert call(proxy, 'GET', '/').body == b'abc'


def test_as_many_headers_as_glance_has_properties(backend: Backend, proxy: Proxy) -> None:
    lines = b''.join(b'x-image-meta-property-p%d: %s\r\n' % (number, b'v' * 255) for number in range(200))
    backend.behave = answering(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n' + lines + b'\r\n')
    assert len(call(proxy, 'HEAD', '/v1/images/1').headers) == 201


BROKEN = [
    b'HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc',
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n',
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n',
]


@pytest.mark.parametrize('sent', BROKEN)
def test_an_answer_that_breaks_off_is_no_answer(backend: Backend, proxy: Proxy, sent: bytes) -> None:
    backend.behave = once(sent)
    result = iter(proxy(environ(), lambda status, headers: print))
    assert next(result) == b'abc'
    with pytest.raises(Exception, match='broke off'):
        next(result)


@pytest.mark.parametrize(('sent', 'method'), [
    (b'', 'GET'), (b'HTTP/1.1 20', 'GET'), (b'nonsense\r\n\r\n', 'GET'), (b'', 'PUT'),
    (b'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab', 'GET')])
def test_a_backend_that_does_not_answer(backend: Backend, proxy: Proxy, sent: bytes, method: str) -> None:
    backend.behave = once(sent)
    answer = call(proxy, method, '/', b'abc' if method == 'PUT' else b'')
    assert (answer.status, NO_ANSWER in answer.environ, backend.accepted) == ('502 Bad Gateway', True, 1)
    assert b'gave no answer' in answer.body


def test_a_client_that_goes_away_breaks_the_answer(backend: Backend, proxy: Proxy) -> None:
    def behave(peer: Peer) -> None:
        peer.receive()
        peer.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n')
        peer.ends()

    backend.behave = behave
    result: Any = proxy(environ(), lambda status, headers: print)
    assert next(iter(result)) == b'a'
    result.close()
    backend.wait_for_end()


def test_an_answer_that_is_read_slowly_has_all_the_time(to: To, backend: Backend) -> None:
    """The time counts while the backend is waited for, not while the client is."""
    backend.behave = answering(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % len(MEGABYTE) + MEGABYTE)
    result = iter(to(backend.url, 0.05)(environ(), lambda status, headers: print))
    first = next(result)
    threading.Event().wait(0.2)
    assert len(first + b''.join(result)) == len(MEGABYTE)


# Times and places


def test_an_unreachable_backend(to: To) -> None:
    answer = call(to(f'http://{HOST}:{free_port()}', 5), 'GET', '/')
    assert (answer.status, NO_ANSWER in answer.environ) == ('502 Bad Gateway', True)
    assert answer.body == b'The image service behind this proxy could not be reached.\n'
    assert call(to(f'http://{HOST}:{free_port()}', 5), 'HEAD', '/').body == b''


def test_a_backend_that_cannot_be_connected_in_time(to: To) -> None:
    with socket.create_server((HOST, 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.create_connection(address)]
        answer = call(to(f'http://{HOST}:{address[1]}', 30, 0.2), 'GET', '/')
        waiting[0].close()
    assert answer.status == '504 Gateway Timeout'
    assert b'could not be reached within 0.2 seconds' in answer.body


def test_a_backend_that_takes_the_connection_and_speaks_no_tls(to: To) -> None:
    with socket.create_server((HOST, 0)) as mute:
        answer = call(to(f'https://{HOST}:{mute.getsockname()[1]}', 30, 0.2, insecure=True), 'GET', '/')
    assert answer.status == '504 Gateway Timeout'
    assert b'could not be reached within 0.2 seconds' in answer.body


def test_a_backend_that_is_silent(to: To, backend: Backend) -> None:
    backend.behave = lambda peer: peer.receive() and peer.ends()
    answer = call(to(backend.url, 0.2), 'GET', '/')
    assert (answer.status, answer.header('content-type')) == ('504 Gateway Timeout', 'text/plain; charset=utf-8')
    assert b'was silent for 0.2 seconds' in answer.body


def test_a_backend_that_takes_nothing(to: To, backend: Backend) -> None:
    backend.behave = lambda peer: peer.head() and threading.Event().wait(2)
    answer = call(to(backend.url, 0.2), 'PUT', '/', MEGABYTE * 20)
    assert answer.status == '504 Gateway Timeout'


def test_silence_counts_and_not_length(to: To, backend: Backend) -> None:
    def behave(peer: Peer) -> None:
        peer.receive()
        for byte in b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc':
            peer.send(bytes((byte,)))
            threading.Event().wait(0.03)

    backend.behave = behave
    assert call(to(backend.url, 0.6), 'GET', '/').body == b'abc'


def test_a_prefix_in_the_url(to: To, backend: Backend) -> None:
    backend.behave = answering(b'HTTP/1.1 201 Created\r\nLocation: http://front:9292/image/v2/1\r\n'
                               b'Content-Length: 0\r\n\r\n')
    answer = call(to(f'{backend.url}/image/', 5), 'POST', '/v2', SCRIPT_NAME='/keep')
    assert backend.received[0].line == b'POST /image/v2 HTTP/1.1'
    assert answer.header('location') == 'http://front:9292/keep/v2/1'


# What is refused before it is read


@pytest.mark.parametrize('before', [b'', CONTINUE, CONTINUE[:10], CONTINUE + b'HTTP/1.1 102 P\r\nX-A: 1\r\n\r\n'])
@pytest.mark.parametrize('framing', [{'CONTENT_LENGTH': str(2**40)}, {'HTTP_TRANSFER_ENCODING': 'chunked'}])
def test_a_refusal_ends_the_reading(backend: Backend, proxy: Proxy, framing: dict[str, str], before: bytes) -> None:
    """The body has no end, so that whoever goes on reading it never answers."""
    def behave(peer: Peer) -> None:
        peer.head()
        peer.send(before)
        threading.Event().wait(0.05)
        peer.send((CONTINUE + REFUSED)[len(before):] if before == CONTINUE[:10] else REFUSED)
        peer.ends()

    backend.behave = behave
    answer = call(proxy, 'PUT', '/', Endless(), **framing)
    assert (answer.status, answer.body) == ('409 Conflict', b'no')


def test_an_interim_answer_does_not_end_the_reading(backend: Backend, proxy: Proxy) -> None:
    def behave(peer: Peer) -> None:
        if (request := peer.head()) is not None:
            peer.send(CONTINUE)
            peer.body(request)
            peer.send(OK)

    backend.behave = behave
    assert call(proxy, 'PUT', '/', MEGABYTE * 4).status == '200 OK'
    assert backend.received[0].body == MEGABYTE * 4


def test_a_backend_that_asks_first_is_asked_first(backend: Backend, proxy: Proxy) -> None:
    def behave(peer: Peer) -> None:
        peer.head()
        peer.send(REFUSED)
        peer.ends()

    backend.behave = behave
    body = Blocks(b'abc')
    answer = call(proxy, 'PUT', '/', body, CONTENT_LENGTH='3', HTTP_EXPECT='100-Continue')
    assert (answer.status, body.reads) == ('409 Conflict', 0)
    assert backend.received[0].header(b'expect') is None


def test_a_backend_that_hangs_up_with_its_refusal(backend: Backend, proxy: Proxy) -> None:
    """It does so without reading what is under way, which resets the connection."""
    backend.behave = refusing(REFUSED)
    assert call(proxy, 'PUT', '/', Endless(), CONTENT_LENGTH=str(2**40)).body == b'no'


# Connections


def closing_after(count: int, closed: threading.Event) -> Callable[[Peer], None]:
    """Answer so many requests and hang up."""
    def behave(peer: Peer) -> None:
        for _ in range(count):
            peer.receive()
            peer.send(OK)
        peer.close()
        closed.set()
    return behave


@pytest.mark.parametrize('method', ['GET', 'POST'])
def test_a_connection_that_was_closed_while_idle_is_replaced(backend: Backend, proxy: Proxy, method: str) -> None:
    closed = threading.Event()
    backend.behave = closing_after(1, closed)
    for _ in range(3):
        assert call(proxy, method, '/', b'abc').status == '200 OK'
        assert closed.wait(30)
        closed.clear()
    assert (backend.accepted, len(backend.received)) == (3, 3)


REPEATED = [('GET', b'', '200 OK'), ('DELETE', b'', '200 OK'), ('POST', b'', '502 Bad Gateway'),
            ('PATCH', b'abc', '502 Bad Gateway'), ('PUT', b'abc', '502 Bad Gateway')]


@pytest.mark.parametrize(('method', 'body', 'status'), REPEATED)
def test_what_was_sent_is_sent_again_only_where_that_is_harmless(
    backend: Backend, proxy: Proxy, method: str, body: bytes, status: str,
) -> None:
    """The backend takes the second request of its first connection, and hangs up."""
    def behave(peer: Peer) -> None:
        first = len(backend.received) == 0
        while peer.receive() is not None:
            if first and len(backend.received) == 2:
                return
            peer.send(OK)

    backend.behave = behave
    assert call(proxy, 'GET', '/').status == '200 OK'
    assert call(proxy, method, '/', body).status == status
    assert len(backend.received) == (3 if status == '200 OK' else 2)


def test_an_answer_that_was_begun_is_not_asked_for_again(backend: Backend, proxy: Proxy) -> None:
    def behave(peer: Peer) -> None:
        peer.receive()
        peer.send(OK)
        peer.receive()
        peer.send(b'HTTP/1.1 2')

    backend.behave = behave
    call(proxy, 'GET', '/')
    assert call(proxy, 'GET', '/').status == '502 Bad Gateway'
    assert len(backend.received) == 2


def test_threads_share_connections_and_nothing_else(backend: Backend, proxy: Proxy) -> None:
    def behave(peer: Peer) -> None:
        while (request := peer.receive()) is not None:
            peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s' % (len(request.body), request.body))

    backend.behave = behave
    with ThreadPoolExecutor(8) as pool:
        bodies = [b'%d' % number * 1000 for number in range(200)]
        answers = pool.map(lambda body: call(proxy, 'PUT', '/', body).body, bodies)
        assert list(answers) == bodies
    assert backend.accepted <= 8


def test_no_request_waits_for_another(backend: Backend, proxy: Proxy) -> None:
    together = threading.Barrier(12)

    def behave(peer: Peer) -> None:
        peer.receive()
        together.wait(30)
        peer.send(OK)

    backend.behave = behave
    with ThreadPoolExecutor(12) as pool:
        assert {answer.status for answer in pool.map(lambda _: call(proxy, 'GET', '/'), range(12))} == {'200 OK'}


FORK = """
import os, sys
from imgguard.proxy import Proxy
from tests.proxying import call
proxy = Proxy(sys.argv[1], 5, 5)
statuses = [call(proxy, 'GET', '/parent').status]
child = os.fork()
if child == 0:
    os._exit(call(proxy, 'GET', '/child').status != '200 OK')
statuses += [os.waitpid(child, 0)[1], call(proxy, 'GET', '/parent').status]
proxy.close()
print(statuses)
"""


def test_a_fork_takes_no_connection_along(backend: Backend) -> None:
    # In a process of its own: this one has threads, and may have eventlet.
    done = subprocess.run([sys.executable, '-c', FORK, backend.url], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "['200 OK', 0, '200 OK']\n", done.stderr
    # The parent still has its own.
    assert (backend.accepted, len(backend.received)) == (2, 3)


# TLS


@pytest.fixture(scope='module')
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for 127.0.0.1 that vouches for itself, and its key."""
    path = tmp_path_factory.mktemp('tls') / 'both.pem'
    command = ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=backend',
               '-addext', f'subjectAltName=IP:{HOST}', '-keyout', f'{path}.key', '-out', str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        skip_or_fail('openssl', str(error))
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Backend]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f'{certificate}.key')
    with Backend(context) as listening:
        yield listening


def test_a_backend_with_tls(to: To, secure: Backend, certificate: Path) -> None:
    for proxy in (to(secure.url, 5, cafile=str(certificate)), to(secure.url, 5, insecure=True)):
        # TLS 1.3 sends tickets before any answer, which are none; the second request finds the connection as it was.
        for _ in range(2):
            answer = call(proxy, 'PUT', '/', MEGABYTE * 4, HTTP_EXPECT='100-continue')
            assert answer.status == '200 OK'
    assert (secure.accepted, [request.body == MEGABYTE * 4 for request in secure.received]) == (2, [True] * 4)


def test_a_refusal_with_tls(to: To, secure: Backend, certificate: Path) -> None:
    def behave(peer: Peer) -> None:
        peer.head()
        peer.send(REFUSED)
        peer.ends()

    secure.behave = behave
    proxy = to(secure.url, 5, cafile=str(certificate))
    assert call(proxy, 'PUT', '/', Endless(), CONTENT_LENGTH=str(2**40)).body == b'no'


def test_a_backend_that_cannot_be_verified(to: To, secure: Backend, certificate: Path) -> None:
    """Nobody vouches for it, or it is another than was asked for."""
    for proxy in (to(secure.url, 5), to(secure.url.replace(HOST, 'localhost'), 5, cafile=str(certificate))):
        answer = call(proxy, 'GET', '/')
        assert (answer.status, secure.received) == ('502 Bad Gateway', [])


def test_a_file_of_authorities_that_cannot_be_read(to: To) -> None:
    with pytest.raises(ConfigurationError, match='cafile: /nowhere cannot be used'):
        to('https://host', 5, cafile='/nowhere')


class Blocks:
    """A body that comes in these pieces."""

    def __init__(self, *blocks: bytes | BaseException) -> None:
        self._blocks = list(blocks)
        self.reads = 0

    def read(self, *size: int) -> bytes:
        """The next one."""
        self.reads += 1
        block = self._blocks.pop(0) if self._blocks else b''
        if isinstance(block, BaseException):
            raise block
        return block

    readline = readlines = __iter__ = None


class Endless:
    """A body without an end."""

    def read(self, *size: int) -> bytes:
        """As much as is wanted."""
        return bytes(size[0])

    readline = readlines = __iter__ = None


def environ() -> dict[str, Any]:
    """Of a simple request."""
    return {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/', 'wsgi.url_scheme': 'http', 'SERVER_NAME': 'here',
            'SERVER_PORT': '80', 'wsgi.input': Blocks()}


@pytest.mark.parametrize(('method', 'path'), [('HEAD', '/v1/images/x'), ('GET', '/v1/images/x'), ('HEAD', '/images/x'),
                                              ('PUT', '/v1/images/x'), ('POST', '//v1.1//images/x')])
def test_what_a_property_slips_in_behind_an_answer_is_nobodys_answer(backend: Backend, proxy: Proxy, method: str,
                                                                     path: str) -> None:
    slipped = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nEVIL!'

    def behave(peer: Peer) -> None:
        while (request := peer.receive()) is not None:
            length = 2 if b'/v2/' in request.line else 0
            peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % length)
            peer.send(slipped if length == 0 else b'ok')

    backend.behave = behave
    call(proxy, method, path)
    assert call(proxy, 'GET', '/v2/images/y').body == b'ok'
