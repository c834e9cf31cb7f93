"""The story: an upload fails, the image stays and says why, and is uploaded again on the same id.

Everything here is the real Glance in this process; a body that is cut or broken is one as a server
delivers it.
"""

import base64
import hashlib
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp

from imgguard.attempts import ImageRecord, State
from tests.cases import proves
from tests.harness import THROUGH_PROXY, InProcessGlance, in_process_only
from tests.identity import reader_token, token
from tests.uploading import (
    ERROR,
    ERROR_PROPERTIES,
    KEEP,
    KEPT,
    Body,
    Images,
    Meanwhile,
    Pipelines,
    comparable,
    new_project,
)

DATA = b'data of an image' * 8192
SHA_256 = f'sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:'
LOST = OSError('Connection reset by peer')


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'))


@pytest.fixture
def project() -> str:
    return new_project()


@pytest.fixture
def images(pipelines: Pipelines, project: str) -> Images:
    """A member of a project that has no other images, in front of the guard."""
    return Images(pipelines.guarded, token('alice', project))


@pytest.fixture
def bare(pipelines: Pipelines, project: str) -> Images:
    """The same member in front of the bare Glance."""
    return Images(pipelines.bare, token('alice', project))


def errors_shown(image: dict[str, Any]) -> set[str]:
    """The properties of the error state that an image shows."""
    return {name for name in image if name.startswith(ERROR)}


def test_a_create_that_asks_to_keep_is_answered_guarded(images: Images) -> None:
    created = images.create(KEEP)
    assert (created.status_int, created.headers[KEPT]) == (201, 'guarded')
    assert created.json['status'] == 'queued'
    assert not errors_shown(created.json)


CUTS = {
    'Content-Length, the connection ends': (Body([b'x' * 300]), {'CONTENT_LENGTH': '1000'}, '300 of 1000 bytes'),
    'Content-Length, the connection breaks': (Body([b'x' * 300, LOST]), {'CONTENT_LENGTH': '1000'}, 'of 1000 bytes'),
    'chunked': (Body([b'x' * 300, LOST]), {}, 'bytes had arrived'),
}


@pytest.mark.parametrize('cut', CUTS.values(), ids=CUTS)
def test_a_cut_upload_leaves_the_image_in_error(
    images: Images, bare: Images, cut: tuple[Body, dict[str, str], str],
) -> None:
    body, environ, how_far = cut
    image_id = images.created(KEEP)
    before = datetime.now(UTC) - timedelta(seconds=1)
    failed = images.upload(image_id, body, environ=environ)
    # A real server says of a chunk that broke off that the request is bad.
    broken = 400 if THROUGH_PROXY and 'CONTENT_LENGTH' not in environ else 500
    assert (failed.status_int, failed.headers[KEPT]) == (broken, 'error')

    image = images.show(image_id)
    assert image['status'] == 'error'
    assert errors_shown(image) == ERROR_PROPERTIES
    assert 'connection to the client was lost' in image[ERROR] and how_far in image[ERROR]
    assert image[ERROR].isprintable() and len(image[ERROR]) <= 1024
    assert image[f'{ERROR}_code'] == 'client_disconnected'
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', image[f'{ERROR}_at'])
    assert before <= datetime.fromisoformat(image[f'{ERROR}_at']) <= datetime.now(UTC)
    assert image[f'{ERROR}_retryable'] == 'true'
    assert image[f'{ERROR}_request_id'] == failed.headers['x-openstack-request-id']
    assert image[f'{ERROR}_attempts'] == '1'
    # Glance itself knows nothing of it.
    assert bare.show(image_id)['status'] == 'queued'
    assert not errors_shown(bare.show(image_id))


def test_the_answer_to_a_failed_upload_is_glances_own(images: Images, bare: Images) -> None:
    guarded, alone = images.upload_cut(images.created(KEEP)), bare.upload_cut(bare.created())
    del guarded.headers[KEPT]
    assert comparable(guarded) == comparable(alone)


def test_show_list_and_update_tell_the_same(images: Images) -> None:
    image_id = images.in_error()
    shown = images.show(image_id)
    assert images.request('GET', '/v2/images').json['images'] == [shown]
    assert images.request('GET', '/v2/images?status=error').json['images'] == [shown]
    updated = images.patch(image_id, {'op': 'replace', 'path': '/name', 'value': 'other'})
    assert updated.status_int == 200
    assert {**updated.json, 'updated_at': None} == {**shown, 'name': 'other', 'updated_at': None}
    assert images.listed('status=queued') == []


def test_an_image_in_error_has_no_data(images: Images, bare: Images) -> None:
    image_id = images.in_error()
    image = images.show(image_id)
    assert [image[name] for name in ('size', 'virtual_size', 'checksum', 'os_hash_algo', 'os_hash_value')] == [None] * 5
    assert not {'stores', 'direct_url', 'locations'} & set(image)
    assert comparable(images.download(image_id)) == comparable(bare.download(bare.created()))


def test_data_that_glance_rejected_and_kept_is_not_shown(
    bare: Images, in_process_glance: InProcessGlance, tmp_path: Path,
) -> None:
    # Glance leaves the file, its location and its hashes behind when the format is wrong.
    images = Images(Pipelines(in_process_glance, tmp_path, requeue='off').guarded, bare.caller)
    image_id = images.created(KEEP, disk_format='qcow2')
    assert images.upload(image_id, DATA).status_int == 415
    left_behind = bare.show(image_id)
    assert left_behind['checksum'] and left_behind['stores'] == 'fs'
    assert (in_process_glance.glance.store / image_id).read_bytes() == DATA

    image = images.show(image_id)
    assert (image['status'], image[f'{ERROR}_code']) == ('error', 'format_rejected')
    assert [image[name] for name in ('size', 'virtual_size', 'checksum', 'os_hash_algo', 'os_hash_value')] == [None] * 5
    assert not {'stores', 'direct_url', 'locations'} & set(image)
    without_data = bare.created()
    assert comparable(images.download(image_id)) == comparable(bare.download(without_data))


def test_the_same_image_is_uploaded_again(images: Images) -> None:
    image_id = images.in_error()
    again = images.upload(image_id, DATA)
    assert (again.status_int, again.headers[KEPT]) == (204, 'guarded')
    image = images.show(image_id)
    assert image['status'] == 'active'
    assert (image['size'], image['checksum']) == (len(DATA), hashlib.md5(DATA).hexdigest())
    assert not errors_shown(image)
    assert images.download(image_id).body == DATA
    assert images.listed('status=error') == []


def test_every_failed_attempt_counts_and_the_last_one_is_shown(images: Images, pipelines: Pipelines) -> None:
    image_id = images.in_error()
    images.upload(image_id, b'x', {'X-OpenStack-Image-Size': '9000'})
    image = images.show(image_id)
    assert (image[f'{ERROR}_code'], image[f'{ERROR}_attempts']) == ('size_mismatch', '2')
    first, second = pipelines.attempts(image_id)
    assert (first.code, first.http_status, first.bytes_received, first.bytes_expected) == (
        'client_disconnected', 500, 300, 1000)
    assert (second.code, second.http_status, second.user_id) == ('size_mismatch', 400, 'alice')
    images.upload(image_id, DATA)
    assert [attempt.state for attempt in pipelines.attempts(image_id)] == [
        State.FAILED, State.FAILED, State.SUCCEEDED]


def test_the_failure_is_stored_before_the_answer_is_sent(images: Images, pipelines: Pipelines) -> None:
    image_id = images.created(KEEP)
    seen: list[ImageRecord | None] = []

    def watch(environ: dict[str, Any], start_response: Any) -> Any:
        def start(*arguments: Any) -> Any:
            seen.append(pipelines.record(image_id))
            return start_response(*arguments)
        return pipelines.guarded.app(environ, start)

    Images(TestApp(watch), images.caller).upload_cut(image_id)
    assert len(seen) == 1 and seen[0] is not None and seen[0].error is not None
    assert seen[0].error.code == 'client_disconnected'


ANNOUNCED = {
    'nothing': {}, 'its size': {'X-OpenStack-Image-Size': str(len(DATA))},
    'Content-Digest': {'Content-Digest': SHA_256},
    'Repr-Digest': {'Repr-Digest': SHA_256}, 'another algorithm': {'Content-Digest': 'md5=:AAAA:'},
}


@pytest.mark.parametrize('headers', ANNOUNCED.values(), ids=ANNOUNCED)
@pytest.mark.parametrize('chunked', [False, True], ids=['Content-Length', 'chunked'])
def test_what_was_announced_and_arrives_is_active(images: Images, headers: dict[str, str], chunked: bool) -> None:
    image_id = images.created(KEEP)
    answer = images.upload(image_id, Body([DATA]) if chunked else DATA, headers)
    assert (answer.status_int, answer.headers[KEPT]) == (204, 'guarded')
    assert images.show(image_id)['checksum'] == hashlib.md5(DATA).hexdigest()


# What says nothing about the image: an earlier error stays as it is, down to the number of attempts.

def in_error_and_active(images: Images) -> tuple[str, str]:
    in_error, active = images.in_error(), images.in_error()
    images.upload(active, DATA)
    return in_error, active


def test_an_upload_to_an_active_image_says_nothing(images: Images, bare: Images, pipelines: Pipelines) -> None:
    _, image_id = in_error_and_active(images)
    before = images.show(image_id), pipelines.record(image_id)
    assert comparable(images.upload(image_id, b'other', KEEP)) == comparable(bare.upload(image_id, b'other'))
    assert images.upload(image_id, b'other', KEEP).status_int == 409
    assert (images.show(image_id), pipelines.record(image_id)) == before
    assert images.download(image_id).body == DATA


REFUSED = {
    '401 without a token': ('', 401),
    '403 without the right to upload': ('reader', 403),
    '404 from another project': (token('mallory', 'elsewhere'), 404),
}


@pytest.mark.parametrize('who, status', REFUSED.values(), ids=REFUSED)
def test_a_refusal_at_the_door_says_nothing(
    images: Images, bare: Images, pipelines: Pipelines, project: str, who: str, status: int,
) -> None:
    image_id = images.in_error()
    before = images.show(image_id), pipelines.record(image_id)
    caller = reader_token('carol', project) if who == 'reader' else who
    answers = [Images(each.application, caller).upload(image_id, DATA, KEEP) for each in (images, bare)]
    assert answers[0].status_int == status
    assert comparable(answers[0]) == comparable(answers[1])
    assert (images.show(image_id), pipelines.record(image_id)) == before


def test_an_upload_to_no_image_leaves_nothing(images: Images, bare: Images, pipelines: Pipelines) -> None:
    image_id = '7f0c5a0e-0000-4000-8000-000000000000'
    assert comparable(images.upload(image_id, DATA, KEEP)) == comparable(bare.upload(image_id, DATA))
    assert pipelines.record(image_id) is None


@in_process_only('it is made to happen within')
def test_losing_against_an_upload_past_the_guard_says_nothing(
    images: Images, bare: Images, pipelines: Pipelines,
) -> None:
    # 410 of Glance: "could not be found after upload"; but the image is active, by the other upload.
    image_id = images.in_error()
    before = pipelines.record(image_id)
    other = Meanwhile(lambda: bare.upload(image_id, DATA))
    lost = images.upload(image_id, DATA, environ={'keystone.token_info': other})
    assert lost.status_int == 410
    image = images.show(image_id)
    assert (image['status'], image['checksum']) == ('active', hashlib.md5(DATA).hexdigest())
    assert not errors_shown(image)
    after = pipelines.record(image_id)
    assert before is not None and after is not None
    assert (after.attempts, after.error, after.running) == (before.attempts, before.error, None)


@in_process_only('it is made to happen within')
@proves('1.19')
def test_an_image_deleted_during_its_upload_is_gone(images: Images, pipelines: Pipelines) -> None:
    image_id = images.created(KEEP)
    delete = Meanwhile(lambda: images.request('DELETE', f'/v2/images/{image_id}'))
    assert images.upload(image_id, DATA, environ={'keystone.token_info': delete}).status_int == 410
    assert images.request('GET', f'/v2/images/{image_id}').status_int == 404
    record = pipelines.record(image_id)
    assert record is None or (record.error, record.running) == (None, None)


@proves('1.18')
def test_of_simultaneous_uploads_one_wins_and_no_error_remains(images: Images, pipelines: Pipelines) -> None:
    for image_id in (images.created(KEEP), images.in_error()):
        start = threading.Barrier(4)
        answers: list[Any] = []

        def upload(image_id: str = image_id, start: threading.Barrier = start, answers: list[Any] = answers) -> None:
            start.wait()
            answers.append(Images(pipelines.guarded, images.caller).upload(image_id, DATA))

        threads = [threading.Thread(target=upload) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer.status_int for answer in answers) == [204, 409, 409, 409]
        image = images.show(image_id)
        assert (image['status'], image['checksum']) == ('active', hashlib.md5(DATA).hexdigest())
        assert not errors_shown(image)


@proves('1.17')
def test_a_second_upload_during_a_guarded_one_is_refused(images: Images, pipelines: Pipelines) -> None:
    image_id = images.in_error()
    with images.uploading(image_id) as first:
        second = images.upload(image_id, DATA)
        assert second.status_int == 409
        assert 'Another upload to this image is under way' in second.text
        image = images.show(image_id)
        assert image['status'] == 'saving', 'while a newer attempt is alive Glance\'s own status is shown'
        assert not errors_shown(image)
        assert images.listed('status=error') == [] and images.listed('status=saving') == [image_id]
    assert first.answer is not None and first.answer.status_int == 204
    image = images.show(image_id)
    assert (image['status'], image['checksum']) == ('active', hashlib.md5(first.data).hexdigest())
    assert [attempt.state for attempt in pipelines.attempts(image_id)] == [State.FAILED, State.SUCCEEDED]


def test_the_owner_may_opt_out_of_keeping_but_not_out_of_waiting(images: Images) -> None:
    image_id = images.created(KEEP)
    with images.uploading(image_id):
        refused = images.upload(image_id, DATA, {'X-OpenStack-Image-Keep-On-Failure': 'false'})
        assert refused.status_int == 409
    assert images.show(image_id)['status'] == 'active'


# Empty bodies.

EMPTY = {'chunked': Body([]), 'Content-Length: 0': b''}


@pytest.mark.parametrize('body', EMPTY.values(), ids=EMPTY)
def test_a_first_upload_of_nothing_is_fine(images: Images, body: Body | bytes) -> None:
    image_id = images.created(KEEP)
    assert images.upload(image_id, body).status_int == 204
    image = images.show(image_id)
    assert (image['status'], image['size']) == ('active', 0)


def test_a_retry_with_a_used_up_body_is_refused(images: Images, pipelines: Pipelines) -> None:
    image_id = images.in_error()
    before = images.show(image_id)
    refused = images.upload(image_id, Body([]))
    assert (refused.status_int, refused.headers[KEPT]) == (400, 'error')
    assert 'The body is empty, although an earlier attempt' in refused.text
    after = images.show(image_id)
    assert after == {**before, f'{ERROR}_attempts': '2', 'updated_at': after['updated_at']}, 'the shown reason stays'
    assert [attempt.code for attempt in pipelines.attempts(image_id)] == ['client_disconnected', 'empty_retry']
    assert images.upload(image_id, Body([])).status_int == 400, 'nor does asking twice help'
    assert images.upload(image_id, DATA).status_int == 204


def test_a_retry_that_says_it_is_empty_is_taken_at_its_word(images: Images) -> None:
    image_id = images.in_error()
    assert images.upload(image_id, b'').status_int == 204
    assert (images.show(image_id)['status'], images.show(image_id)['size']) == ('active', 0)


def test_an_empty_retry_of_what_broke_off_is_refused_where_no_byte_is_known_to_have_arrived(images: Images) -> None:
    image_id = images.created(KEEP)
    images.upload(image_id, Body([LOST]))
    assert images.show(image_id)['status'] == 'error'
    assert images.upload(image_id, Body([])).status_int == 400


def test_an_empty_retry_is_fine_where_all_of_no_data_had_arrived(images: Images) -> None:
    image_id = images.created(KEEP)
    assert images.upload(image_id, Body([]), {'X-OpenStack-Image-Size': '1000'}).status_int == 400
    assert images.show(image_id)['status'] == 'error'
    assert images.upload(image_id, Body([])).status_int == 204


# Ways round the recogniser: Glance takes these for an upload, and so must the guard.

WAYS = {
    'slashes': ('PUT', '//v2//images///{}//file'),
    'method in the query': ('POST', '/v2/images/{}/file?_method=PUT'),
    'method in the query, small': ('GET', '/v2/images/{}/file?_method=put'),
    'an encoded slash': ('PUT', '/v2/images/{}%2Ffile'),
    'later versions': ('PUT', '/v2.9/images/{}/file'),
}


@pytest.mark.parametrize('method, path', WAYS.values(), ids=WAYS)
def test_other_spellings_of_an_upload_are_guarded_too(images: Images, bare: Images, method: str, path: str) -> None:
    octets = {'Content-Type': 'application/octet-stream'}
    taken = bare.request(method, path.format(bare.created()), octets, DATA)
    assert taken.status_int == 204, 'Glance takes it for an upload'
    image_id = images.created(KEEP)
    images.request(method, path.format(image_id), octets, Body([b'x' * 300]), {'CONTENT_LENGTH': '1000'})
    assert images.show(image_id)['status'] == 'error'
    with images.uploading(image_id):
        assert images.request(method, path.format(image_id), octets, DATA).status_int == 409


OTHER_PATHS = ['/v2/images/{}/file/', '/v2/images/{}/file.json', '/v2/images/{}/FILE', '/v2/images/{}/file;x=1',
               '/v2/images/./{}/file', '/v1/images/{}', '/V2/images/{}/file', '/v2/images/{}/file%20']


@pytest.mark.parametrize('path', OTHER_PATHS)
def test_what_the_guard_does_not_take_for_an_upload_glance_does_not_either(bare: Images, path: str) -> None:
    image_id = bare.created()
    bare.request('PUT', path.format(image_id), {'Content-Type': 'application/octet-stream'}, DATA)
    assert bare.show(image_id)['status'] == 'queued'
