"""The short way of a plain look at one image: whatever may have to be changed goes the long way, as it came."""

import gzip
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from imgguard.images import Caller
from imgguard.reads import looking
from imgguard.wsgi import Captured, Environ, StartResponse
from tests.test_wsgi import Client, Closable, app, late_app

SOUND = b'{"id": "x", "status": "active"}'
WAITING = b'{"id": "x", "status": "queued"}'
SOMEBODY = Caller('user', 'project', False, None, None)
JSON = [('Content-Type', 'application/json')]


def look(application: Any, by: Caller | None = SOMEBODY, path: str = '/v2/images/x',
         accepts: str | None = None) -> tuple[Client, bytes, list[str]]:
    """What the client is told, and the ids of the images that went the long way."""
    told, client = [], Client()

    def tell(answer: Captured, environ: Environ, start_response: StartResponse, image_id: str,
             by: Caller) -> Iterable[bytes]:
        told.append(image_id)
        return answer.send(start_response)

    environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': path}
    if accepts is not None:
        environ['HTTP_ACCEPT_ENCODING'] = accepts
    body = b''.join(looking(application, lambda _: by, tell)(environ, client))
    assert environ.get('HTTP_ACCEPT_ENCODING') == accepts, 'whoever stands in front sees what was sent'
    return client, body, told


def test_a_sound_image_goes_on_as_it_came() -> None:
    client, body, told = look(app([SOUND[:9], SOUND[9:]], JSON))
    assert (client.status, client.headers, client.exc_info, body, told) == ('200 OK', JSON, None, SOUND, [])


@pytest.mark.parametrize('body', [
    WAITING, b'404 Not Found', b'\x1f\x8b', b'',
    # Packed as it is, in two blocks: between them stands what neither is part of.
    gzip.compress(WAITING[:20], 0) + gzip.compress(WAITING[20:], 0)])
def test_whatever_else_goes_the_long_way(body: bytes) -> None:
    client, received, told = look(app([body[:3], body[3:]], JSON, '404 Not Found'))
    assert (client.status, client.headers, received, told) == ('404 Not Found', JSON, body, ['x'])


def test_the_id_is_that_of_the_path() -> None:
    assert look(app([WAITING]), path='/v2/images/y\n')[2] == ['y']


def test_the_id_is_that_of_the_path_as_it_came() -> None:
    def moving(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # As the URL map of Glance does.
        environ['SCRIPT_NAME'], environ['PATH_INFO'] = '/v2', environ['PATH_INFO'].removeprefix('/v2')
        start_response('200 OK', JSON)
        return [WAITING]

    assert [look(moving, accepts=accepts)[2] for accepts in (None, 'gzip')] == [['x']] * 2


def test_whom_nobody_knows_only_glance_answers() -> None:
    client, body, told = look(app([WAITING], JSON), by=None)
    assert (client.status, body, told) == ('200 OK', WAITING, [])


@pytest.mark.parametrize('body', [SOUND, WAITING])
def test_an_application_may_answer_late_and_more_than_once(body: bytes) -> None:
    failure = (ValueError, ValueError(), None)
    chunks = Closable([body[:5], body[5:]])
    client, received, told = look(late_app(chunks, ('200 OK', []), ('500 Broken', JSON, failure)))
    assert (client.status, client.headers, client.exc_info, received) == ('500 Broken', JSON, failure, body)
    assert chunks.closed == 1


def test_what_is_written_comes_first() -> None:
    def writing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response('200 OK', JSON)(SOUND[:7])
        return [SOUND[7:]]

    assert look(writing)[1:] == (SOUND, ['x'])


def test_an_answer_that_breaks_off_is_closed() -> None:
    def broken() -> Iterator[bytes]:
        yield SOUND
        raise RuntimeError('Glance is broken')

    chunks = Closable(broken())
    with pytest.raises(RuntimeError, match='Glance is broken'):
        look(app(chunks))
    assert chunks.closed == 1


def test_an_application_that_never_answers() -> None:
    with pytest.raises(RuntimeError, match='did not call start_response'):
        look(lambda environ, start_response: [SOUND])


@pytest.mark.parametrize('accepts, asked', [(None, None), ('', ''), ('gzip', 'identity')])
def test_the_answer_is_asked_for_unpacked(accepts: str | None, asked: str | None) -> None:
    def below(environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        assert environ.get('HTTP_ACCEPT_ENCODING') == asked
        start_response('200 OK', JSON)
        return [SOUND]

    assert look(below, accepts=accepts)[1] == SOUND
