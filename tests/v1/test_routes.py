"""The guard takes a request for what Glance 15.0.2 takes it for: its version negotiation, its URL map, its routes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imgguard.operations import Action, Operation
from imgguard.operations_v1 import recognise
from tests.test_operations_v1 import CHUNKED, COPY_FROM, LENGTH, V1, request
from tests.v1.environment import interpreter

SCRIPT = Path(__file__).parent / 'python2' / 'imgguard_routes.py'
ACTIONS = {'index': Action.LIST, 'detail': Action.LIST_DETAIL, 'meta': Action.SHOW, 'show': Action.DOWNLOAD,
           'delete': Action.DELETE}


class GlanceRoutes:
    """A process of Python 2.7 that tells what it takes requests for."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [python, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def ask(self, environ: dict[str, Any]) -> list[Any] | str | None:
        """Controller, action, image and whether there is a body; the name of an error; nothing."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(environ) + '\n')
        self._process.stdin.flush()
        found: list[Any] | str | None = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)


@pytest.fixture(scope='module')
def glance_routes(old_glance_environment: Path) -> Iterator[GlanceRoutes]:
    routes = GlanceRoutes(interpreter(old_glance_environment))
    yield routes
    routes.close()


def in_our_words(found: list[Any] | None, environ: dict[str, Any]) -> Operation | None:
    """What Glance has found, as the guard says it."""
    if found is None or found[0] != 'Controller':
        return None
    _, name, image_id, has_body = found
    if name in ('create', 'update'):
        bare = Action.CREATE if name == 'create' else Action.UPDATE
        copies = Action.IMPORT if 'HTTP_X_GLANCE_API_COPY_FROM' in environ else bare
        return Operation(Action.UPLOAD if has_body else copies, image_id or '', version=1)
    if name == 'detail' and environ['REQUEST_METHOD'] == 'HEAD':
        # Glance answers 405 by its own code.
        return None
    # Of members there is an index too, and a show, an update and a delete by id.
    action = ACTIONS.get(name)
    return Operation(action, image_id or '', version=1) if action else None


METHODS = st.sampled_from(['GET', 'PUT', 'POST', 'DELETE', 'HEAD', 'PATCH', 'get'])
PLACES = st.sampled_from(['/v1/images', '/v1/images/x', '/v1/images/detail', '/images/x', '/images', '/v1.1/images/x',
                          '/v1', '/v1/', '/versions/x'])
PATHS = st.tuples(PLACES, st.lists(st.sampled_from(
    ['/', '/images', '/x', '/detail', '\n', '\r', ' ', '%2f', '.', '//', '/file', 'x']), max_size=4).map(
        ''.join)).map(''.join)
QUERIES = st.one_of(st.just(''), st.lists(st.sampled_from(
    ['_method', '%5Fmethod', '=', '&', ';', 'PUT', 'get', 'head', 'delete', 'x', '%', '+'])).map(''.join))
ACCEPTS = st.one_of(st.just('*/*'), st.just(V1['HTTP_ACCEPT']), st.lists(st.sampled_from(
    [V1['HTTP_ACCEPT'], ' ', ',', ';', 'q=1', 'q=0.5', 'q', '.1', '*/*', 'level=1', 'q=2', 'q=1.1.1'])).map(''.join))
BODIES = st.sampled_from([{}, LENGTH, CHUNKED, {'CONTENT_LENGTH': '0'}, {'CONTENT_LENGTH': '+5'}, COPY_FROM,
                          {'HTTP_TRANSFER_ENCODING': 'gzip, chunked'}])


@given(METHODS, PATHS, QUERIES, ACCEPTS, BODIES)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example('GET', '/v1/images/x', '_method=', '*/*', {})
@example('HEAD', '/v1/images/x', '_method=delete;', '*/*', LENGTH)
@example('PUT', '/images/x\n', '', ' application/vnd.openstack.images-v1 ;q=1', CHUNKED)
@example('GET', '/v1/images', '', 'application/vnd.openstack.images-v1/x', {})
@example('GET', '/images', '', '*/x, x*/*, application/*x, application/vnd.openstack.images-v1', {})
@example('GET', '/v1/images/detail', '_method=head', '*/*', {})
@example('HEAD', '/v1/images/detail', '_method=get', '*/*', {})
@example('GET', '/v1/images/detail/', '', '*/*', {})
def test_the_guard_sees_what_glance_sees(glance_routes: GlanceRoutes, method: str, path: str, query: str, accept: str,
                                         body: dict[str, str]) -> None:
    environ = request(method, path, query, HTTP_ACCEPT=accept, **body)
    found = glance_routes.ask(environ)
    if isinstance(found, str):
        # Glance fails on it before it does anything.
        return
    expected = in_our_words(found, environ)
    if expected is None and 'vnd.openstack' in accept and path.lstrip('/').startswith('v1'):
        # A version in the header and another one in the path: Glance has no route for that.
        return
    assert recognise(environ) == expected
