"""What Glance itself does where several hosts serve the same images: see :mod:`tests.hosts`."""

import json

from tests.conftest import StartHost
from tests.hosts import Shared
from tests.identity import token
from tests.sockets import eventually

ALICE = token('alice', 'red')
OCTETS = {'Content-Type': 'application/octet-stream'}
IMPORT = json.dumps({'method': {'name': 'glance-direct'}}).encode()
JSON = {'Content-Type': 'application/json'}


def test_hosts_share_images_and_hand_on_what_is_about_staged_data(start_host: StartHost, shared: Shared) -> None:
    first, second = start_host(None), start_host(None)
    here, there = first.client(ALICE), second.client(ALICE)
    image_id = here.create().json['id']
    assert here.request('PUT', f'/v2/images/{image_id}/stage', b'data', OCTETS).status == 204
    assert first.staged() == {image_id: 4}

    assert there.request('POST', f'/v2/images/{image_id}/import', IMPORT, JSON).status == 202
    eventually(lambda: there.show(image_id).json['status'] == 'active', 'the image is active')
    eventually(lambda: not first.staged(), 'the staged data is gone')
    assert (shared.store / image_id).read_bytes() == b'data'

    # Its caller's own error of a host that cannot be reached, which Glance does not expect from keystoneauth.
    image_id = here.create().json['id']
    assert here.request('PUT', f'/v2/images/{image_id}/stage', b'data', OCTETS).status == 204
    first.kill()
    assert there.request('POST', f'/v2/images/{image_id}/import', IMPORT, JSON).status == 500
    assert there.request('DELETE', f'/v2/images/{image_id}').status == 500
    assert there.show(image_id).json['status'] == 'uploading'

    first = start_host(None, again=first)
    assert there.request('DELETE', f'/v2/images/{image_id}').status == 204
    assert not first.staged()
