"""How the Images API v1 spells an image in error, and what its requests ask."""

import json
from io import BytesIO
from typing import Any

import pytest

from imgguard import codes
from imgguard.api import v1, v2
from imgguard.asking import BadRequest
from imgguard.attempts import Running
from tests.test_presenting import AT, CREATED, error, record, records, running

V1_CREATED = '2026-11-22T22:19:29.251478'
PROPERTY = 'x-image-meta-property-'
VERDICT = {'os_glance_image_error_code': 'storage_full', 'os_glance_image_error_at': CREATED,
           'os_glance_image_error_retryable': 'true'}
DETAILS = {'os_glance_image_error': 'No room.', 'os_glance_image_error_attempts': '3',
           'os_glance_image_error_request_id': 'req-1'}


def image(**changes: Any) -> dict[str, Any]:
    """An image as v1 tells it in JSON, with everything a rejected upload can leave in it."""
    return {'id': 'x', 'created_at': V1_CREATED, 'status': 'killed', 'name': 'n', 'size': 999, 'virtual_size': 5,
            'checksum': 'c', 'owner': 'red', 'is_public': False, 'protected': False, 'disk_format': 'raw',
            'container_format': 'bare', 'properties': {'os_distro': 'debian'}, **changes}


def headers(**changes: str) -> list[tuple[str, str]]:
    """The same in headers."""
    fields = {'id': 'x', 'created_at': V1_CREATED, 'status': 'killed', 'name': 'n', 'size': '999',
              'virtual_size': '5', 'checksum': 'c', 'owner': 'red', 'is_public': 'False', 'protected': 'False',
              'property-os_distro': 'debian', **changes}
    told = [(f'x-image-meta-{name}', value) for name, value in fields.items()]
    return [('Content-Type', 'text/html; charset=UTF-8'), *told, ('ETag', 'c'), ('X-Openstack-Request-Id', 'req-2')]


def environ(**given: str) -> dict[str, Any]:
    """A request with headers ``x-image-meta-...``."""
    return {'REQUEST_METHOD': 'POST', **{f'HTTP_X_IMAGE_META_{name.upper()}': value for name, value in given.items()}}


# Which image an answer tells of

@pytest.mark.parametrize(('document', 'count'), [
    ({'image': image()}, 1),
    ({'images': [image(), image(id='y')]}, 2),
    ({'images': [image(), image(created_at=None), 'x', None, image(properties=None)]}, 1),
    ({'images': [v1.brief(image())]}, 0),               # tells no status
    ({'images': []}, 0),
    ({'image': 'x'}, 0),
    (image(), 0),                                       # as v2 would show one
    ([image()], 0),
    (None, 0),
])
def test_the_images_of_an_answer(document: Any, count: int) -> None:
    assert [found['id'] for found in v1.images_of(document)] == ['x', 'y'][:count]


def test_headers_tell_the_same_as_json() -> None:
    from_headers = v1.image_of(headers(), 'x')
    assert from_headers and v1.as_v2(from_headers) == v1.as_v2(image())
    assert from_headers['properties'] == {'os_distro': 'debian'}


@pytest.mark.parametrize('given', [
    [], [('Content-Type', 'text/plain')], headers()[:3], [(name, value) for name, value in headers()
                                                          if name != 'x-image-meta-status']])
def test_headers_that_tell_of_no_image(given: list[tuple[str, str]]) -> None:
    assert v1.image_of(given, 'x') is None


@pytest.mark.parametrize('more', [
    ('x-image-meta-id', 'another'), ('X-Image-Meta-Status', 'queued'), ('x-image-meta-owner', 'mine')])
def test_headers_that_a_property_may_have_slipped_in(more: tuple[str, str]) -> None:
    assert v1.image_of([*headers(), more], 'x') is None
    assert v1.image_of(headers(), 'another') is None


def test_headers_in_any_case_and_in_utf_8() -> None:
    given = [(name.title(), value) for name, value in headers(owner='müller'.encode().decode('latin-1'))]
    assert (v1.image_of(given, 'x') or {})['owner'] == 'müller'


def test_what_the_guard_needs_in_the_words_of_v2() -> None:
    told = image(protected=True, is_public=True, properties={'image_type': 'snapshot', 'status': 'x'})
    assert v1.as_v2(told) == {
        'id': 'x', 'created_at': CREATED, 'status': 'killed', 'owner': 'red', 'protected': True,
        'visibility': 'public', 'image_type': 'snapshot', 'checksum': 'c', 'updated_at': None}
    assert v1.as_v2(image(updated_at=V1_CREATED))['updated_at'] == CREATED
    assert v1.as_v2(image())['visibility'] is None      # private or shared


@pytest.mark.parametrize(('of_v1', 'of_v2'), [
    ('2026-11-22T22:19:29.251478', CREATED), ('2026-11-22T22:19:29.999999', CREATED),
    ('2026-11-22T22:19:29.000000', CREATED), ('2026-11-22T22:19:29', CREATED), (CREATED, CREATED),
    ('2026-11-22T22:19:29+00:00', CREATED), ('2026-11-22 22:19:29', '2026-11-22 22:19:29'), ('', '')])
def test_a_time_in_the_spelling_of_v2(of_v1: str, of_v2: str) -> None:
    assert v1.created_at(of_v1) == of_v2


@pytest.mark.parametrize(('status', 'may_be'), [
    ('queued', True), ('saving', True), ('killed', True), ('active', False), ('deleted', False)])
def test_the_cheap_test(status: str, may_be: bool) -> None:
    assert bool(v2.may_be_in_error(json.dumps({'image': image(status=status)}).encode())) is may_be


# Whether it is in error now

@pytest.mark.parametrize(('status', 'in_error'), [
    ('queued', True), ('saving', True), ('killed', True),
    ('active', False), ('deactivated', False), ('deleted', False), ('pending_delete', False)])
def test_an_image_that_waits_or_was_killed_can_be_in_error(status: str, in_error: bool) -> None:
    known = record(error())
    found = v2.error_of(v1.as_v2(image(status=status)), records(known))
    assert found == ((known, known.error) if in_error else None)


def test_not_once_it_is_deleted_whatever_status_it_is_left_with() -> None:
    in_headers = v1.image_of(headers(deleted='True'), 'x')
    assert in_headers is not None
    for told in (image(deleted=True), in_headers):
        assert v2.error_of(v1.as_v2(told), records(record(error()))) is None
    for told in (image(deleted=False), v1.image_of(headers(deleted='False'), 'x') or {}):
        assert v2.error_of(v1.as_v2(told), records(record(error()))) is not None


@pytest.mark.parametrize(('holder', 'in_error'), [
    (running(guarded=True, alive=False), True), (running(guarded=True, alive=True), False)])
def test_not_while_a_newer_attempt_is_alive(holder: Running, in_error: bool) -> None:
    assert (v2.error_of(v1.as_v2(image()), records(record(error(), holder))) is not None) is in_error


def test_another_image_of_that_id_is_not_in_error() -> None:
    told = image(created_at='2027-01-01T00:00:00.000000')
    assert v2.error_of(v1.as_v2(told), records(record(error()))) is None


# What it shows

@pytest.mark.parametrize(('details', 'properties'), [(True, VERDICT | DETAILS), (False, VERDICT)])
@pytest.mark.parametrize('status', ['error', 'queued'])
def test_json(status: str, details: bool, properties: dict[str, str]) -> None:
    told = image(properties={'os_distro': 'debian', 'os_glance_image_error': 'made up', 'os-glance-image-error-x': ''})
    v1.show_error(told, record(), error(), status, details)
    assert told == image(status=status, size=0, checksum=None, virtual_size=None,
                         properties={'os_distro': 'debian', **properties})


@pytest.mark.parametrize(('details', 'properties'), [(True, VERDICT | DETAILS), (False, VERDICT)])
@pytest.mark.parametrize('status', ['error', 'queued'])
def test_headers(status: str, details: bool, properties: dict[str, str]) -> None:
    given = [*headers(), ('X-Image-Meta-Property-Os_Glance_Image_Error', 'made up')]
    shown = v1.show_error_in_headers(given, record(), error(), status, details)
    expected = dict(headers(status=status, size='0')) | {PROPERTY + name: value for name, value in properties.items()}
    for name in ('x-image-meta-checksum', 'x-image-meta-virtual_size', 'ETag'):
        del expected[name]
    assert sorted(shown) == sorted(expected.items())


def test_a_text_in_headers_is_one_line_of_printable_ascii() -> None:
    failed = error(text='Kein Platz für »x«…\r\nX-Evil: 1\t€ \u202e日本')
    shown = dict(v1.show_error_in_headers(headers(), record(), failed, 'error', details=True))
    assert shown[f'{PROPERTY}os_glance_image_error'] == 'Kein Platz fur ?x?... X-Evil: 1 ? ???'
    told = image()
    v1.show_error(told, record(), failed, 'error', details=True)
    assert told['properties']['os_glance_image_error'] == failed.text


@pytest.mark.parametrize('text', ['x' * 5000, 'ﷺ' * 1024, '…' * 1024])
def test_a_text_in_headers_is_not_long(text: str) -> None:
    assert len(v1.ascii_line(text)) <= 1024
    assert v1.ascii_line(text).isascii()


@pytest.mark.parametrize('code', codes.CODES)
def test_retryable_is_that_of_the_code(code: str) -> None:
    shown = dict(v1.show_error_in_headers(headers(), record(), error(code=code), 'error', details=False))
    assert shown[f'{PROPERTY}os_glance_image_error_retryable'] == str(codes.CODES[code].retryable).lower()


def test_a_brief_list_shows_six_fields() -> None:
    told = image()
    v1.show_error(told, record(), error(), 'error', details=True)
    assert v1.brief(told) == {'id': 'x', 'name': 'n', 'size': 0, 'checksum': None, 'disk_format': 'raw',
                              'container_format': 'bare'}


def test_an_answer_in_json_names_no_checksum_in_its_headers() -> None:
    assert v1.without_data([('ETag', 'c'), ('Location', 'l')]) == [('Location', 'l')]


@pytest.mark.parametrize(('status', 'give_up_at', 'shown_at'), [
    ('queued', AT, CREATED), ('saving', AT, CREATED), ('killed', AT, None), ('active', AT, None),
    ('queued', None, None)])
def test_the_deadline_of_an_image_that_waits(status: str, give_up_at: float | None, shown_at: str | None) -> None:
    known = records(record(give_up_at=give_up_at))
    told = image(status=status)
    assert v1.show_waiting(told, known) is (shown_at is not None)
    assert told['properties'].get('os_glance_image_give_up_at') == shown_at
    given = headers(status=status)
    shown = v1.show_waiting_in_headers(given, v1.as_v2(image(status=status)), known)
    more = [] if shown_at is None else [(f'{PROPERTY}os_glance_image_give_up_at', shown_at)]
    assert shown == given + more
    assert v1.show_waiting_in_headers(shown, v1.as_v2(image(status=status)), known) == shown


# What is asked

@pytest.mark.parametrize('size', ['abc', '+999', '-1', '5'])
def test_a_size_that_says_something_is_for_glance_to_judge(size: str) -> None:
    sent = environ(size=size) | {'PATH_INFO': '/v1/images', 'wsgi.input': BytesIO()}
    for taken in (v1.without_source(sent, 'y'), v1.of_source(sent, 'y')):
        assert taken['HTTP_X_IMAGE_META_SIZE'] == size


def test_the_id_that_the_client_has_chosen_is_taken_as_it_is() -> None:
    assert v1.chosen_id(environ(id='6C9B66D6d1274c21')) == '6C9B66D6d1274c21'
    assert v1.chosen_id(environ(id='')) is v1.chosen_id(environ()) is None


def test_a_create_that_brings_data_is_taken_apart() -> None:
    sent = environ(name='n', size='5', store='file', disk_format='raw', property_os_distro='debian') | {
        'REQUEST_METHOD': 'POST', 'PATH_INFO': '/v1/images', 'QUERY_STRING': 'x', 'CONTENT_LENGTH': '5',
        'CONTENT_TYPE': 'application/octet-stream', 'HTTP_EXPECT': '100-continue', 'wsgi.input': BytesIO(b'hello'),
        'HTTP_X_AUTH_TOKEN': 't'}
    before = dict(sent)
    create, upload = v1.without_source(sent, 'y'), v1.of_source(sent, 'y')
    assert sent == before
    assert create.pop('wsgi.input').read() == b''
    assert create == environ(id='y', name='n', size='5', store='file', disk_format='raw',
                             property_os_distro='debian') | {
        'REQUEST_METHOD': 'POST', 'PATH_INFO': '/v1/images', 'QUERY_STRING': 'x', 'HTTP_X_AUTH_TOKEN': 't'}
    assert upload.pop('wsgi.input').read() == b'hello'
    assert upload == environ(size='5', store='file') | {
        'REQUEST_METHOD': 'PUT', 'PATH_INFO': '/v1/images/y', 'QUERY_STRING': '', 'CONTENT_LENGTH': '5',
        'CONTENT_TYPE': 'application/octet-stream', 'HTTP_EXPECT': '100-continue', 'HTTP_X_AUTH_TOKEN': 't',
        'HTTP_X_GLANCE_REGISTRY_PURGE_PROPS': 'false'}


@pytest.mark.parametrize('size', ['0', '', '00', '+0'])
def test_glance_must_not_take_an_image_for_complete_before_its_data_comes(size: str) -> None:
    sent = environ(size=size) | {'PATH_INFO': '/v1/images', 'wsgi.input': BytesIO()}
    assert all('HTTP_X_IMAGE_META_SIZE' not in each for each in (v1.without_source(sent, 'y'), v1.of_source(sent, 'y')))


@pytest.mark.parametrize(('given', 'size'), [
    ('1000', 1000), (' 7 ', 7), ('0', None), ('', None), ('-1', None), ('x', None), ('1.5', None), ('²', None),
    ('9' * 30, None)])
def test_the_size_that_is_announced(given: str, size: int | None) -> None:
    assert v1.announced_size(environ(size=given)) == size


def test_no_size_is_announced() -> None:
    assert v1.announced_size(environ()) is None


@pytest.mark.parametrize(('given', 'keep'), [('true', True), ('Yes', True), ('1', True), ('off', False)])
def test_the_property_that_asks_to_keep_is_taken_out(given: str, keep: bool) -> None:
    before = environ(property_imgguard_keep_on_failure=given, property_other='x')
    rest, asked = v1.take_keep(before)
    assert asked is keep
    assert rest == environ(property_other='x')
    assert before == environ(property_imgguard_keep_on_failure=given, property_other='x')


def test_nothing_is_asked() -> None:
    before = environ(property_other='x')
    assert v1.take_keep(before) == (before, None)


@pytest.mark.parametrize('given', ['maybe', ''])
def test_a_property_that_cannot_be_understood(given: str) -> None:
    with pytest.raises(BadRequest, match='The property imgguard_keep_on_failure must be true or false'):
        v1.take_keep(environ(property_imgguard_keep_on_failure=given))


@pytest.mark.parametrize(('name', 'reserved'), [
    ('os_glance_image_error', True), ('os_glance_image_error_code', True), ('os_glance_image_error_new', True),
    ('os_glance_image_give_up_at', True),
    ('os_glance_image_errors', False), ('os_glance', False), ('error', False), ('imgguard_keep_on_failure', False)])
def test_names_of_the_guard(name: str, reserved: bool) -> None:
    for creates in (True, False):
        expected = name if reserved or (name == 'imgguard_keep_on_failure' and not creates) else None
        assert v1.reserved(environ(**{f'property_{name}': 'x', 'name': 'n'}), creates) == expected
    assert v1.is_reserved(name.replace('_', '-').title()) is reserved
