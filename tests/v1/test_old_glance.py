"""The Glance 15.0.2 that other tests stand on does what v1 is known for."""

import pytest

from tests.old_glance import OldGlance
from tests.sockets import eventually
from tests.v1.conftest import StartOldGlance
from tests.v1.images import V1Images

DATA = b'data of an image' * 8192
LONG_AGO = 'changes-since=2000-01-01T00:00:00Z'


@pytest.fixture
def images(old_glance: OldGlance) -> V1Images:
    return V1Images(old_glance.port)


def test_create_and_upload_in_one_request(images: V1Images, old_glance: OldGlance) -> None:
    answer = images.create(DATA, {'x-image-meta-property-os_distro': 'debian'})
    image_id = answer.json['image']['id']
    assert (answer.status, answer.json['image']['status']) == (201, 'active')
    assert answer.headers['location'] == f'{old_glance.url}/v1/images/{image_id}'
    assert images.head(image_id)['property-os_distro'] == 'debian'
    assert images.request('GET', f'/v1/images/{image_id}').body == DATA
    assert images.request('GET', f'/v2/images/{image_id}/file').body == DATA
    shown = images.show(image_id)
    assert (shown['status'], shown['size'], shown['os_distro']) == ('active', len(DATA), 'debian')


def test_create_by_one_version_and_upload_by_the_other(images: V1Images) -> None:
    by_v1, by_v2 = images.created(), images.client.create().json['id']
    assert images.status(by_v1) == images.status(by_v2) == 'queued'
    assert images.client.upload(by_v1, DATA).status == 204
    assert images.upload(by_v2, iter([DATA])).status == 200
    assert images.status(by_v1) == images.status(by_v2) == 'active'
    assert images.listed(detail=True) == images.listed() == [by_v2, by_v1]


@pytest.mark.parametrize('announced', [1000, None])
def test_a_cut_upload_kills_the_image_and_takes_it_out_of_the_lists(
        images: V1Images, old_glance: OldGlance, announced: int | None) -> None:
    image_id = images.created()
    exchange = images.uploading(image_id, announced=announced)
    eventually(lambda: images.status(image_id) == 'saving', 'an upload')
    assert images.listed() == [image_id]
    exchange.reset()
    eventually(lambda: images.status(image_id) == 'killed', 'the end of the upload')
    assert images.show(image_id)['status'] == 'killed'
    assert images.listed() == images.listed('status=killed', detail=True) == []
    assert images.listed(LONG_AGO) == images.listed(LONG_AGO, detail=True) == [image_id]
    assert images.upload(image_id, DATA).status == 409
    assert not (old_glance.store / image_id).exists()


def test_a_worker_that_dies_leaves_the_image_saving_for_ever(images: V1Images, old_glance: OldGlance) -> None:
    image_id = images.created()
    with images.uploading(image_id, arrived=DATA[:300], announced=len(DATA)) as exchange:
        eventually((old_glance.store / image_id).exists, 'a file')
        old_glance.kill_worker()
        assert exchange.status() is None
    assert images.upload(image_id, DATA).status == 409
    assert images.status(image_id) == 'saving'


def test_without_the_registry_v1_answers_500_and_v2_goes_on(start_old_glance: StartOldGlance) -> None:
    glance = start_old_glance()
    images = V1Images(glance.port)
    image_id = images.created()
    glance.kill_registry()
    assert images.request('HEAD', f'/v1/images/{image_id}').status == 500
    assert images.show(image_id)['status'] == 'queued'
    glance.start()
    assert images.status(image_id) == 'queued'


def test_a_crash_of_everything_loses_nothing_that_was_stored(start_old_glance: StartOldGlance) -> None:
    glance = start_old_glance()
    images = V1Images(glance.port)
    image_id = images.create(DATA).json['image']['id']
    glance.kill()
    with pytest.raises(ConnectionRefusedError):
        images.status(image_id)
    glance.start()
    assert images.request('GET', f'/v1/images/{image_id}').body == DATA


def test_settings_and_policy_can_be_others(start_old_glance: StartOldGlance) -> None:
    glance = start_old_glance({'DEFAULT': {'image_size_cap': '1000'}}, {'modify_image': 'role:admin'})
    images = V1Images(glance.port)
    answer = images.create(DATA)
    assert (answer.status, 'larger than 1000 bytes' in answer.text) == (400, True)
    assert images.upload(images.created(), b'x').status == 403
