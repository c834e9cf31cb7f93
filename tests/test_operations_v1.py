"""Which requests the guard takes for what of the v1 API, in front of a whole Glance with its version negotiation."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imgguard import operations
from imgguard.operations import Action, Operation
from imgguard.operations_v1 import negotiated, recognise, recognise_negotiated
from tests.harness import InProcessGlance

V1 = {'HTTP_ACCEPT': 'application/vnd.openstack.images-v1'}
CHUNKED = {'HTTP_TRANSFER_ENCODING': 'chunked'}
LENGTH = {'CONTENT_LENGTH': '1000'}
COPY_FROM = {'HTTP_X_GLANCE_API_COPY_FROM': 'http://source/'}
LOCATION = {'HTTP_X_IMAGE_META_LOCATION': 'http://source/'}


def request(method: str, path: str, query: str = '', **more: str) -> dict[str, Any]:
    return {'REQUEST_METHOD': method, 'PATH_INFO': path, 'QUERY_STRING': query, 'SCRIPT_NAME': '',
            'HTTP_HOST': 'glance:9292', 'wsgi.url_scheme': 'http', **more}


def operation(action: Action, image_id: str = '') -> Operation:
    return Operation(action, image_id, version=1)


@pytest.mark.parametrize(('method', 'path', 'expected'), [
    ('GET', '/v1/images', operation(Action.LIST)),
    ('GET', '/v1/images/detail', operation(Action.LIST_DETAIL)),
    ('HEAD', '/v1/images/x', operation(Action.SHOW, 'x')),
    ('GET', '/v1/images/x', operation(Action.DOWNLOAD, 'x')),
    ('PUT', '/v1/images/x', operation(Action.UPDATE, 'x')),
    ('DELETE', '/v1/images/x', operation(Action.DELETE, 'x')),
    ('POST', '/v1/images', operation(Action.CREATE)),
    # other spellings
    ('GET', '/v1/', operation(Action.LIST)),
    ('POST', '/v1/', operation(Action.LIST)),
    ('GET', '/v1.0/images', operation(Action.LIST)),
    ('HEAD', '/v1.1/images/x', operation(Action.SHOW, 'x')),
    ('DELETE', '//v1///images//x', operation(Action.DELETE, 'x')),
    ('PUT', '/v1/images/x\n', operation(Action.UPDATE, 'x')),
    ('GET', '/v1/images/Detail', operation(Action.DOWNLOAD, 'Detail')),
    # none of ours
    ('HEAD', '/v1/images', None),
    ('HEAD', '/v1/images/detail', None),
    ('PUT', '/v1/images/detail', None),
    ('PATCH', '/v1/images/x', None),
    ('POST', '/v1/images/x', None),
    ('get', '/v1/images/x', None),
    ('GET', '/v1', None),
    ('GET', '/v1/images/', None),
    ('GET', '/v1/images/x/', None),
    ('GET', '/v1/images/detail/', None),
    ('GET', '/v1/images/x/members', None),
    ('PUT', '/v1/images/x/file', None),
    ('GET', '/v1/shared-images/x', None),
    ('GET', '/v10/images', None),
    ('GET', '/v3/images', None),
    ('GET', '/v2/images', None),
    ('GET', '/v2.0/images', None),
    ('GET', '/images', None),
    ('GET', '/versions/v1/images', None),
    ('GET', '', None),
])
def test_path_and_method(method: str, path: str, expected: Operation | None) -> None:
    assert recognise(request(method, path)) == expected


@pytest.mark.parametrize(('more', 'action'), [
    ({}, None),
    (LENGTH, Action.UPLOAD),
    (CHUNKED, Action.UPLOAD),
    ({'HTTP_TRANSFER_ENCODING': 'Chunked'}, Action.UPLOAD),
    (CHUNKED | {'CONTENT_LENGTH': '0'}, Action.UPLOAD),
    ({'CONTENT_LENGTH': '0'}, None),
    ({'CONTENT_LENGTH': ''}, None),
    ({'CONTENT_LENGTH': 'x'}, None),
    (COPY_FROM, Action.IMPORT),
    ({'HTTP_X_GLANCE_API_COPY_FROM': ''}, Action.IMPORT),         # Glance refuses it
    (LOCATION, Action.ADD_LOCATION),
    ({'HTTP_X_IMAGE_META_LOCATION': ''}, None),
    (COPY_FROM | {'HTTP_X_IMAGE_META_LOCATION': ''}, None),      # Glance refuses it
    (COPY_FROM | LOCATION, Action.ADD_LOCATION),
    (LENGTH | COPY_FROM, Action.UPLOAD),                         # Glance creates the image and refuses both
])
def test_what_brings_data(more: dict[str, str], action: Action | None) -> None:
    assert recognise(request('POST', '/v1/images', **more)) == operation(action or Action.CREATE)
    assert recognise(request('PUT', '/v1/images/x', **more)) == operation(action or Action.UPDATE, 'x')
    assert recognise(request('GET', '/v1/images/x', **more)) == operation(Action.DOWNLOAD, 'x')


@pytest.mark.parametrize(('query', 'action'), [
    ('_method=PUT', Action.UPDATE),
    ('_method=put', Action.UPDATE),
    ('_method=GET&_method=DELETE', Action.DELETE),
    ('x=1;_method=%44ELETE', Action.DELETE),
    ('%5Fmethod=PUT&x=_method', Action.UPDATE),
    ('%5Fmethod=PUT', Action.DOWNLOAD),
    ('_method=', None),                                 # which Glance 15.0.2 takes for a method of no letters
    ('_METHOD=PUT', Action.DOWNLOAD),
])
def test_the_query_may_replace_the_method(query: str, action: Action | None) -> None:
    assert recognise(request('GET', '/v1/images/x', query)) == (operation(action, 'x') if action else None)


@pytest.mark.parametrize(('method', 'query', 'is_list'), [
    ('GET', '', True), ('GET', '_method=HEAD', True), ('POST', '_method=GET', True), ('HEAD', '', False),
    ('HEAD', '_method=GET', False), ('GET', '_method=PUT', False)])
def test_a_list_is_no_list_to_a_head_that_was_sent(method: str, query: str, is_list: bool) -> None:
    expected = operation(Action.LIST_DETAIL) if is_list else None
    assert recognise(request(method, '/v1/images/detail', query)) == expected


def test_a_body_counts_by_the_method_that_was_sent() -> None:
    assert recognise(request('GET', '/v1/images/x', '_method=PUT', **CHUNKED)) == operation(Action.UPDATE, 'x')
    assert recognise(request('GET', '/v1/images/x', '_method=PUT', **LENGTH)) == operation(Action.UPLOAD, 'x')


@pytest.mark.parametrize(('accept', 'path', 'seen'), [
    ('application/vnd.openstack.images-v1', '/images/x', '/v1/images/x'),
    ('application/vnd.openstack.images-v1.1', '/images', '/v1/images'),
    ('application/vnd.openstack.images-v2.3', '/images', '/v2/images'),
    (' application/vnd.openstack.images-v1;q=1', '//images', '/v1/images'),
    ('application/vnd.openstack.images-v1;level=1', '/images', '/v1/images'),
    ('application/vnd.openstack.images-v9', '/images', ''),
    # a Glance that looks at the header has no route for it
    ('application/vnd.openstack.images-v1', '/v1/images', '/v1/images'),
    ('application/vnd.openstack.images-v1', '/v2/images/x/file', '/v2/images/x/file'),
    ('application/vnd.openstack.images-v1;q=0.5', '/images', ''),
    ('application/vnd.openstack.images-v1, */*', '/images', ''),
    ('Application/Vnd.OpenStack.Images-V1', '/images', '/v1/images'),
    # what is no media type is passed over
    ('application/vnd.openstack.images-v1/x', '/images', ''),
    ('application, */x, x*/*, application/*x, application/vnd.openstack.images-v1', '/images', '/v1/images'),
    ('*/*, application/vnd.openstack.images-v1', '/images', ''),
    ('application/json', '/images', ''),
    ('application/json', '/v1/images', '/v1/images'),
    ('*/*', '/v2.0/images/x/file', '/v2/images/x/file'),
    (None, '//v2/images', '/v2/images'),
    (None, '/v1', '/v1'),
    (None, '/', ''),
])
def test_the_version_that_glance_negotiates(accept: str | None, path: str, seen: str) -> None:
    environ = request('GET', path, **({} if accept is None else {'HTTP_ACCEPT': accept}))
    assert negotiated(environ) == seen


def test_what_was_negotiated_is_recognised_by_v2() -> None:
    environ = request('PUT', '/v2.0/images/x/file')
    assert operations.recognise(environ | {'PATH_INFO': negotiated(environ)}) == Operation(Action.UPLOAD, 'x')


@settings(deadline=None)
@given(st.text(), st.text(), st.text(), st.text())
def test_nothing_is_ever_raised(method: str, path: str, query: str, value: str) -> None:
    for place in ('', '/v1/images', '/v1/images/'):
        recognise(request(method, place + path, '_method=' + query, HTTP_ACCEPT=V1['HTTP_ACCEPT'] + value))
        recognise(request(method, place + path, query, CONTENT_LENGTH=value, HTTP_ACCEPT=value))
    recognise({'REQUEST_METHOD': method})


# Against the version negotiation of Glance 33

@pytest.fixture(scope='module')
def negotiate(in_process_glance: InProcessGlance) -> Callable[[dict[str, Any]], str | None]:
    """The path as Glance hands it on, or ``None`` where it answers with the versions it speaks."""
    from glance.api.middleware.version_negotiation import VersionNegotiationFilter

    def handed_on(environ: dict[str, Any]) -> str | None:
        paths: list[str] = []

        def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
            paths.append(environ['PATH_INFO'])
            start_response('200 OK', [])
            return []

        VersionNegotiationFilter(application)(dict(environ), lambda *_: None)
        return paths[0] if paths else None

    return handed_on


PATHS = st.tuples(
    st.sampled_from(['', '/', '/v2', '/v2.0', '/v2.9', '/v1', '/v3', '/versions', '/v2x', '/images']),
    st.lists(st.sampled_from(['/', '/images', '/x', '/file', '\n', ' ', '.', 'x'])).map(''.join)).map(''.join)
ACCEPTS = st.one_of(st.just('*/*'), st.lists(st.sampled_from(
    ['application/vnd.openstack.images-v2', '.1', ' ', ',', ';', 'q=1', 'q=0.5', '*/*', 'level=1'])).map(''.join))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(['GET', 'PUT', 'POST', 'DELETE']), PATHS, ACCEPTS)
@example('GET', '//images', 'application/vnd.openstack.images-v2.9')
@example('PUT', '/v2/images/x/file', 'application/vnd.openstack.images-v2;q=0.5')
@example('DELETE', '/v2/images/x', 'application/vnd.openstack.images-v2 ')
@example('DELETE', '/images/x', 'application/vnd.openstack.images-v2')
def test_nothing_that_glance_33_does_is_missed(negotiate: Callable[[dict[str, Any]], str | None], method: str,
                                               path: str, accept: str) -> None:
    environ = request(method, path, HTTP_ACCEPT=accept)
    handed_on = negotiate(environ)
    wanted = None if handed_on is None else operations.recognise({**environ, 'PATH_INFO': handed_on})
    if wanted is not None:
        assert operations.recognise({**environ, 'PATH_INFO': negotiated(environ)}) == wanted


@pytest.mark.parametrize(('accepted', 'path', 'expected'), [
    (None, '/v2/images/x', Operation(Action.SHOW, 'x')),
    (None, '/v2.0/images/x', Operation(Action.SHOW, 'x')),
    (None, '/v2.17/images', Operation(Action.LIST)),
    (None, '//v2.9//images/x', Operation(Action.SHOW, 'x')),
    (None, '/v2.9/schemas/image', Operation(Action.SCHEMA)),
    ('application/json', '/v2.9/images/x', Operation(Action.SHOW, 'x')),
    ('application/vnd.openstack.images-v2', '/images/x', Operation(Action.SHOW, 'x')),
    ('application/vnd.openstack.images-v2.5', '/images', Operation(Action.LIST)),
    ('application/vnd.openstack.images-v2', '/v2/images/x', Operation(Action.SHOW, 'x')),
    ('application/vnd.openstack.images-v3', '/images/x', None),
    ('application/vnd.openstack.images-v1', '/images/x', Operation(Action.DOWNLOAD, 'x', version=1)),
    (None, '/images/x', None),
    (None, '/v1/images/x', Operation(Action.DOWNLOAD, 'x', version=1)),
    (None, '/v3/images/x', None),
    (None, '/v2.x/images/x', None),
    (None, '/v2.9', None),
    (None, '/versions', None),
    (None, '/', None),
    (None, '', None),
])
def test_the_version_is_negotiated_behind_a_proxy(accepted: str | None, path: str, expected: Operation | None) -> None:
    environ = request('GET', path) | ({} if accepted is None else {'HTTP_ACCEPT': accepted})
    before = dict(environ)
    assert recognise_negotiated(environ) == expected
    assert environ == before
