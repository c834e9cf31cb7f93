"""Requests written to a socket by hand: stopped, cut, reset or malformed at any byte, and the answer read or not."""

import http.client
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from demo.client import Answer
from demo.server import HOST, Server
from imgguard.attempts import ImageRecord
from imgguard.store import AttemptRow, Store

TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.02
LEASE_SECONDS = 60.0

Value = TypeVar('Value')


class Exchange:
    """One request and its answer over one connection.

    The methods that send return the exchange, so that a request reads from left to right.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, data: bytes) -> Self:
        """Send bytes as they are."""
        self._socket.sendall(data)
        return self

    def head(self, method: str, path: str, headers: Mapping[str, str] | Sequence[tuple[str, str]]) -> Self:
        """Send the request line and these headers, Host before them."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        lines = [f'{method} {path} HTTP/1.1', f'Host: {HOST}', *(f'{name}: {value}' for name, value in pairs)]
        return self.send('\r\n'.join([*lines, '', '']).encode('latin-1'))

    def chunk(self, data: bytes) -> Self:
        """Send one chunk; without data it is the last one."""
        return self.send(chunked(data))

    def half_close(self) -> Self:
        """Tell the server that nothing more will come; its answer can still be read."""
        self._socket.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Break the connection (TCP RST)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Hang up (TCP FIN)."""
        self._socket.close()

    def arrives(self, seconds: float = TIMEOUT_SECONDS) -> bytes:
        """Wait for the server's first bytes, or for its hanging up, and return them without taking them."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1024, socket.MSG_PEEK)
        except TimeoutError:
            return b''
        finally:
            self._socket.settimeout(TIMEOUT_SECONDS)

    def answer(self) -> Answer:
        """Read the answer; interim ones (``100 Continue``) are passed over.

        :raises OSError: the connection broke or was silent for too long
        :raises http.client.HTTPException: the answer is no HTTP, or there is none
        """
        response = http.client.HTTPResponse(self._socket)
        response.begin()
        body = response.read()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, response.reason, received, body)

    def status(self) -> int | None:
        """Read the answer and return its status; ``None`` when there is none."""
        with suppress(OSError, http.client.HTTPException):
            return self.answer().status
        return None


def chunked(data: bytes) -> bytes:
    """One chunk as it is sent; without data the last one."""
    return b'%x\r\n%s\r\n' % (len(data), data)


def eventually(look: Callable[[], Value], what: str) -> Value:
    """Look again and again until there is something true to see, and return it."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (seen := look()):
        assert time.monotonic() < deadline, f'not within {TIMEOUT_SECONDS:.0f} s: {what} ({seen})'
        time.sleep(POLL_SECONDS)
    return seen


class GuardsStore:
    """What the guard of a server has stored, read past the server.

    :param of: the server, or the URL of the store
    """

    def __init__(self, of: Server | str, lease_seconds: float = LEASE_SECONDS) -> None:
        url = of if isinstance(of, str) else f'sqlite:///{of.glance.guard_database}'
        self._store = Store(url, lease_seconds)

    def record(self, image_id: str) -> ImageRecord | None:
        """What is known of the image."""
        return next(iter(self._store.records([image_id]).values()), None)

    def attempts(self, image_id: str) -> list[AttemptRow]:
        """The history of the image, the oldest attempt first."""
        record = self.record(image_id)
        return [] if record is None else self._store.attempts(record.key, 100)[::-1]

    def running(self, image_id: str) -> AttemptRow | None:
        """The attempt that holds the image."""
        record = self.record(image_id)
        if record is None or record.running is None:
            return None
        return next(each for each in self.attempts(image_id) if each.number == record.running.number)

    def wait_for_claim(self, image_id: str) -> AttemptRow:
        """Wait until an attempt holds the image."""
        claimed = eventually(lambda: self.running(image_id), f'an attempt on {image_id}')
        assert claimed is not None
        return claimed

    def close(self) -> None:
        """Close its connections."""
        self._store.close()
