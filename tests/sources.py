"""A web server on loopback that serves image data well and badly, and further stores for the Glance in this process."""

import json
import shutil
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DATA = b'data of an image' * 8192
SHORT = 5000
#: As many bytes, but others: what is sent the second time, so that what the first time has left cannot pass for it.
AGAIN = DATA[::-1]


class Source:
    """The server: ``/good``, and one path for each way to fail; see :data:`ANSWERS`."""

    def __init__(self) -> None:
        self._waiting = threading.Condition()
        self._round = 0
        self.asked = threading.Event()
        source = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                request = self.rfile.readline().decode().split()
                # What is left unread turns the end of the connection into a reset.
                while self.rfile.readline().strip():
                    continue
                source._answer(self.connection, request)

        self._server = socketserver.ThreadingTCPServer(('127.0.0.1', 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.05})
        self._thread.start()

    def url(self, path: str) -> str:
        """The address of one of the answers."""
        return f'http://127.0.0.1:{self._server.server_address[1]}/{path}'

    def release(self) -> None:
        """Let go of those who wait for data now."""
        with self._waiting:
            self._round += 1
            self._waiting.notify_all()

    def close(self) -> None:
        """Stop, and let go of who waits."""
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, connection: socket.socket, request: list[str]) -> None:
        method, path = request[0], request[1].strip('/')
        name = path.split('/')[0]
        head, body = ANSWERS.get(f'{name}/file' if path.endswith('/file') else name, ANSWERS[name])
        head = head.replace(b'{here}', self.url(path).encode())
        with self._waiting:
            mine = self._round
        self.asked.set()
        try:
            connection.sendall(head + (b'' if method == 'HEAD' else body))
            if path in ('silent', 'slow'):
                with self._waiting:
                    self._waiting.wait_for(lambda: self._round > mine, 60)
            if path == 'slow':
                connection.sendall(DATA)
            if path == 'reset':
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        except OSError:
            # Glance hung up first.
            return


def _ok(*headers: bytes) -> bytes:
    return b'\r\n'.join([b'HTTP/1.1 200 OK', *headers, b'Connection: close', b'', b''])


def _length(size: int) -> bytes:
    return b'Content-Length: %d' % size


_NONE = _length(0)
# Head and body of the answer to each path.
ANSWERS: dict[str, tuple[bytes, bytes]] = {
    'good': (_ok(_length(len(DATA))), DATA),
    'again': (_ok(_length(len(AGAIN))), AGAIN),
    '404': (b'HTTP/1.1 404 Not Found\r\n' + _NONE + b'\r\nConnection: close\r\n\r\n', b''),
    '500': (b'HTTP/1.1 500 Internal Server Error\r\n' + _NONE + b'\r\nConnection: close\r\n\r\n', b''),
    'cut': (_ok(_length(len(DATA))), DATA[:SHORT]),
    'chunks-cut': (_ok(b'Transfer-Encoding: chunked'), b'%x\r\n' % 8192 + DATA[:SHORT]),
    'forbidden-redirect': (b'HTTP/1.1 302 Found\r\nLocation: http://forbidden.test/image\r\n' + _NONE
                           + b'\r\nConnection: close\r\n\r\n', b''),
    'loop': (b'HTTP/1.1 302 Found\r\nLocation: {here}\r\n' + _NONE + b'\r\nConnection: close\r\n\r\n', b''),
    'reset': (_ok(_length(len(DATA))), DATA[:SHORT]),
    'garbage': (b'this is no HTTP\r\n\r\n', b''),
    'hangs-up': (b'', b''),
    'no-length': (_ok(), DATA[:SHORT]),
    'empty': (_ok(_NONE), b''),
    'silent': (_ok(_length(len(DATA))), b''),
    'slow': (_ok(_length(len(DATA))), b''),
}


def _remote(**changes: object) -> tuple[bytes, bytes]:
    image = {'status': 'active', 'disk_format': 'raw', 'container_format': 'bare', 'size': len(DATA)} | changes
    body = json.dumps(image).encode()
    return _ok(_length(len(body))), body


# Of another Glance, for glance-download: what it tells of an image, and the data of it.
ANSWERS |= {
    'remote': _remote(), 'remote/file': ANSWERS['good'],
    'remote-queued': _remote(status='queued'),
    'remote-no-size': _remote(size='unknown'),
    'remote-file-404': _remote(), 'remote-file-404/file': ANSWERS['404'],
    'remote-file-short': _remote(), 'remote-file-short/file': ANSWERS['no-length'],
}


@contextmanager
def serving() -> Iterator[Source]:
    """The server, within the block."""
    source = Source()
    try:
        yield source
    finally:
        source.close()


def unused_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        port: int = taken.getsockname()[1]
        return port


class Stores:
    """The stores ``fs``, ``fs2``, ``fs3`` (files) and ``ht`` (web addresses) of the Glance in this process."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self._broken: list[Path] = []

    def take_away(self, *names: str) -> None:
        """Take the folders of these stores away."""
        for folder in map(self.folders.__getitem__, names):
            shutil.move(folder, folder.with_suffix('.away'))
            self._broken.append(folder)

    def repair(self) -> None:
        """Give all folders back."""
        for folder in self._broken:
            shutil.move(folder.with_suffix('.away'), folder)
        self._broken.clear()

    def files(self, image_id: str) -> set[str]:
        """The stores that hold a file of this image."""
        return {name for name, folder in self.folders.items() if (folder / image_id).exists()}


@contextmanager
def more_stores(first: Path, folder: Path) -> Iterator[Stores]:
    """Three file stores and one of web addresses, within the block.

    :param first: the folder of ``fs``, which is there already
    """
    import glance_store
    from glance.common.wsgi_app import RESERVED_STORES
    from glance_store import location
    from oslo_config import cfg

    folders = {'fs': first, 'fs2': folder / 'fs2', 'fs3': folder / 'fs3'}
    undo: list[Callable[[], Any]] = []

    def override(name: str, value: Any, group: str | None = None) -> None:
        cfg.CONF.set_override(name, value, group)
        undo.append(lambda: cfg.CONF.clear_override(name, group))

    kept = {scheme: dict(entries) for scheme, entries in location.SCHEME_TO_CLS_BACKEND_MAP.items()}
    override('enabled_backends', {**dict.fromkeys(folders, 'file'), 'ht': 'http'})
    glance_store.register_store_opts(cfg.CONF, reserved_stores=RESERVED_STORES)
    for name in ('fs2', 'fs3'):
        folders[name].mkdir()
        override('filesystem_store_datadir', str(folders[name]), name)
    glance_store.create_multi_stores(cfg.CONF, reserved_stores=RESERVED_STORES)
    try:
        yield Stores(folders)
    finally:
        for each in undo:
            each()
        location.SCHEME_TO_CLS_BACKEND_MAP.clear()
        location.SCHEME_TO_CLS_BACKEND_MAP.update(kept)
