"""The pipelines that are compared, all upon the one Glance of this process, and requests to them."""

import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from bench import neighbours
from imgguard.factory import filter_factory
from tests.harness import InProcessGlance
from tests.identity import Identity, token

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Filter = Callable[[Application], Application]

OCTETS: Final = 'application/octet-stream'


class Body(Protocol):
    """The body of a request, as a server gives it."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; ``b''`` at the end."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    :param path: with its query
    :param body: makes the body, which is read once
    :param length: of the body; ``None``: it is sent chunked
    :param environ: more of it
    """

    method: str
    path: str
    project: str = 'project'
    content_type: str = ''
    body: Callable[[], Body] = io.BytesIO
    length: int | None = 0
    environ: Mapping[str, str] = field(default_factory=dict)


class Timed:
    """An application whose time is added up: its call, the iteration of its answer, and its reading of the body."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.seconds = self.reading = 0.0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ = {**environ, 'wsgi.input': _TimedBody(environ['wsgi.input'], self)}
        began = time.perf_counter()
        answer = self._application(environ, start_response)
        self.seconds += time.perf_counter() - began
        return self._iterated(answer)

    def _iterated(self, answer: Iterable[bytes]) -> Iterator[bytes]:
        began = time.perf_counter()
        try:
            for chunk in answer:
                self.seconds += time.perf_counter() - began
                yield chunk
                began = time.perf_counter()
        finally:
            close = getattr(answer, 'close', None)
            if close is not None:
                close()
            self.seconds += time.perf_counter() - began


class _TimedBody:
    def __init__(self, body: Any, timed: Timed) -> None:
        self._body = body
        self._timed = timed

    def read(self, *size: int) -> bytes:
        began = time.perf_counter()
        try:
            data: bytes = self._body.read(*size)
            return data
        finally:
            self._timed.reading += time.perf_counter() - began

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


@dataclass(frozen=True, slots=True)
class Clocked:
    """A filter with a clock around it and another one below."""

    application: Application
    around: Timed
    below: Timed

    @classmethod
    def of(cls, make: Filter, below: Application, before: Filter) -> 'Clocked':
        """Put the filter before ``below``, and ``before`` before both."""
        inner = Timed(below)
        outer = Timed(make(inner))
        return cls(before(outer), outer, inner)

    def time(self, request: Request, status: int) -> tuple[float, float]:
        """Seconds in the filter itself and seconds below it; reading of the body is where it is done."""
        self.around.reset()
        self.below.reset()
        expect(self.application, request, status)
        reader = self.below.reading - self.around.reading
        own = self.around.seconds - self.below.seconds + reader
        return own, self.around.seconds - own


@dataclass(frozen=True, slots=True)
class Measured:
    """A filter that is measured: as it would be, and clocked."""

    plain: Application
    clocked: Clocked


@dataclass(frozen=True, slots=True)
class Pipelines:
    """The bare Glance, and filters before it.

    :param nothing: two clocks and no filter, as the control of self-time
    :param neighbours: other filters by their names
    """

    bare: Application
    guard: Measured
    nothing: Clocked
    neighbours: dict[str, Measured]


def load(glance: InProcessGlance, connection: str) -> Pipelines:
    """Put the pipelines together as the paste file does.

    :param connection: of the guard's store
    """
    from glance.api.middleware import context
    from paste.deploy import loadapp  # type: ignore[import-untyped]

    glance.load(None)
    root = loadapp(f'config:{max(glance.glance.folder.glob("paste-*.ini"))}', name='rootapp')

    def behind_identity(application: Application) -> Application:
        return Identity(context.ContextMiddleware.factory({})(application))

    def as_it_is(application: Application) -> Application:
        return application

    guard = filter_factory({}, connection=connection)
    bare = behind_identity(root)
    return Pipelines(
        bare, Measured(behind_identity(guard(root)), Clocked.of(guard, root, behind_identity)),
        Clocked.of(as_it_is, root, behind_identity),
        {name: Measured(make(bare), Clocked.of(make, bare, as_it_is)) for name, make in neighbours.all_of_them()})


def prepare(connection: str) -> None:
    """Make the guard's store, which a filter expects to be there on a server."""
    from imgguard.store import Store

    store = Store(connection, 60)
    store.upgrade()
    store.close()


def send(application: Application, request: Request) -> tuple[int, bytes]:
    """Send a request; returns status and body of its answer."""
    said: list[str] = []

    def start_response(status: str, *_: Any) -> Callable[[bytes], object]:
        said.append(status)
        return bytes

    path, _, query = request.path.partition('?')
    framing: Environ = {'CONTENT_LENGTH': str(request.length)}
    if request.length is None:
        framing = {'HTTP_TRANSFER_ENCODING': 'chunked', 'wsgi.input_terminated': True}
    environ: Environ = {
        'REQUEST_METHOD': request.method, 'SCRIPT_NAME': '', 'PATH_INFO': path, 'QUERY_STRING': query,
        'SERVER_NAME': 'localhost', 'SERVER_PORT': '80', 'SERVER_PROTOCOL': 'HTTP/1.1', 'HTTP_HOST': 'localhost',
        # As the clients in Python send it.
        'HTTP_ACCEPT_ENCODING': 'gzip, deflate',
        'HTTP_X_AUTH_TOKEN': token('alice', request.project), 'CONTENT_TYPE': request.content_type,
        'wsgi.version': (1, 0), 'wsgi.url_scheme': 'http', 'wsgi.input': request.body(), 'wsgi.errors': io.StringIO(),
        'wsgi.multithread': True, 'wsgi.multiprocess': True, 'wsgi.run_once': False, **framing, **request.environ}
    answer = application(environ, start_response)
    try:
        received = b''.join(answer)
    finally:
        close = getattr(answer, 'close', None)
        if close is not None:
            close()
    return int(said[-1][:3]), received


def expect(application: Application, request: Request, status: int) -> bytes:
    """As :func:`send`, with the status that must be answered."""
    answered, body = send(application, request)
    if answered != status:
        raise RuntimeError(f'{request.method} {request.path} was answered {answered}, not {status}: {body[:300]!r}')
    return body


def ask(application: Application, request: Request) -> Any:
    """The document with which a GET or POST is answered."""
    return json.loads(expect(application, request, 201 if request.method == 'POST' else 200))
