"""An answer of the application below, held back until its headers are known (PEP 3333)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from imgguard.wsgi import MAX_REWRITTEN, Captured

Headers = list[tuple[str, str]]


class Client:
    """What a server is told of an answer."""

    def __init__(self) -> None:
        self.status = ''
        self.headers: Headers = []
        self.exc_info: Any = None

    def __call__(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        self.status, self.headers, self.exc_info = status, headers, exc_info
        return lambda data: None

    def receive(self, answer: Captured) -> bytes:
        """Take the answer as a server would."""
        iterable = answer.send(self)
        try:
            return b''.join(iterable)
        finally:
            close = getattr(iterable, 'close', None)
            if close is not None:
                close()


class Closable:
    """Chunks of a body that say when they are closed."""

    def __init__(self, chunks: Iterable[bytes], before: Callable[[], object] = lambda: None) -> None:
        self._chunks = iter(chunks)
        self._before = before
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._before()
        return next(self._chunks)

    def close(self) -> None:
        """Count."""
        self.closed += 1


def app(body: Iterable[bytes], headers: Headers | None = None, status: str = '200 OK') -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(status, headers or [])
        return body

    return application


def late_app(chunks: Closable, *calls: Any) -> Any:
    """An application that calls ``start_response`` with its first chunk, as generators do."""
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        pending = list(calls)

        def start() -> None:
            if pending:
                start_response(*pending.pop(0))

        chunks._before = start
        return chunks

    return application


# Handing on

def test_an_answer_goes_on_as_it_is_without_being_read() -> None:
    body = Closable([b'one', b'two'])
    client = Client()
    answer = Captured(app(body, [('A', '1'), ('A', '2')], '201 Created'), {})
    assert answer.send(client) is body
    assert (client.status, client.headers, client.exc_info) == ('201 Created', [('A', '1'), ('A', '2')], None)


def test_headers_can_be_looked_at_and_added() -> None:
    client = Client()
    answer = Captured(app([b'x'], [('Content-Type', 'text/plain'), ('content-type', 'other')], '404 Not Found'), {})
    assert answer.status == 404
    assert answer.header('CONTENT-TYPE') == 'text/plain'
    assert answer.header('Nothing') is None
    answer.headers.append(('X-Added', 'yes'))
    assert client.receive(answer) == b'x'
    assert client.headers[-1] == ('X-Added', 'yes')


def test_an_application_may_start_with_its_first_chunk() -> None:
    body = Closable([b'one', b'two'])
    client = Client()
    answer = Captured(late_app(body, ('200 OK', [('A', '1')])), {})
    assert answer.status == 200
    assert client.receive(answer) == b'onetwo'
    assert body.closed == 1


def test_an_application_may_write() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        write = start_response('200 OK', [])
        write(b'written ')
        return [b'returned']

    assert Client().receive(Captured(application, {})) == b'written returned'
    assert Captured(application, {}).body() == b'written returned'


def test_of_two_starts_the_one_with_an_error_counts() -> None:
    error = (ValueError, ValueError('x'), None)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response('200 OK', [('Content-Length', '2')])
        start_response('500 Internal Server Error', [('Content-Length', '4')], error)
        return [b'oops']

    client = Client()
    assert client.receive(Captured(application, {})) == b'oops'
    assert (client.status, client.headers) == ('500 Internal Server Error', [('Content-Length', '4')])
    assert client.exc_info is error


def test_an_application_that_never_starts_is_closed_and_told_of() -> None:
    body = Closable([b'one'])
    with pytest.raises(RuntimeError, match='^the application below did not call start_response$'):
        Captured(late_app(body), {})
    assert body.closed == 1


@pytest.mark.parametrize('error', [ValueError('x'), SystemExit(), KeyboardInterrupt()])
def test_an_application_that_fails_is_closed(error: BaseException) -> None:
    def fail() -> None:
        raise error

    body = Closable([b'one'], fail)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return body

    with pytest.raises(type(error)):
        Captured(application, {})
    assert body.closed == 1


# Reading and replacing

def test_reading_the_body_closes_it_once_and_it_can_still_be_sent() -> None:
    body = Closable([b'one', b'two'])
    answer = Captured(app(body), {})
    assert answer.body() == answer.body() == b'onetwo'
    assert Client().receive(answer) == b'onetwo'
    assert body.closed == 1


def test_a_body_that_fails_is_closed() -> None:
    def chunks() -> Iterator[bytes]:
        yield b'one'
        raise OSError('gone')

    body = Closable(chunks())
    with pytest.raises(OSError, match='gone'):
        Captured(app(body), {}).body()
    assert body.closed == 1


def test_another_body_comes_with_its_own_length() -> None:
    client = Client()
    answer = Captured(app([b'one'], [('content-length', '3'), ('A', '1')]), {})
    answer.body()
    answer.replace(b'other')
    assert client.receive(answer) == answer.body() == b'other'
    assert client.headers == [('A', '1'), ('Content-Length', '5')]


@pytest.mark.parametrize(('headers', 'is_json'), [
    ({'Content-Type': 'application/json', 'Content-Length': '2'}, True),
    ({'Content-Type': 'application/json; charset=UTF-8', 'Content-Length': '2'}, True),
    ({'Content-Type': 'application/json', 'Content-Length': str(MAX_REWRITTEN)}, True),
    ({'Content-Type': 'application/json', 'Content-Length': str(MAX_REWRITTEN + 1)}, False),
    ({'Content-Type': 'application/json'}, True),
    ({'Content-Type': 'application/json', 'Content-Length': 'x'}, False),
    ({'Content-Type': 'application/json', 'Content-Length': '2', 'Content-Encoding': 'gzip'}, False),
    ({'Content-Type': 'application/json', 'Content-Length': '2', 'Content-Encoding': 'Identity'}, True),
    ({'Content-Type': 'text/plain', 'Content-Length': '2'}, False),
    ({'Content-Length': '2'}, False),
])
def test_what_is_json_worth_reading(headers: dict[str, str], is_json: bool) -> None:
    assert Captured(app([b'{}'], list(headers.items())), {}).is_json() is is_json


def test_json_counts_under_the_status_that_is_meant() -> None:
    answer = Captured(app([b'{}'], [('Content-Type', 'application/json')]), {})
    assert answer.is_json()
    assert not answer.is_json(201)
    answer.status_line = '404 Not Found'
    assert not answer.is_json()
    assert answer.is_json(404)


def test_of_json_without_a_length_no_more_is_read_than_is_worth_it() -> None:
    headers = [('Content-Type', 'application/json')]
    block, read = bytes(MAX_REWRITTEN // 2), []

    def chunks() -> Iterator[bytes]:
        for number in range(4):
            read.append(number)
            yield block

    body = Closable(chunks())
    answer = Captured(app(body, headers), {})
    assert not answer.is_json()
    assert read == [0, 1, 2]
    assert len(Client().receive(answer)) == 4 * len(block)
    assert body.closed == 1


def test_json_without_a_length_that_breaks_off_is_closed() -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{'
        raise OSError('gone')

    body = Closable(chunks())
    with pytest.raises(OSError, match='gone'):
        Captured(app(body, [('Content-Type', 'application/json')]), {}).is_json()
    assert body.closed == 1
