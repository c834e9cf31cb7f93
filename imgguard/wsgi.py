"""Plumbing of PEP 3333: call an application, hold its answer, hand it on."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Self

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

NO_ANSWER: Final = 'imgguard.no_answer'
"""Is set in the environ by a proxy when the answer it gives is its own, for the backend gave none."""

NEVER_BEGAN: Final = 'the application below did not call start_response'

MAX_REWRITTEN: Final = 64 * 1024 * 1024


def is_answered(environ: Environ, answer: 'Captured') -> bool:
    """Whether Glance itself has answered a request that brings data.

    Else the proxy has in its stead, or a server between it and Glance (RFC 9110, sections 15.6.3 and 15.6.5); Glance
    says neither 502 nor 504 of data that is sent to it.
    """
    return NO_ANSWER not in environ and answer.status not in (502, 504)


def unpacked(environ: Environ) -> Environ:
    """The request with an answer asked for that is not packed: one that is cannot be read here.

    Glance has a filter that packs (``glance/api/middleware/gzip.py``), and servers in front of it do (RFC 9110, section
    12.5.3).
    """
    if not environ.get('HTTP_ACCEPT_ENCODING'):
        return environ
    return {**environ, 'HTTP_ACCEPT_ENCODING': 'identity'}


class Captured:
    """An answer whose headers are known and whose body may be read or handed on."""

    def __init__(self, application: Application, environ: Environ) -> None:
        self.status_line = ''
        self.headers: Headers = []
        self._exc_info: Any = None
        self._written: list[bytes] = []
        self._iterable = application(environ, self._start_response)
        self._chunks = iter(self._iterable)
        self._body: bytes | None = None
        try:
            # An application may call start_response as late as with its first chunk.
            while not self.status_line:
                self._written.append(next(self._chunks))
        except StopIteration:
            self.close()
            raise RuntimeError(NEVER_BEGAN) from None
        except BaseException:
            self.close()
            raise

    @classmethod
    def held(cls, status: str, headers: Headers, exc_info: Any, body: bytes) -> Self:
        """An answer that has come as a whole; what is below is closed."""
        answer = cls.__new__(cls)
        answer.status_line, answer.headers, answer._exc_info = status, list(headers), exc_info
        answer._iterable, answer._written, answer._chunks, answer._body = (), [], iter(()), body
        return answer

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return int(self.status_line[:3])

    def header(self, name: str) -> str | None:
        """The value of the first header of that name."""
        wanted = name.lower()
        for given, value in self.headers:
            if given.lower() == wanted:
                return value
        return None

    @property
    def packed(self) -> str | None:
        """The coding in which the body comes; ``None`` where it is plain (RFC 9110, section 8.4)."""
        return _packed(self.header('Content-Encoding'))

    def is_json(self, status: int = 200) -> bool:
        """Whether the answer has this status, and its body is plain JSON of a size that is worth reading."""
        if int(self.status_line[:3]) != status:
            return False
        media_type = length = coding = None
        # The first of each counts; one pass, for every look at an image comes by here.
        for name, value in self.headers:
            name = name.lower()
            if name == 'content-type':
                media_type = value if media_type is None else media_type
            elif name == 'content-length':
                length = value if length is None else length
            elif name == 'content-encoding':
                coding = value if coding is None else coding
        if media_type is None or not media_type.startswith('application/json') or (coding and _packed(coding)):
            return False
        return self._is_short() if length is None else length.isdigit() and int(length) <= MAX_REWRITTEN

    def body(self) -> bytes:
        """The whole body; what is below is closed."""
        if self._body is None:
            try:
                self._body = b''.join((*self._written, *self._chunks))
            finally:
                self.close()
        return self._body

    def close(self) -> None:
        """Close what is below."""
        close = getattr(self._iterable, 'close', None)
        if close is not None:
            close()

    def replace(self, body: bytes) -> None:
        """Put another body in place, with its own Content-Length."""
        self._body = body
        self.headers = [(name, value) for name, value in self.headers if name.lower() != 'content-length']
        self.headers.append(('Content-Length', str(len(body))))

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Hand the answer on."""
        if self._exc_info is not None:
            start_response(self.status_line, self.headers, self._exc_info)
        else:
            start_response(self.status_line, self.headers)
        if self._body is not None:
            return [self._body]
        if not self._written:
            return self._iterable
        return _Rest(self._written, self._chunks, self.close)

    def _is_short(self) -> bool:
        """Whether a body that does not say how long it is, for a server between here and Glance may send it in chunks.

        What is read of it is sent all the same.
        """
        size = sum(map(len, self._written))
        try:
            for chunk in self._chunks:
                self._written.append(chunk)
                size += len(chunk)
                if size > MAX_REWRITTEN:
                    return False
        except BaseException:
            self.close()
            raise
        return True

    def _start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        self.status_line, self.headers, self._exc_info = status, list(headers), exc_info
        return self._written.append


def _packed(coding: str | None) -> str | None:
    return None if not coding or coding.strip().lower() == 'identity' else coding


class _Rest:
    def __init__(self, first: list[bytes], rest: Iterator[bytes], close: Callable[[], None]) -> None:
        self._first, self._rest, self.close = first, rest, close

    def __iter__(self) -> Iterator[bytes]:
        yield from self._first
        yield from self._rest
