"""Which requests the guard takes for what: it must see each request as Glance's own router sees it."""

import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from paste.urlmap import URLMap  # type: ignore[import-untyped]
from routes.middleware import RoutesMiddleware  # type: ignore[import-untyped]

from imgguard.operations import Action, Operation, recognise
from tests.harness import InProcessGlance


def request(method: str, path: str, query: str = '') -> dict[str, Any]:
    return {'REQUEST_METHOD': method, 'PATH_INFO': path, 'QUERY_STRING': query, 'SCRIPT_NAME': '',
            'HTTP_HOST': 'glance:9292', 'wsgi.url_scheme': 'http'}


# The table

@pytest.mark.parametrize(('method', 'path', 'operation'), [
    ('POST', '/v2/images', Operation(Action.CREATE)),
    ('GET', '/v2/images', Operation(Action.LIST)),
    ('GET', '/v2/images/x', Operation(Action.SHOW, 'x')),
    ('PATCH', '/v2/images/x', Operation(Action.UPDATE, 'x')),
    ('PUT', '/v2/images/x/file', Operation(Action.UPLOAD, 'x')),
    ('GET', '/v2/images/x/file', Operation(Action.DOWNLOAD, 'x')),
    ('DELETE', '/v2/images/x', Operation(Action.DELETE, 'x')),
    ('PUT', '/v2/images/x/stage', Operation(Action.STAGE, 'x')),
    ('POST', '/v2/images/x/import', Operation(Action.IMPORT, 'x')),
    ('POST', '/v2/images/x/locations', Operation(Action.ADD_LOCATION, 'x')),
    ('GET', '/v2/images/x/locations', Operation(Action.LOCATIONS, 'x')),
    ('GET', '/v2/images/x/attempts', Operation(Action.ATTEMPTS, 'x')),
    ('GET', '/v2/schemas/image', Operation(Action.SCHEMA)),
    ('GET', '/v2/schemas/images', Operation(Action.LIST_SCHEMA)),
    # spellings Glance takes for the same
    ('PUT', '//v2///images//x//file', Operation(Action.UPLOAD, 'x')),
    ('PUT', '/v2/images/x/file\n', Operation(Action.UPLOAD, 'x')),
    ('DELETE', '/v2/images/x\n', Operation(Action.DELETE, 'x')),
    ('POST', '/v2//images/x/import\n', Operation(Action.IMPORT, 'x')),
    ('GET', '/v2/images/x\n', Operation(Action.SHOW, 'x')),
    ('GET', '/v2/images\n', Operation(Action.LIST)),
    ('GET', '/v2/schemas/image\n', Operation(Action.SCHEMA)),
    # and those it does not
    ('PUT', '/v2/images/x/file/', None),
    ('GET', '/v2/images/', None),
    ('GET', '/v2/images/\n', None),                    # no image has such an id
    ('PUT', '/v2/images/x/file\n\n', None),
    ('PUT', '/v2/images/x/File', None),
    ('put', '/v2/images/x/file', None),
    ('HEAD', '/v2/images/x', None),
    # none of ours
    ('POST', '/v2/images/x/file', None),
    ('PUT', '/v2/images', None),
    ('GET', '/v2/images/x/members', None),
    ('DELETE', '/v2/images/x/file', None),
    ('POST', '/v2/images/x/stage', None),
    ('PUT', '/v2/images/x/import', None),
    ('DELETE', '/v2/images/x/attempts', None),
    ('GET', '/v2/images/x/attempts/1', None),
    ('DELETE', '/v2/images/x/tags/y', None),
    ('POST', '/v2/images/x/actions/deactivate', None),
    ('GET', '/v2/schemas/member', None),
    ('POST', '/v2/schemas/image', None),
    ('GET', '/v2', None),
    ('GET', '/', None),
    ('GET', '', None),
    ('GET', '/v1/images/x', None),
    ('PUT', '/v2.1/images/x/file', None),
])
def test_path_and_method(method: str, path: str, operation: Operation | None) -> None:
    assert recognise(request(method, path)) == operation


@pytest.mark.parametrize(('query', 'action'), [
    ('_method=PUT', Action.UPLOAD),
    ('_method=put', Action.UPLOAD),
    ('_method=GET&_method=PUT', Action.UPLOAD),         # the last one wins
    ('_method=PUT&_method=GET', Action.DOWNLOAD),
    ('x=1;_method=PUT', Action.UPLOAD),                 # WebOb parts a query at ";" too
    ('_method=%50UT', Action.UPLOAD),
    ('%5Fmethod=PUT&_method', None),                    # the last one is empty: the method of the request
    ('%5Fmethod=PUT&x=_method', Action.UPLOAD),
    ('%5Fmethod=PUT', None),                            # Routes looks for the plain word first
    ('_method=PUT&_method=', None),
    ('_method=PUT&x=%ff', None),                        # what is not UTF-8 is not looked at
    ('_METHOD=PUT', None),
    ('x_method=PUT', None),
])
def test_the_query_may_replace_the_method(query: str, action: Action | None) -> None:
    for method, own in (('GET', Action.DOWNLOAD), ('PUT', Action.UPLOAD)):
        assert recognise(request(method, '/v2/images/x/file', query)) == Operation(action or own, 'x')


def test_a_method_that_glance_does_not_know_replaces_it_too() -> None:
    assert recognise(request('PUT', '/v2/images/x/file', '_method=PUT%20')) is None


def test_the_environ_is_left_alone() -> None:
    environ = request('GET', '//v2//images', '_method=POST')
    before = dict(environ)
    assert recognise(environ) == Operation(Action.CREATE)
    assert environ == before


@settings(deadline=None)
@given(st.text(), st.text(), st.text())
@example('GET', '/v2/images/x', '_method=\u20ac')
@example('GET', '/v2/images/\ud800', '_method=%')
def test_nothing_is_ever_raised(method: str, path: str, query: str) -> None:
    for place in ('', '/v2/images', '/v2/images/'):
        recognise(request(method, place + path, '_method=' + query))
        recognise(request(method, place + path, query))
    recognise({'REQUEST_METHOD': method})


# Against Glance's own routes

ACTIONS = {
    ('ImagesController', 'create'): Action.CREATE,
    ('ImagesController', 'index'): Action.LIST,
    ('ImagesController', 'show'): Action.SHOW,
    ('ImagesController', 'update'): Action.UPDATE,
    ('ImagesController', 'delete'): Action.DELETE,
    ('ImagesController', 'import_image'): Action.IMPORT,
    ('ImagesController', 'add_location'): Action.ADD_LOCATION,
    ('ImagesController', 'get_locations'): Action.LOCATIONS,
    ('ImageDataController', 'upload'): Action.UPLOAD,
    ('ImageDataController', 'stage'): Action.STAGE,
    ('ImageDataController', 'download'): Action.DOWNLOAD,
    ('Controller', 'image'): Action.SCHEMA,
    ('Controller', 'images'): Action.LIST_SCHEMA,
}


class GlanceRoutes:
    """Paste's map of URLs before the middleware of Routes before the routes of Glance's API v2."""

    def __init__(self) -> None:
        from glance.api.v2.router import API
        from glance.common.wsgi import APIMapper
        self._matched: dict[str, Any] = {}
        self._urls = URLMap(not_found_app=lambda environ, start_response: [])
        self._urls['/v2'] = RoutesMiddleware(self._dispatch, API(APIMapper()).map)

    def operation(self, environ: dict[str, Any]) -> Operation | None:
        """What Glance would do, in the words of the guard."""
        self._matched = {}
        self._urls(dict(environ), lambda *_: None)
        if not self._matched:
            return None
        controller = type(self._matched['controller'].controller).__name__
        action = ACTIONS.get((controller, self._matched['action']))
        return Operation(action, self._matched.get('image_id', '')) if action else None

    def _dispatch(self, environ: dict[str, Any], start_response: object) -> Iterable[bytes]:
        self._matched = environ['wsgiorg.routing_args'][1]
        return []


@pytest.fixture(scope='module')
def glance_routes(in_process_glance: InProcessGlance) -> GlanceRoutes:
    return GlanceRoutes()


METHODS = st.sampled_from(['GET', 'PUT', 'POST', 'PATCH', 'DELETE', 'HEAD', 'get'])
PATHS = st.one_of(
    st.sampled_from(['/v2/images', '/v2/images/x', '/v2/images/x/file', '/v2/schemas/image', '/v2/schemas/images',
                     '/v2/images/x/stage', '/v2/images/x/import', '/v2/images/x/locations', '/v2/images/x/attempts']),
    st.lists(st.sampled_from(
        ['/', '/v2', '/images', '/x', '/file', '/stage', '/import', '/locations', '/attempts', '/schemas', '/image',
         '\n', '\r', ' ', '%2f', '.', '..', '\xe9', '//']),
        max_size=8).map(lambda parts: '/v2/images' + ''.join(parts)),
    st.lists(st.sampled_from(['/', '/v2', '/images', '/x', '/file', '/schemas', '/image', '\n'])).map(
        lambda parts: '/' + ''.join(parts)))
QUERIES = st.one_of(st.just(''), st.lists(st.sampled_from(
    ['_method', '%5Fmethod', '=', '&', ';', 'PUT', 'get', 'Post', 'PATCH', 'delete', 'x', '%ff', '%', '+',
     '\xe9'])).map(''.join))


@given(METHODS, PATHS, QUERIES)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example('GET', '/v2/images/x/file', '_method=PUT&_method=')
@example('PUT', '/v2/images/x/file', '_method=GET&x=%ff')
@example('PUT', '/v2/images/x/file', 'x;_method=get')
@example('PUT', '/v2/images/x/file\n', '')
@example('GET', '/v2/images/x\n', '')
def test_the_guard_sees_what_glance_sees(glance_routes: GlanceRoutes, method: str, path: str, query: str) -> None:
    # To Glance that is an id, which no image can have.
    assume(re.sub('/+', '/', path) != '/v2/images/\n')
    environ = request(method, path, query)
    recognised = recognise(environ)
    if recognised is not None and recognised.action is Action.ATTEMPTS:
        # The guard's own; it takes nothing away.
        recognised = None
    assert recognised == glance_routes.operation(environ)
