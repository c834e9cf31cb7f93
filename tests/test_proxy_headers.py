"""Which headers pass, which are the proxy's own, and where a Location leads."""

from typing import Any

import pytest
from keystonemiddleware.auth_token import _request
from oslo_context import context

from imgguard.proxy.headers import IDENTITY, Origin, of_answer, of_request, way_back

ORIGIN = Origin('http', 'glance:9292', '')
FROM = {'SERVER_PROTOCOL': 'HTTP/1.1', 'REMOTE_ADDR': '192.0.2.7', 'HTTP_HOST': 'images.example',
        'wsgi.url_scheme': 'http', 'SERVER_NAME': 'here', 'SERVER_PORT': '80'}
MADE = {'host': 'images.example', 'via': '1.1 imgguard', 'x-forwarded-for': '192.0.2.7', 'x-forwarded-proto': 'http'}


def sent(environ: dict[str, str], forward_identity: bool = False) -> dict[str, str]:
    """The headers that are sent, without those that are the same for every request."""
    headers = of_request({**FROM, **environ}, ORIGIN, forward_identity)
    assert len(dict(headers)) == len(headers)
    found = {name.decode(): value.decode('latin-1') for name, value in headers}
    return {name: value for name, value in found.items() if MADE.get(name) != value}


REQUESTS: list[tuple[dict[str, str], dict[str, str]]] = [
    ({}, {}),
    ({'CONTENT_TYPE': 'text/plain', 'CONTENT_LENGTH': '5', 'HTTP_CONTENT_LENGTH': '7', 'HTTP_CONTENT_TYPE': 'x'},
     {'content-type': 'text/plain'}),
    ({'HTTP_X_IMAGE_META_DISK_FORMAT': 'raw', 'HTTP_X_IMAGE_META_CHECKSUM': ''},
     {'x-image-meta-disk-format': 'raw', 'x-image-meta-checksum': ''}),
    ({'HTTP_X_A': ' caf\xe9 '}, {'x-a': 'caf\xe9'}),
    # RFC 9110, section 7.6.1
    ({'HTTP_CONNECTION': 'close, X-Mine , x_other', 'HTTP_X_MINE': '1', 'HTTP_X_OTHER': '2', 'HTTP_X_THIRD': '3'},
     {'x-third': '3'}),
    ({'HTTP_KEEP_ALIVE': 'timeout=5', 'HTTP_TE': 'trailers', 'HTTP_TRAILER': 'X-A', 'HTTP_UPGRADE': 'h2c',
      'HTTP_PROXY_CONNECTION': 'close', 'HTTP_PROXY_AUTHORIZATION': 'secret', 'HTTP_TRANSFER_ENCODING': 'chunked'}, {}),
    ({'HTTP_EXPECT': '100-continue'}, {}),
    # What was told by others before stays.
    ({'HTTP_VIA': '1.0 other', 'HTTP_X_FORWARDED_FOR': '198.51.100.1', 'HTTP_X_FORWARDED_PROTO': 'https',
      'HTTP_X_FORWARDED_HOST': 'a', 'HTTP_FORWARDED': 'for=b'},
     {'via': '1.0 other, 1.1 imgguard', 'x-forwarded-for': '198.51.100.1, 192.0.2.7', 'x-forwarded-proto': 'https',
      'x-forwarded-host': 'a', 'forwarded': 'for=b'}),
    ({'HTTP_HOST': ''}, {'host': 'glance:9292'}),
    # Tokens are no identities.
    ({'HTTP_X_AUTH_TOKEN': 'a', 'HTTP_X_SERVICE_TOKEN': 'b', 'HTTP_COOKIE': 'c'},
     {'x-auth-token': 'a', 'x-service-token': 'b', 'cookie': 'c'}),
    ({'HTTP_X_ROLES': 'admin', 'HTTP_X_PROJECT_ID': 'theirs', 'HTTP_X_IDENTITY_STATUS': 'Confirmed'}, {}),
]


@pytest.mark.parametrize(('given', 'passed'), REQUESTS)
def test_of_a_request(given: dict[str, str], passed: dict[str, str]) -> None:
    assert sent(given) == passed


def test_identity_passes_where_the_operator_says_so() -> None:
    identity = {name: 'x' for name in IDENTITY}
    assert not sent(identity)
    assert len(sent(identity, True)) == len(IDENTITY)


@pytest.mark.parametrize(('name', 'passed'), [
    ('J\xc3\xbcrgen', 'J\xc3\xbcrgen'), ('J\xfcrgen', 'J\xfcrgen'),
    ('\u042e\u0440\u0438\u0439', '\xd0\xae\xd1\x80\xd0\xb8\xd0\xb9')])
def test_names_in_any_script_pass(name: str, passed: str) -> None:
    """authtoken puts them into the environ as text, a server in front as bytes."""
    assert sent({'HTTP_X_USER_NAME': name}, True) == {'x-user-name': passed}


def test_no_client_can_have_its_identity_taken_away() -> None:
    """It is not the client's to take back: without its roles or its project a request means something else."""
    given = {'HTTP_CONNECTION': 'x-roles, x-project-id, x-auth-token, x-own', 'HTTP_X_ROLES': 'reader',
             'HTTP_X_PROJECT_ID': 'p', 'HTTP_X_AUTH_TOKEN': 't', 'HTTP_X_OWN': 'o'}
    assert sent(given, forward_identity=True) == {'x-roles': 'reader', 'x-project-id': 'p', 'x-auth-token': 't'}


def test_the_identity_headers_are_those_of_keystonemiddleware_and_oslo_context() -> None:
    request = _request._AuthTokenRequest
    names = {template % prefix for template in (*request._HEADER_TEMPLATE, request._ROLES_TEMPLATE)
             for prefix in (request._USER_HEADER_PREFIX, request._SERVICE_HEADER_PREFIX)}
    names |= {request._USER_STATUS_HEADER, request._SERVICE_STATUS_HEADER, request._ADMIN_PROJECT_HEADER,
              request._SYSTEM_SCOPE_HEADER, request._SERVICE_CATALOG_HEADER, *request._DEPRECATED_HEADER_MAP}
    assert {f'HTTP_{name.upper().replace("-", "_")}' for name in names} <= IDENTITY
    believed = {key for keys in context._ENVIRON_HEADERS.values() for key in keys if key.startswith('HTTP_')}
    tokens = {'HTTP_X_AUTH_TOKEN', 'HTTP_X_STORAGE_TOKEN', 'HTTP_X_SERVICE_TOKEN'}
    assert believed - IDENTITY <= tokens


ANSWERS: list[tuple[list[tuple[str, str]], list[tuple[str, str]]]] = [
    ([('Set-Cookie', 'a'), ('X-A', '1'), ('set-cookie', 'b'), ('X-A', '')],
     [('Set-Cookie', 'a'), ('X-A', '1'), ('set-cookie', 'b'), ('X-A', '')]),
    ([('x-image-meta-property-os_name', 'caf\xe9'), ('Content-Encoding', 'gzip')],
     [('x-image-meta-property-os_name', 'caf\xe9'), ('Content-Encoding', 'gzip')]),
    ([('Connection', 'X-Mine, close'), ('X-Mine', '1'), ('Keep-Alive', 'timeout=5'), ('X-B', '2'), ('Upgrade', 'h2'),
      ('Trailer', 'X-C'), ('Proxy-Authenticate', 'Basic')], [('X-B', '2')]),
    # RFC 9112, section 6.3
    ([('Content-Length', '5'), ('Transfer-Encoding', 'chunked')], []),
    ([('Content-Length', '5'), ('Connection', 'content-length')], [('Content-Length', '5')]),
]


@pytest.mark.parametrize(('given', 'passed'), ANSWERS)
def test_of_an_answer(given: list[tuple[str, str]], passed: list[tuple[str, str]]) -> None:
    raw = [(name.encode('latin-1'), value.encode('latin-1')) for name, value in given]
    assert of_answer(raw, FROM, ORIGIN) == passed


LOCATIONS = [
    # given, led to
    ('http://glance:9292/v2/images/1?a=%41', 'http://images.example/v2/images/1?a=%41'),
    ('HTTP://Glance:9292', 'http://images.example/'),
    ('http://images.example/v2/images/1', 'http://images.example/v2/images/1'),
    ('http://images.example:80/v2/images/1', 'http://images.example/v2/images/1'),
    ('//glance:9292/v2', '//images.example/v2'),
    ('/v2/images/1', '/v2/images/1'),
    ('1/file', '1/file'),
    ('?marker=1', '?marker=1'),
    ('', ''),
    ('http://elsewhere/v2/images/1', 'http://elsewhere/v2/images/1'),
    ('http://glance:9292.elsewhere/', 'http://glance:9292.elsewhere/'),
    ('ftp://glance:9292/v2', 'ftp://glance:9292/v2'),
]


@pytest.mark.parametrize('name', ['Location', 'content-location'])
@pytest.mark.parametrize(('given', 'led_to'), LOCATIONS)
def test_a_location_leads_back(name: str, given: str, led_to: str) -> None:
    assert of_answer([(name.encode(), given.encode())], FROM, ORIGIN) == [(name, led_to)]


MOUNTED = [
    # given, led to: the backend is below /image, the proxy is mounted at /keep, and clients come by https
    ('http://glance:9292/image/v2/1', 'https://images.example/keep/v2/1'),
    ('http://images.example/image/v2/1', 'https://images.example/keep/v2/1'),
    ('https://images.example/image/v2/1', 'https://images.example/keep/v2/1'),
    ('/image/v2/1', '/keep/v2/1'),
    ('/image', '/keep/'),
    ('/image?a', '/keep/?a'),
    ('/images/1', '/images/1'),
    ('http://glance:9292/other', 'http://glance:9292/other'),
]


@pytest.mark.parametrize('https', [{'wsgi.url_scheme': 'https'}, {'HTTP_X_FORWARDED_PROTO': 'https, http'}])
@pytest.mark.parametrize(('given', 'led_to'), MOUNTED)
def test_a_location_below_a_path(given: str, led_to: str, https: dict[str, Any]) -> None:
    assert way_back(given, {**FROM, **https, 'SCRIPT_NAME': '/keep'}, Origin('http', 'glance:9292', '/image')) == led_to


def test_without_a_host_the_server_is_named() -> None:
    environ = {name: value for name, value in FROM.items() if name != 'HTTP_HOST'}
    assert way_back('http://glance:9292/v2', environ, ORIGIN) == 'http://here:80/v2'
