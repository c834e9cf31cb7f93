"""The client's word by PATCH: the data will never come; it may come after all; and removes that mean nothing."""

import gc
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webtest import TestResponse

from imgguard.api.updates import Declare, Drop, Malformed, Reset, Update, parse
from imgguard.attempts import Kind
from imgguard.store import Store
from tests.harness import InProcessGlance, in_process_only
from tests.identity import admin_token, reader_token, token
from tests.uploading import ERROR, ERROR_PROPERTIES, KEEP, Images, Pipelines, comparable, new_project

DATA = b'data of an image' * 4096
V2_1 = 'application/openstack-images-v2.1-json-patch'
V2_0 = 'application/openstack-images-v2.0-json-patch'
DEFAULT_TEXT = 'It was declared that the data of this image will never arrive.'

Operation = Mapping[str, Any]

DECLARED: Operation = {'op': 'replace', 'path': '/status', 'value': 'error'}
QUEUED: Operation = {'op': 'replace', 'path': '/status', 'value': 'queued'}
TEXT: Operation = {'op': 'add', 'path': f'/{ERROR}', 'value': 'the producer gave up'}
TAGS: Operation = {'op': 'replace', 'path': '/tags', 'value': ['red']}
NAME: Operation = {'op': 'replace', 'path': '/name', 'value': 'other'}
TAKE_BACK: Operation = {'op': 'remove', 'path': f'/{ERROR}'}
COMPANION: Operation = {'op': 'remove', 'path': f'/{ERROR}_code'}


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'))


@pytest.fixture
def project() -> str:
    return new_project()


@pytest.fixture
def images(pipelines: Pipelines, project: str) -> Images:
    return Images(pipelines.guarded, token('alice', project))


def of_v2_0(operation: Operation) -> Operation:
    """The same operation in the older of Glance's media types."""
    return {operation['op']: operation['path'], **{key: operation[key] for key in ('value',) if key in operation}}


def patch(images: Images, image_id: str, *operations: Operation, media_type: str = '2.1') -> TestResponse:
    if media_type == '2.0':
        operations = tuple(of_v2_0(operation) for operation in operations)
    return images.patch(image_id, *operations, media_type=media_type)


# What an update says

@pytest.mark.parametrize(('operations', 'word', 'rest'), [
    ([DECLARED], Declare(''), []),
    ([DECLARED, TEXT], Declare('the producer gave up'), []),
    ([TEXT, TAGS, DECLARED], Declare('the producer gave up'), [TAGS]),
    ([DECLARED, {**TEXT, 'op': 'replace'}], Declare('the producer gave up'), []),
    ([DECLARED, {**TEXT, 'value': ' two\nlines\x00 '}], Declare('two lines'), []),
    ([DECLARED, {**TEXT, 'value': 'x' * 2000}], Declare('x' * 1023 + '…'), []),
    ([QUEUED], Reset(by_status=True), []),
    ([QUEUED, TAGS], Reset(by_status=True), [TAGS]),
    ([QUEUED, TAKE_BACK, COMPANION], Reset(by_status=True), []),
    ([TAKE_BACK], Reset(by_status=False), []),
    ([TAGS, TAKE_BACK], Reset(by_status=False), [TAGS]),
    ([{'op': 'remove', 'path': f' /{ERROR}'.strip() + ' '}], Reset(by_status=False), []),
    ([TAKE_BACK, NAME], Drop(), [NAME]),
    ([TAKE_BACK, COMPANION], Drop(), []),
    ([TAKE_BACK, TAKE_BACK], Drop(), []),
    ([COMPANION], Drop(), []),
    ([{'op': 'remove', 'path': '/os_glance_image_give_up_at'}, TAGS], Drop(), [TAGS]),
])
def test_words(operations: list[Operation], word: object, rest: list[Operation]) -> None:
    assert parse(json.dumps(operations).encode(), V2_1) == Update(word, tuple(rest))  # type: ignore[arg-type]
    old = [of_v2_0(operation) for operation in operations]
    assert parse(json.dumps(old).encode(), f'{V2_0}; charset=utf-8') == Update(
        word, tuple(of_v2_0(operation) for operation in rest))  # type: ignore[arg-type]


@pytest.mark.parametrize('operations', [
    [DECLARED, NAME], [DECLARED, TEXT, NAME], [DECLARED, TEXT, TEXT], [DECLARED, DECLARED], [DECLARED, QUEUED],
    [DECLARED, TAKE_BACK], [DECLARED, COMPANION], [DECLARED, {**TEXT, 'path': f'/{ERROR}_code'}],
    [DECLARED, {**TEXT, 'value': 5}], [DECLARED, {**TEXT, 'value': None}], [QUEUED, NAME], [QUEUED, TEXT],
], ids=str)
def test_words_that_cannot_be_obeyed(operations: list[Operation]) -> None:
    update = parse(json.dumps(operations).encode(), V2_1)
    assert update is not None and isinstance(update.word, Malformed)


@pytest.mark.parametrize('operations', [
    [], [NAME], [TAGS], [TEXT], [TEXT, NAME], [{**DECLARED, 'value': 'active'}], [{**DECLARED, 'op': 'add'}],
    [{'op': 'remove', 'path': '/status'}], [{'op': 'replace', 'path': '/status'}], [{**DECLARED, 'path': '/status/0'}],
    [{**DECLARED, 'path': 'status'}], [{**DECLARED, 'path': '/Status'}], [{'replace': '/status', 'value': 'error'}],
    [DECLARED, 'x'], [DECLARED, {'op': 'test', 'path': '/x', 'value': 'y'}], [{**TAKE_BACK, 'path': f'/{ERROR}/0'}],
    [{'op': 'remove', 'path': '/os_glance_failed_import'}], {'op': 'replace'}, 5, None,
], ids=str)
def test_what_means_nothing_to_the_guard(operations: object) -> None:
    assert parse(json.dumps(operations).encode(), V2_1) is None


@pytest.mark.parametrize('media_type', ['application/json', '', V2_0.upper(), V2_0])
def test_a_word_in_another_form_is_none(media_type: str) -> None:
    assert parse(json.dumps([DECLARED]).encode(), media_type) is None


def test_escapes_hide_nothing() -> None:
    assert parse(b'[{"op": "replace", "path": "/\\u0073tatus", "value": "error"}]', V2_1) == Update(Declare(''), ())


def test_no_json() -> None:
    assert parse(b'status', V2_1) is None
    assert parse(b'["status"' * 100000, V2_1) is None


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.sampled_from(['/status', 'error', 'replace', '/']),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(['op', 'path', 'value', 'replace', 'remove', 'add']), inner, max_size=4))


@given(JSON, st.sampled_from([V2_0, V2_1]))
def test_nothing_is_ever_raised(document: object, media_type: str) -> None:
    parse(json.dumps([document, 'status']).encode(), media_type)
    parse(json.dumps(document).encode(), media_type)


# Declare

@pytest.mark.parametrize('media_type', ['2.1', '2.0'])
def test_an_image_that_will_never_come(pipelines: Pipelines, images: Images, media_type: str) -> None:
    image_id = images.created()
    answer = patch(images, image_id, DECLARED, TEXT, TAGS, media_type=media_type)
    assert answer.status_int == 200
    shown = images.show(image_id)
    assert answer.json == shown
    assert shown['tags'] == ['red']
    request_id = answer.headers['x-openstack-request-id']
    assert {name: shown[name] for name in ('status', *ERROR_PROPERTIES) if not name.endswith('_at')} == {
        'status': 'error', ERROR: 'the producer gave up', f'{ERROR}_code': 'declared', f'{ERROR}_retryable': 'false',
        f'{ERROR}_attempts': '0', f'{ERROR}_request_id': request_id}
    assert images.listed('status=error') == [image_id]
    attempt, = pipelines.attempts(image_id)
    assert (attempt.kind, attempt.user_id, attempt.code, attempt.message) == (
        Kind.DECLARE, 'alice', 'declared', 'the producer gave up')


def test_without_a_text(images: Images) -> None:
    for operations in ([DECLARED], [DECLARED, {**TEXT, 'value': ' \n'}]):
        image_id = images.created()
        assert patch(images, image_id, *operations).json[ERROR] == DEFAULT_TEXT


def test_an_image_in_error_takes_the_last_word(pipelines: Pipelines, images: Images) -> None:
    image_id = images.in_error()
    shown = patch(images, image_id, DECLARED, TEXT).json
    assert (shown[f'{ERROR}_code'], shown[f'{ERROR}_attempts']) == ('declared', '1')
    assert [attempt.code for attempt in pipelines.attempts(image_id)] == ['client_disconnected', 'declared']


def test_the_data_may_come_after_all(images: Images) -> None:
    image_id = images.created()
    patch(images, image_id, DECLARED)
    assert images.upload(image_id, DATA).status_int == 204
    assert images.show(image_id)['status'] == 'active'


def test_an_active_image_stays_active(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created()
    images.upload(image_id, DATA)
    for operation in (DECLARED, QUEUED):
        refused = patch(images, image_id, operation, TAGS)
        assert refused.status_int == 409
        assert 'The image is active: only an image that was never active can be put in error' in refused.text
    assert images.show(image_id)['tags'] == []
    assert pipelines.record(image_id) is None


def test_not_while_an_attempt_is_alive(images: Images) -> None:
    image_id = images.in_error()
    with images.uploading(image_id) as running:
        for operation in (DECLARED, QUEUED, TAKE_BACK):
            refused = patch(images, image_id, operation, TAGS)
            assert refused.status_int == 409
            assert 'An upload or import of this image is under way.' in refused.text
    assert running.answer is not None and running.answer.status_int == 204
    assert images.show(image_id)['tags'] == []


@pytest.mark.parametrize('operations', [[DECLARED, NAME], [DECLARED, {**TEXT, 'value': 5}], [QUEUED, NAME]], ids=str)
def test_a_word_among_others_changes_nothing(
    pipelines: Pipelines, images: Images, operations: list[Operation],
) -> None:
    image_id = images.created()
    before = images.show(image_id)
    assert patch(images, image_id, *operations).status_int == 400
    assert (images.show(image_id), pipelines.record(image_id)) == (before, None)


def test_tags_that_glance_refuses_leave_the_image_as_it_is(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created()
    assert patch(images, image_id, DECLARED, {**TAGS, 'value': 'red'}).status_int == 400
    assert pipelines.record(image_id) is None


@pytest.mark.parametrize('operations', [
    [{**DECLARED, 'value': 'active'}], [{**DECLARED, 'value': 'killed'}], [{**DECLARED, 'op': 'add'}],
    [{'op': 'remove', 'path': '/status'}], [TEXT], [TEXT, NAME], [{**TEXT, 'path': f'/{ERROR}_code'}],
    [{**DECLARED, 'path': '/status/x'}], [{'op': 'replace', 'path': '/status'}],
], ids=str)
@pytest.mark.parametrize('media_type', ['2.1', '2.0'])
def test_everything_else_is_glances(
    pipelines: Pipelines, project: str, media_type: str, operations: list[Operation],
) -> None:
    guarded, bare = pipelines.callers(token('alice', project))
    answers = [patch(each, image_id, *operations, media_type=media_type)
               for each, image_id in ((guarded, guarded.in_error()), (bare, bare.created()))]
    assert answers[0].status_int in (400, 403)
    assert comparable(answers[0]) == comparable(answers[1])


WORDS = {'declare': [DECLARED, TEXT], 'reset': [QUEUED], 'take back': [TAKE_BACK], 'drop': [TAKE_BACK, NAME],
         'nonsense': [DECLARED, NAME]}


@pytest.mark.parametrize('word', WORDS)
@pytest.mark.parametrize('who', ['reader', 'stranger', 'nobody'])
def test_who_may_not_modify_gets_glances_answer(
    pipelines: Pipelines, images: Images, project: str, who: str, word: str,
) -> None:
    outsider = {'reader': reader_token('carol', project), 'stranger': token('mallory', new_project()), 'nobody': ''}
    twin = Images(pipelines.bare, images.caller).created()
    for image_id in (images.created(KEEP), images.in_error()):
        before = images.show(image_id), pipelines.attempts(image_id)
        refused = patch(Images(pipelines.guarded, outsider[who]), image_id, *WORDS[word])
        assert refused.status_int in (401, 403, 404)
        assert comparable(refused) == comparable(patch(Images(pipelines.bare, outsider[who]), twin, *WORDS[word]))
        assert (images.show(image_id), pipelines.attempts(image_id)) == before


def test_an_image_that_is_not_there(pipelines: Pipelines, project: str) -> None:
    guarded, bare = pipelines.callers(token('alice', project))
    missing = '00000000-0000-4000-8000-000000000000'
    for operations in WORDS.values():
        assert comparable(patch(guarded, missing, *operations)) == comparable(patch(bare, missing, *operations))


def test_an_admin_may_declare_for_a_project(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created()
    assert patch(Images(pipelines.guarded, admin_token()), image_id, DECLARED).status_int == 200
    assert images.show(image_id)['status'] == 'error'


@in_process_only('a proxy has no way to staged data')
def test_staged_data_does_not_stand_in_the_way_of_an_upload(images: Images) -> None:
    image_id = images.created(KEEP)
    octets = {'Content-Type': 'application/octet-stream'}
    assert images.request('PUT', f'/v2/images/{image_id}/stage', octets, DATA).status_int == 204
    assert patch(images, image_id, DECLARED).status_int == 200
    assert images.show(image_id)['status'] == 'error'
    assert images.upload(image_id, DATA).status_int == 204
    assert images.show(image_id)['status'] == 'active'


# Reset

@pytest.mark.parametrize('media_type', ['2.1', '2.0'])
@pytest.mark.parametrize('operations', [[QUEUED], [QUEUED, TAGS], [TAKE_BACK], [TAGS, TAKE_BACK], [QUEUED, TAKE_BACK]],
                         ids=str)
def test_back_to_waiting(
    pipelines: Pipelines, images: Images, operations: list[Operation], media_type: str,
) -> None:
    for in_error in (True, False):
        image_id = images.in_error() if in_error else images.created(KEEP)
        patch(images, image_id, DECLARED)
        answer = patch(images, image_id, *operations, media_type=media_type)
        assert (answer.status_int, answer.json['status']) == (200, 'queued')
        assert not ERROR_PROPERTIES & answer.json.keys()
        assert answer.json['tags'] == (['red'] if TAGS in operations else [])
        assert image_id in images.listed('status=queued') and images.listed('status=error') == []
        assert pipelines.attempts(image_id)[-1].code == 'declared'
        assert images.upload(image_id, DATA).status_int == 204


def test_an_image_that_waits_goes_on_waiting(pipelines: Pipelines, images: Images) -> None:
    kept, unknown = images.created(KEEP), images.created()
    for image_id in (kept, unknown):
        assert patch(images, image_id, QUEUED).json['status'] == 'queued'
    assert patch(images, kept, TAKE_BACK).json['status'] == 'queued'
    assert pipelines.record(unknown) is None


def test_a_deadline_that_has_passed_does_not_put_it_back_in_error(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created(KEEP)
    pipelines.store.remember(image_id, images.show(image_id)['created_at'], None, None, 0.001)
    assert images.show(image_id)[f'{ERROR}_code'] == 'never_arrived'
    patch(images, image_id, QUEUED)
    assert images.show(image_id)['status'] == 'queued'


def test_data_that_was_rejected_is_not_uncovered(images: Images) -> None:
    # Glance leaves such data downloadable (facts of disk_format and content).
    image_id = images.created(KEEP, disk_format='qcow2')
    assert images.upload(image_id, DATA).status_int == 415
    answer = patch(images, image_id, QUEUED)
    if answer.status_int == 409:
        assert 'A failed attempt has left remains that are not cleared away yet' in answer.text
        assert images.show(image_id)['status'] == 'error'
    else:
        assert answer.status_int == 200
    assert images.download(image_id).status_int == 204


# Removes that mean nothing

@pytest.mark.parametrize('media_type', ['2.1', '2.0'])
@pytest.mark.parametrize('operations', [[TAKE_BACK, NAME], [NAME, COMPANION], [TAKE_BACK, COMPANION, NAME]], ids=str)
def test_sdks_remove_what_they_do_not_know_with_every_update(
    images: Images, operations: list[Operation], media_type: str,
) -> None:
    image_id = images.in_error()
    answer = patch(images, image_id, *operations, media_type=media_type)
    assert (answer.status_int, answer.json['name'], answer.json['status']) == (200, 'other', 'error')


def test_they_do_so_too_when_the_image_has_become_active(images: Images) -> None:
    image_id = images.in_error()
    images.upload(image_id, DATA)
    for operations in ([TAKE_BACK, NAME], [COMPANION], [TAKE_BACK]):
        assert patch(images, image_id, *operations).json['status'] == 'active'


def test_companions_alone_are_no_reset(images: Images) -> None:
    image_id = images.in_error()
    for operations in ([COMPANION], [TAKE_BACK, COMPANION], [COMPANION, TAGS]):
        assert patch(images, image_id, *operations).json['status'] == 'error'


def test_on_an_image_the_guard_does_not_know_they_are_glances(pipelines: Pipelines, project: str) -> None:
    guarded, bare = pipelines.callers(token('alice', project))
    for operations in ([TAKE_BACK], [TAKE_BACK, NAME], [COMPANION]):
        answers = [patch(each, each.created(), *operations) for each in (guarded, bare)]
        assert answers[0].status_int == 403
        assert comparable(answers[0]) == comparable(answers[1])


# When the guard's store is down

def test_an_outage_of_the_store(in_process_glance: InProcessGlance, tmp_path: Path) -> None:
    pipelines = Pipelines(in_process_glance, tmp_path)
    guarded, bare = pipelines.callers()
    image_id, twin = guarded.created(), bare.created()
    shutil.rmtree(tmp_path)
    # An open SQLite file outlives its removal; after it no thread opens it anew.
    for each in gc.get_objects():
        if type(each) is Store:
            each.close()
    for operation in (DECLARED, QUEUED):
        refused = patch(guarded, image_id, operation)
        assert refused.status_int == 500 and 'This cannot be stored now; try again later.' in refused.text
    for operations in ([NAME], [TAKE_BACK], [TAKE_BACK, NAME]):
        assert comparable(patch(guarded, image_id, *operations)) == comparable(patch(bare, twin, *operations))
