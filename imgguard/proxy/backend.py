"""Requests to the backend over connections that are kept for the next one.

httpcore sends targets and headers as they are given, holds answers to the grammar (h11) and raises where one breaks
off. An answer may have any number of headers, of which Python's own client takes a hundred: Glance's v1 sends one for
each property.
"""

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

import httpcore

from imgguard.errors import ConfigurationError
from imgguard.proxy.headers import Origin, RawHeaders
from imgguard.proxy.stream import Current, Exchange, Network, Stale, Stream

# Below the five seconds of Apache: what the backend closes sooner is found before it is used.
_IDLE_SECONDS: Final = 4.0
# RFC 9110, section 9.2.2.
_IDEMPOTENT: Final = frozenset((b'GET', b'HEAD', b'OPTIONS', b'TRACE', b'PUT', b'DELETE'))


class Body(Protocol):
    """The body of a request on its way to the backend."""

    @property
    def begun(self) -> bool:
        """Whether anything of it was read from the client, so that it cannot be sent a second time."""

    def blocks(self, stream: Stream) -> Iterator[bytes]:
        """Read it block by block."""


@dataclass(frozen=True, slots=True)
class Message:
    """One request, ready to be sent; ``headers`` tell how the body is delimited."""

    method: bytes
    target: bytes
    headers: RawHeaders
    body: Body | None


class Backend:
    """One backend, and this process's connections to it.

    Its URL is one that :mod:`imgguard.settings` has judged. Connections are never carried over a fork. A connection
    that was closed while it was idle is replaced.
    """

    def __init__(self, url: str, connect_timeout: float, read_timeout: float, cafile: str | None,
                 insecure: bool) -> None:
        self.origin, self._host, self._port = _parsed(url)
        self._context: Final = _context(cafile, insecure) if self.origin.scheme == 'https' else None
        self._timeouts: Final = {'connect': connect_timeout, 'read': read_timeout, 'write': read_timeout}
        self._current: Final = Current()
        self._pools: Final[dict[int, httpcore.ConnectionPool]] = {}
        self._inherited: Final[list[httpcore.ConnectionPool]] = []

    def send(self, message: Message) -> httpcore.Response:
        """Send a request and read the head of its answer. The caller closes the answer's ``stream``.

        :raises httpcore.NetworkError: the backend cannot be reached, or the connection broke
        :raises httpcore.TimeoutException: it was silent for too long
        :raises httpcore.RemoteProtocolError: its answer is no HTTP, or there is none
        :raises httpcore.LocalProtocolError: the request cannot be sent as HTTP
        """
        while True:
            exchange = Exchange()
            try:
                return self._sent(message, exchange)
            except Stale:
                continue
            except (httpcore.RemoteProtocolError, httpcore.NetworkError):
                begun = message.body is not None and message.body.begun
                # A fresh connection that fails says something of the backend; a kept one may just have been closed.
                if begun or not exchange.reused or exchange.received or message.method not in _IDEMPOTENT:
                    raise

    def close(self) -> None:
        """Close this process's connections."""
        pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close()

    def _sent(self, message: Message, exchange: Exchange) -> httpcore.Response:
        url = httpcore.URL(scheme=self.origin.scheme, host=self._host, port=self._port, target=message.target)
        request = httpcore.Request(message.method, url, headers=message.headers,
                                   content=_Blocks(message.body, exchange), extensions={'timeout': self._timeouts})
        self._current.exchange = exchange
        try:
            return self._pool().handle_request(request)
        finally:
            self._current.exchange = None

    def _pool(self) -> httpcore.ConnectionPool:
        # As imgguard/store/engine.py: no lock, for another thread may have held it while the process forked, and what
        # came over a fork is kept, not closed, for the parent still uses it.
        mine = os.getpid()
        pool = self._pools.get(mine)
        if pool is None:
            pool = self._pools.setdefault(mine, httpcore.ConnectionPool(
                self._context, max_connections=None, keepalive_expiry=_IDLE_SECONDS,
                network_backend=Network(self._current)))
            for other in [process for process in self._pools if process != mine]:
                inherited = self._pools.pop(other, None)
                if inherited is not None:
                    self._inherited.append(inherited)
        return pool


class _Blocks:
    def __init__(self, body: Body | None, exchange: Exchange) -> None:
        self._body, self._exchange = body, exchange

    def __iter__(self) -> Iterator[bytes]:
        # The head was sent before the body is asked for, so that the connection is known.
        if self._body is None or self._exchange.stream is None:
            return iter(())
        return self._body.blocks(self._exchange.stream)


def _parsed(url: str) -> tuple[Origin, bytes, int | None]:
    parsed = urlsplit(url)
    return Origin(parsed.scheme, parsed.netloc, parsed.path.rstrip('/')), (parsed.hostname or '').encode(), parsed.port


def _context(cafile: str | None, insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise ConfigurationError(f'imgguard: option cafile: {cafile} cannot be used: {error}') from error
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
