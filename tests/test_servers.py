"""Uploads through real servers, byte by byte over sockets: in full under both forms of uWSGI, which is Glance's own
server, and the main ways under cheroot and gunicorn.
"""

import base64
import hashlib
import http.client
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.client import Answer, Client
from demo.private_glance import PrivateGlance, lay_out
from demo.server import Kind, Server, Size, start
from imgguard.attempts import State
from tests import conftest
from tests.cases import proves
from tests.harness import IDENTITY
from tests.identity import reader_token, token
from tests.sockets import Exchange, GuardsStore, chunked, eventually
from tests.uploading import ERROR, KEEP, new_project

KEPT = 'x-openstack-image-kept'
OCTETS = {'Content-Type': 'application/octet-stream'}
BLOCK = 65536
DATA = bytes(range(251)) * 800

# The first ones are shared, so that pytest keeps the tests of one server together.
UWSGI = [Kind.UWSGI_HTTP, Kind.UWSGI_HTTP_SOCKET]
# What is forked reads its bodies as the others do.
ALL = [kind for kind in Kind if kind is not Kind.UWSGI_FORKED]
on_all = pytest.mark.parametrize('kind', ALL, indirect=True)
on_uwsgi = pytest.mark.parametrize('kind', UWSGI, indirect=True)
on_all_framings = pytest.mark.parametrize('in_chunks', [False, True], ids=['Content-Length', 'chunked'])


@pytest.fixture(scope='module')
def kind(request: pytest.FixtureRequest) -> Kind:
    """The server of a test."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope='module')
def server(kind: Kind, start_module_server: conftest.StartServer) -> Iterator[Server]:
    """Glance with the guard, in two processes."""
    with start_module_server(kind, {}) as running:
        yield running


@pytest.fixture(scope='module')
def bare_server(kind: Kind, start_module_server: conftest.StartServer) -> Iterator[Server]:
    """The bare Glance under the same server."""
    with start_module_server(kind, None, size=Size(processes=1)) as running:
        yield running


@pytest.fixture(scope='module')
def guards_store(server: Server) -> Iterator[GuardsStore]:
    """What the guard has stored."""
    store = GuardsStore(server)
    yield store
    store.close()


class Uploader:
    """A member of a project of its own, who writes uploads by hand."""

    def __init__(self, server: Server, caller: str | None = None) -> None:
        self.server = server
        self.caller = caller or token('alice', new_project())
        self.client = Client(server.port, {'X-Auth-Token': self.caller})

    def created(self, headers: Mapping[str, str] | None = None, **fields: object) -> str:
        """Create an image and return its id."""
        answer = self.client.create(headers, **fields)
        assert answer.status == 201, answer.text
        image_id: str = answer.json['id']
        return image_id

    def kept(self) -> str:
        """Create an image to be kept if its upload fails."""
        return self.created(KEEP)

    def show(self, image_id: str) -> dict[str, Any]:
        """The image as shown to this caller."""
        image: dict[str, Any] = self.client.show(image_id).json
        return image

    def begin(self, image_id: str, *headers: tuple[str, str]) -> Exchange:
        """Send the head of an upload."""
        exchange = Exchange(self.server.port)
        identity = [('X-Auth-Token', self.caller), *OCTETS.items()]
        return exchange.head('PUT', f'/v2/images/{image_id}/file', [*identity, *headers])

    def send(self, image_id: str, body: 'Sent', *headers: tuple[str, str]) -> Answer:
        """Upload a body as it is, and read the answer."""
        with self.begin(image_id, *body.headers, *headers) as exchange:
            return exchange.send(body.data).answer()

    def upload(self, image_id: str, data: bytes, in_chunks: bool = False, *headers: tuple[str, str]) -> Answer:
        """Upload the whole of the data."""
        return self.send(image_id, whole(data, in_chunks), *headers)

    def cut(self, image_id: str, body: 'Sent') -> Answer | None:
        """Upload what there is, say that nothing more will come, and read the answer if there is one."""
        with self.begin(image_id, *body.headers) as exchange:
            exchange.send(body.data).half_close()
            with suppress(OSError, http.client.HTTPException):
                return exchange.answer()
        return None

    def wait_for_error(self, image_id: str) -> dict[str, Any]:
        """Wait until the image is in error, and return it."""
        shown = eventually(lambda: [image for image in [self.show(image_id)] if image['status'] == 'error'], 'error')
        return shown[0]


@dataclass(frozen=True, slots=True)
class Sent:
    """What of a body is sent, and how it was announced."""

    headers: Sequence[tuple[str, str]]
    data: bytes


LENGTH = (('Content-Length', str(len(DATA))),)
CHUNKED = (('Transfer-Encoding', 'chunked'),)


def whole(data: bytes, in_chunks: bool, chunk_size: int = 10000) -> Sent:
    """A body that is sent to its end."""
    if not in_chunks:
        return Sent([('Content-Length', str(len(data)))], data)
    chunks = [data[position:position + chunk_size] for position in range(0, len(data), chunk_size)]
    return Sent(CHUNKED, b''.join(map(chunked, [*chunks, b''])))


@pytest.fixture
def uploader(server: Server) -> Uploader:
    return Uploader(server)


@pytest.fixture
def bare(bare_server: Server) -> Uploader:
    return Uploader(bare_server)


def assert_active(uploader: Uploader, image_id: str, data: bytes) -> None:
    """The image is active with just this data, in Glance's own store too."""
    image = uploader.show(image_id)
    assert (image['status'], image['size'], image['checksum']) == ('active', len(data), hashlib.md5(data).hexdigest())
    assert not [name for name in image if name.startswith(ERROR)]
    assert (uploader.server.glance.store / image_id).read_bytes() == data


def assert_works_again(uploader: Uploader, image_id: str, in_chunks: bool = False) -> None:
    """The same image is uploaded again."""
    answer = uploader.upload(image_id, DATA, in_chunks)
    assert (answer.status, answer.headers[KEPT]) == (204, 'guarded'), answer.text
    assert_active(uploader, image_id, DATA)


def assert_error(image: Mapping[str, Any], code: str) -> None:
    """The image is in error because of that."""
    assert (image['status'], image.get(f'{ERROR}_code')) == ('error', code), image


def digest(function: str, data: bytes) -> str:
    return f'{function[:3]}-{function[3:]}=:{base64.b64encode(hashlib.new(function, data).digest()).decode()}:'


SIZE = ('X-OpenStack-Image-Size', str(len(DATA)))
SHA_256 = ('Content-Digest', digest('sha256', DATA))
SHA_512 = ('Repr-Digest', digest('sha512', DATA))
WRONG_SHA_256 = ('Content-Digest', digest('sha256', b'other'))


# Whole


MEGABYTE = 1048576
SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 1, MEGABYTE]


@on_uwsgi
@pytest.mark.parametrize('size', SIZES)
def test_by_length(uploader: Uploader, guards_store: GuardsStore, size: int) -> None:
    data, image_id = (DATA * 11)[:size], uploader.kept()
    answer = uploader.upload(image_id, data)
    assert (answer.status, answer.headers[KEPT], answer.body) == (204, 'guarded', b'')
    assert_active(uploader, image_id, data)
    [attempt] = guards_store.attempts(image_id)
    assert (attempt.state, attempt.bytes_received, attempt.bytes_expected or 0) == (State.SUCCEEDED, size, size)


@on_uwsgi
@pytest.mark.parametrize(('size', 'chunk_size'), [
    *((size, BLOCK) for size in SIZES),
    *((3 * BLOCK, chunk_size) for chunk_size in (4096, BLOCK - 1, BLOCK + 1, 3 * BLOCK)),
    (2 * MEGABYTE + 1, 1000000), (2000, 1),
])
def test_in_chunks(uploader: Uploader, guards_store: GuardsStore, size: int, chunk_size: int) -> None:
    data, image_id = (DATA * 11)[:size], uploader.kept()
    body = whole(data, True, chunk_size)
    answer = uploader.send(image_id, body)
    assert (answer.status, answer.headers[KEPT]) == (204, 'guarded')
    assert_active(uploader, image_id, data)
    [attempt] = guards_store.attempts(image_id)
    assert (attempt.state, attempt.bytes_received, attempt.bytes_expected) == (State.SUCCEEDED, size, None)


@proves('1.47')
@on_uwsgi
def test_a_chunk_that_is_too_large_for_uwsgi(uploader: Uploader, bare: Uploader) -> None:
    # Its option chunked-input-limit is 1 MiB where it is not set.
    image_id, body = uploader.kept(), whole(DATA * 6, True, MEGABYTE)
    answer = uploader.send(image_id, body)
    assert answer.status == bare.send(bare.kept(), body).status == 500
    assert_error(uploader.show(image_id), 'client_disconnected')
    assert_works_again(uploader, image_id)


@on_all
@on_all_framings
@pytest.mark.parametrize('data', [DATA, b''], ids=['data', 'empty'])
def test_a_whole_upload(uploader: Uploader, in_chunks: bool, data: bytes) -> None:
    image_id = uploader.kept()
    answer = uploader.upload(image_id, data, in_chunks)
    assert (answer.status, answer.headers[KEPT]) == (204, 'guarded')
    assert_active(uploader, image_id, data)


@on_all
@on_all_framings
def test_expect_100_continue(uploader: Uploader, bare: Uploader, in_chunks: bool) -> None:
    # As curl does it: the body is sent when the server asks for it, or after a second.
    body = whole(DATA, in_chunks)
    asked = []
    for each in (uploader, bare):
        image_id = each.kept()
        with each.begin(image_id, *body.headers, ('Expect', '100-continue')) as exchange:
            asked.append(exchange.arrives(1.0).partition(b'\r\n')[0])
            assert exchange.send(body.data).answer().status == 204
        assert_active(each, image_id, DATA)
    assert asked[0] == asked[1]
    assert asked[0] in (b'', b'HTTP/1.1 100 Continue')


@on_uwsgi
def test_a_slow_client(uploader: Uploader) -> None:
    image_id = uploader.kept()
    with uploader.begin(image_id, *CHUNKED) as exchange:
        for position in range(0, len(DATA), 50000):
            exchange.chunk(DATA[position:position + 50000])
            # Meanwhile everyone sees that data is coming.
            eventually(lambda: uploader.show(image_id)['status'] == 'saving', 'saving')
        answer = exchange.chunk(b'').answer()
    assert (answer.status, answer.headers[KEPT]) == (204, 'guarded')
    assert_active(uploader, image_id, DATA)


# Cut


def hang_up(exchange: Exchange) -> None:
    exchange.close()


def reset(exchange: Exchange) -> None:
    exchange.reset()


CUT_CHUNK = b'%x\r\n%s' % (len(DATA), DATA[:70000])
CUTS = {
    'Content-Length, at once': Sent(LENGTH, b''),
    'Content-Length, in the middle': Sent(LENGTH, DATA[:70000]),
    'Content-Length, one byte short': Sent(LENGTH, DATA[:-1]),
    'chunked, at once': Sent(CHUNKED, b''),
    'between chunks': Sent(CHUNKED, chunked(DATA)),
    'within a chunk': Sent(CHUNKED, chunked(DATA) + CUT_CHUNK),
    'within a size line': Sent(CHUNKED, chunked(DATA) + b'10'),
    'before the last line feed': Sent(CHUNKED, chunked(DATA) + b'5\r\nabcde\r'),
}
on_all_cuts = pytest.mark.parametrize('cut', CUTS.values(), ids=CUTS)


@proves('1.42')
@on_all
@on_all_cuts
@pytest.mark.parametrize('leave', [hang_up, reset])
def test_a_cut_upload_leaves_the_image_in_error(
    uploader: Uploader, guards_store: GuardsStore, cut: Sent, leave: Callable[[Exchange], None],
) -> None:
    image_id = uploader.kept()
    exchange = uploader.begin(image_id, *cut.headers).send(cut.data)
    guards_store.wait_for_claim(image_id)
    leave(exchange)
    assert_error(uploader.wait_for_error(image_id), 'client_disconnected')
    assert_works_again(uploader, image_id)


@on_all
@on_all_cuts
def test_who_stops_sending_and_still_listens_is_told(
    uploader: Uploader, bare: Uploader, kind: Kind, cut: Sent,
) -> None:
    image_id = uploader.kept()
    answer, alone = uploader.cut(image_id, cut), bare.cut(bare.kept(), cut)
    image = uploader.wait_for_error(image_id)
    assert_error(image, 'client_disconnected')
    if answer is None or alone is None:
        # uWSGI's router takes this for the client's hanging up.
        assert answer is alone is None and kind is Kind.UWSGI_HTTP
    else:
        assert answer.headers[KEPT] == 'error'
        assert answer.status == alone.status >= 400
        assert image[f'{ERROR}_request_id'] == answer.headers['x-openstack-request-id']
    assert_works_again(uploader, image_id, in_chunks=True)


@on_uwsgi
def test_every_worker_knows_before_the_answer_is_read(uploader: Uploader, guards_store: GuardsStore) -> None:
    """Each of the two processes has one thread: an upload that is held back keeps one of them busy."""
    failing, holding, holding_again = uploader.kept(), uploader.kept(), uploader.kept()
    with uploader.begin(holding, *LENGTH) as other:
        other_worker = guards_store.wait_for_claim(holding).worker
        # From here on it writes nothing: Glance on SQLite may answer 500 to one of two writers at once.
        eventually(lambda: uploader.show(holding)['status'] == 'saving', 'saving')
        with uploader.begin(failing, *LENGTH, WRONG_SHA_256) as exchange:
            worker = guards_store.wait_for_claim(failing).worker
            exchange.send(DATA)
            assert exchange.arrives().startswith(b'HTTP/1.1 400')
            with uploader.begin(holding_again, *LENGTH) as again:
                assert guards_store.wait_for_claim(holding_again).worker == worker != other_worker
                other.send(DATA).answer()
                # Only the other worker is free.
                assert_error(uploader.show(failing), 'digest_mismatch')
                again.send(DATA).answer()
            assert exchange.answer().headers[KEPT] == 'error'


# Malformed


MALFORMED = Sent(CHUNKED, chunked(DATA[:1000]) + b'zz\r\n' + chunked(DATA[1000:]) + chunked(b''))


@proves('1.44')
@on_all
def test_a_malformed_chunk(uploader: Uploader, kind: Kind) -> None:
    image_id = uploader.kept()
    answer = uploader.send(image_id, MALFORMED)
    if kind in UWSGI:
        # There it looks like a good end; the manual says so.
        assert (answer.status, answer.headers[KEPT]) == (204, 'guarded')
        assert_active(uploader, image_id, DATA[:1000])
        return
    assert answer.status >= 400 and answer.headers[KEPT] == 'error'
    assert_error(uploader.show(image_id), 'bad_request')
    assert_works_again(uploader, image_id)


@proves('1.45')
@on_all
@pytest.mark.parametrize(('header', 'code'), [(SIZE, 'size_mismatch'), (SHA_256, 'digest_mismatch'),
                                              (SHA_512, 'digest_mismatch')], ids=['size', 'sha-256', 'sha-512'])
def test_a_malformed_chunk_of_an_announced_body(
    uploader: Uploader, kind: Kind, header: tuple[str, str], code: str,
) -> None:
    image_id = uploader.kept()
    answer = uploader.send(image_id, MALFORMED, header)
    assert answer.status >= 400 and answer.headers[KEPT] == 'error'
    assert_error(uploader.show(image_id), code if kind in UWSGI else 'bad_request')
    assert_works_again(uploader, image_id)


@proves('1.46')
@on_all
def test_a_length_that_is_no_number(uploader: Uploader, kind: Kind) -> None:
    image_id = uploader.kept()
    answer = uploader.send(image_id, Sent([('Content-Length', 'abc')], DATA))
    assert answer.status == 400
    image = uploader.show(image_id)
    if kind in UWSGI:
        assert answer.headers[KEPT] == 'error' and 'Content-Length is not a number' in answer.text
        assert_error(image, 'bad_request')
    else:
        # These servers refuse it themselves.
        assert image['status'] == 'queued'
    assert_works_again(uploader, image_id)


# Announced


ANNOUNCED = {
    'size': (SIZE, ('X-OpenStack-Image-Size', str(len(DATA) + 1))),
    'less than there is': (SIZE, ('X-OpenStack-Image-Size', str(BLOCK))),
    'sha-256': (SHA_256, WRONG_SHA_256),
    'sha-512': (SHA_512, ('Content-Digest', digest('sha512', b'other'))),
}


@on_all
@on_all_framings
@pytest.mark.parametrize('what', ANNOUNCED)
def test_what_was_announced_is_what_becomes_active(uploader: Uploader, what: str, in_chunks: bool) -> None:
    right, wrong = ANNOUNCED[what]
    image_id = uploader.kept()
    answer = uploader.upload(image_id, DATA, in_chunks, wrong)
    assert (answer.status, answer.headers[KEPT]) == (400, 'error')
    assert_error(uploader.show(image_id), 'digest_mismatch' if 'sha' in what else 'size_mismatch')
    answer = uploader.upload(image_id, DATA, in_chunks, right)
    assert (answer.status, answer.headers[KEPT]) == (204, 'guarded')
    assert_active(uploader, image_id, DATA)


@proves('1.4b')
@on_all
def test_an_empty_retry_in_chunks_is_refused(uploader: Uploader) -> None:
    image_id = uploader.kept()
    uploader.cut(image_id, Sent(LENGTH, DATA[:1000]))
    before = uploader.wait_for_error(image_id)
    answer = uploader.upload(image_id, b'', in_chunks=True)
    assert (answer.status, answer.headers[KEPT]) == (400, 'error')
    assert 'body is empty' in answer.text
    after = uploader.show(image_id)
    assert after.pop(f'{ERROR}_attempts') == '2'
    assert {**before, 'updated_at': None} == {**after, f'{ERROR}_attempts': '1', 'updated_at': None}
    assert_works_again(uploader, image_id)


# One writer


@on_all
@on_all_framings
def test_one_writer(uploader: Uploader, guards_store: GuardsStore, kind: Kind, in_chunks: bool) -> None:
    user, project, _ = uploader.caller.split(':')
    image_id = uploader.kept()
    body = whole(DATA, in_chunks)
    with uploader.begin(image_id, *body.headers) as exchange:
        exchange.send(body.data[:70000])
        eventually(lambda: uploader.show(image_id)['status'] == 'saving', 'saving')
        refused = uploader.upload(image_id, b'another', in_chunks)
        assert (refused.status, 'under way' in refused.text) == (409, True)
        reader = Uploader(uploader.server, reader_token('carol', project))
        refused = reader.upload(image_id, b'another', in_chunks)
        assert (refused.status, KEPT in refused.headers) == (403, False)
        assert uploader.show(image_id)['status'] == 'saving'
        answer = exchange.send(body.data[70000:]).answer()
    assert (answer.status, answer.headers[KEPT]) == (204, 'guarded')
    assert_active(uploader, image_id, DATA)
    assert [attempt.state for attempt in guards_store.attempts(image_id)] == [State.SUCCEEDED]


# Compared with the bare Glance


CHUNKS = whole(DATA[:1000], True).data


def length(value: str) -> Sent:
    return Sent([('Content-Length', value)], DATA[:1000])


def encoding(value: str) -> Sent:
    return Sent([('Transfer-Encoding', value)], CHUNKS)


RAW = {
    'no length at all': Sent([], b''),
    'an empty length': length(''),
    'length abc': length('abc'),
    'length abc and nothing more': Sent([('Content-Length', 'abc')], b''),
    'a negative length': length('-1000'),
    'a length with a sign': length('+1000'),
    'a length with a fraction': length('1000.0'),
    'a hexadecimal length': length('0x3e8'),
    'two lengths': Sent([('Content-Length', '1000'), ('Content-Length', '500')], DATA[:1000]),
    'length and chunks': Sent([('Content-Length', str(len(CHUNKS))), *CHUNKED], CHUNKS),
    'Chunked': encoding('Chunked'),
    'gzip': encoding('gzip'),
    'gzip, chunked': encoding('gzip, chunked'),
    'identity': encoding('identity'),
    'no size': Sent(CHUNKED, chunked(DATA[:1000]) + b'\r\n' + chunked(b'')),
    'no hexadecimal size': MALFORMED,
    'a size with a tail': Sent(CHUNKED, chunked(DATA[:1000]) + b'5zz\r\n12345\r\n' + chunked(b'')),
    'a negative size': Sent(CHUNKED, chunked(DATA[:1000]) + b'-5\r\n12345\r\n' + chunked(b'')),
    'a size in punctuation': Sent(CHUNKED, chunked(DATA[:1000]) + b'!\r\n12345\r\n' + chunked(b'')),
    'a chunk longer than its size': Sent(CHUNKED, chunked(DATA[:1000]) + b'5\r\n1234567\r\n' + chunked(b'')),
    'a chunk extension': Sent(CHUNKED, b'5;name=value\r\n12345\r\n' + chunked(b'')),
    'a trailer': Sent(CHUNKED, chunked(DATA[:1000]) + b'0\r\nX-Trailer: value\r\n\r\n'),
}


def outcome(uploader: Uploader, sent: Sent, headers: Mapping[str, str]) -> tuple[int | None, str, int | None]:
    """The class of the answer's status, and what Glance then says of the image."""
    image_id = uploader.created(headers)
    with uploader.begin(image_id, *sent.headers) as exchange:
        exchange.send(sent.data)
        status = exchange.status()
    [image] = eventually(
        lambda: [each for each in [uploader.show(image_id)] if each['status'] != 'saving'], 'an end')
    state = 'queued' if image['status'] == 'error' else image['status']
    return status and status // 100, state, image['size']


@on_all
@pytest.mark.parametrize('raw', RAW)
def test_the_same_bytes_do_no_more_harm_than_to_the_bare_glance(uploader: Uploader, bare: Uploader, raw: str) -> None:
    alone = outcome(bare, RAW[raw], {})
    assert outcome(uploader, RAW[raw], {}) == alone, 'nobody asked to keep'
    kept = outcome(uploader, RAW[raw], KEEP)
    assert kept == alone or (kept[1:] == ('queued', None) and kept[0] in (4, 5)), (kept, alone)


# Documents, which the guard reads ahead of Glance


PATCH = {'Content-Type': 'application/openstack-images-v2.1-json-patch'}
JSON = {'Content-Type': 'application/json'}
RENAME = b'[{"op": "replace", "path": "/name", "value": "new"}]'
DECLARE = b'[{"op": "replace", "path": "/status", "value": "error"}]'
ASK = b'{"name": "new", "imgguard_keep_on_failure": "true"}'
IMPORT = b'{"method": {"name": "glance-direct"}}'
DOCUMENTS = {
    'update': ('PATCH', '/v2/images/{}', PATCH, RENAME), 'declare': ('PATCH', '/v2/images/{}', PATCH, DECLARE),
    'create': ('POST', '/v2/images', JSON, ASK), 'import': ('POST', '/v2/images/{}/import', JSON, IMPORT),
}


def told(uploader: Uploader, document: str, in_chunks: bool, arrives: int) -> tuple[int, str, str] | None:
    """The answer to a document of which that many bytes arrive; ``None`` when there is none."""
    method, path, headers, data = DOCUMENTS[document]
    sent = whole(data, in_chunks, 7)
    path = path.format(uploader.created())
    with Exchange(uploader.server.port) as exchange:
        exchange.head(method, path, [
            ('X-Auth-Token', uploader.caller), ('Accept', 'text/plain'), *headers.items(), *sent.headers])
        exchange.send(sent.data[:arrives]).half_close()
        with suppress(OSError, http.client.HTTPException):
            answer = exchange.answer()
            return answer.status, answer.headers.get('content-type', ''), answer.text
    return None


@on_all
@on_all_framings
@pytest.mark.parametrize('document', DOCUMENTS)
@pytest.mark.parametrize('arrives', [0, 20, -8])
def test_a_document_that_breaks_off_is_answered_as_by_the_bare_glance(
    uploader: Uploader, bare: Uploader, document: str, in_chunks: bool, arrives: int,
) -> None:
    assert told(uploader, document, in_chunks, arrives) == told(bare, document, in_chunks, arrives)
    names = [[image['name'] for image in each.client.request('GET', '/v2/images').json['images']]
             for each in (uploader, bare)]
    assert 'new' not in names[0] + names[1]


# Threads


def test_a_worker_without_threads_guards_nothing_and_says_so(
    glance_template: PrivateGlance, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # So is uWSGI before 2.0.27 without enable-threads; newer ones cannot be told to.
    (tmp_path / 'no_threads.py').write_text('import uwsgi\nuwsgi.has_threads = 0\n')
    glance = lay_out(tmp_path_factory.mktemp('glance') / 'glance', guard={}, identity=IDENTITY,
                     database=glance_template.database)
    arguments = [f'--pythonpath={tmp_path}', '--import=no_threads']
    with start(glance, Kind.UWSGI_HTTP_SOCKET, Size(processes=1), arguments) as server:
        uploader = Uploader(server)
        image_id = uploader.kept()
        answer = uploader.upload(image_id, DATA)
        assert (answer.status, answer.headers[KEPT]) == (204, 'unavailable')
        assert_active(uploader, image_id, DATA)
        assert 'enable-threads' in server.log_text()
        image_id = uploader.kept()
        answer = uploader.upload(image_id, DATA, False, WRONG_SHA_256)
        assert (answer.status, answer.headers[KEPT]) == (204, 'unavailable')
