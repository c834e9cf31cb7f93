"""The target reaches the backend byte for byte, unless somebody in front of the proxy asks for something else."""

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgguard.proxy.target import ambiguous, origin_form, target

RAW = [
    # raw, what the server made of its path, and of its query
    ('/v2/images', '/v2/images', ''),
    ('/v2/images?', '/v2/images', ''),
    ('/v2/images?name=%41&x=a+b', '/v2/images', 'name=%41&x=a+b'),
    ('/v2/im%61ges/%e4%C3%a4', '/v2/images/\xe4\xc3\xa4', ''),
    ('/v2/images/a%252Fb', '/v2/images/a%2Fb', ''),
    ('//a//b', '//a//b', ''),
    ("/a;p=1/:@!$&'()*+,;=-._~", "/a;p=1/:@!$&'()*+,;=-._~", ''),
    ('/v2/images?a=1?b=', '/v2/images', 'a=1?b='),
]


@pytest.mark.parametrize('name', ['REQUEST_URI', 'RAW_URI'])
@pytest.mark.parametrize(('raw', 'path', 'query'), RAW)
def test_as_sent(name: str, raw: str, path: str, query: str) -> None:
    assert target({name: raw, 'PATH_INFO': path, 'QUERY_STRING': query}) == raw.encode()


@pytest.mark.parametrize('raw', ['http://other:80/v2/x?q=%31', 'HTTPS://other/v2/x?q=%31'])
def test_of_a_whole_url_the_path_counts(raw: str) -> None:
    assert target({'RAW_URI': raw, 'PATH_INFO': '/v2/x', 'QUERY_STRING': 'q=%31'}) == b'/v2/x?q=%31'


CHANGED = [
    # raw, then what it says now, and what is sent
    ('/v2/images?limit=2', '/v2/images', 'limit=2&marker=x', b'/v2/images?limit=2&marker=x'),
    ('/v2/images?limit=2', '/v2/images', '', b'/v2/images'),
    ('/v2/images?limit=%32', '/v2/images', 'limit=2', b'/v2/images?limit=2'),
    ('/v2/images', '/v2/images/a b', '', b'/v2/images/a%20b'),
    ('/v2/images/%41/file', '/v2/images/A', '', b'/v2/images/A'),
    ('/v2/images/a', '/v2/images/\xc3\xa4?#%', '', b'/v2/images/%C3%A4%3F%23%25'),
    ('', '/v2/images', 'a=\xe4 b', b'/v2/images?a=%E4%20b'),
    ('', '', '', b'/'),
]


@pytest.mark.parametrize(('raw', 'path', 'query', 'sent'), CHANGED)
def test_what_was_changed_counts(raw: str, path: str, query: str, sent: bytes) -> None:
    assert target({'REQUEST_URI': raw, 'PATH_INFO': path, 'QUERY_STRING': query}) == sent


MOUNTED = [
    # raw, SCRIPT_NAME, PATH_INFO, sent
    ('/keep/v2/im%61ges?x=%41', '/keep', '/v2/images', b'/v2/im%61ges?x=%41'),
    ('/k%65ep/v2/images?x=%41', '/keep', '/v2/images', b'/v2/images?x=%41'),
    # A gateway took the mount point off and told of it.
    ('/v2/im%61ges?x=%41', '/keep', '/v2/images', b'/v2/im%61ges?x=%41'),
    ('/other/v2/im%61ges?x=%41', '/keep', '/v2/images', b'/v2/images?x=%41'),
]


@pytest.mark.parametrize(('raw', 'script', 'path', 'sent'), MOUNTED)
def test_the_mount_point_is_not_sent(raw: str, script: str, path: str, sent: bytes) -> None:
    environ = {'REQUEST_URI': raw, 'SCRIPT_NAME': script, 'PATH_INFO': path, 'QUERY_STRING': 'x=%41'}
    assert target(environ) == sent


def test_the_path_of_the_backend_comes_first() -> None:
    environ = {'REQUEST_URI': '/v2/%41', 'PATH_INFO': '/v2/A', 'QUERY_STRING': ''}
    assert target(environ, b'/image') == b'/image/v2/%41'
    assert target({**environ, 'PATH_INFO': '/v2/B'}, b'/image') == b'/image/v2/B'


def test_bytes_that_may_not_stand_in_a_target_are_escaped() -> None:
    environ = {'REQUEST_URI': '/a/\xe4?b=\xe4', 'PATH_INFO': '/a/\xe4', 'QUERY_STRING': 'b=\xe4'}
    assert target(environ) == b'/a/%E4?b=%E4'


@pytest.mark.parametrize('path', ['*', '/*'])
def test_a_question_about_the_whole_server(path: str) -> None:
    environ = {'REQUEST_METHOD': 'OPTIONS', 'REQUEST_URI': '*', 'PATH_INFO': path}
    assert target(environ) == b'*'


@given(st.binary(max_size=6), st.text('ab%2F41/.', max_size=8))
def test_a_path_is_never_taken_for_another(path: bytes, raw: str) -> None:
    """Whatever the raw target says, what is sent means the path."""
    sent = target({'REQUEST_URI': f'/{raw}', 'PATH_INFO': '/' + path.decode('latin-1'), 'QUERY_STRING': ''})
    assert unquote_to_bytes(sent) == b'/' + path


@pytest.mark.parametrize('raw', [
    '/v2/x/../images/1', '/v2/./images', '/v2/images/..', '/v2/x/%2e%2E/images', '/v2/x/.%2e/images', '/v2/images%2F1',
    '/v2/x%2f..%2fimages', '/v2/images/1/file%', '/v2/images/1/file%6', '/v2/images/1/fil%ze', 'http://h/v2/../x'])
@pytest.mark.parametrize('name', ['REQUEST_URI', 'RAW_URI'])
def test_a_path_of_which_servers_make_different_ones(name: str, raw: str) -> None:
    assert ambiguous({name: raw, 'PATH_INFO': '/v2/images/1/file'})


@pytest.mark.parametrize('raw', [
    '/v2/images?x=/../%2F&y=%', '/v2/images/a.b/..c/...', '//v2/images', '/v2/%41%252F', '*', '', '/v2/images#/../'])
def test_a_path_that_means_one_thing(raw: str) -> None:
    assert not ambiguous({'REQUEST_URI': raw, 'PATH_INFO': '/v2/images'})


def test_without_the_raw_target_the_path_tells() -> None:
    assert ambiguous({'PATH_INFO': '/v2/x/../images'})
    assert not ambiguous({'PATH_INFO': '/v2/x/%2F'})


@pytest.mark.parametrize(('path', 'below'), [
    ('http://h:80/v2/x', '/v2/x'), ('https://h', '/'), ('/v2/http://h/x', None), ('*', None), ('', None)])
def test_a_whole_url_in_the_path(path: str, below: str | None) -> None:
    assert origin_form(path) == below
