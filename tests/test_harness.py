"""The harness itself: the bare Glance, in process and under each server, is what other tests take it for."""

import hashlib
import time
from collections.abc import Iterator

import pytest

from demo.client import Client
from demo.private_glance import PrivateGlanceError
from demo.server import Kind, Server
from tests import conftest, identity

DATA = b'data of an image' * 4096
POLL_SECONDS = 0.05
WAIT_SECONDS = 30.0


def wait_for_status(client: Client, image_id: str, status: str) -> None:
    """Wait until Glance shows this status."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (shown := client.show(image_id).json['status']) != status:
        assert time.monotonic() < deadline, f'still {shown}, not {status}'
        time.sleep(POLL_SECONDS)


def test_bare_glance_in_process(load_client: conftest.LoadClient) -> None:
    client = load_client(None)
    headers = {'X-Auth-Token': identity.token('alice', 'project-a')}
    fields = {'name': 'harness', 'disk_format': 'raw', 'container_format': 'bare'}
    created = client.post_json('/v2/images', fields, headers=headers, status=201).json
    assert created['owner'] == 'project-a'
    path = f'/v2/images/{created["id"]}'
    client.put(f'{path}/file', DATA, headers={**headers, 'Content-Type': 'application/octet-stream'}, status=204)
    shown = client.get(path, headers=headers).json
    assert (shown['status'], shown['checksum']) == ('active', hashlib.md5(DATA).hexdigest())
    assert client.get(f'{path}/file', headers=headers).body == DATA


FORGED = {'X-Roles': 'admin', 'X-Identity-Status': 'Confirmed', 'X-User-Id': 'mallory'}


@pytest.mark.parametrize('headers', [{}, FORGED], ids=['none', 'forged'])
def test_headers_of_a_client_are_no_identity(load_client: conftest.LoadClient, headers: dict[str, str]) -> None:
    load_client(None).get('/v2/images', headers=headers, status=401)


def test_another_project_sees_nothing_and_a_reader_may_not_write(load_client: conftest.LoadClient) -> None:
    client = load_client(None)
    owner = {'X-Auth-Token': identity.token('alice', 'project-a')}
    path = f'/v2/images/{client.post_json("/v2/images", {"name": "mine"}, headers=owner).json["id"]}'
    client.get(path, headers={'X-Auth-Token': identity.token('bob', 'project-b')}, status=404)
    reader = {'X-Auth-Token': identity.reader_token('carol', 'project-a'), 'Content-Type': 'application/octet-stream'}
    client.get(path, headers=reader)
    client.put(f'{path}/file', DATA, headers=reader, status=403)
    client.get(path, headers={'X-Auth-Token': identity.admin_token()})


def test_options_of_glance_can_be_set_for_a_test(
    load_client: conftest.LoadClient, override_glance: conftest.OverrideGlance,
) -> None:
    client = load_client(None)
    headers = {'X-Auth-Token': identity.token('alice', 'project-a'), 'Content-Type': 'application/octet-stream'}
    fields = {'disk_format': 'raw', 'container_format': 'bare'}
    path = f'/v2/images/{client.post_json("/v2/images", fields, headers=headers).json["id"]}'
    override_glance('image_size_cap', 1000)
    client.put(f'{path}/file', DATA, headers=headers, status=413)


@pytest.mark.parametrize('flavor', ['keystone+caching', 'keystone+cachemanagement'])
def test_other_flavors_load(load_client: conftest.LoadClient, flavor: str) -> None:
    client = load_client(None, flavor)
    client.get('/v2/images', headers={'X-Auth-Token': identity.token('alice', 'project-a')}, status=200)


@pytest.fixture(scope='module', params=Kind)
def bare_server(request: pytest.FixtureRequest, start_module_server: conftest.StartServer) -> Iterator[Server]:
    """The bare Glance under each of the servers, one after the other."""
    with start_module_server(request.param, None) as server:
        yield server


@pytest.fixture
def client(bare_server: Server) -> Client:
    """A member of a project."""
    return Client(bare_server.port, {'X-Auth-Token': identity.token('alice', 'project-a')})


def test_bare_glance_under_a_server(client: Client) -> None:
    for data in (DATA, iter([DATA[:1000], DATA[1000:]])):
        created = client.create()
        assert created.status == 201, created.text
        assert client.upload(created.json['id'], data).status == 204
        shown = client.show(created.json['id']).json
        assert (shown['status'], shown['checksum']) == ('active', hashlib.md5(DATA).hexdigest())


@pytest.mark.parametrize('size', [None, 1048576], ids=['chunked', 'with length'])
def test_a_cut_upload_leaves_the_bare_glance_queued(bare_server: Server, client: Client, size: int | None) -> None:
    image_id = client.create().json['id']
    logged = len(bare_server.log_text())
    client.cut_upload(image_id, DATA, size)
    # Queued it was before: only Glance's log tells that the upload began and was undone.
    deadline = time.monotonic() + WAIT_SECONDS
    while 'Failed to upload image' not in bare_server.log_text()[logged:]:
        assert time.monotonic() < deadline, 'Glance logged no failure'
        time.sleep(POLL_SECONDS)
    wait_for_status(client, image_id, 'queued')


def test_a_server_that_does_not_come_up_says_why(start_server: conftest.StartServer) -> None:
    with pytest.raises(PrivateGlanceError, match='cheroot ended with 1(.|\n)*no-such-flavor'):
        start_server(Kind.CHEROOT, None, settings={'paste_deploy': {'flavor': 'no-such-flavor'}})
