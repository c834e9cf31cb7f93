"""The body of a request, block by block from the client to the backend, and no more of it than is wanted."""

from collections.abc import Iterator
from typing import Final

import httpcore

from imgguard import servers, text
from imgguard.body import Source, framing
from imgguard.errors import ImgguardError
from imgguard.proxy.stream import Stream
from imgguard.wsgi import Environ

BLOCK: Final = 64 * 1024
# How long a backend has for its refusal where the client asked for it first (Expect: 100-continue).
_REFUSAL_SECONDS: Final = 0.2
# How long a backend has to say something of a body that broke off.
_LAST_WORDS_SECONDS: Final = 5.0


class BadRequest(ImgguardError):
    """The request is none, or its body does not come whole; the text is for the client."""


class Sending:
    """One body with something in it, or of unknown length.

    :param length: in bytes; ``None`` sends it in chunks
    :param first: what was already read of it
    :ivar begun: whether anything of it was read
    """

    def __init__(self, source: Source, length: int | None, first: bytes, expects: bool) -> None:
        self.begun = bool(first)
        self._source: Final = source
        self._length: Final = length
        self._first: Final = first
        self._patience: Final = _REFUSAL_SECONDS if expects else 0

    @property
    def header(self) -> tuple[bytes, bytes]:
        """How the body is delimited (RFC 9112, section 6)."""
        if self._length is None:
            return b'transfer-encoding', b'chunked'
        return b'content-length', str(self._length).encode()

    def blocks(self, stream: Stream) -> Iterator[bytes]:
        """Read it block by block.

        :raises httpcore.WriteError: the backend has already answered
        :raises BadRequest: it does not come whole; the connection to the backend must then be broken
        """
        if self._first:
            yield self._first
        rest, patience = self._length, self._patience
        while rest != 0:
            if stream.answered(patience):
                # httpcore then reads the answer (``httpcore/_sync/http11.py``, ``handle_request``).
                raise httpcore.WriteError('the backend has answered')
            self.begun, patience = True, 0
            block = self._block(stream, rest)
            if not block:
                return
            rest = None if rest is None else rest - len(block)
            yield block

    def _block(self, stream: Stream, rest: int | None) -> bytes:
        try:
            block = read(self._source, BLOCK if rest is None else min(rest, BLOCK))
            if not block and rest is not None:
                raise BadRequest(f'The body of the request ended {rest} bytes before its announced length.')
        except BadRequest as broken:
            # The backend has cleaned up when it answers, and its own answer is worth more than ours.
            if stream.answers_broken_body(_LAST_WORDS_SECONDS):
                raise httpcore.WriteError('the backend has answered') from broken
            raise
        return block


def sending(environ: Environ) -> Sending | None:
    """The body of this request; ``None`` where it has none.

    :raises imgguard.body.Refused: what it says of its length contradicts itself
    :raises BadRequest: it cannot be read
    """
    body = framing(environ)
    if body.length == 0:
        return None
    source = servers.source(environ, body)
    expects = str(environ.get('HTTP_EXPECT') or '').strip().lower() == '100-continue'
    first = b''
    if body.length is None and not body.chunked and servers.uwsgi() is None:
        # gunicorn says of every body that it ends by itself, and so of none.
        first = read(source, BLOCK)
        if not first:
            return None
    return Sending(source, body.length, first, expects)


def read(source: Source, size: int) -> bytes:
    """Read from the client.

    :raises BadRequest: it cannot be read
    """
    try:
        return source.read(size)
    except ValueError as error:
        # What was read is not what it should be; so says Glance too (``glance/api/v2/image_data.py``, ``upload``).
        raise BadRequest(text.one_line(str(error), 1024)) from error
    except Exception as error:
        # Every server has exceptions of its own for a client that is gone.
        raise BadRequest('The body of the request broke off.') from error
