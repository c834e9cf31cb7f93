"""What must be set right between the server and everybody else, and no application below can.

* A request whose target is a whole URL is one for its path (RFC 9112, section 3.2.2). uWSGI leaves it in PATH_INFO,
  where nothing that goes by the path would know it.
* A path of which servers make different ones is refused: what is recognised here must be what Glance does.
* uWSGI ends an answer without a length by closing the connection, so that one that broke off looks complete; here it
  is sent in chunks (RFC 9112, section 7.1). Other servers do that by themselves.
"""

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final

from imgguard import servers
from imgguard.proxy.own import own
from imgguard.proxy.target import ambiguous, origin_form
from imgguard.wsgi import Application, Environ, Headers, StartResponse

_AMBIGUOUS: Final = ('The path of the request can be understood in several ways. Send it without the segments "." and '
                     '"..", without an escaped slash (%2F), and a % that is meant as such as %25.')


class Edge:
    """Stands before all else in the proxy's pipeline."""

    def __init__(self, application: Application) -> None:
        self._application: Final = application

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as WSGI asks for."""
        if ambiguous(environ):
            return own(HTTPStatus.BAD_REQUEST, _AMBIGUOUS, environ, start_response)
        path = str(environ.get('PATH_INFO') or '')
        if not path.startswith('/'):
            below = origin_form(path)
            if below is not None:
                environ = {**environ, 'PATH_INFO': below}
        if servers.uwsgi() is None or environ.get('SERVER_PROTOCOL') != 'HTTP/1.1':
            return self._application(environ, start_response)
        return _Framed(self._application, environ, start_response)


class _Framed:
    """An answer that is sent in chunks if it has no length."""

    def __init__(self, application: Application, environ: Environ, start_response: StartResponse) -> None:
        self._start_response = start_response
        self._head = environ['REQUEST_METHOD'] == 'HEAD'
        self._chunked = False
        self._below = application(environ, self._begin)

    def __iter__(self) -> Iterator[bytes]:
        for block in self._below:
            if block:
                yield self._framed(block)
        if self._chunked:
            yield b'0\r\n\r\n'

    def close(self) -> None:
        """Close what is below."""
        close = getattr(self._below, 'close', None)
        if close is not None:
            close()

    def _begin(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        has_length = any(name.lower() == 'content-length' for name, _ in headers)
        self._chunked = not (self._head or has_length or status[:3] in ('204', '304'))
        if self._chunked:
            headers = [*headers, ('Transfer-Encoding', 'chunked')]
        write = self._start_response(status, headers, *([exc_info] if exc_info else []))
        return lambda block: write(self._framed(block)) if block else None

    def _framed(self, block: bytes) -> bytes:
        return b'%x\r\n%s\r\n' % (len(block), block) if self._chunked else block
