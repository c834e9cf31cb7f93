"""Clients as they are installed, unmodified, against an image in error: python-glanceclient and openstacksdk."""

import hashlib
import io
import threading
from collections.abc import Iterator
from typing import Any

import glanceclient
import glanceclient.exc
import openstack
import openstack.exceptions
import pytest
from keystoneauth1 import token_endpoint
from keystoneauth1.session import Session

from demo.client import Client
from demo.server import Kind, Server
from tests import conftest
from tests.identity import token
from tests.sockets import eventually
from tests.uploading import ERROR, KEEP, new_project

DATA = b'data of an image' * 20000
RAW = {'disk_format': 'raw', 'container_format': 'bare'}
GUARD_SECONDS = 60.0

# openstacksdk itself uses what it is about to drop.
pytestmark = [
    pytest.mark.filterwarnings('ignore::openstack.warnings.RemovedInSDK50Warning'),
    pytest.mark.filterwarnings('ignore::openstack.warnings.RemovedInSDK60Warning'),
]


@pytest.fixture(scope='module')
def server(start_module_server: conftest.StartServer) -> Iterator[Server]:
    with start_module_server(Kind.UWSGI_HTTP, {}) as running:
        yield running


@pytest.fixture
def caller() -> str:
    """The token of a member of a project that has no images yet."""
    return token('alice', new_project())


@pytest.fixture
def plain(server: Server, caller: str) -> Client:
    """The same caller without any client library."""
    return Client(server.port, {'X-Auth-Token': caller})


@pytest.fixture
def in_error(plain: Client) -> str:
    """The id of an image in error."""
    image_id: str = plain.create(KEEP, name='failed', tags=['one'], colour='red').json['id']
    assert plain.upload(image_id, DATA, {'X-OpenStack-Image-Size': '1'}).status == 400
    return image_id


def assert_in_error(image: Any, code: str = 'size_mismatch') -> None:
    """What a client library made of the image tells that it failed and why."""
    assert (image['status'], image[f'{ERROR}_code']) == ('error', code)
    assert image[ERROR]


class BreaksOff(io.BytesIO):
    """A file that cannot be read to its end."""

    def read(self, size: int | None = -1) -> bytes:
        """Return data from the first half only."""
        if self.tell() >= len(self.getvalue()) // 2:
            raise OSError('the disk is gone')
        return super().read(size)


# python-glanceclient


@pytest.fixture(params=['token', 'session'])
def glance(request: pytest.FixtureRequest, server: Server, caller: str) -> Any:
    """A client of its own kind of HTTP, and one on a session of keystoneauth, as nova's is."""
    if request.param == 'token':
        return glanceclient.Client(endpoint=f'{server.url}/v2', token=caller)
    session = Session(auth=token_endpoint.Token(server.url, caller))
    return glanceclient.Client('2', session=session, endpoint_override=server.url)


def test_glanceclient_shows_and_lists_it(glance: Any, in_error: str) -> None:
    assert_in_error(glance.images.get(in_error))
    for filters in ({}, {'status': 'error'}, {'status': 'in:error,active'}, {f'{ERROR}_code': 'size_mismatch'}):
        [found] = list(glance.images.list(filters=filters))
        assert found['id'] == in_error
        assert_in_error(found)
    assert list(glance.images.list(filters={'status': 'queued'})) == []


def test_glanceclient_pages_through_images_in_error(glance: Any, plain: Client) -> None:
    made = set()
    for _ in range(7):
        image_id = plain.create(KEEP).json['id']
        plain.upload(image_id, b'x', {'X-OpenStack-Image-Size': '2'})
        plain.create()
        made.add(image_id)
    found = [image['id'] for image in glance.images.list(filters={'status': 'error'}, page_size=2)]
    assert sorted(found) == sorted(made)
    assert len(list(glance.images.list(page_size=3))) == 14


def test_glanceclient_updates_it(glance: Any, in_error: str) -> None:
    # It checks the image against the schema before it sends anything.
    updated = glance.images.update(in_error, name='other', min_disk=3, colour='blue')
    assert (updated['name'], updated['min_disk'], updated['colour']) == ('other', 3, 'blue')
    assert_in_error(updated)
    updated = glance.images.update(in_error, remove_props=['colour'])
    assert 'colour' not in updated
    assert_in_error(updated)


def test_glanceclient_may_not_write_the_reason(glance: Any, in_error: str) -> None:
    with pytest.raises(glanceclient.exc.HTTPForbidden):
        glance.images.update(in_error, **{f'{ERROR}_code': 'backend_error'})
    assert_in_error(glance.images.get(in_error))


def test_glanceclient_uploads_it_again(glance: Any, in_error: str) -> None:
    glance.images.upload(in_error, io.BytesIO(DATA))
    image = glance.images.get(in_error)
    assert (image['status'], image['checksum']) == ('active', hashlib.md5(DATA).hexdigest())
    assert b''.join(glance.images.data(in_error)) == DATA


def test_glanceclient_cannot_make_an_empty_image_of_a_file_it_has_read(
    glance: Any, plain: Client,
) -> None:
    image_id = plain.create(KEEP).json['id']
    broken, data = BreaksOff(DATA), io.BytesIO(DATA)
    with pytest.raises((OSError, glanceclient.exc.CommunicationError)):
        glance.images.upload(image_id, broken)
    data.seek(0, io.SEEK_END)
    eventually(lambda: plain.show(image_id).json['status'] == 'error', 'error')
    with pytest.raises(glanceclient.exc.HTTPBadRequest, match='body is empty'):
        glance.images.upload(image_id, data)
    assert_in_error(glance.images.get(image_id), 'client_disconnected')
    data.seek(0)
    glance.images.upload(image_id, data)
    assert glance.images.get(image_id)['checksum'] == hashlib.md5(DATA).hexdigest()


def test_glanceclient_asks_to_keep_by_a_header_or_a_property(server: Server, caller: str, plain: Client) -> None:
    by_header = glanceclient.Client(endpoint=f'{server.url}/v2', token=caller, identity_headers=dict(KEEP))
    by_property = glanceclient.Client(endpoint=f'{server.url}/v2', token=caller)
    images = [by_header.images.create(name='a', **RAW),
              by_property.images.create(name='b', imgguard_keep_on_failure='true', **RAW)]
    for image in images:
        assert image['status'] == 'queued'
        assert 'imgguard_keep_on_failure' not in image
        plain.upload(image['id'], DATA, {'X-OpenStack-Image-Size': '1'})
        assert_in_error(plain.show(image['id']).json)


# openstacksdk


@pytest.fixture
def cloud(server: Server, caller: str) -> Iterator[Any]:
    """A connection to a cloud that has nothing but this Glance."""
    connection = openstack.connect(
        auth_type='admin_token', auth={'endpoint': server.url, 'token': caller}, region_name='region',
        image_api_version='2', image_endpoint_override=server.url, load_yaml_config=False,
        load_envvars=False)
    yield connection
    connection.close()


def test_openstacksdk_shows_and_lists_it(cloud: Any, in_error: str) -> None:
    assert_in_error(details(cloud.image.get_image(in_error)))
    assert_in_error(details(cloud.image.find_image('failed')))
    [found] = cloud.image.images(status='error')
    assert found.id == in_error
    assert_in_error(details(found))
    assert list(cloud.image.images(status='queued')) == []


def details(image: Any) -> dict[str, Any]:
    """The image with those properties the SDK knows no name for."""
    return {'status': image.status, **image.properties}


def test_openstacksdk_stops_waiting_at_once(cloud: Any, in_error: str) -> None:
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            cloud.wait_for_image({'id': in_error})
        except BaseException as error:
            raised.append(error)

    # Left to itself it would wait for an hour.
    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    waiter.join(GUARD_SECONDS)
    assert not waiter.is_alive()
    assert isinstance(raised[0], openstack.exceptions.SDKException)
    assert str(raised[0]) == f'Image {in_error} hit error state'


def test_openstacksdk_stops_waiting_for_a_status(cloud: Any, in_error: str) -> None:
    image = cloud.image.get_image(in_error)
    with pytest.raises(openstack.exceptions.ResourceFailure, match='failure state error'):
        cloud.image.wait_for_status(image, 'active', wait=GUARD_SECONDS)


def test_openstacksdk_updates_it(cloud: Any, in_error: str) -> None:
    image = cloud.image.get_image(in_error)
    updated = cloud.image.update_image(image, name='other')
    assert updated.name == 'other'
    assert cloud.image.get_image(in_error).status == 'error'
    # By its id alone nothing is known of it but what is changed.
    cloud.image.update_image(in_error, min_disk=3)
    image = cloud.image.get_image(in_error)
    assert (image.name, image.min_disk) == ('other', 3)
    assert_in_error(details(image))


def test_openstacksdk_asks_to_keep_and_uploads_it_again(cloud: Any, plain: Client) -> None:
    cloud.image.additional_headers.update(KEEP)
    image = cloud.image.create_image('kept', allow_duplicates=True, **RAW)
    assert image.status == 'queued'
    image.data = DATA
    broken = plain.upload(image.id, DATA, {'X-OpenStack-Image-Size': '1'})
    assert broken.status == 400
    assert_in_error(details(cloud.image.get_image(image.id)))
    image.upload(cloud.image)
    image = cloud.wait_for_image({'id': image.id}, timeout=GUARD_SECONDS)
    assert (image.status, image.checksum) == ('active', hashlib.md5(DATA).hexdigest())
    assert not [name for name in details(image) if name.startswith(ERROR)]
