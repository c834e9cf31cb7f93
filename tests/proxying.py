"""What the tests of the proxy share: a backend that does with each connection what a test says, and real servers.

::

    def test_it(backend):
        backend.behave = answering(OK)    # what is done with each connection, in a thread of its own
        answer = call(Proxy(backend.url, 5, 5), 'GET', '/v2/images')
        assert backend.received[0].line == b'GET /v2/images HTTP/1.1'
"""

import gzip
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from wsgiref.util import setup_testing_defaults

from cheroot import wsgi
from paste.deploy import loadapp  # type: ignore[import-untyped]
from webtest import TestApp

from demo.private_glance import script
from demo.server import HOST, Kind, free_port
from imgguard import servers
from imgguard.body import BodyReader, framing
from imgguard.digests import Digests
from imgguard.proxy import Edge, Proxy
from imgguard.wsgi import Application, Captured, Environ, Headers
from tests.harness import IDENTITY
from tests.sockets import TIMEOUT_SECONDS, eventually

SAMPLE = Path(__file__).parent.parent / 'etc' / 'imgguard-proxy-paste.ini'
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'


@dataclass
class Received:
    """A request as the backend got it."""

    line: bytes = b''
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b''
    #: Whether its body has come to its end.
    whole: bool = False

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header of that name, which is in lower case."""
        return next((value for given, value in self.headers if given.lower() == name), None)


class Peer:
    """One connection, at the backend's end."""

    def __init__(self, connection: socket.socket, received: list[Received]) -> None:
        connection.settimeout(TIMEOUT_SECONDS)
        self.connection = connection
        self._file = connection.makefile('rb')
        self._received = received

    def head(self) -> Received | None:
        """Read the head of a request; ``None`` when there is no more."""
        line = self._file.readline()
        if not line:
            return None
        request = Received(line.rstrip(b'\r\n'))
        while (header := self._file.readline().rstrip(b'\r\n')):
            name, _, value = header.partition(b': ')
            request.headers.append((name, value))
        self._received.append(request)
        return request

    def body(self, request: Received, most: int | None = None) -> None:
        """Read its body, or no more than so much of it."""
        if request.header(b'transfer-encoding') == b'chunked':
            while (size := self._file.readline().strip()) and (most is None or len(request.body) < most):
                request.body += (block := self._file.read(int(size, 16)))
                self._file.readline()
                if not block:
                    request.whole = size == b'0'
                    return
            return
        length = int(request.header(b'content-length') or 0)
        request.body += self._file.read(length if most is None else min(length, most))
        request.whole = len(request.body) == length

    def skip(self, request: Received) -> None:
        """Read its body and keep nothing of it."""
        rest = int(request.header(b'content-length') or 0)
        while request.header(b'transfer-encoding') is not None and (size := int(self._file.readline(), 16)):
            self._file.read(size + 2)
        while rest:
            rest -= len(self._file.read(min(rest, 65536)))
        if request.header(b'transfer-encoding') is not None:
            self._file.readline()

    def receive(self) -> Received | None:
        """Read a request to its end."""
        request = self.head()
        if request is not None:
            self.body(request)
        return request

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.connection.sendall(data)

    def ends(self) -> bool:
        """Wait until the other side hangs up, and tell whether it had nothing more to say."""
        return self._file.read() == b''

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self.connection.close()


Behaviour = Callable[[Peer], object]


def once(answer: bytes) -> Behaviour:
    """Give this answer to the first request, and hang up."""
    def behave(peer: Peer) -> None:
        peer.receive()
        peer.send(answer)
    return behave


def refusing(answer: bytes) -> Behaviour:
    """Give this answer to the head of a request, and take nothing of its body."""
    def behave(peer: Peer) -> None:
        peer.head()
        peer.send(answer)
    return behave


def answering(answer: bytes) -> Behaviour:
    """Give this answer to every request."""
    def behave(peer: Peer) -> None:
        while peer.receive() is not None:
            peer.send(answer)
    return behave


class Backend:
    """Listens on a free port.

    :ivar behave: what is done with each new connection, which is closed afterwards
    :ivar received: the requests in the order in which they came
    :ivar ended: one entry for each connection that has ended
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.behave: Behaviour = answering(OK)
        self.received: list[Received] = []
        self.accepted = 0
        self.ended: list[Peer] = []
        self.raised: list[BaseException] = []
        self._peers: list[Peer] = []
        self._context = context
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f'{"http" if context is None else "https"}://{HOST}:{self.port}'
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(TIMEOUT_SECONDS)

    def reset(self, behave: Behaviour) -> None:
        """Hang up on all, and begin anew."""
        for peer in [peer for peer in self._peers if peer not in self.ended]:
            with suppress(OSError):
                peer.connection.shutdown(socket.SHUT_RDWR)
        eventually(lambda: len(self.ended) == len(self._peers), 'all connections have ended')
        self.behave, self.accepted, self.received, self.ended, self.raised, self._peers = behave, 0, [], [], [], []

    def wait_for_end(self) -> None:
        """Wait until a connection has ended."""
        eventually(lambda: self.ended, 'a connection has ended')

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            peer = Peer(connection, self.received)
            self._peers.append(peer)
            try:
                self.behave(peer)
            except OSError as error:
                self.raised.append(error)
            finally:
                peer.close()
                self.ended.append(peer)
            return
        connection.close()


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer with all its headers."""

    status: str
    headers: Headers
    body: bytes
    environ: Environ

    def header(self, name: str) -> str | None:
        """The value of the first header of that name, which is in lower case."""
        return next((value for given, value in self.headers if given.lower() == name), None)


def call(application: Application, method: str, path: str, body: bytes | Any = b'', **environ: Any) -> Answered:
    """Call an application as a server would; ``environ`` adds to what the server says."""
    stream = BytesIO(body) if isinstance(body, bytes) else body
    given: dict[str, Any] = {'REQUEST_METHOD': method, 'PATH_INFO': path, 'QUERY_STRING': '', 'SCRIPT_NAME': '',
                             'wsgi.input': stream, 'SERVER_PROTOCOL': 'HTTP/1.1',
                             'REMOTE_ADDR': '192.0.2.7', 'HTTP_HOST': 'front:9292'}
    if isinstance(body, bytes) and body:
        given['CONTENT_LENGTH'] = str(len(body))
    given |= environ
    setup_testing_defaults(given)
    began: list[tuple[str, Headers]] = []

    def start_response(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        began.append((status, headers))
        return lambda data: None

    result = application(given, start_response)
    try:
        content = b''.join(result)
    finally:
        if hasattr(result, 'close'):
            result.close()
    [(status, headers)] = began
    return Answered(status, headers, content, given)


# The guard in it


def sample(folder: Path, glance_url: str, pipeline: str = 'authtoken imgguard', **options: str) -> TestApp:
    """The sample paste file with this pipeline in it, and more options of the proxy; its store is in the folder."""
    text = SAMPLE.read_text().replace('pipeline = http_proxy_to_wsgi authtoken imgguard', f'pipeline = {pipeline}')
    text = text.replace('keystonemiddleware.auth_token:filter_factory', IDENTITY)
    text = text.replace('http://127.0.0.1:9293', options.pop('backend_url', glance_url))
    more = ''.join(f'\n{name} = {value}' for name, value in options.items())
    text = text.replace('sqlite:////var/lib/imgguard/imgguard.db', f'sqlite:///{folder}/imgguard.db{more}')
    (folder / 'paste.ini').write_text(text)
    return TestApp(loadapp(f'config:{folder}/paste.ini'))


class Between:
    """A server between the proxy and Glance.

    :ivar away: whether it cannot reach Glance
    :ivar packs: given the Accept-Encoding of a request, tells whether its answer is packed
    :ivar loses: tells of a request whether it is kept from Glance (``before``), or its answer from the proxy
        (``after``), which is given none then, or is told ``504`` in its stead
    :ivar asked: method, path and token of all requests
    """

    def __init__(self, glance_url: str) -> None:
        self.away = False
        self.packs: Callable[[str], bool] = lambda accepted: False
        self.loses: Callable[[Environ], str | None] = lambda environ: None
        self.asked: list[tuple[str, str, str]] = []
        self._ended = threading.Event()
        self._proxy = Proxy(glance_url, 5, 30)
        self._server = wsgi.Server((HOST, 0), self._answer, numthreads=8, shutdown_timeout=1)
        self._server.prepare()
        threading.Thread(target=self._server.serve, daemon=True).start()
        self.url = f'http://{HOST}:{self._server.bind_addr[1]}'

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._server.stop()
        self._proxy.close()

    def _answer(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.asked.append((environ['REQUEST_METHOD'], environ['PATH_INFO'], environ.get('HTTP_X_AUTH_TOKEN', '')))
        loses = self.loses(environ)
        if loses == 'before':
            self._ended.wait(TIMEOUT_SECONDS)
        if self.away or loses == 'before':
            start_response('503 Service Unavailable', [('Content-Length', '0'), ('Connection', 'close')])
            return []
        answer = Captured(self._proxy, environ)
        if loses is not None:
            answer.body()
        if loses == 'after':
            self._ended.wait(TIMEOUT_SECONDS)
        if loses == '504':
            start_response('504 Gateway Time-out', [('Content-Length', '0'), ('Connection', 'close')])
            return []
        if self.packs(environ.get('HTTP_ACCEPT_ENCODING', '')) and (body := answer.body()):
            answer.replace(gzip.compress(body))
            answer.headers.append(('Content-Encoding', 'gzip'))
        return answer.send(start_response)


# Real servers


class Front:
    """A real server, in processes of its own, with the proxy as its application."""

    def __init__(self, kind: Kind, backend_url: str, folder: Path, read_timeout: float = 30) -> None:
        self.kind, self.port = kind, free_port()
        environment = {**os.environ, 'BACKEND_URL': backend_url, 'READ_TIMEOUT': str(read_timeout)}
        self._log = folder / 'front.log'
        with self._log.open('ab') as log:
            self.process = subprocess.Popen(_command(kind, f'{HOST}:{self.port}'), env=environment, stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL,
                                            cwd=Path(__file__).resolve().parent.parent)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not listens(self.port):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        """What the server has written."""
        return self._log.read_text('utf-8', 'replace')

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with suppress(OSError), socket.create_connection((HOST, port)):
        return True
    return False


def _command(kind: Kind, address: str) -> Sequence[str]:
    module = 'tests.proxying:application'
    uwsgi = ['--http-chunked-input', '--http-raw-body', '--http-auto-chunked', '--socket-timeout=30',
             f'--module={module}', f'--virtualenv={sys.prefix}', '--need-app', '--die-on-term', '--master',
             '--threads=4', '--enable-threads', '--lazy-apps', '--buffer-size=65535']
    commands: Mapping[Kind, Iterable[str]] = {
        Kind.UWSGI_HTTP: [script('uwsgi'), '--http', address, *uwsgi],
        Kind.UWSGI_HTTP_SOCKET: [script('uwsgi'), '--http-socket', address, *uwsgi],
        Kind.CHEROOT: [sys.executable, '-m', 'cheroot', '--bind', address, module],
        Kind.GUNICORN_GTHREAD: [sys.executable, '-m', 'gunicorn', f'--bind={address}', '--threads=4',
                                '--header-map=dangerous', module],
    }
    return list(commands[kind])


def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """What these servers serve; made with the first request."""
    if not _made:
        _made.append(Edge(_Reading(Proxy(os.environ['BACKEND_URL'], 5, float(os.environ['READ_TIMEOUT'])))))
    return _made[0](environ, start_response)


class _Reading:
    """Puts a reader of its own in place of the body below ``/read``, as the guard does."""

    def __init__(self, below: Application) -> None:
        self._below = below

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ['PATH_INFO'].startswith('/read'):
            body = framing(environ)
            reader = BodyReader(servers.source(environ, body), body, None, Digests({}), lambda: None)
            environ = servers.with_body(environ, reader, body)
        return self._below(environ, start_response)


_made: list[Application] = []
