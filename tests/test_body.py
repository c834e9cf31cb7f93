"""The reader in place of ``wsgi.input``: what it hands on, what it refuses, and what it says of a broken body.

Glance reads through WebOb, so the tests do too where a Content-Length is given.
"""

import base64
import hashlib
import io
import sys
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import webob
from hypothesis import given, settings
from hypothesis import strategies as st
from webob.request import DisconnectionError, LimitedLengthFile

from imgguard import codes, servers
from imgguard.attempts import Failure
from imgguard.body import BodyReader, Broken, Framing, Refused, Source, UwsgiChunks, announced_size, framing
from imgguard.digests import Digests

CHUNKED = Framing(None, True)
NOT_OURS = Failure(codes.WORKER_LOST, 'This attempt was given up.')


class Wire:
    """A ``wsgi.input`` whose client sends these blocks; an exception among them is what the server raises.

    As servers do it, a read blocks until it has all bytes asked for, or there are no more.
    """

    def __init__(self, *blocks: bytes | Exception) -> None:
        self._blocks = list(blocks)
        self.asked: list[int] = []

    def read(self, *size: int) -> bytes:
        """Return exactly that many bytes, fewer only at the end."""
        assert size and size[0] >= 0, 'a server may wait for ever for the end of a stream'
        self.asked.append(size[0])
        data = b''
        while len(data) < size[0] and self._blocks:
            block = self._blocks.pop(0)
            if isinstance(block, Exception):
                raise block
            wanted = size[0] - len(data)
            data += block[:wanted]
            if block[wanted:]:
                self._blocks.insert(0, block[wanted:])
        return data


class Confirmation:
    """Whether the attempt still holds its image, and how often that was asked."""

    def __init__(self, failure: Failure | None = None) -> None:
        self.failure = failure
        self.asked = 0

    def __call__(self) -> None:
        """Refuse when it does not."""
        self.asked += 1
        if self.failure is not None:
            raise Refused(self.failure)


def digests_of(data: bytes, algorithm: str = 'sha-256') -> Digests:
    value = base64.b64encode(hashlib.new(algorithm.replace('-', ''), data).digest()).decode()
    return Digests({'HTTP_CONTENT_DIGEST': f'{algorithm}=:{value}:'})


def reader(source: Source, body: Framing = CHUNKED, announced: int | None = None, digests: Digests | None = None,
           confirm: Confirmation | None = None, refuse_empty: str | None = None) -> BodyReader:
    return BodyReader(source, body, announced, digests or Digests({}), confirm or Confirmation(), refuse_empty)


def refusal_of(read: BodyReader) -> Failure:
    """Read to the end and return why the guard refused the body."""
    with pytest.raises(Refused) as caught:
        while read.read(4):
            pass
    assert read.refusal == caught.value.failure
    assert str(caught.value) == caught.value.failure.text
    return caught.value.failure


def known(length: int) -> Framing:
    return Framing(length, False)


# How the request delimits its body

@pytest.mark.parametrize(('environ', 'expected'), [
    pytest.param({'CONTENT_LENGTH': '12'}, Framing(12, False), id='a length'),
    pytest.param({'CONTENT_LENGTH': ' 12 '}, Framing(12, False), id='spaces around it'),
    pytest.param({'CONTENT_LENGTH': '0'}, Framing(0, False), id='an empty body'),
    pytest.param({'CONTENT_LENGTH': str(2**63 - 1)}, Framing(2**63 - 1, False), id='the largest length'),
    pytest.param({'HTTP_TRANSFER_ENCODING': 'chunked'}, Framing(None, True), id='chunked'),
    pytest.param({'HTTP_TRANSFER_ENCODING': ' Chunked', 'CONTENT_LENGTH': ''}, Framing(None, True), id='in any case'),
    pytest.param({}, Framing(0, False), id='neither: there is no body'),
    pytest.param({'CONTENT_LENGTH': None, 'HTTP_TRANSFER_ENCODING': None}, Framing(0, False), id='nulls for neither'),
    pytest.param({'wsgi.input_terminated': True}, Framing(None, False), id='the server ends the stream'),
    pytest.param({'wsgi.input_terminated': True, 'CONTENT_LENGTH': '3'}, Framing(3, False), id='and tells a length'),
])
def test_framing(environ: dict[str, Any], expected: Framing) -> None:
    assert framing(environ) == expected


NO_NUMBER = 'Content-Length is not a number of bytes.'


@pytest.mark.parametrize(('environ', 'text'), [
    ({'CONTENT_LENGTH': 'abc'}, NO_NUMBER),
    ({'CONTENT_LENGTH': '-1'}, NO_NUMBER),
    ({'CONTENT_LENGTH': '+1'}, NO_NUMBER),
    ({'CONTENT_LENGTH': '1_000'}, NO_NUMBER),
    ({'CONTENT_LENGTH': '1, 1'}, NO_NUMBER),
    ({'CONTENT_LENGTH': '\xb2'}, NO_NUMBER),
    ({'CONTENT_LENGTH': str(2**63)}, NO_NUMBER),
    ({'CONTENT_LENGTH': '9' * 5000}, NO_NUMBER),
    ({'HTTP_TRANSFER_ENCODING': 'gzip, chunked'},
     'This Transfer-Encoding is not supported for image data; use chunked.'),
    ({'HTTP_TRANSFER_ENCODING': 'identity', 'CONTENT_LENGTH': '1'},
     'This Transfer-Encoding is not supported for image data; use chunked.'),
    ({'HTTP_TRANSFER_ENCODING': 'chunked', 'CONTENT_LENGTH': '1'},
     'Content-Length and Transfer-Encoding exclude each other; send one of them.'),
])
def test_ambiguous_framing_is_refused(environ: dict[str, str], text: str) -> None:
    with pytest.raises(Refused) as caught:
        framing(environ)
    assert caught.value.failure == Failure(codes.BAD_REQUEST, text)


@pytest.mark.parametrize(('value', 'size'), [
    (None, None),
    ('', None),
    ('12', 12),
    ('0', 0),
    (' +1_000 ', 1000),              # Glance's int() takes that too
    ('abc', None),                   # Glance answers these with 400
    ('1.5', None),
    ('\xb2', None),
    ('9' * 5000, None),
    ('-1', None),                    # and these fail in Glance
    (str(2**63), None),
])
def test_announced_size(value: str | None, size: int | None) -> None:
    assert announced_size({'HTTP_X_OPENSTACK_IMAGE_SIZE': value}) == size


def test_no_size_was_announced() -> None:
    assert announced_size({}) is None


# Whatever the sizes of blocks and reads: a good body is handed on byte for byte, a wrong one never as a whole

bodies = st.binary(min_size=1, max_size=300)
cuts = st.lists(st.integers(0, 300), max_size=8)
sizes = st.lists(st.integers(1, 400) | st.sampled_from([-1, None, 0]), max_size=12)


def split(data: bytes, at: Iterable[int]) -> list[bytes]:
    """The blocks of ``data`` between these places, none of them empty."""
    places = sorted({0, len(data), *(place for place in at if place < len(data))})
    return [data[start:end] for start, end in zip(places, places[1:])]


def source_of(kind: str, blocks: list[bytes]) -> tuple[Source, Framing]:
    if kind == 'uwsgi':
        chunks = iter(blocks)
        return UwsgiChunks(lambda: next(chunks, b'')), CHUNKED
    return Wire(*blocks), CHUNKED if kind == 'chunked' else known(sum(map(len, blocks)))


def read_all(read: BodyReader, wanted: Iterable[Any], handed_on: bytearray) -> None:
    """Read with these sizes, then to the end."""
    for size in wanted:
        handed_on += read.read() if size is None else read.read(size)
    while data := read.read(7):
        handed_on += data


kinds = st.sampled_from(['length', 'chunked', 'uwsgi'])


@settings(deadline=None)
@given(kinds, bodies, cuts, sizes)
def test_any_blocks_and_any_reads_give_the_same_bytes(kind: str, data: bytes, at: list[int], wanted: list[Any]) -> None:
    source, body = source_of(kind, split(data, at))
    confirm = Confirmation()
    read = reader(source, body, len(data), digests_of(data), confirm)
    handed_on = bytearray()
    read_all(read, wanted, handed_on)
    assert handed_on == data
    assert (read.received, read.expected, read.broken, read.refusal) == (len(data), len(data), None, None)
    assert confirm.asked == 1
    assert read.read() == read.read(5) == b''


@settings(deadline=None)
@given(kinds, bodies, cuts, sizes, st.sampled_from(['digest', 'announced less', 'announced more', 'not confirmed']))
def test_the_last_byte_of_a_wrong_body_is_never_handed_on(
        kind: str, data: bytes, at: list[int], wanted: list[Any], wrong: str) -> None:
    source, body = source_of(kind, split(data, at))
    announced = {'announced less': len(data) - 1, 'announced more': len(data) + 1}.get(wrong)
    digests = digests_of(data + b'.' if wrong == 'digest' else data)
    handed_on = bytearray()
    with pytest.raises(Refused) as caught:
        read = reader(source, body, announced, digests, Confirmation(NOT_OURS if wrong == 'not confirmed' else None))
        read_all(read, wanted, handed_on)
    assert len(handed_on) < min(len(data), announced or len(data))
    assert data.startswith(handed_on)
    assert caught.value.failure.code == {'digest': 'digest_mismatch', 'not confirmed': 'worker_lost'}.get(
        wrong, 'size_mismatch')


@settings(deadline=None)
@given(kinds, bodies, cuts, sizes)
def test_a_cut_body_never_looks_whole(kind: str, data: bytes, at: list[int], wanted: list[Any]) -> None:
    blocks: list[bytes | Exception] = [*split(data, at)]
    if kind == 'uwsgi':
        def chunked_read() -> bytes:
            block = blocks.pop(0) if blocks else OSError('unable to receive chunked part')
            if isinstance(block, Exception):
                raise block
            return block

        read = reader(UwsgiChunks(chunked_read))
    elif kind == 'chunked':
        # After it told of a cut, a server may well tell of an end.
        read = reader(Wire(*blocks, OSError('gone')))
    else:
        read = reader(Wire(*blocks), known(len(data) + 1))
    handed_on = bytearray()
    try:
        read_all(read, wanted, handed_on)
    except OSError:
        with pytest.raises(OSError):
            read.read(1)
    else:
        assert kind == 'length'
    assert len(handed_on) < len(data) + (kind == 'length')  # the byte that is missing counts for a length
    assert read.broken is Broken.DISCONNECTED
    assert data.startswith(handed_on)


@settings(deadline=None)
@given(kinds, st.lists(st.sampled_from([b'one', b'\n', b'two\n', b'\n\n', b'three']), min_size=1), st.integers(1, 9))
def test_lines_are_those_of_a_file(kind: str, blocks: list[bytes], limit: int) -> None:
    data = b''.join(blocks)
    expected = io.BytesIO(data)
    assert list(reader(*source_of(kind, blocks))) == expected.readlines()
    assert reader(*source_of(kind, blocks)).readlines(5) == data.splitlines(keepends=True)
    expected.seek(0)
    read = reader(*source_of(kind, blocks))
    while line := expected.readline(limit):
        assert read.readline(limit) == line
    assert read.readline(limit) == read.readline() == b''


def test_nothing_beyond_the_length_is_asked_for() -> None:
    wire = Wire(b'0123456789GET / HTTP/1.1')
    read = reader(wire, known(10))
    assert read.read(4) == b'0123'
    assert read.read() == b'456789'
    assert read.read() == read.read(100) == b''
    assert wire.asked == [4, 6]


# Why a body is refused: each reason, and the words the client gets with the 400

@pytest.mark.parametrize('body', [known(4), CHUNKED], ids=['length', 'chunked'])
@pytest.mark.parametrize(('announced', 'digests', 'code', 'text'), [
    (None, digests_of(b'else'), 'digest_mismatch', 'The sha-256 digest of the body is not the one in Content-Digest.'),
    (None, digests_of(b'else', 'sha-512'), 'digest_mismatch',
     'The sha-512 digest of the body is not the one in Content-Digest.'),
])
def test_a_digest_that_does_not_match(
        body: Framing, announced: int | None, digests: Digests, code: str, text: str) -> None:
    assert refusal_of(reader(Wire(b'data'), body, announced, digests)) == Failure(code, text)


@pytest.mark.parametrize(('announced', 'text'), [
    (5, '4 bytes arrived, but X-OpenStack-Image-Size announced 5.'),
    (3, 'More than the 3 bytes announced by X-OpenStack-Image-Size arrived.'),
    (0, 'More than the 0 bytes announced by X-OpenStack-Image-Size arrived.'),
])
def test_a_chunked_body_of_another_size(announced: int, text: str) -> None:
    assert refusal_of(reader(Wire(b'data'), CHUNKED, announced)) == Failure(codes.SIZE_MISMATCH, text)


@pytest.mark.parametrize('announced', [0, 3, 5])
def test_a_length_that_contradicts_the_announced_size_is_refused_unread(announced: int) -> None:
    wire = Wire(b'data')
    with pytest.raises(Refused) as caught:
        reader(wire, known(4), announced)
    assert caught.value.failure == Failure(
        codes.SIZE_MISMATCH, f'Content-Length says 4 bytes, but X-OpenStack-Image-Size announced {announced}.')
    assert wire.asked == []


def test_too_many_bytes_are_refused_before_the_end_of_the_body() -> None:
    wire = Wire(b'x' * 200_000)
    read = reader(wire, CHUNKED, 10)
    with pytest.raises(Refused):
        read.read(1)
    assert read.received < 200_000


@pytest.mark.parametrize('body', [known(0), CHUNKED], ids=['length', 'chunked'])
def test_an_empty_body(body: Framing) -> None:
    assert reader(Wire(), body).read(10) == b''
    failures = []
    reasons: list[dict[str, Any]] = [{'refuse_empty': 'Empty again.'}, {'digests': digests_of(b'x')}, {'announced': 3}]
    for refused in reasons:
        with pytest.raises(Refused) as caught:
            reader(Wire(), body, **refused).read(10)
        failures.append(caught.value.failure)
    assert failures[0] == Failure(codes.EMPTY_RETRY, 'Empty again.')
    assert failures[1].code == codes.DIGEST_MISMATCH
    assert failures[2].code == codes.SIZE_MISMATCH


def test_only_an_empty_body_is_an_empty_retry() -> None:
    assert reader(Wire(b'x'), CHUNKED, refuse_empty='Empty again.').read() == b'x'


def test_a_refusal_stays() -> None:
    wire = Wire(b'data')
    read = reader(wire, known(4), digests=digests_of(b'else'))
    with pytest.raises(Refused) as first:
        read.read()
    with pytest.raises(Refused) as second:
        read.read()
    assert first.value.failure == second.value.failure
    assert wire.asked == [4]


@pytest.mark.parametrize('body', [known(4), CHUNKED], ids=['length', 'chunked'])
def test_an_attempt_that_lost_its_image_gets_no_last_bytes(body: Framing) -> None:
    confirm = Confirmation(NOT_OURS)
    read = reader(Wire(b'data'), body, confirm=confirm)
    assert refusal_of(read) == NOT_OURS
    assert confirm.asked == 1


# How a body breaks, and who failed

@pytest.mark.parametrize(('error', 'how', 'reason'), [
    # server and what it raises: a connection that ended
    pytest.param(OSError('error during read(65536) on wsgi.input'), Broken.DISCONNECTED,
                 'error during read(65536) on wsgi.input', id='uwsgi'),
    pytest.param(ConnectionResetError(104, 'Connection reset by peer'), Broken.DISCONNECTED,
                 '[Errno 104] Connection reset by peer', id='reset'),
    pytest.param(TimeoutError('timed out'), Broken.DISCONNECTED, 'timed out', id='cheroot, silent client'),
    pytest.param(ValueError("Bad chunked transfer size: b''"), Broken.DISCONNECTED,
                 "Bad chunked transfer size: b''", id='cheroot, chunked'),
    pytest.param(type('NoMoreData', (OSError,), {})('No more data after: None'), Broken.DISCONNECTED,
                 'No more data after: None', id='gunicorn, chunked'),
    # a chunk line that is none
    pytest.param(ValueError("Bad chunked transfer size: b'zz'"), Broken.MALFORMED,
                 "Bad chunked transfer size: b'zz'", id='cheroot, malformed'),
    pytest.param(type('InvalidChunkSize', (OSError,), {})("Invalid chunk size: b'zz'"), Broken.MALFORMED,
                 "Invalid chunk size: b'zz'", id='gunicorn, malformed'),
    # nothing of the server's files goes on
    pytest.param(OSError(5, 'I/O error', '/var/spool/uwsgi/body'), Broken.DISCONNECTED,
                 "[Errno 5] I/O error: '(path)'", id='a path'),
])
@pytest.mark.parametrize('body', [known(100), CHUNKED], ids=['length', 'chunked'])
def test_the_server_raises(body: Framing, error: Exception, how: Broken, reason: str) -> None:
    confirm = Confirmation()
    read = reader(Wire(b'some', error), body, confirm=confirm)
    with pytest.raises(type(error)) as caught:
        while read.read(4):
            pass
    assert caught.value is error
    assert (read.broken, read.broken_reason, read.refusal) == (how, reason, None)
    assert confirm.asked == 1


@pytest.mark.parametrize('body', [known(4), CHUNKED], ids=['length', 'chunked'])
def test_an_error_is_not_forgotten_when_the_server_then_tells_of_an_end(body: Framing) -> None:
    wire = Wire(OSError('gone'))
    read = reader(wire, body)
    for _ in range(2):
        with pytest.raises(OSError, match='gone'):
            read.read(4)
    assert len(wire.asked) == 1


def test_an_attempt_that_lost_its_image_does_not_pass_on_the_error() -> None:
    """Glance would put the image of the newer attempt back to queued."""
    read = reader(Wire(OSError('gone')), CHUNKED, confirm=Confirmation(NOT_OURS))
    with pytest.raises(Refused):
        read.read(4)
    assert (read.broken, read.refusal) == (Broken.DISCONNECTED, NOT_OURS)


def test_a_store_that_stops_reading_breaks_nothing() -> None:
    read = reader(Wire(b'x' * 100), known(100))
    read.read(50)
    assert (read.received, read.broken, read.refusal) == (50, None, None)


@pytest.mark.parametrize(('body', 'announced', 'expected'), [
    (known(4), None, 4), (known(0), None, 0), (known(4), 4, 4), (CHUNKED, 7, 7), (CHUNKED, None, None)])
def test_expected(body: Framing, announced: int | None, expected: int | None) -> None:
    assert reader(Wire(), body, announced).expected == expected


# As Glance reads: WebOb over the reader

def through_webob(read: BodyReader, length: int) -> Any:
    """The ``body_file`` Glance gives to its store."""
    environ = servers.with_body(
        {'REQUEST_METHOD': 'PUT', 'CONTENT_LENGTH': str(length), 'wsgi.input': io.BytesIO()}, read, known(length))
    body_file = webob.Request(environ).body_file
    assert isinstance(body_file, io.BufferedReader)
    assert isinstance(body_file.raw, LimitedLengthFile)
    return body_file


@settings(deadline=None)
@given(bodies, cuts, st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_webob_gets_a_good_body_and_the_reader_has_judged_it(data: bytes, at: list[int], wanted: list[int]) -> None:
    confirm = Confirmation()
    read = reader(Wire(*split(data, at)), known(len(data)), len(data), digests_of(data), confirm)
    body_file = through_webob(read, len(data))
    handed_on = b''
    while len(handed_on) < len(data):  # a store that was told the size stops here and never sees the end
        handed_on += body_file.read(wanted[len(handed_on) % len(wanted)])
    assert handed_on == data
    assert confirm.asked == 1


@pytest.mark.parametrize('block', [1, 64, 1000, 8192, 65536])
@pytest.mark.parametrize('arrived', [0, 1, 8192, 65536, 99_999])
def test_webob_takes_a_cut_for_a_lost_client(arrived: int, block: int) -> None:
    read = reader(Wire(b'x' * arrived), known(100_000))
    body_file = through_webob(read, 100_000)
    with pytest.raises(DisconnectionError, match='The client disconnected while sending the body'):
        while body_file.read(block):
            pass
    assert (read.broken, read.broken_reason, read.received) == (Broken.DISCONNECTED, '', arrived)


def test_what_webob_dropped_with_a_short_read_is_not_made_up_for() -> None:
    """Else a store that reads on would store a body with a hole, and the digest would still match."""
    class Late:
        """Delivers the rest after all."""

        blocks = [b'abc', b'def']

        def read(self, *size: int) -> bytes:
            """Return the next block."""
            return self.blocks.pop(0)

    read = reader(Late(), known(6), digests=digests_of(b'abcdef'))
    body_file = through_webob(read, 6)
    for _ in range(2):
        with pytest.raises(DisconnectionError):
            body_file.read(6)


@pytest.mark.parametrize('block', [1, 64, 1000, 8192, 65536])
def test_webob_passes_the_refusal_on_instead_of_the_last_bytes(block: int) -> None:
    read = reader(Wire(b'x' * 100_000), known(100_000), digests=digests_of(b'y' * 100_000))
    body_file = through_webob(read, 100_000)
    handed_on = 0
    with pytest.raises(ValueError, match='^The sha-256 digest of the body is not the one in Content-Digest.$'):
        while data := body_file.read(block):
            handed_on += len(data)
    assert handed_on < 100_000
    assert read.refusal is not None


# What servers differ in

class FakeUwsgi(SimpleNamespace):
    """The module ``uwsgi`` of a worker."""


@pytest.fixture
def uwsgi(monkeypatch: pytest.MonkeyPatch) -> FakeUwsgi:
    chunks = iter([b'first', b'second'])
    module = FakeUwsgi(chunked_read=lambda: next(chunks, b''), opt={b'http-socket': b':0'})
    monkeypatch.setitem(sys.modules, 'uwsgi', module)
    return module


@pytest.fixture
def no_uwsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'uwsgi', None)


def chunked_environ() -> dict[str, Any]:
    return {'REQUEST_METHOD': 'PUT', 'HTTP_TRANSFER_ENCODING': 'chunked', 'wsgi.input': Wire(b'plain'),
            'webob.is_body_seekable': True}


def test_under_uwsgi_a_chunked_body_is_read_as_glance_would_and_given_to_it_as_a_plain_stream(uwsgi: FakeUwsgi) -> None:
    environ = chunked_environ()
    before = dict(environ)
    read = reader(servers.source(environ, CHUNKED), CHUNKED)
    changed = servers.with_body(environ, read, CHUNKED)
    assert 'HTTP_TRANSFER_ENCODING' not in changed and 'webob.is_body_seekable' not in changed
    assert webob.Request(changed).body_file.read() == b'firstsecond'
    assert environ == before


def test_under_uwsgi_a_body_of_known_length_is_wsgi_input(uwsgi: FakeUwsgi) -> None:
    environ = {'CONTENT_LENGTH': '5', 'wsgi.input': Wire(b'plain')}
    assert servers.source(environ, known(5)) is environ['wsgi.input']


@pytest.mark.usefixtures('no_uwsgi')
def test_under_other_servers_a_chunked_body_is_wsgi_input() -> None:
    environ = chunked_environ() | {'wsgi.input_terminated': True}
    read = reader(servers.source(environ, CHUNKED), CHUNKED)
    changed = servers.with_body(environ, read, CHUNKED)
    assert changed['HTTP_TRANSFER_ENCODING'] == 'chunked'
    assert webob.Request(changed).body_file.read() == b'plain'


@pytest.mark.parametrize('has_threads', [0, 1])
def test_threads_under_uwsgi(uwsgi: FakeUwsgi, has_threads: int) -> None:
    uwsgi.has_threads = has_threads
    assert servers.threads_run() is bool(has_threads)


@pytest.mark.usefixtures('no_uwsgi')
def test_threads_run_under_other_servers() -> None:
    assert servers.threads_run()
    assert servers.uwsgi() is None
