"""How the Images API v2 spells an image in error, and which documents the guard touches."""

import json
from typing import Any

import pytest

from imgguard import codes
from imgguard.api import v2
from imgguard.attempts import ErrorState, ImageRecord, Kind, Running

CREATED = '2026-11-22T22:19:29Z'
AT = 1795385969.9  # 2026-11-22T22:19:29Z


def image(**changes: Any) -> dict[str, Any]:
    """An image as Glance shows it, with everything a rejected upload can leave in it."""
    return {'id': 'x', 'created_at': CREATED, 'status': 'queued', 'name': 'n', 'size': 5, 'virtual_size': 5,
            'checksum': 'c', 'os_hash_algo': 'sha512', 'os_hash_value': 'h', 'stores': 'fs', 'direct_url': 'file:///x',
            'locations': [{'url': 'file:///x'}], 'tags': [], **changes}


def error(**changes: Any) -> ErrorState:
    return ErrorState(**{'number': 2, 'code': codes.STORAGE_FULL, 'text': 'No room.', 'at': AT, 'request_id': 'req-1',
                         'bytes_received': 5, **changes})


def running(guarded: bool, alive: bool) -> Running:
    return Running(3, guarded, alive, since=0, kind=Kind.UPLOAD, host='h', worker='w', task_id=None, silent_for=0)


def record(error: ErrorState | None = None, running: Running | None = None,
           give_up_at: float | None = None) -> ImageRecord:
    return ImageRecord(key=1, image_id='x', created_at=CREATED, owner='red', keep=True, attempts=3,
                       give_up_at=give_up_at, overdue=False, error=error, running=running, deleted=False,
                       last_number=3, cleared_number=0, remains=True)


def records(known: ImageRecord) -> dict[tuple[str, str], ImageRecord]:
    return {(known.image_id, known.created_at): known}


# Whether an image is in error now

@pytest.mark.parametrize(('status', 'in_error'), [
    ('queued', True), ('saving', True), ('uploading', True), ('importing', True),
    ('active', False), ('deactivated', False), ('deleted', False), ('pending_delete', False), ('killed', True),
    ('something new', False)])
def test_only_an_image_without_data_can_be_in_error(status: str, in_error: bool) -> None:
    known = record(error())
    found = v2.error_of(image(status=status), records(known))
    assert found == ((known, known.error) if in_error else None)


@pytest.mark.parametrize(('holder', 'in_error'), [
    (None, True),
    (running(guarded=True, alive=False), True),
    (running(guarded=True, alive=True), False),
    (running(guarded=False, alive=True), False),    # an unguarded attempt is one too
])
def test_not_while_a_newer_attempt_is_alive(holder: Running | None, in_error: bool) -> None:
    assert (v2.error_of(image(), records(record(error(), holder))) is not None) is in_error


def test_other_images_are_not_in_error() -> None:
    assert v2.error_of(image(), {}) is None
    assert v2.error_of(image(), records(record())) is None
    assert v2.error_of(image(created_at='2027-01-01T00:00:00Z'), records(record(error()))) is None  # the id came back


# What it shows

def test_everything_is_for_the_owner() -> None:
    shown = image()
    v2.show_error(shown, record(error()), error(), 'error', details=True)
    assert shown == {
        'id': 'x', 'created_at': CREATED, 'status': 'error', 'name': 'n', 'tags': [],
        'size': None, 'virtual_size': None, 'checksum': None, 'os_hash_algo': None, 'os_hash_value': None,
        'os_glance_image_error': 'No room.',
        'os_glance_image_error_code': 'storage_full',
        'os_glance_image_error_at': CREATED,
        'os_glance_image_error_retryable': 'true',
        'os_glance_image_error_request_id': 'req-1',
        'os_glance_image_error_attempts': '3'}


def test_others_see_status_code_time_and_retryable() -> None:
    shown = image()
    v2.show_error(shown, record(error()), error(), 'error', details=False)
    assert {name: value for name, value in shown.items() if 'error' in name} == {
        'os_glance_image_error_code': 'storage_full', 'os_glance_image_error_at': CREATED,
        'os_glance_image_error_retryable': 'true'}
    assert shown['status'] == 'error'


@pytest.mark.parametrize('code', codes.CODES)
def test_retryable_is_that_of_the_code(code: str) -> None:
    shown = image()
    v2.show_error(shown, record(), error(code=code), 'error', details=False)
    assert shown['os_glance_image_error_retryable'] == ('true' if codes.CODES[code].retryable else 'false')


def test_the_status_can_be_killed_and_there_may_be_no_request_id() -> None:
    shown = image()
    v2.show_error(shown, record(), error(request_id=None), 'killed', details=True)
    assert shown['status'] == 'killed'
    assert 'os_glance_image_error_request_id' not in shown


def test_nothing_is_added_that_glance_does_not_show() -> None:
    shown = {'id': 'x', 'created_at': CREATED, 'status': 'queued'}
    v2.show_error(shown, record(), error(), 'error', details=False)
    assert not {'size', 'checksum', 'stores'} & set(shown)


@pytest.mark.parametrize(('status', 'give_up_at', 'shown_at'), [
    ('queued', AT, CREATED), ('importing', AT, CREATED), ('active', AT, None), ('queued', None, None)])
def test_the_deadline_of_an_image_that_waits(status: str, give_up_at: float | None, shown_at: str | None) -> None:
    shown = image(status=status)
    assert v2.show_waiting(shown, records(record(give_up_at=give_up_at))) is (shown_at is not None)
    assert shown.get('os_glance_image_give_up_at') == shown_at
    assert not v2.show_waiting(shown, {})


@pytest.mark.parametrize(('seconds', 'text'), [
    (0, '1970-01-01T00:00:00Z'), (1795385969.999, '2026-11-22T22:19:29Z'), (253402300799, '9999-12-31T23:59:59Z')])
def test_timestamp(seconds: float, text: str) -> None:
    assert v2.timestamp(seconds) == text


# Which answers are looked at

@pytest.mark.parametrize(('document', 'ids'), [
    (image(), ['x']),
    ({'images': [image(), image(id='y')], 'next': '/v2/images'}, ['x', 'y']),
    ({'images': []}, []),
    ({'images': [image(), {'id': 'no status'}, 'no image', None]}, ['x']),
    (image(images='a property of that name'), ['x']),
    (image(status=None), []),
    ({'images': 'x'}, []),
    ({}, []), ([image()], []), ('x', []), (None, []),
])
def test_images_of(document: Any, ids: list[str]) -> None:
    assert [found['id'] for found in v2.images_of(document)] == ids


@pytest.mark.parametrize('status', ['queued', 'saving', 'uploading', 'importing'])
def test_an_answer_with_a_waiting_image_may_show_an_error(status: str) -> None:
    assert v2.may_be_in_error(v2.dump(image(status=status)))
    assert v2.may_be_in_error(v2.dump({'images': [image(status='active'), image(status=status)]}))
    assert v2.may_be_in_error(json.dumps(image(status=status), separators=(',', ':')).encode())


def test_an_answer_without_one_cannot() -> None:
    assert not v2.may_be_in_error(v2.dump(image(status='active')))
    assert not v2.may_be_in_error(v2.dump(image(status='active', name='queued')))


def listed(*images: dict[str, Any], **around: str) -> dict[str, Any]:
    """As Glance writes a list."""
    return {'images': list(images), 'first': '/v2/images', 'schema': '/v2/schemas/images', **around}


def entry(image_id: str, stores: str | None = None, **changes: Any) -> dict[str, Any]:
    """As Glance writes an image of a list; the last two come last."""
    return {**image(id=image_id, **changes), 'schema': '/v2/schemas/image', **({'stores': stores} if stores else {})}


END = '"schema": "/v2/schemas/image"}, {"id": "z"'


@pytest.mark.parametrize('document', [
    listed(entry('x')), listed(entry('x'), entry('y'), entry('z'), next='/v2/images?marker=z'),
    listed(entry('x', stores='fs,ceph'), entry('y'), entry('z', stores='fs')), listed(entry('x', name='Größe')),
    # What looks like the end of an image: in a text it is escaped, in the metadata of a location it is not.
    listed(entry('x', name=END), entry('y', name=f'}}, {{{END}')),
    listed(entry('x', locations=[{'metadata': {'a': [{'schema': '/v2/schemas/image'}, {'id': 'z'}]}}]), entry('y')),
    # Not as Glance writes it.
    listed(image(), image(id='y')), listed(entry('x'), {'id': 'no image'}), {'next': '', **listed(entry('x'))},
    image(), image(images='a property of that name'),
], ids=lambda document: None)
def test_an_answer_is_written_again_with_some_of_its_images_changed(document: Any) -> None:
    count = len(v2.images_of(document))
    for changed in {frozenset({0}), frozenset({count - 1}), frozenset(range(count))}:
        page, expected = v2.Page(v2.dump(document)), json.loads(json.dumps(document))
        for number in changed:
            for each in (page.images[number], v2.images_of(expected)[number]):
                each['status'] = 'error'
                each['more'] = 'behind the end'
        assert page.written(changed) == v2.dump(expected)


@pytest.mark.parametrize('document', [listed(entry('x'), entry('y', stores='fs'), entry('z'))])
def test_images_of_a_list_that_are_not_changed_are_not_written_anew(
        document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = v2.Page(v2.dump(document))
    monkeypatch.setattr(v2, 'dump', None)
    assert page.written({1}) == json.dumps(document, ensure_ascii=False).encode()


def test_dump_is_glances_json() -> None:
    assert v2.dump({'name': 'Größe', 'tags': ['a']}) == '{"name": "Größe", "tags": ["a"]}'.encode()


# Updates that would write a reserved name

NAME = 'imgguard_keep_on_failure'


@pytest.mark.parametrize(('operations', 'writes'), [
    ([{'op': 'add', 'path': f'/{NAME}', 'value': 'true'}], True),
    ([{'op': 'replace', 'path': f'/{NAME}', 'value': 'true'}], True),
    ([{'op': 'replace', 'path': '/name', 'value': 'x'}, {'op': 'add', 'path': f'/{NAME}', 'value': 'x'}], True),
    ([{'op': 'add', 'path': f'// {NAME} ', 'value': 'true'}], True),     # Glance takes it for the same
    ([{'op': 'remove', 'path': f'/{NAME}'}], False),
    ([{'op': 'add', 'path': f'/{NAME}s', 'value': 'true'}], False),
    ([{'op': 'add', 'path': '/name', 'value': NAME}], False),
    # the older form
    ([{'add': f'/{NAME}', 'value': 'true'}], True),
    ([{'replace': f'/{NAME}', 'value': 'true'}], True),
    ([{'remove': f'/{NAME}'}], False),
    # a member of the other form does not hide it
    ([{'op': 'remove', 'path': '/x', 'replace': f'/{NAME}', 'value': 'true'}], True),
    ([{'op': 'add', 'path': '/x', 'add': f'/{NAME}', 'value': 'true'}], True),
    # what Glance refuses anyway
    ([{'op': ['add'], 'path': f'/{NAME}'}], False),
    ([{'op': 'add', 'path': None}], False),
    ([{'op': 'add'}], False),
    ([5, None, 'x', {}], False),
    ({'op': 'add', 'path': f'/{NAME}'}, False),
    ('x', False),
])
def test_writes(operations: object, writes: bool) -> None:
    assert (NAME in v2.written(json.dumps(operations).encode())) is writes


@pytest.mark.parametrize('body', [b'', b'no JSON', b'\xff', b'[' * 100_000])
def test_a_document_that_is_none_writes_nothing(body: bytes) -> None:
    assert NAME not in v2.written(body)


def test_escapes_do_not_hide_a_name() -> None:
    assert NAME in v2.written(b'[{"op": "add", "path": "/imgguard\\u005fkeep_on_failure", "value": "true"}]')


# Schemas

ADDED = ['os_glance_image_error', 'os_glance_image_error_code', 'os_glance_image_error_at',
         'os_glance_image_error_retryable', 'os_glance_image_error_request_id', 'os_glance_image_error_attempts',
         'os_glance_image_give_up_at']


def schema() -> dict[str, Any]:
    return {'name': 'image', 'properties': {
        'status': {'type': 'string', 'enum': ['queued', 'active', 'killed']},
        'name': {'type': ['null', 'string']}}, 'additionalProperties': {'type': 'string'}}


def list_schema() -> dict[str, Any]:
    return {'name': 'images', 'properties': {'images': {'type': 'array', 'items': schema()}}}


@pytest.mark.parametrize('of_list', [False, True])
def test_the_schema_knows_status_and_properties(of_list: bool) -> None:
    extended = v2.extend_schema(list_schema() if of_list else schema(), of_list, 'error')
    assert extended is not None
    of_image = extended['properties']['images']['items'] if of_list else extended
    assert of_image['properties']['status']['enum'] == ['queued', 'active', 'killed', 'error']
    assert list(of_image['properties']) == ['status', 'name', *ADDED]
    for name in ADDED:
        added = of_image['properties'][name]
        assert (added['type'], added['readOnly']) == (['null', 'string'], True)
        assert added['description'].endswith('.') and 'is_base' not in added
    assert of_image['additionalProperties'] == {'type': 'string'}


def test_a_status_the_schema_knows_is_not_added_again() -> None:
    extended = v2.extend_schema(schema(), False, 'killed')
    assert extended is not None
    assert extended['properties']['status']['enum'] == ['queued', 'active', 'killed']


def test_a_property_the_operator_has_defined_is_left_alone() -> None:
    mine = schema()
    mine['properties']['os_glance_image_error'] = {'type': 'string'}
    extended = v2.extend_schema(mine, False, 'error')
    assert extended is not None
    assert extended['properties']['os_glance_image_error'] == {'type': 'string'}


@pytest.mark.parametrize('document', [
    None, 5, 'x', [], {}, {'properties': None}, {'properties': {'status': {}}},
    {'properties': {'status': {'enum': 5}}}])
@pytest.mark.parametrize('of_list', [False, True])
def test_a_schema_of_another_shape_is_none(document: Any, of_list: bool) -> None:
    assert v2.extend_schema(document, of_list, 'error') is None


@pytest.mark.parametrize('code', codes.CODES)
def test_the_schema_tells_all_codes(code: str) -> None:
    extended = v2.extend_schema(schema(), False, 'error')
    assert extended is not None
    assert code in extended['properties']['os_glance_image_error_code']['description']
