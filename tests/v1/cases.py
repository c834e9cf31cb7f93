"""The table of cases of v1: ways to bring data into an image of Glance 15.0.2 that do not end well, a row each.

A row is data: what the client sends and gets, and what Glance alone is left with. Each holds for a POST that creates
the image too and for a PUT to one that is there; what differs is said. The client chooses the id of the image, for no
failing answer tells one.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from demo.client import Answer
from tests.identity import admin_token
from tests.old_glance import OldGlance
from tests.sockets import Exchange, eventually
from tests.sources import DATA, Source, unused_port
from tests.v1.images import FORMATS, OCTETS, V1Images

#: Settings of the Glance on which the rows are played: less than :data:`DATA`, so that it counts where a row says so.
CAP: Final = 100_000
SMALL: Final = b'x' * 1000


@dataclass(frozen=True)
class Target:
    """Where a row sends its data: a POST that creates the image too, or a PUT to one that is there.

    :param more: headers of every request that brings data
    """

    glance: OldGlance
    source: Source
    images: V1Images
    image_id: str
    creates: bool
    more: Mapping[str, str] = field(default_factory=dict)

    def head(self, headers: Mapping[str, str]) -> tuple[str, str, dict[str, str]]:
        """Method, path and headers."""
        if not self.creates:
            return 'PUT', f'/v1/images/{self.image_id}', {**self.more, **headers}
        return 'POST', '/v1/images', {'x-image-meta-id': self.image_id, 'x-image-meta-name': 'n', **self.more,
                                      **headers}

    def send(self, headers: Mapping[str, str], body: bytes | Iterator[bytes] | None = None) -> Answer:
        """Send a request and read its answer."""
        method, path, given = self.head(headers)
        return self.images.request(method, path, given, body)

    def begin(self, arrived: bytes, announced: int | None) -> Exchange:
        """Begin an upload that has more to come, and return when Glance has begun to take it."""
        length = {'Transfer-Encoding': 'chunked'} if announced is None else {'Content-Length': str(announced)}
        method, path, given = self.head({**FORMATS, **OCTETS, **length, 'X-Auth-Token': self.images.caller})
        exchange = Exchange(self.images.port)
        exchange.head(method, path, given)
        if announced is None:
            exchange.chunk(arrived)
        else:
            exchange.send(arrived)
        eventually((self.glance.store / self.image_id).exists, 'a file in the store')
        return exchange

    def status(self) -> str | None:
        """The status in the row of the image, past Glance; ``None`` where there is no row."""
        with sqlite3.connect(self.glance.database) as database:
            found = database.execute('SELECT status FROM images WHERE id = ?', [self.image_id]).fetchone()
        database.close()
        return str(found[0]) if found else None


Sends = Callable[[Target], Answer | None]


@dataclass(frozen=True)
class Case:
    """One row.

    :param status: of the answer; ``None`` where nobody can be answered. An answer of 201 to a POST is 200 to a PUT
    :param words: some of its text
    :param posted: the status that a POST leaves the image in, in the end; ``None`` for no image at all
    :param put: the same of a PUT; without it, as with a POST, or ``queued`` where that leaves no image
    :param file: whether a file stays in the store
    """

    name: str
    send: Sends
    status: int | None
    words: str
    posted: str | None
    put: str | None = None
    file: bool = False

    def left(self, creates: bool) -> str | None:
        """The status that the image is left in."""
        return self.posted if creates else self.put or self.posted or 'queued'


def uploads(headers: Mapping[str, str] | None = None, body: bytes = SMALL, chunked: bool = False,
            without: tuple[str, ...] = ()) -> Sends:
    """An upload with these headers, and without those."""
    given = {name: value for name, value in {**FORMATS, **OCTETS, **(headers or {})}.items() if name not in without}
    return lambda target: target.send(given, iter([body]) if chunked else body)


def cut(how: str, announced: int | None) -> Sends:
    """An upload that ends before its time."""
    def send(target: Target) -> Answer | None:
        with target.begin(SMALL[:300], announced) as exchange:
            if how == 'half_close':
                return exchange.half_close().answer()
            exchange.reset()
        return None
    return send


def copies(path: str, headers: Mapping[str, str] | None = None) -> Sends:
    """A copy from that path of the source, or from an address."""
    return lambda target: target.send({
        **FORMATS, **(headers or {}),
        'x-glance-api-copy-from': path if ':' in path or not path else target.source.url(path)})


def unreachable(target: Target) -> Answer:
    """A copy from where nobody listens."""
    return target.send({**FORMATS, 'x-glance-api-copy-from': f'http://127.0.0.1:{unused_port()}/x'})


def released(target: Target) -> Answer:
    """A copy from a source that is silent for a while, and then hangs up."""
    answer = target.send({**FORMATS, 'x-glance-api-copy-from': target.source.url('silent'), 'x-image-meta-size': '5'})
    assert target.status() in ('queued', 'saving')
    eventually(lambda: target.status() == 'saving', 'the copy')
    target.source.release()
    return answer


def deleted_on_the_way(by_admin: bool) -> Sends:
    """The image is deleted by its uploader while its data is on the way; an admin sees it all the same."""
    def send(target: Target) -> Answer:
        images = V1Images(target.images.port, admin_token()) if by_admin else target.images
        with replace(target, images=images).begin(SMALL[:300], len(SMALL)) as exchange:
            assert images.request('DELETE', f'/v1/images/{target.image_id}').status == 200
            return exchange.send(SMALL[300:]).answer()
    return send


def worker_dies(target: Target) -> None:
    """The worker is killed during an upload."""
    with target.begin(SMALL[:300], len(SMALL)) as exchange:
        target.glance.kill_worker()
        # What is in front of Glance has an answer of its own.
        assert exchange.send(SMALL[300:]).status() in (None, 502)


def worker_dies_in_a_copy(target: Target) -> Answer:
    """The worker is killed during a copy."""
    answer = target.send({**FORMATS, 'x-glance-api-copy-from': target.source.url('slow')})
    eventually((target.glance.store / target.image_id).exists, 'a file in the store')
    target.glance.kill_worker()
    target.source.release()
    return answer


def registry_dies(target: Target) -> Answer:
    """The registry is gone when all data has come."""
    with target.begin(SMALL[:300], len(SMALL)) as exchange:
        target.glance.kill_registry()
        answer = exchange.send(SMALL[300:]).answer()
    target.glance.start()
    return answer


def put_back(target: Target) -> Answer:
    """The row is put back to queued during an upload."""
    with target.begin(SMALL[:300], len(SMALL)) as exchange:
        with sqlite3.connect(target.glance.database) as database:
            database.execute("UPDATE images SET status = 'queued' WHERE id = ?", [target.image_id])
        database.close()
        return exchange.send(SMALL[300:]).answer()


def orphaned(target: Target) -> Answer:
    """A file of an earlier attempt is in the store."""
    (target.glance.store / target.image_id).write_bytes(b'old')
    return target.send({**FORMATS, **OCTETS}, SMALL)


def stuck_is_deleted(target: Target) -> Answer:
    """An image that is saving for ever is deleted."""
    worker_dies(target)
    return eventually(lambda: target.images.request('DELETE', f'/v1/images/{target.image_id}'), 'an answer')


def second(target: Target) -> Answer:
    """Another upload while the first one runs, which then ends well."""
    with target.begin(SMALL[:300], len(SMALL)) as exchange:
        answer = target.images.upload(target.image_id, SMALL)
        assert exchange.send(SMALL[300:]).answer().status in (200, 201)
    return answer


_MISMATCH = "did not match. Setting image status to 'killed'."
_TOO_LARGE = f'Denying attempt to upload image larger than {CAP} bytes.'
_CUT = 'Client disconnected before sending all data to backend'
_MANY = {f'x-image-meta-property-p{number}': 'x' for number in range(129)}

CASES: Final = (
    Case('another content type', uploads({'Content-Type': 'text/plain'}), 400, 'must be application/octet-stream',
         'killed'),
    Case('no content type', uploads(without=('Content-Type',)), 400, 'must be application/octet-stream', 'killed'),
    Case('another size', uploads({'x-image-meta-size': '999'}), 400, _MISMATCH, 'killed'),
    Case('another size, in chunks', uploads({'x-image-meta-size': '999'}, chunked=True), 400, _MISMATCH, 'killed'),
    Case('another checksum', uploads({'x-image-meta-checksum': '0' * 32}), 400, _MISMATCH, 'killed'),
    Case('cut, the client waits', cut('half_close', 1000), 400, _CUT, 'killed'),
    Case('cut, the client is gone', cut('reset', 1000), None, '', 'killed'),
    Case('cut chunks, the client waits', cut('half_close', None), 400, _CUT, 'killed'),
    Case('cut chunks, the client is gone', cut('reset', None), None, '', 'killed'),
    Case('too large', uploads(body=DATA), 400, _TOO_LARGE, None),
    Case('too large, in chunks', uploads(body=DATA, chunked=True), 413, _TOO_LARGE, 'killed'),
    Case('a copy that is too large', copies('good'), 201, '', 'active', file=True),
    Case('no formats', uploads(without=tuple(FORMATS)), 400, 'Disk format is not specified', 'queued'),
    Case('an unknown format', uploads({'x-image-meta-disk_format': 'x'}), 400, 'Invalid disk format', None),
    Case('an unknown field', uploads({'x-image-meta-x': 'x'}), 400, 'Bad header: x-image-meta-x', None),
    Case('an unknown store', uploads({'x-image-meta-store': 'x'}), 400, '', None),
    Case('too many properties', uploads(_MANY), 413, 'The limit has been exceeded', None),
    Case('a body and a copy', uploads({'x-glance-api-copy-from': 'http://127.0.0.1/x', 'x-image-meta-size': '1000'}),
         400, 'multiple image sources', 'queued'),
    Case('a copy of what is not there', copies('404'), 404, 'could not find image at URI', None),
    Case('a copy from a source that fails', copies('500'), 400, '', None),
    Case('a copy from where nobody listens', unreachable, 400, '', None),
    Case('a copy by an unknown scheme', copies('gopher://127.0.0.1/x'), 400, '', None),
    Case('a copy from nowhere', copies(''), 400, 'External source should not be empty', None),
    Case('a copy of a size of what is not there', copies('404', {'x-image-meta-size': '5'}), 201, '', 'killed'),
    Case('a copy that is cut', copies('cut'), 201, '', 'killed'),
    Case('a copy that is reset', copies('reset'), 201, '', 'killed'),
    Case('a copy with another checksum', copies('good', {'x-image-meta-checksum': '0' * 32}), 201, '', 'killed'),
    Case('a copy of another size', copies('good', {'x-image-meta-size': '999'}), 201, '', 'active', file=True),
    Case('a copy from a silent source that hangs up', released, 201, '', 'killed'),
    Case('deleted on the way', deleted_on_the_way(by_admin=False), 500, 'Failed to upload image', 'deleted',
         file=True),
    Case('deleted on the way, of an admin', deleted_on_the_way(by_admin=True), 412,
         'could not be found after upload', 'deleted'),
    Case('the worker dies', worker_dies, None, '', 'saving', file=True),
    Case('the worker dies in a copy', worker_dies_in_a_copy, 201, '', 'saving', file=True),
    Case('the registry dies', registry_dies, 500, 'Failed to upload image', 'saving', file=True),
    Case('put back to queued on the way', put_back, 409, 'Image operation conflicts', 'queued', file=True),
    Case('a file of an earlier attempt', orphaned, 409, 'already exists', 'saving', file=True),
    Case('deleted when it is stuck', stuck_is_deleted, 200, '', 'deleted', file=True),
    Case('two at once', second, 409, 'Cannot upload to an unqueued image', 'active', file=True),
)
