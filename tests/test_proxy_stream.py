"""One connection to the backend: what comes early is found, kept and read later."""

import socket
from collections.abc import Iterator

import httpcore
import pytest

from imgguard.proxy.stream import Current, Exchange, Stale, Stream

MUCH = bytes(2**24)
REFUSED = b'HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n'
GO_ON = b'HTTP/1.1 100 Continue\r\n\r\n'


class Below(httpcore.NetworkStream):
    """As httpcore's own stream reads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._socket.settimeout(timeout)
        return self._socket.recv(max_bytes)

    def get_extra_info(self, info: str) -> socket.socket | bool:
        return self._socket if info == 'socket' else False


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def current() -> Current:
    return Current()


@pytest.fixture
def stream(ends: tuple[socket.socket, socket.socket], current: Current) -> Stream:
    return Stream(Below(ends[0]), current)


@pytest.fixture
def backend(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    return ends[1]


EARLY = [
    (b'', False), (b'HTTP', False), (GO_ON, False), (GO_ON[:20], False), (GO_ON * 3 + b'HTTP/1.', False),
    (b'HTTP/1.1 103 Early\r\nLink: a\r\n\r\n', False),
    (REFUSED, True), (GO_ON + REFUSED, True), (REFUSED[:12], True), (b'no HTTP at all', True),
    (GO_ON[:-2] + b'X-Endless: ' + b'a' * 70000, True),
]


@pytest.mark.parametrize(('early', 'final'), EARLY)
def test_what_is_an_answer(stream: Stream, backend: socket.socket, early: bytes, final: bool) -> None:
    backend.sendall(early)
    # More than one look is needed for more than one block.
    assert [stream.answered(), stream.answered()][-1] is final


def test_what_came_early_is_read_later(stream: Stream, backend: socket.socket) -> None:
    backend.sendall(REFUSED[:20])
    assert stream.answered() and stream.get_extra_info('is_readable')
    backend.sendall(REFUSED[20:])
    backend.close()
    assert stream.read(5) == REFUSED[:5]
    assert stream.read(100) + stream.read(100) == REFUSED[5:]
    assert stream.read(100) == b''


def test_a_backend_that_hangs_up_is_not_waited_for(stream: Stream, backend: socket.socket) -> None:
    backend.close()
    assert stream.answered()
    assert stream.get_extra_info('is_readable')
    assert stream.read(100) == b''


def test_a_backend_that_answers_and_takes_nothing_more(stream: Stream, backend: socket.socket) -> None:
    backend.sendall(GO_ON + REFUSED)
    with pytest.raises(httpcore.WriteError, match='has answered'):
        stream.write(MUCH, 30)
    assert stream.read(1000) == REFUSED


def test_a_backend_that_takes_nothing(stream: Stream, backend: socket.socket) -> None:
    with pytest.raises(httpcore.WriteTimeout):
        stream.write(MUCH, 0.05)


def test_nothing_is_sent_on_a_connection_that_was_closed_while_idle(
    stream: Stream, backend: socket.socket, current: Current,
) -> None:
    current.exchange = first = Exchange()
    stream.write(b'GET', 30)
    assert (first.stream, first.reused, backend.recv(3)) == (stream, False, b'GET')
    current.exchange = second = Exchange()
    stream.write(b'GET', 30)
    assert (second.reused, backend.recv(3)) == (True, b'GET')
    backend.shutdown(socket.SHUT_WR)
    current.exchange = Exchange()
    with pytest.raises(Stale):
        stream.write(b'GET', 30)
    backend.setblocking(False)
    with pytest.raises(BlockingIOError):
        backend.recv(3)


@pytest.mark.parametrize(('said', 'refuses'), [
    (REFUSED, True), (GO_ON + b'HTTP/1.1 500 No\r\n\r\n', True), (b'HTTP/1.1 204 N\r\n\r\n', False), (b'', False)])
def test_what_is_said_of_a_body_that_broke_off(
    stream: Stream, backend: socket.socket, said: bytes, refuses: bool,
) -> None:
    """A success is not believed: some servers take the end for a good one."""
    backend.sendall(said)
    backend.shutdown(socket.SHUT_WR)
    assert stream.answers_broken_body(30) is refuses
    assert backend.recv(1) == b''
