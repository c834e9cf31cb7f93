"""The body of a data request: counted, checked, and never complete before it was judged.

The reader takes the place of ``wsgi.input`` below the guard. It says what happened to the body and
judges it by what the client itself announced; what that means for the image is decided elsewhere.

A body is judged *before* its last bytes are handed on. WebOb's reader never asks for the end of a
stream whose length it knows (``webob/request.py``, ``LimitedLengthFile.readinto``), and a store that
was told a size stops reading there, so a check at the end of the stream would often never run.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from imgguard import codes, names, text
from imgguard.attempts import Failure
from imgguard.digests import Digests

_BLOCK: Final = 64 * 1024
_MAX_SIZE: Final = 2**63 - 1
_CUT: Final = re.compile(r"b'(\\r)?'\W*$")


class Refused(ValueError):
    """The body is not what the client announced, or must not be taken.

    A ``ValueError``, because Glance answers one from ``wsgi.input`` with 400 and its text, and puts
    the image back to ``queued`` (``glance/api/v2/image_data.py``, ``upload``).
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class TakenAway(BaseException):
    """The claim is gone: somebody else may be bringing data into the image.

    No ``Exception``, for Glance meets every one of those by putting the image back and deleting its file by
    name, and both may be another's by now.
    """


class Broken(Enum):
    """How the server failed to deliver the body."""

    DISCONNECTED = 'disconnected'
    MALFORMED = 'malformed'


@dataclass(frozen=True, slots=True)
class Framing:
    """How the request delimits its body (RFC 9112, section 6).

    :param length: announced by Content-Length, in bytes; ``None`` when the body ends by itself
    :param chunked: whether the client sent it chunked
    """

    length: int | None
    chunked: bool


class Source(Protocol):
    """What the reader reads from."""

    def read(self, *size: int) -> bytes:
        """Return at most ``size`` bytes; ``b''`` at the end."""


class UwsgiChunks:
    """A chunked body under uWSGI, which Glance reads past ``wsgi.input`` (``glance/common/wsgi.py``)."""

    def __init__(self, chunked_read: Callable[[], bytes]) -> None:
        self._chunked_read = chunked_read

    def read(self, *size: int) -> bytes:
        """Return the next chunk, whatever its size; ``b''`` at the end."""
        return self._chunked_read()


def framing(environ: Mapping[str, Any]) -> Framing:
    """Read how the body is delimited.

    :raises Refused: where the length is no number or the framing is ambiguous: a server that passes
        such a request on would have it end as an empty image
    """
    encoding = str(environ.get('HTTP_TRANSFER_ENCODING') or '').strip().lower()
    length = str(environ.get('CONTENT_LENGTH') or '').strip()
    if encoding:
        if encoding != 'chunked':
            raise _bad_request('This Transfer-Encoding is not supported for image data; use chunked.')
        if length:
            raise _bad_request('Content-Length and Transfer-Encoding exclude each other; send one of them.')
        return Framing(None, True)
    if length:
        size = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else -1
        if not 0 <= size <= _MAX_SIZE:
            raise _bad_request('Content-Length is not a number of bytes.')
        return Framing(size, False)
    return Framing(None if environ.get('wsgi.input_terminated') else 0, False)


def announced_size(environ: Mapping[str, Any]) -> int | None:
    """The number of bytes in X-OpenStack-Image-Size; ``None`` where Glance itself will refuse the value."""
    try:
        # As glance/api/v2/image_data.py, _get_image_size, reads it.
        size = int(str(environ.get(names.SIZE_ENVIRON) or ''))
    except ValueError:
        return None
    return size if 0 <= size <= _MAX_SIZE else None


def _bad_request(message: str) -> Refused:
    return Refused(Failure(codes.BAD_REQUEST, message))


class BodyReader:
    """The body of one guarded data request, to be put in place of ``wsgi.input``.

    :param confirm: called before the last bytes are handed on and before a failure to read is passed
        on; raises :class:`Refused` when they must not be
    :param refuse_empty: the text of the refusal of an empty body; ``None`` where it is legitimate
    :ivar received: bytes received from the client so far
    :ivar broken: how reading from the client failed, if it did
    :ivar broken_reason: what the server said of it, fit to be shown
    :ivar refusal: why the body was refused, if it was
    """

    def __init__(self, source: Source, body: Framing, announced: int | None, digests: Digests,
                 confirm: Callable[[], None], refuse_empty: str | None = None) -> None:
        self.received = 0
        self.broken: Broken | None = None
        self.broken_reason = ''
        self.refusal: Failure | None = None
        self._source = source
        self._length = body.length
        self._announced = announced
        self._digests = digests
        self._is_checked = announced is not None or digests.announced
        self._confirm = confirm
        self._refuse_empty = refuse_empty
        self._held: deque[bytes] = deque()
        self._held_size = 0
        self._ended = False
        self._error: Exception | None = None
        if None not in (self._length, announced) and self._length != announced:
            # A store that was told a size takes as many bytes and no more.
            self._refuse(codes.SIZE_MISMATCH, f'Content-Length says {self._length} bytes, but {names.SIZE_HEADER} '
                                              f'announced {announced}.')
        if self._length == 0:
            self._end()

    @property
    def expected(self) -> int | None:
        """How many bytes the client announced, if it did."""
        return self._length if self._length is not None else self._announced

    def read(self, *size: int) -> bytes:
        """Read as from ``wsgi.input`` (PEP 3333).

        What was refused or broken stays so: after an error some servers report the end of the body.

        :raises Refused: instead of the last bytes of a body that is not what was announced
        """
        if self.refusal is not None:
            raise Refused(self.refusal)
        if self._error is not None:
            raise self._error
        wanted = size[0] if size and size[0] is not None and size[0] >= 0 else None
        length = self._length
        if length is None:
            return self._read_held(wanted)
        # Here, for a call takes as long as the rest, with every block.
        rest = length - self.received
        if wanted is None or wanted > rest:
            wanted = rest
        if wanted == 0 or self.broken is not None:
            return b''
        data = self._receive(wanted)
        if self.received >= length:
            self._end()
        elif len(data) < wanted:
            # WebOb takes a short read for a lost client and drops it.
            self._break(Broken.DISCONNECTED, '')
        return data

    def readline(self, *size: int) -> bytes:
        """Read one line."""
        limit = size[0] if size and size[0] is not None and size[0] >= 0 else None
        line = bytearray()
        while (limit is None or len(line) < limit) and not line.endswith(b'\n'):
            byte = self.read(1)
            if not byte:
                break
            line += byte
        return bytes(line)

    def readlines(self, *hint: int) -> list[bytes]:
        """Read all lines."""
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b'')

    def _read_held(self, wanted: int | None) -> bytes:
        while not self._ended and (wanted is None or self._held_size <= wanted):
            data = self._receive(_BLOCK if wanted is None or wanted < _BLOCK else wanted)
            self._held.append(data)
            self._held_size += len(data)
            if not data:
                self._end()
        size = self._held_size if wanted is None or wanted > self._held_size else wanted
        if not self._held or len(self._held[0]) != size:
            # Servers and Glance mostly agree on the size of a block, and nothing is copied.
            held = b''.join(self._held)
            self._held = deque([held[:size], held[size:]])
        self._held_size -= size
        return self._held.popleft()

    def _receive(self, size: int) -> bytes:
        try:
            data = self._source.read(size)
        except Exception as error:
            self._error = error
            self._break(_how(error), text.reason(str(error)))
            raise
        self.received += len(data)
        if self._is_checked:
            self._check(data)
        return data

    def _check(self, data: bytes) -> None:
        self._digests.update(data)
        if self._announced is not None and self.received > self._announced:
            self._refuse(codes.SIZE_MISMATCH, f'More than the {self._announced} bytes announced by '
                                              f'{names.SIZE_HEADER} arrived.')

    def _break(self, how: Broken, said: str) -> None:
        self.broken, self.broken_reason = how, said
        self._confirmed()

    def _end(self) -> None:
        self._ended = True
        if self.received == 0 and self._refuse_empty is not None:
            self._refuse(codes.EMPTY_RETRY, self._refuse_empty)
        if self._announced is not None and self.received != self._announced:
            self._refuse(codes.SIZE_MISMATCH, f'{self.received} bytes arrived, but {names.SIZE_HEADER} '
                                              f'announced {self._announced}.')
        mismatch = self._digests.mismatch()
        if mismatch is not None:
            self._refuse(codes.DIGEST_MISMATCH, mismatch)
        self._confirmed()

    def _confirmed(self) -> None:
        try:
            self._confirm()
        except Refused as refused:
            self.refusal = refused.failure
            raise

    def _refuse(self, code: str, message: str) -> None:
        self.refusal = Failure(code, message)
        raise Refused(self.refusal)


def _how(error: Exception) -> Broken:
    # Servers tell a malformed chunk from a lost connection by the exception's kind only: gunicorn raises one named
    # Invalid…, cheroot a ValueError with what it took for a size or for the end of a chunk (cheroot/server.py,
    # ChunkedRFile), which is empty or half a line's end where the connection ended.
    if isinstance(error, ValueError) and not _CUT.search(str(error)):
        return Broken.MALFORMED
    return Broken.MALFORMED if type(error).__name__.startswith('Invalid') else Broken.DISCONNECTED
