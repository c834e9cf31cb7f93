"""Whatever a client sends: the guard itself never fails, its answers are well framed, its log stays readable.

Hypothesis makes up the requests; the real Glance, guarded and bare, answers them. Glance fails with 500 on some
input of its own accord (a list where a document is expected, for one): then the guard may hand on just that.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from webtest import TestResponse

from imgguard import names
from tests.harness import InProcessGlance
from tests.uploading import Images, Pipelines

EXAMPLES: Final = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
#: What a WSGI server hands on as the value of a header: Latin-1 without the ends of lines.
HEADER: Final = st.text(st.characters(max_codepoint=255, exclude_characters='\r\n'), max_size=60)
WORDS: Final = st.sampled_from(
    ['true', 'false', '1', 'on', 'TRUE ', '', '\x00', '1e3', '-1', '٣', '9' * 5000, 'é', '1,2'])
TEXT: Final = st.text(max_size=40)
OPERATORS: Final = st.sampled_from(['add', 'replace', 'remove', 'test', '', 'ADD', None, 3])
PATHS: Final = st.sampled_from(
    ['/status', '/os_glance_image_error', '/os_glance_image_error_code', '/tags', '/name', '/', '', 'status',
     '/status/', '/ status', '/imgguard_keep_on_failure', '/os_glance_image_give_up_at', '/os~1glance', '/a/b', None,
     7])
VALUES: Final[st.SearchStrategy[object]] = st.one_of(
    st.sampled_from(['error', 'queued', 'killed', 'active', None, True, 0, [], {}, ['tag'], '\x00', '\ud800',
                     'x' * 5000]),
    TEXT)
JSON: Final = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
                           max_leaves=6)
OPERATION: Final = st.one_of(
    st.fixed_dictionaries({}, optional={'op': OPERATORS, 'path': PATHS, 'value': VALUES}),
    st.fixed_dictionaries({}, optional={'add': PATHS, 'replace': PATHS, 'remove': PATHS, 'value': VALUES}), JSON)
FILTERS: Final = st.sampled_from(
    ['status', 'os_glance_image_error_code', 'limit', 'marker', 'sort', 'sort_key', 'sort_dir', 'id', 'name', 'owner',
     'visibility', '_method', 'created_at', 'size_min', 'tag', 'os_hidden'])
FILTER_VALUES: Final = st.one_of(
    st.sampled_from(['error', 'in:error,queued', 'in:"error', 'in:', 'eq:error', 'neq:error', 'in:,,', 'in:"a,b",error',
                     'PATCH', 'name:asc', '0', '-1', '1001', '1', 'bad_request', '\x00', '%', "'", '٣']), TEXT)


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('bad-input'), lint=False)


@pytest.fixture(scope='module')
def both(pipelines: Pipelines) -> 'Both':
    return Both(*pipelines.callers())


class Both:
    """The same caller in front of the guard and of the bare Glance, with an image in each state that matters."""

    def __init__(self, guarded: Images, bare: Images) -> None:
        self.guarded, self.bare = guarded, bare
        self.in_error = guarded.in_error()
        self.queued = bare.created()

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None,
            environ: Mapping[str, Any] | None = None) -> TestResponse | None:
        """Send it; ``ID`` in the path is an image in error. ``None`` where Glance alone fails on it, too."""
        def alone() -> TestResponse:
            return self.bare.request(method, path.replace('ID', self.queued), headers, body, environ)

        try:
            with readable_log():
                answer = self.guarded.request(method, path.replace('ID', self.in_error), headers, body, environ)
        except UnicodeDecodeError:
            # WebOb's, of a path that is no UTF-8; a server answers 500.
            with pytest.raises(UnicodeDecodeError):
                alone()
            return None
        assert_framed(answer)
        if answer.status_int >= 500:
            assert alone().status_int >= 500, (answer.status, answer.text)
        return answer


def assert_framed(answer: TestResponse) -> None:
    """Its Content-Length is the length of its body, and no header can be taken for two."""
    lengths = [value for name, value in answer.headerlist if name.lower() == 'content-length']
    assert lengths in ([], [str(len(answer.body))]), (lengths, len(answer.body))
    assert not [value for pair in answer.headerlist for value in pair if '\r' in value or '\n' in value]


@contextmanager
def readable_log() -> Iterator[None]:
    """Nothing that a caller sent reaches a line of the guard's log with a control character in it."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend(logging.Formatter().format(record).split('\n'))

    collector, logger = Collector(), logging.getLogger('imgguard')
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)
    assert not [line for line in lines if not line.isprintable()]


HEADERS: Final = st.dictionaries(
    st.sampled_from([names.KEEP_HEADER, names.GIVE_UP_AFTER_HEADER, names.SIZE_HEADER, names.CONTENT_DIGEST_HEADER,
                     names.REPR_DIGEST_HEADER, 'Content-Type', 'X-Image-Meta-Store', 'X-OpenStack-Request-ID', 'Accept',
                     'Accept-Language']),
    st.one_of(WORDS, HEADER, st.sampled_from(['application/octet-stream', 'application/json', '*/*'])), max_size=4)


@EXAMPLES
@given(headers=HEADERS, body=st.binary(max_size=20))
def test_headers_of_an_upload(both: Both, headers: dict[str, str], body: bytes) -> None:
    both.ask('PUT', '/v2/images/ID/file', {'Content-Type': 'application/octet-stream', **_latin(headers)}, body)


@EXAMPLES
@given(headers=HEADERS, document=JSON)
def test_headers_and_document_of_a_create(both: Both, headers: dict[str, str], document: object) -> None:
    answer = both.ask('POST', '/v2/images', _latin(headers), _dump(document))
    if answer is not None and answer.status_int == 201:
        both.guarded.request('DELETE', f'/v2/images/{answer.json["id"]}', {names.KEEP_HEADER: 'false'})


@EXAMPLES
@given(properties=st.dictionaries(
    st.one_of(TEXT, st.sampled_from(['imgguard_keep_on_failure', 'os_glance_image_error', 'status'])),
    st.one_of(WORDS, VALUES), max_size=3))
@example(properties={'imgguard_keep_on_failure': '\x00'})
def test_properties_of_a_create(both: Both, properties: dict[str, object]) -> None:
    answer = both.ask('POST', '/v2/images', {'Content-Type': 'application/json'}, _dump(properties))
    if answer is not None and answer.status_int == 201:
        both.guarded.request('DELETE', f'/v2/images/{answer.json["id"]}', {names.KEEP_HEADER: 'false'})


@EXAMPLES
@given(document=st.one_of(st.lists(OPERATION, max_size=3), JSON), minor=st.sampled_from('01'), headers=HEADERS)
@example(document=[{'op': 'replace', 'path': '/status', 'value': 'error'},
                   {'op': 'add', 'path': '/os_glance_image_error', 'value': '\x00\r\n\ud800' * 9}],
         minor='1', headers={})
def test_updates(both: Both, document: object, minor: str, headers: dict[str, str]) -> None:
    media_type = f'application/openstack-images-v2.{minor}-json-patch'
    both.ask('PATCH', '/v2/images/ID', {**_latin(headers), 'Content-Type': media_type}, _dump(document))


@EXAMPLES
@given(body=st.binary(max_size=60), length=st.one_of(st.none(), HEADER, WORDS))
def test_documents_that_are_none(both: Both, body: bytes, length: str | None) -> None:
    environ = {} if length is None else {'CONTENT_LENGTH': length}
    media_type = 'application/openstack-images-v2.1-json-patch'
    both.ask('PATCH', '/v2/images/ID', {'Content-Type': media_type}, body, environ)
    both.ask('POST', '/v2/images/ID/import', {'Content-Type': 'application/json'}, body, environ)


@EXAMPLES
@given(parameters=st.lists(st.tuples(FILTERS, FILTER_VALUES), max_size=4))
def test_filters_of_a_list(both: Both, parameters: list[tuple[str, str]]) -> None:
    query = '&'.join(f'{name}={_quoted(value)}' for name, value in parameters)
    both.ask('GET', f'/v2/images?{query}')


@EXAMPLES
@given(query=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_queries_that_are_none(both: Both, query: str) -> None:
    both.ask('GET', '/v2/images', environ={'QUERY_STRING': query})
    both.ask('GET', '/v2/images/ID/attempts', environ={'QUERY_STRING': query})


@EXAMPLES
@given(image_id=HEADER, part=st.sampled_from(['', '/file', '/stage', '/import', '/locations', '/attempts']),
       method=st.sampled_from(['GET', 'PUT', 'POST', 'PATCH', 'DELETE', 'HEAD', 'get', 'X']))
def test_paths(both: Both, image_id: str, part: str, method: str) -> None:
    both.ask(method, '/v2/images', {names.KEEP_HEADER: 'true'}, b'{}',
             {'PATH_INFO': f'/v2/images/{image_id}{part}', 'REQUEST_METHOD': method})


def _latin(headers: Mapping[str, str]) -> dict[str, str]:
    # A digit of another script cannot stand in a header as it is.
    return {name: value.encode().decode('latin-1') for name, value in headers.items()}


def _dump(document: object) -> bytes:
    dump: Callable[[object], str] = json.dumps
    return dump(document).encode()


def _quoted(value: str) -> str:
    return quote(value, errors='surrogatepass')
