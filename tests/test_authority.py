"""Authority first: who may not modify an image changes nothing of it and learns nothing, by any request.

Each request is sent twice, to an image that is kept and to a twin of it that only the bare Glance knows;
the answers must not differ.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from webtest import TestResponse

from tests.cases import proves
from tests.harness import InProcessGlance
from tests.identity import admin_token, reader_token, token
from tests.uploading import ERROR, ERROR_PROPERTIES, KEEP, KEPT, Body, Images, Pipelines, comparable, new_project

DATA = b'data of an image' * 8192
MEMBER_PROJECT = 'project-of-bob'
MEMBER = token('bob', MEMBER_PROJECT)
STRANGER = token('mallory', 'elsewhere')
FOR_ALL = {'status', f'{ERROR}_code', f'{ERROR}_at', f'{ERROR}_retryable'}

Sends = Callable[[Images, str], TestResponse]


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'))


@pytest.fixture
def project() -> str:
    return new_project()


@pytest.fixture
def images(pipelines: Pipelines, project: str) -> Images:
    """The owner, in front of the guard."""
    return Images(pipelines.guarded, token('alice', project))


@pytest.fixture
def bare(pipelines: Pipelines, project: str) -> Images:
    """The owner, in front of the bare Glance."""
    return Images(pipelines.bare, token('alice', project))


OUTSIDERS = {
    'reader of the project': lambda project: reader_token('carol', project),
    'member of the shared image': lambda project: MEMBER,
    'stranger': lambda project: STRANGER,
    'nobody': lambda project: '',
    'user without a role': lambda project: token('dave', project, 'other'),
}


def upload(data: bytes | Callable[[], Body] = DATA, environ: dict[str, str] | None = None, **headers: str) -> Sends:
    named = {**KEEP, **{name.replace('_', '-'): value for name, value in headers.items()}}
    return lambda images, image_id: images.upload(
        image_id, data if isinstance(data, bytes) else data(), named, environ)


REQUESTS: dict[str, Sends] = {
    'a right upload': upload(),
    'a right upload, chunked': upload(lambda: Body([DATA])),
    'an upload that does not ask to keep': lambda images, image_id: images.upload(image_id, DATA),
    'an empty upload, chunked': upload(lambda: Body([])),
    'wrong Content-Type': upload(Content_Type='text/plain'),
    'no Content-Type': upload(Content_Type=''),
    'Content-Type in capitals': upload(Content_Type='APPLICATION/OCTET-STREAM'),
    'Content-Type with a space': upload(Content_Type='application/octet-stream ;x'),
    'unknown store': upload(X_Image_Meta_Store='nope'),
    'known store': upload(X_Image_Meta_Store='fs'),
    'size that is no number': upload(X_OpenStack_Image_Size='big'),
    'wrong size': upload(X_OpenStack_Image_Size='7'),
    'wrong digest': upload(Content_Digest='sha-256=abc'),
    'both lengths': upload(environ={'HTTP_TRANSFER_ENCODING': 'chunked'}),
    'cut': lambda images, image_id: images.upload_cut(image_id, headers=KEEP),
    'reset': upload(lambda: Body([b'x' * 100, OSError('reset')])),
    'an update': lambda images, image_id: images.patch(image_id, {'op': 'add', 'path': '/x', 'value': 'y'}),
    'a download': lambda images, image_id: images.download(image_id),
}
BREAKS_THE_BARE_ONE = 'a reader\'s upload puts an image that is being uploaded back to queued: Glance\'s own bug'


def shared(images: Images, *, keep: bool) -> str:
    """An image shared with a member of another project, who has accepted it."""
    image_id = images.created(KEEP if keep else None)
    members = f'/v2/images/{image_id}/members'
    assert images.json('POST', members, {'member': MEMBER_PROJECT}).status_int == 200
    Images(images.application, MEMBER).json('PUT', f'{members}/{MEMBER_PROJECT}', {'status': 'accepted'})
    return image_id


def raw(pipelines: Pipelines, image_id: str) -> dict[str, Any]:
    """The image as Glance itself has it."""
    return Images(pipelines.bare, admin_token()).show(image_id)


def known(pipelines: Pipelines, image_id: str) -> tuple[object, object]:
    """All that the guard's store knows of the image, save for the sign of life of a running attempt."""
    attempts = [replace(attempt, updated_at=0, bytes_received=0) if attempt.finished_at is None else attempt
                for attempt in pipelines.attempts(image_id)]
    return pipelines.record(image_id), attempts


@pytest.mark.parametrize('who', OUTSIDERS.values(), ids=OUTSIDERS)
def test_an_outsider_changes_nothing_of_an_image_that_waits_or_is_in_error(
    pipelines: Pipelines, images: Images, bare: Images, project: str, who: Callable[[str], str],
) -> None:
    waiting, in_error, twin = shared(images, keep=True), shared(images, keep=True), shared(bare, keep=False)
    images.upload_cut(in_error)
    outsider, outsider_of_bare = Images(pipelines.guarded, who(project)), Images(pipelines.bare, who(project))
    for image_id in (waiting, in_error):
        before = raw(pipelines, image_id), known(pipelines, image_id)
        for name, send in REQUESTS.items():
            answer, expected = send(outsider, image_id), send(outsider_of_bare, twin)
            assert comparable(answer) == comparable(expected), name
            after = raw(pipelines, image_id), known(pipelines, image_id)
            assert after[1] == before[1], name
            assert {**after[0], 'updated_at': None} == {**before[0], 'updated_at': None}, name


@proves('1.16')
@pytest.mark.parametrize('who', OUTSIDERS.values(), ids=OUTSIDERS)
def test_an_outsider_does_not_disturb_an_upload(
    pipelines: Pipelines, images: Images, bare: Images, project: str, who: Callable[[str], str],
) -> None:
    image_id, twin = shared(images, keep=True), shared(bare, keep=False)
    outsider, outsider_of_bare = Images(pipelines.guarded, who(project)), Images(pipelines.bare, who(project))
    with images.uploading(image_id) as running, bare.uploading(twin):
        before = raw(pipelines, image_id), known(pipelines, image_id)
        assert before[0]['status'] == 'saving'
        for name, send in REQUESTS.items():
            answer, expected = send(outsider, image_id), send(outsider_of_bare, twin)
            assert comparable(answer) == comparable(expected), name
            assert (raw(pipelines, image_id), known(pipelines, image_id)) == before, name
    assert running.answer is not None and (running.answer.status_int, running.answer.headers[KEPT]) == (204, 'guarded')
    image = images.show(image_id)
    assert (image['status'], image['checksum']) == ('active', hashlib.md5(running.data).hexdigest())


def test_why_the_guard_answers_for_glance_then(bare: Images, pipelines: Pipelines, project: str) -> None:
    image_id = bare.created()
    with bare.uploading(image_id) as running:
        refused = Images(pipelines.bare, reader_token('carol', project)).upload(image_id, DATA)
        assert refused.status_int == 403
        assert bare.show(image_id)['status'] == 'queued', BREAKS_THE_BARE_ONE
    assert running.answer is not None and running.answer.status_int == 410


@pytest.mark.parametrize('who', ['alice', 'admin'])
def test_whoever_may_upload_is_told_of_the_other_upload(
    pipelines: Pipelines, images: Images, project: str, who: str,
) -> None:
    image_id = images.created(KEEP)
    caller = Images(pipelines.guarded, token('another', project) if who == 'alice' else admin_token())
    with images.uploading(image_id) as running:
        for headers in ({}, KEEP, {'Content-Type': 'text/plain'}, {'X-Image-Meta-Store': 'nope'}):
            assert caller.upload(image_id, DATA, headers).status_int == 409
    assert running.answer is not None and running.answer.status_int == 204
    assert images.show(image_id)['status'] == 'active'


def test_an_admin_may_fail_and_retry_for_a_project(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created(KEEP)
    admin = Images(pipelines.guarded, admin_token())
    assert admin.upload_cut(image_id).headers[KEPT] == 'error'
    assert images.show(image_id)['status'] == 'error'
    assert admin.upload(image_id, DATA).status_int == 204


def test_a_check_of_the_operators_own_may_look_at_the_tags_of_an_image(
    pipelines: Pipelines, images: Images, bare: Images, monkeypatch: pytest.MonkeyPatch,
) -> None:
    from glance.api.policy import Enforcer
    from glance.common.exception import Forbidden
    enforce = Enforcer.enforce

    def enforce_ours(enforcer: Enforcer, context: Any, action: str, target: Any, registered: bool = True) -> object:
        if action == 'upload_image' and 'web' not in target['tags']:
            raise Forbidden(action=action)
        return enforce(enforcer, context, action, target, registered)

    monkeypatch.setattr(Enforcer, 'enforce', enforce_ours)
    tagged, untagged, twin = images.created(KEEP, tags=['web']), images.created(KEEP), bare.created()
    before = raw(pipelines, untagged), known(pipelines, untagged)
    assert images.upload(tagged, DATA).headers[KEPT] == 'guarded'
    assert comparable(images.upload(untagged, DATA)) == comparable(bare.upload(twin, DATA))
    assert (raw(pipelines, untagged), known(pipelines, untagged)) == before


def test_before_an_upload_glance_is_not_asked_for_tags(
    images: Images, bare: Images, monkeypatch: pytest.MonkeyPatch,
) -> None:
    import glance.db
    database, asked = glance.db.get_api(), []
    get_all = database.image_tag_get_all

    def counted(*arguments: Any, **named: Any) -> Any:
        asked.append(arguments)
        return get_all(*arguments, **named)

    guarded, twin = images.created(KEEP), bare.created()
    monkeypatch.setattr(database, 'image_tag_get_all', counted)
    counts = []
    for caller, image_id in ((images, guarded), (bare, twin)):
        asked.clear()
        assert caller.upload(image_id, DATA).status_int == 204
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0


def test_a_refused_create_leaves_nothing(pipelines: Pipelines, project: str) -> None:
    image_id = '5d1f0a52-0000-4000-8000-00000000c0de'
    for caller in (reader_token('carol', project), ''):
        answers = [Images(each, caller).create(KEEP, id=image_id, name='x')
                   for each in (pipelines.guarded, pipelines.bare)]
        assert answers[0].status_int in (401, 403)
        assert comparable(answers[0]) == comparable(answers[1])
    assert pipelines.record(image_id) is None


def shown(images: Images, image_id: str) -> list[dict[str, Any]]:
    """The properties of the error state in show and in the list, as this caller sees them."""
    listed = images.request('GET', '/v2/images?visibility=all&limit=1000').json['images']
    filtered = images.request('GET', '/v2/images?visibility=all&limit=1000&status=error').json['images']
    every = [images.show(image_id), *(image for image in [*listed, *filtered] if image['id'] == image_id)]
    return [{name: value for name, value in image.items() if name == 'status' or name.startswith(ERROR)}
            for image in every]


def test_the_text_is_for_the_owners_project_and_admins(pipelines: Pipelines, images: Images, project: str) -> None:
    image_id = shared(images, keep=True)
    images.upload_cut(image_id)
    expected = shown(images, image_id)[0]
    assert set(expected) == {'status', *ERROR_PROPERTIES}
    for caller in (reader_token('carol', project), token('another', project), admin_token()):
        assert shown(Images(pipelines.guarded, caller), image_id) == [expected] * 3


def test_others_who_see_the_image_see_status_code_and_time(pipelines: Pipelines, images: Images) -> None:
    image_id = shared(images, keep=True)
    images.upload_cut(image_id)
    expected = {name: value for name, value in images.show(image_id).items() if name in FOR_ALL}
    assert shown(Images(pipelines.guarded, MEMBER), image_id) == [expected] * 3

    community = images.in_error(visibility='community')
    expected = {name: value for name, value in images.show(community).items() if name in FOR_ALL}
    assert shown(Images(pipelines.guarded, STRANGER), community) == [expected] * 3
    assert image_id not in Images(pipelines.guarded, STRANGER).listed('visibility=all&limit=1000&status=error')


def test_an_admin_who_fails_an_image_of_nobody_is_shown_the_text(pipelines: Pipelines) -> None:
    admin = Images(pipelines.guarded, admin_token())
    image_id = admin.in_error(visibility='community')
    assert ERROR in admin.show(image_id)
    assert ERROR not in Images(pipelines.guarded, STRANGER).show(image_id)


def test_a_check_may_copy_what_it_is_shown_of_an_image() -> None:
    """As a check over HTTP does (``oslo_policy/_external.py``)."""
    from imgguard.glance_images import _Judged
    assert copy.deepcopy(_Judged(SimpleNamespace(owner='red'), None)).owner == 'red'
