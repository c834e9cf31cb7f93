"""Show, create, update, download and schema: the error state written in, the reserved names kept from clients."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from webtest import TestApp

from demo.private_glance import write_paste_file
from imgguard import codes, names
from tests.conftest import OverrideGlance
from tests.harness import IDENTITY, InProcessGlance, in_process_only
from tests.identity import token
from tests.uploading import ERROR, ERROR_PROPERTIES, KEEP, KEPT, Images, Pipelines, comparable, new_project

DATA = b'data of an image' * 8192
ACCEPTS = ['', '*/*', 'text/plain', 'text/html', 'application/json']
KEEP_PROPERTY = 'imgguard_keep_on_failure'


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'))


@pytest.fixture
def images(pipelines: Pipelines) -> Images:
    return pipelines.images()


@pytest.fixture
def bare(pipelines: Pipelines, images: Images) -> Images:
    return Images(pipelines.bare, images.caller)


# Names that are not for clients

RESERVED = [*sorted(ERROR_PROPERTIES), 'os_glance_image_error_new', 'os_glance_image_give_up_at', 'os_glance_anything']


@pytest.mark.parametrize('name, accept', [
    *((name, '*/*') for name in RESERVED), *((ERROR, accept) for accept in ACCEPTS)])
def test_a_reserved_name_cannot_be_created(images: Images, bare: Images, name: str, accept: str) -> None:
    answers = [each.create({**KEEP, 'Accept': accept}, **{name: 'x'}) for each in (images, bare)]
    assert answers[0].status_int == 403 and 'reserved' in answers[0].text
    assert comparable(answers[0]) == comparable(answers[1])
    assert images.listed('') == []


def writes(name: str, media_type: str) -> list[dict[str, object]]:
    """The operations of an update that write this property, in either form of Glance's PATCH."""
    if media_type == '2.1':
        return [{'op': operation, 'path': f'/{name}', 'value': 'true'} for operation in ('add', 'replace')]
    return [{operation: f'/{name}', 'value': 'true'} for operation in ('add', 'replace')]


@pytest.mark.parametrize('media_type', ['2.1', '2.0'])
@pytest.mark.parametrize('name', [*sorted(ERROR_PROPERTIES - {ERROR}), 'os_glance_image_give_up_at'])
def test_a_reserved_name_cannot_be_written_by_an_update(
    images: Images, bare: Images, name: str, media_type: str,
) -> None:
    image_id = images.in_error()
    before = images.show(image_id)
    for operation in writes(name, media_type):
        answers = [each.patch(image_id, operation, media_type=media_type) for each in (images, bare)]
        assert answers[0].status_int == 403
        assert comparable(answers[0]) == comparable(answers[1])
    assert images.show(image_id) == before


@pytest.mark.parametrize('accept', ACCEPTS)
@pytest.mark.parametrize('media_type', ['2.1', '2.0'])
def test_the_property_that_asks_cannot_be_written_by_an_update(
    images: Images, bare: Images, media_type: str, accept: str,
) -> None:
    """The guard's answer is letter for letter Glance's own to a name of its own."""
    image_id = images.created()
    before = images.show(image_id)
    own = bare.patch(image_id, *writes('os_glance_anything', media_type)[:1], media_type=media_type,
                     headers={'Accept': accept})
    assert own.status_int == 403
    for operation in writes(KEEP_PROPERTY, media_type):
        refused = images.patch(image_id, {'op': 'add', 'path': '/a', 'value': 'b'} if media_type == '2.1' else {
            'add': '/a', 'value': 'b'}, operation, media_type=media_type, headers={'Accept': accept})
        status, headers, body = comparable(refused)
        assert (status, headers, body.replace(KEEP_PROPERTY, 'os_glance_anything')) == comparable(own)
    assert images.show(image_id) == before, 'nothing of the update was done'


def test_a_spelling_of_that_name_that_glance_takes_is_refused_too(images: Images, bare: Images) -> None:
    image_id = images.created()
    media = {'Content-Type': 'application/openstack-images-v2.1-json-patch'}
    escaped = rb'[{"op": "add", "path": "/imgguard_keep\u005fon_failure", "value": "true"}]'
    assert images.request('PATCH', f'/v2/images/{image_id}', media, escaped).status_int == 403
    for path in (f'//{KEEP_PROPERTY}', f'/{KEEP_PROPERTY} ', f'/{KEEP_PROPERTY}/', KEEP_PROPERTY):
        taken = bare.patch(bare.created(), {'op': 'add', 'path': path, 'value': 'true'}).status_int
        refused = images.patch(image_id, {'op': 'add', 'path': path, 'value': 'true'}).status_int
        assert (taken, refused) in {(200, 403), (400, 400), (400, 403)}, path
    assert KEEP_PROPERTY not in images.show(image_id)


def test_the_value_may_name_the_property(images: Images, bare: Images) -> None:
    image_id = images.created()
    for operation in ({'op': 'add', 'path': '/note', 'value': KEEP_PROPERTY},
                      {'op': 'add', 'path': f'/{KEEP_PROPERTY}_not', 'value': 'x'}):
        assert images.patch(image_id, operation).status_int == 200


MALFORMED = [b'', b'no json', b'{}', b'"x"', b'[1]', b'[{"op": "add"}]', b'imgguard_keep_on_failure',
             b'[{"op": "nosuch", "path": "/x", "value": "y"}]', b'{"imgguard_keep_on_failure": 1}', b'[[' * 1000,
             b'\xff', b'[{"path": "/imgguard_keep_on_failure"}]']


@pytest.mark.parametrize('document', MALFORMED)
@pytest.mark.parametrize('content_type', [
    'application/openstack-images-v2.1-json-patch', 'application/json', 'text/plain'])
def test_what_glance_refuses_it_refuses_in_its_own_words(
    images: Images, bare: Images, document: bytes, content_type: str,
) -> None:
    image_id = bare.created()
    headers = {'Content-Type': content_type}
    answers = [each.request('PATCH', f'/v2/images/{image_id}', headers, document) for each in (images, bare)]
    assert comparable(answers[0]) == comparable(answers[1])


@pytest.mark.parametrize('content_type', [
    'application/json', 'text/plain',
    pytest.param('', marks=in_process_only('a header that is empty does not reach Glance'))])
def test_an_update_of_another_media_type_is_415_whatever_it_says(
    images: Images, bare: Images, content_type: str,
) -> None:
    image_id = images.created()
    document = json.dumps(writes(KEEP_PROPERTY, '2.1')).encode()
    answers = [each.request('PATCH', f'/v2/images/{image_id}', {'Content-Type': content_type}, document)
               for each in (images, bare)]
    assert answers[1].status_int == 415
    assert comparable(answers[0]) == comparable(answers[1])


@pytest.mark.parametrize('document', [each for each in MALFORMED if b': 1' not in each])
def test_a_create_that_glance_cannot_read_is_answered_by_glance(images: Images, bare: Images, document: bytes) -> None:
    for headers in ({}, KEEP):
        content = {**headers, 'Content-Type': 'application/json'}
        answers = [each.request('POST', '/v2/images', content, document) for each in (images, bare)]
        assert KEPT not in answers[0].headers or answers[0].status_int == 201
        answers[0].headers.pop(KEPT, None)
        assert comparable(answers[0]) == comparable(answers[1])


# What an update answers

def test_an_update_without_operations_shows_the_error(images: Images) -> None:
    image_id = images.in_error()
    updated = images.patch(image_id)
    assert (updated.status_int, updated.json) == (200, images.show(image_id))
    assert updated.json['status'] == 'error'


def test_an_update_changes_what_it_changes_and_the_error_stays(images: Images, bare: Images) -> None:
    image_id = images.in_error()
    before = images.show(image_id)
    updated = images.patch(image_id, {'op': 'add', 'path': '/os_distro', 'value': 'späti'},
                           {'op': 'replace', 'path': '/tags', 'value': ['a']})
    assert updated.json == images.show(image_id)
    assert updated.json == {**before, 'os_distro': 'späti', 'tags': ['a'], 'updated_at': updated.json['updated_at']}
    assert not [name for name in bare.show(image_id) if name.startswith('os_glance')], 'nothing of it is in Glance'


def test_an_image_used_again_after_its_id_was_purged_is_not_in_error(images: Images, pipelines: Pipelines) -> None:
    # The history belongs to an image's id and the moment it was created.
    image_id = images.in_error()
    record = pipelines.record(image_id)
    assert record is not None and record.created_at == images.show(image_id)['created_at']
    pipelines.store.remember(other := images.created(), '2001-01-01T00:00:00Z', None, True)
    assert images.show(other)['status'] == 'queued'
    assert images.upload_cut(other).headers.get(KEPT) is None, 'nor is it kept on account of the other'


def test_an_image_that_is_not_waiting_is_never_in_error(images: Images, bare: Images) -> None:
    image_id = images.in_error()
    bare.upload(image_id, DATA)
    for _ in range(2):
        image = images.show(image_id)
        assert image == bare.show(image_id) and image['status'] == 'active'
    assert images.download(image_id).body == DATA
    assert images.listed('status=error') == [] and images.listed('status=active') == [image_id]
    assert images.upload(image_id, DATA).status_int == 409


def test_a_deactivated_or_deleted_image_is_never_in_error(images: Images, pipelines: Pipelines) -> None:
    image_id = images.in_error()
    Images(pipelines.bare, images.caller).upload(image_id, DATA)
    admin = Images(pipelines.guarded, token('root', 'admins', 'admin', 'member', 'reader'))
    assert admin.request('POST', f'/v2/images/{image_id}/actions/deactivate').status_int == 204
    assert images.show(image_id)['status'] == 'deactivated'
    assert images.download(image_id).status_int == 403
    other = images.in_error()
    assert images.request('DELETE', f'/v2/images/{other}').status_int == 204


# Downloads

def test_a_download_is_handed_on_as_it_is(images: Images, bare: Images) -> None:
    image_id = images.in_error()
    images.upload(image_id, DATA)
    for headers in ({}, {'Range': 'bytes=10-19'}, {'Range': 'bytes=-5'}, {'Range': 'bytes=999999-'}, {'Range': 'x'}):
        guarded, alone = images.download(image_id, headers), bare.download(image_id, headers)
        assert comparable(guarded) == comparable(alone)
        assert guarded.headers['Content-Length'] == alone.headers['Content-Length']


@pytest.mark.parametrize('flavor', ['keystone+caching', 'keystone+cachemanagement'])
def test_with_glances_cache_behind_the_guard(
    in_process_glance: InProcessGlance, pipelines: Pipelines, flavor: str,
) -> None:
    cached = TestApp(in_process_glance.load({'connection': pipelines.connection}, flavor), lint=False)
    images = Images(cached, token('alice', new_project()))
    image_id = images.in_error()
    assert images.show(image_id)['status'] == 'error'
    assert images.download(image_id).status_int == 204
    assert images.upload(image_id, DATA).status_int == 204
    for _ in range(2):
        assert images.download(image_id).body == DATA


# Schema documents

def contained(old: Any, new: Any) -> bool:
    """Whether nothing of the old document is missing or changed in the new one."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and contained(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and new[:len(old)] == old
    return bool(old == new)


@pytest.mark.parametrize('status', ['error', 'killed'])
@pytest.mark.parametrize('path', ['/v2/schemas/image', '/v2/schemas/images'])
def test_schemas_are_added_to_and_nothing_is_taken_away(
    in_process_glance: InProcessGlance, pipelines: Pipelines, bare: Images, path: str, status: str,
) -> None:
    guarded = Images(TestApp(in_process_glance.load(
        {'connection': pipelines.connection, 'error_status': status})), bare.caller)
    answer = guarded.request('GET', path)
    new, old = answer.json, bare.request('GET', path).json
    assert (answer.status_int, answer.content_type) == (200, 'application/json')
    assert contained(old, new)
    image, old_image = (
        each['properties']['images']['items'] if path.endswith('images') else each for each in (new, old))
    assert status in image['properties']['status']['enum']
    assert len(image['properties']['status']['enum']) == len(set(image['properties']['status']['enum']))
    added = set(image['properties']) - set(old_image['properties'])
    assert added == {*ERROR_PROPERTIES, 'os_glance_image_give_up_at'}
    for name in added:
        schema = image['properties'][name]
        assert schema['readOnly'] is True and 'string' in schema['type'] and schema['description']
        assert schema.get('is_base') is not False, 'a base property is not copied to volumes and servers'
    assert all(code in image['properties'][f'{ERROR}_code']['description'] for code in codes.CODES)


def test_other_schemas_are_glances(images: Images, bare: Images) -> None:
    for name in ('member', 'members', 'task', 'tasks', 'metadefs/namespace', 'nosuch'):
        path = f'/v2/schemas/{name}'
        assert comparable(images.request('GET', path)) == comparable(bare.request('GET', path))


def test_every_name_shown_is_in_the_schema(images: Images) -> None:
    known = images.request('GET', '/v2/schemas/image').json['properties']
    created = images.create({**KEEP, names.GIVE_UP_AFTER_HEADER: '3600'})
    for image in (created.json, images.show(images.in_error())):
        assert set(image) <= set(known)
        assert image['status'] in known['status']['enum']


def test_a_code_of_a_newer_imgguard_is_shown_as_it_is(images: Images, pipelines: Pipelines) -> None:
    """Hosts that share a store are upgraded one after another."""
    image_id = images.in_error()
    engine = create_engine(pipelines.connection)
    with engine.begin() as connection:
        connection.execute(text("UPDATE imgguard_images SET error_code = 'brand_new' WHERE image_id = :id"),
                           {'id': image_id})
    engine.dispose()
    image = images.show(image_id)
    assert (image['status'], image[f'{ERROR}_code'], image[f'{ERROR}_retryable']) == ('error', 'brand_new', 'false')
    assert images.listed('status=error') == [image_id]


@pytest.mark.parametrize('path', ['/v2/images/{}', '/v2/images', '/v2/images?status=error'])
def test_what_cannot_be_shown_does_not_take_glances_answer_away(
    images: Images, bare: Images, pipelines: Pipelines, caplog: pytest.LogCaptureFixture, path: str,
) -> None:
    image_id = images.in_error()
    engine = create_engine(pipelines.connection)
    with engine.begin() as connection:
        # A time that no calendar has.
        connection.execute(text('UPDATE imgguard_images SET error_at = 1e20 WHERE image_id = :id'), {'id': image_id})
    engine.dispose()
    answers = [each.request('GET', path.format(image_id)) for each in (images, bare)]
    assert answers[0].status_int == 200
    assert comparable(answers[0]) == comparable(answers[1])
    assert 'answered without the error state' in caplog.text
    updated = images.patch(image_id, {'op': 'replace', 'path': '/name', 'value': 'new'})
    assert (updated.status_int, updated.json['name'], updated.json['status']) == (200, 'new', 'queued')


def test_a_request_id_that_glance_refuses(images: Images, bare: Images) -> None:
    too_long = {'X-Openstack-Request-ID': 'req-' + 'x' * 70}
    answers = [each.request('GET', '/v2/schemas/image', too_long).status_int for each in (images, bare)]
    assert answers[0] == answers[1] == 200


@pytest.mark.parametrize('prepare', ['queued', 'in_error', 'active', 'nothing'])
@pytest.mark.parametrize('headers', [{}, {'Accept-Encoding': 'gzip, deflate'}], ids=['plain', 'packed'])
def test_the_short_way_of_a_look_shows_the_same(images: Images, prepare: str, headers: dict[str, str]) -> None:
    """A query means nothing to Glance here, but keeps the guard from its short way."""
    image_id = images.in_error() if prepare == 'in_error' else images.created()
    if prepare == 'active':
        images.upload(image_id, DATA)
    elif prepare == 'nothing':
        image_id = 'nothing'
    short, other = (images.request('GET', f'/v2/images/{image_id}{query}', headers) for query in ('', '?a=b'))
    assert comparable(short) == comparable(other)
    assert short.status_int == (404 if prepare == 'nothing' else 200)
    assert ('"status": "error"' in short.text) is (prepare == 'in_error')


@pytest.mark.parametrize('cut', [0, 3, 7])
def test_no_property_passes_for_the_id_of_an_image(images: Images, cut: int) -> None:
    """In JSON its name is written ``"x\\"id"``, which ends as the name of the id does."""
    image_id = images.in_error()
    for value in (image_id[cut:], image_id.upper()[cut:]):
        assert images.patch(image_id, {'op': 'add', 'path': '/x"id', 'value': value}).status_int == 200
        assert images.show(image_id)['status'] == 'error'


@in_process_only('an answer of Glance is replaced')
@pytest.mark.parametrize('headers', [{}, {'Accept-Encoding': 'gzip'}], ids=['plain', 'packed'])
@pytest.mark.parametrize('query', ['', '?a=b'])
def test_what_comes_packed_unasked_hides_no_error(
    images: Images, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], query: str,
) -> None:
    from glance.api.v2.images import ResponseSerializer
    show = ResponseSerializer.show

    def show_packed(serializer: Any, response: Any, image: Any) -> None:
        show(serializer, response, image)
        response.headers['Content-Encoding'] = 'gzip'
        response.body = gzip.compress(response.body)

    image_id, sound = images.in_error(), images.created()
    monkeypatch.setattr(ResponseSerializer, 'show', show_packed)
    assert [images.request('GET', f'/v2/images/{each}{query}', headers).status_int for each in (image_id, sound)] == [
        502, 200]


@in_process_only("a filter of Glance's pipeline")
def test_glances_own_filter_that_packs_hides_no_error(
    in_process_glance: InProcessGlance, tmp_path: Path, override_glance: OverrideGlance,
) -> None:
    from glance.common import config
    path = tmp_path / 'paste.ini'
    write_paste_file(path, in_process_glance.glance, identity=IDENTITY,
                     guard={'connection': f'sqlite:///{tmp_path}/imgguard.db'})
    path.write_text(path.read_text().replace(' imgguard rootapp', ' imgguard gzip rootapp'))
    override_glance('flavor', 'keystone', 'paste_deploy')
    images = Images(TestApp(config.load_paste_app('glance-api', 'keystone', str(path)), lint=False),
                    token('alice', new_project()))
    image_id = images.created({**KEEP, 'Accept-Encoding': 'gzip'})
    images.upload_cut(image_id, headers={'Accept-Encoding': 'gzip'})
    for read in (f'/v2/images/{image_id}', '/v2/images', '/v2/images?status=error'):
        answer = images.request('GET', read, {'Accept-Encoding': 'gzip'})
        assert '"status": "error"' in answer.text
