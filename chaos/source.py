"""A web server on loopback from which images are imported, and which does not always behave."""

import contextlib
import socket
import socketserver
import struct
import threading
import time
from types import TracebackType
from typing import Self

from demo.server import HOST

#: What it does with what was offered: all but the first two keep the data from arriving whole.
GOOD = ('good', 'slow')
BAD = ('cut', 'reset', '404', '500', 'hangs-up')
_PIECES = 8


class Source:
    """The server, within the block."""

    def __init__(self) -> None:
        self._offers: dict[str, tuple[str, bytes, float]] = {}
        source = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                request = self.rfile.readline().decode().split()
                while self.rfile.readline().strip():
                    continue
                # Glance may hang up first.
                with contextlib.suppress(OSError):
                    source._answer(self.connection, request[0], request[1].strip('/'))

        self._server = socketserver.ThreadingTCPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.05})

    def offer(self, name: str, data: bytes, behaviour: str, seconds: float) -> str:
        """Serve data at an address, which is returned.

        :param behaviour: of :data:`GOOD` or :data:`BAD`
        :param seconds: that it takes when it is slow
        """
        self._offers[name] = behaviour, data, seconds
        return f'http://{HOST}:{self._server.server_address[1]}/{name}'

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, connection: socket.socket, method: str, name: str) -> None:
        behaviour, data, seconds = self._offers[name]
        if behaviour == 'hangs-up':
            return
        status = int(behaviour) if behaviour.isdigit() else 200
        connection.sendall(b'HTTP/1.1 %d Said\r\nContent-Length: %d\r\nConnection: close\r\n\r\n' % (
            status, len(data) if status == 200 else 0))
        if method == 'HEAD' or status != 200:
            return
        if behaviour == 'slow':
            size = len(data) // _PIECES + 1
            for begin in range(0, len(data), size):
                connection.sendall(data[begin:begin + size])
                time.sleep(seconds / _PIECES)
            return
        connection.sendall(data if behaviour == 'good' else data[:len(data) // 2])
        if behaviour == 'reset':
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
