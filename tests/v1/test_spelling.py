"""What is said of the spelling of v1, held against the answers of a real Glance 15.0.2."""

import html

import pytest
from webob import Request

from demo.client import Answer
from imgguard.api import v1, v2
from imgguard.api.v1 import Headers
from tests.identity import admin_token
from tests.old_glance import OldGlance
from tests.sockets import eventually
from tests.test_presenting import error, record
from tests.v1.images import KEEP_PROPERTIES, V1Images

DATA = b'data'
TOLD = {'x-image-meta-property-image_type': 'snapshot', 'x-image-meta-protected': 'True'}


@pytest.fixture
def images(old_glance: OldGlance) -> V1Images:
    return V1Images(old_glance.port)


def header_list(answer: Answer) -> Headers:
    return list(answer.headers.items())


def in_all_answers(images: V1Images, image_id: str) -> list[v1.Json]:
    """The image as HEAD, a PUT without data, and the list tell of it."""
    head = v1.image_of(header_list(images.request('HEAD', f'/v1/images/{image_id}')), image_id)
    put = images.request('PUT', f'/v1/images/{image_id}', KEEP_PROPERTIES)
    listed = images.request('GET', '/v1/images/detail?changes-since=2000-01-01T00:00:00Z')
    assert bool(v2.may_be_in_error(listed.body)) is (put.json['image']['status'] != 'active')
    return [head or {}, *v1.images_of(put.json), *v1.images_of(listed.json)]


@pytest.mark.parametrize('status', ['queued', 'active', 'killed'])
def test_all_answers_tell_of_the_image_that_v2_shows(images: V1Images, status: str) -> None:
    image_id = images.created(TOLD)
    if status == 'active':
        images.upload(image_id, DATA)
    if status == 'killed':
        images.upload(image_id, DATA, {'x-image-meta-checksum': '0' * 32})
    shown = images.show(image_id)
    found = [v1.as_v2(image) for image in in_all_answers(images, image_id)]
    assert len(found) == 3
    told = ('id', 'created_at', 'status', 'owner', 'protected', 'image_type', 'checksum')
    assert [[each[name] for name in told] for each in found] == [[shown[name] for name in told]] * 3
    assert shown['status'] == status


def test_visibility(images: V1Images, old_glance: OldGlance) -> None:
    image_id = images.created()
    admin = V1Images(old_glance.port, admin_token())
    assert {v1.as_v2(image)['visibility'] for image in in_all_answers(images, image_id)} == {None}
    admin.request('PUT', f'/v1/images/{image_id}', {'x-image-meta-is_public': 'True', **KEEP_PROPERTIES})
    assert {v1.as_v2(image)['visibility'] for image in in_all_answers(images, image_id)} == {'public'}


def test_an_image_in_error_looks_like_one_that_never_had_data(images: V1Images) -> None:
    """But for its status and the properties of the guard."""
    names, values = {}, {}
    for image_id, data in ((images.created(), None), (images.created(), DATA)):
        if data:
            images.upload(image_id, data, {'x-image-meta-checksum': '0' * 32, 'x-image-meta-size': '4'})
        headers = header_list(images.request('HEAD', f'/v1/images/{image_id}'))
        if data:
            assert 'etag' in dict(headers) and dict(headers)['x-image-meta-size'] == '4'
            headers = v1.show_error_in_headers(headers, record(), error(), 'queued', details=True)
        names[data] = sorted(name for name, _ in headers if 'os_glance_image_error' not in name)
        values[data] = [dict(headers)[f'x-image-meta-{name}'] for name in ('status', 'size')]
    assert names[DATA] == names[None]
    assert values[DATA] == values[None] == ['queued', '0']


def test_a_brief_list(images: V1Images) -> None:
    made = {images.created(), images.create(DATA).json['image']['id']}
    detailed = v1.images_of(images.request('GET', '/v1/images/detail').json)
    assert images.request('GET', '/v1/images').json == {'images': [v1.brief(image) for image in detailed]}
    assert made <= {image['id'] for image in detailed}


def test_a_chosen_id_is_taken_as_it_is(images: V1Images) -> None:
    image_id = '6C9B66D6d1274c218bcf0aa3a9b11d5e'
    answer = images.create(headers={'X-Image-Meta-Id': image_id})
    assert answer.json['image']['id'] == image_id
    assert images.status(image_id) == 'queued'


def test_dashes_and_capitals_of_a_property(images: V1Images) -> None:
    image_id = images.created({'X-Image-Meta-Property-Os-Glance-Image-Error': 'made up'})
    assert images.head(image_id)['property-os_glance_image_error'] == 'made up'


@pytest.mark.parametrize('announced', ['0', None, ' 4 '])
def test_sizes_that_are_compared_with_nothing_or_with_what_came(images: V1Images, announced: str | None) -> None:
    image_id = images.created()
    given = {} if announced is None else {'x-image-meta-size': announced}
    assert images.upload(image_id, iter([DATA]), given).status == 200


@pytest.mark.parametrize('announced', ['-1', 'x', '1.5'])
def test_sizes_that_glance_refuses(images: V1Images, announced: str) -> None:
    image_id = images.created()
    assert images.upload(image_id, iter([DATA]), {'x-image-meta-size': announced}).status == 400
    assert images.status(image_id) == 'queued'


# Among media types that are accepted alike, the WebOb of today takes the first it can write, not the first named.
@pytest.mark.parametrize('accept', [
    None, '*/*', 'text/html', 'text/plain', 'application/json', 'application/json;q=0.5', 'image/png'])
def test_a_refusal_looks_like_glances_own(images: V1Images, accept: str | None) -> None:
    given = {} if accept is None else {'Accept': accept}
    image_id = images.created()
    glances = images.request('PUT', f'/v1/images/{image_id}', {'x-image-meta-status': 'active', **given})
    ours = Request.blank('/v1/images/x', method='PUT', headers=given).get_response(v1.refused('x'))
    told = glances.text.replace("Forbidden to modify 'status' of image.", "Property 'x' is protected")
    assert (ours.status_int, ours.headers['Content-Type']) == (glances.status, glances.headers['content-type'])
    # The WebOb of that time leaves quotes in HTML as they are.
    assert html.unescape(ours.text) == told
    assert "Property 'x' is protected" in told


def test_a_delete_that_is_taken_for_cleanup_is_answered_as_glance_does(images: V1Images) -> None:
    glances = images.request('DELETE', f'/v1/images/{images.created()}')
    ours = Request.blank('/v1/images/x', method='DELETE').get_response(v1.deleted())
    told = {name: value for name, value in glances.headers.items() if name not in ('date', 'x-openstack-request-id')}
    assert (ours.status_int, ours.body) == (glances.status, glances.body) == (200, b'')
    assert {name.lower(): value for name, value in ours.headers.items()} == told


def test_a_cut_upload_is_killed_at_the_latest_soon_after_its_answer(images: V1Images) -> None:
    image_id = images.created()
    with images.uploading(image_id) as exchange:
        answer = exchange.half_close().answer()
    assert (answer.status, 'Client disconnected' in answer.text) == (400, True)
    eventually(lambda: images.status(image_id) == 'killed', 'the end')
