"""The connection to the backend, watched for an answer that comes before the request is whole.

httpcore sends a request and then reads the answer. A backend that refuses an upload may answer at once, and take
nothing more: so what it says meanwhile is looked for before and while sending, kept, and read later.
"""

import re
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

import httpcore

_BLOCK: Final = 64 * 1024
_INTERIM: Final = re.compile(rb'HTTP/1\.\d 1\d\d')
_REFUSAL: Final = re.compile(rb'HTTP/1\.\d [45]\d\d')
_BLOCKED: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_BOTH: Final = selectors.EVENT_READ | selectors.EVENT_WRITE


class Stale(Exception):
    """An idle connection turned out closed before anything of the request was sent."""


class Exchange:
    """What is known of one request and its answer.

    :ivar stream: the connection, once something was to be sent
    :ivar reused: whether it was one that had served before
    :ivar received: whether anything of an answer has come
    """

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.reused = False
        self.received = False


class Current(threading.local):
    """The exchange a thread works on: httpcore does not tell which connection it takes for a request."""

    exchange: Exchange | None = None


class Stream(httpcore.NetworkStream):
    """One connection."""

    def __init__(self, below: httpcore.NetworkStream, current: Current) -> None:
        self._below: Final = below
        self._current: Final = current
        self._socket: Final[socket.socket] = below.get_extra_info('socket')
        self._exchange: Exchange | None = None
        self._early = bytearray()
        self._ended = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore."""
        if self._early:
            data = bytes(self._early[:max_bytes])
            del self._early[:max_bytes]
        else:
            data = self._below.read(max_bytes, timeout)
        if data and self._exchange is not None:
            self._exchange.received = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore.

        :raises httpcore.WriteError: the backend has answered, or takes nothing more
        :raises httpcore.WriteTimeout: it has taken nothing for so long
        :raises Stale: see there
        """
        exchange = self._current.exchange
        if exchange is not None and exchange.stream is None:
            exchange.stream, exchange.reused = self, self._exchange is not None
            self._exchange = exchange
            if exchange.reused and self.answered():
                raise Stale
        rest = memoryview(buffer)
        while rest:
            try:
                self._socket.settimeout(0)
                rest = rest[self._socket.send(rest):]
            except _BLOCKED:
                self._wait_to_send(timeout)
            except OSError as error:
                raise httpcore.WriteError(str(error)) from error

    def answered(self, seconds: float = 0) -> bool:
        """Whether the backend has sent something final, or hung up; waits for that if told to."""
        deadline = time.monotonic() + seconds
        self._collect()
        while not self._has_final():
            rest = deadline - time.monotonic()
            if rest <= 0 or not self._ready(selectors.EVENT_READ, rest):
                return False
            self._collect()
        return True

    def answers_broken_body(self, seconds: float) -> bool:
        """End what is sent, although it is not whole, and wait for what the backend says of that.

        :returns: whether it refuses it (4xx, 5xx); to some servers the end looks like a good one, and no other answer
            can be true of what is not whole. ``False`` over TLS, where one side cannot end alone
        """
        try:
            if not isinstance(self._socket, ssl.SSLSocket):
                self._socket.shutdown(socket.SHUT_WR)
                self.answered(seconds)
        except OSError:
            # The backend has hung up.
            return False
        return _REFUSAL.match(self._early) is not None

    def close(self) -> None:
        """See httpcore."""
        self._below.close()

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None,
                  timeout: float | None = None) -> httpcore.NetworkStream:
        """See httpcore."""
        return Stream(self._below.start_tls(ssl_context, server_hostname, timeout), self._current)

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        if info == 'is_readable' and (self._early or self._ended):
            return True
        return self._below.get_extra_info(info)

    def _wait_to_send(self, timeout: float | None) -> None:
        ready = self._ready(_BOTH, timeout)
        if not ready:
            raise httpcore.WriteTimeout
        if ready & selectors.EVENT_READ and self.answered():
            raise httpcore.WriteError('the backend has answered')

    def _collect(self) -> None:
        # Of TLS only reading tells whether there is an answer: tickets of the session come without one.
        if self._ended:
            return
        try:
            self._socket.settimeout(0)
            data = self._socket.recv(_BLOCK)
        except _BLOCKED:
            return
        except OSError:
            data = b''
        self._early += data
        self._ended = not data

    def _has_final(self) -> bool:
        # RFC 9110, section 15.2: interim answers come before the final one, in any number.
        while len(self._early) >= 12:
            if _INTERIM.match(self._early) is None:
                return True
            end = self._early.find(b'\r\n\r\n')
            if end < 0:
                return len(self._early) > _BLOCK
            del self._early[:end + 4]
        return self._ended

    def _ready(self, events: int, timeout: float | None) -> int:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, events)
            return sum(mask for _, mask in selector.select(timeout))


class Network(httpcore.NetworkBackend):
    """Makes such connections."""

    def __init__(self, current: Current) -> None:
        self._below: Final = httpcore.SyncBackend()
        self._current: Final = current

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
                    socket_options: Iterable[Any] | None = None) -> httpcore.NetworkStream:
        """See httpcore."""
        return Stream(self._below.connect_tcp(host, port, timeout, local_address, socket_options), self._current)
