"""Nobody asked to keep: every answer is the bare Glance's own.

One script of requests is played to both, each in a project of its own; status, headers and body of each
answer must be alike, but for ids, times and request ids.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp, TestResponse

from tests.harness import InProcessGlance
from tests.identity import admin_token, reader_token, token
from tests.uploading import Body, Images, Pipelines, comparable, new_project

DATA = b'data of an image' * 8192
JSON = {'Content-Type': 'application/json'}
PATCH = {'Content-Type': 'application/openstack-images-v2.1-json-patch'}
OLD_PATCH = {'Content-Type': 'application/openstack-images-v2.0-json-patch'}
OCTETS = {'Content-Type': 'application/octet-stream'}
NOWHERE = '/v2/images/7f0c5a0e-0000-4000-8000-000000000000'


@dataclass
class Play:
    """One performance of the script: who speaks, and the ids of the images made so far."""

    images: Images
    ids: dict[str, str] = field(default_factory=dict)

    def create(self, name: str, headers: dict[str, str] | None = None, **properties: object) -> TestResponse:
        answer = self.images.create(headers, name=name, **properties)
        self.ids[name] = answer.json['id']
        return answer

    def by(self, caller: str) -> Images:
        """Another caller of the same pipeline."""
        return Images(self.images.application, caller)

    @property
    def project(self) -> str:
        return self.images.caller.split(':')[1]


Step = Callable[[Play], TestResponse]


def ask(method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> Step:
    """A request; ``{name}`` in the path is the id of that image."""
    return lambda play: play.images.request(method, path.format(**play.ids), headers, body)


def send(method: str, path: str, document: object, headers: dict[str, str] | None = None) -> Step:
    return ask(method, path, {**JSON, **(headers or {})}, json.dumps(document).encode())


SCRIPT: list[Step] = [
    # Nothing there yet
    ask('GET', '/v2/images'), ask('GET', '/v2/images?status=queued'), ask('GET', '/v2/images?status=error'),
    ask('GET', '/'), ask('GET', '/versions'), ask('GET', '/v2'), ask('GET', '/v2/'), ask('GET', '/v3/images'),

    # Create
    lambda play: play.create('waiting', tags=['a', 'b'], os_distro='d'),
    lambda play: play.create('cut'), lambda play: play.create('chunked'), lambda play: play.create('active'),
    lambda play: play.create('rejected', disk_format='qcow2'), lambda play: play.create('with\u00e4', min_ram=4),
    lambda play: play.create('quiet', {'X-OpenStack-Image-Keep-On-Failure': 'false'}),
    lambda play: play.create('no', imgguard_keep_on='x', visibility='community'),
    send('POST', '/v2/images', {'nosuch': 7}), send('POST', '/v2/images', []), send('POST', '/v2/images', 'x'),
    send('POST', '/v2/images', {'status': 'error'}), send('POST', '/v2/images', {'id': 'x'}),
    ask('POST', '/v2/images', JSON, b'{'), ask('POST', '/v2/images', JSON, b''), ask('POST', '/v2/images'),
    lambda play: play.by(reader_token('carol', play.project)).create(name='x'),
    lambda play: play.by('').create(name='x'),

    # Upload
    lambda play: play.images.upload(play.ids['active'], DATA),
    lambda play: play.images.upload(play.ids['active'], DATA),
    lambda play: play.images.upload_cut(play.ids['cut']),
    lambda play: play.images.upload(play.ids['chunked'], Body([DATA, OSError('reset')])),
    lambda play: play.images.upload(play.ids['chunked'], Body([DATA, ValueError('Bad chunked transfer size')])),
    lambda play: play.images.upload(play.ids['rejected'], DATA),
    lambda play: play.images.upload(play.ids['quiet'], DATA, {'X-OpenStack-Image-Size': '9'}),
    lambda play: play.images.upload(play.ids['waiting'], DATA, {'X-OpenStack-Image-Size': 'big'}),
    lambda play: play.images.upload(play.ids['waiting'], DATA, {'Content-Type': 'text/plain'}),
    lambda play: play.images.upload(play.ids['waiting'], DATA, {'X-Image-Meta-Store': 'nope'}),
    lambda play: play.by(reader_token('carol', play.project)).upload(play.ids['waiting'], DATA),
    lambda play: play.by(token('mallory', 'elsewhere')).upload(play.ids['waiting'], DATA),
    lambda play: play.by('').upload(play.ids['waiting'], DATA),
    ask('PUT', f'{NOWHERE}/file', OCTETS, b'x'), ask('POST', '/v2/images/{waiting}/file', OCTETS, b'x'),
    ask('DELETE', '/v2/images/{waiting}/file'), ask('PUT', '/v2/images/{waiting}/file/', OCTETS, b'x'),
    lambda play: play.images.upload(play.ids['with\u00e4'], Body([])),
    lambda play: play.images.upload(play.ids['no'], DATA, {'Content-Digest': 'nonsense'}),

    # Show and download
    ask('GET', '/v2/images/{waiting}'), ask('GET', '/v2/images/{active}'), ask('GET', '/v2/images/{cut}'),
    ask('GET', '/v2/images/{quiet}'), ask('GET', '/v2/images/{rejected}'), ask('GET', '/v2/images/{no}'),
    ask('GET', NOWHERE), ask('GET', '/v2/images/nosuch'), ask('GET', '/v2/images//{active}'),
    ask('GET', '/v2/images/{active}', {'Accept': 'text/html'}), ask('GET', '/v2.3/images/{active}'),
    ask('GET', '/v2/images/{active}/file'), ask('GET', '/v2/images/{waiting}/file'), ask('GET', f'{NOWHERE}/file'),
    ask('GET', '/v2/images/{active}/file', {'Range': 'bytes=5-9'}),
    ask('HEAD', '/v2/images/{active}'), ask('HEAD', '/v2/images/{active}/file'), ask('HEAD', '/v2/images'),

    # Lists
    *(ask('GET', f'/v2/images?{query}') for query in (
        'limit=2', 'limit=0', 'limit=x', 'status=queued', 'status=active', 'status=in:queued,active&limit=3',
        'status=error', 'status=killed', 'status=neq:x', 'name=cut', 'tag=a&tag=b', 'sort=name:asc&limit=1',
        'sort=nosuch', 'marker=nosuch',
        'os_distro=d', 'os_glance_image_error_code=declared', 'os_glance_image_error=x', 'size_min=1',
        'sort_key=name&sort_dir=asc&sort_key=id', 'visibility=community&limit=1', 'owner=nobody', '%ff', 'status=%ff',
        'status=queued&name=w%C3%A4', 'status', '&&&')),
    ask('GET', '/v2/images?limit=2&marker={active}'), ask('GET', '/v2/images?limit=2&status=queued&marker={active}'),
    lambda play: play.by(token('mallory', new_project())).request('GET', '/v2/images'),
    lambda play: play.by('').request('GET', '/v2/images'),

    # Update
    *(ask('PATCH', '/v2/images/{waiting}', headers, document) for headers, document in (
        (PATCH, b'[{"op": "replace", "path": "/name", "value": "n"}]'),
        (OLD_PATCH, b'[{"replace": "/name", "value": "m"}]'),
        (PATCH, b'[{"op": "add", "path": "/p", "value": "\\u00e4"}]'),
        (PATCH, b'[{"op": "remove", "path": "/nosuch"}]'),
        (PATCH, b'[{"op": "replace", "path": "/os_glance_x", "value": "v"}]'),
        (PATCH, b'[{"op": "replace", "path": "/id", "value": "v"}]'),
        (PATCH, b'[{"op": "add", "path": "/q", "value": 1}]'), (PATCH, b'[]'), (PATCH, b'{'), (JSON, b'[]'))),
    lambda play: play.by(reader_token('carol', play.project)).patch(
        play.ids['waiting'], {'op': 'add', 'path': '/x', 'value': 'y'}),
    lambda play: play.images.patch(play.ids['active'], {'op': 'add', 'path': '/x', 'value': 'y'}),

    # Everything else of an image
    ask('PUT', '/v2/images/{waiting}/tags/t'), ask('DELETE', '/v2/images/{waiting}/tags/t'),
    send('POST', '/v2/images/{waiting}/members', {'member': 'other'}), ask('GET', '/v2/images/{waiting}/members'),
    ask('GET', '/v2/images/{waiting}/members/other'),
    send('PUT', '/v2/images/{waiting}/members/other', {'status': 'x'}),
    ask('DELETE', '/v2/images/{waiting}/members/other'),
    ask('GET', '/v2/images/{waiting}/tasks'), ask('GET', '/v2/images/{waiting}/locations'),
    send('POST', '/v2/images/{waiting}/import', {}),
    send('POST', '/v2/images/{waiting}/import', {'method': {'name': 'x'}}),
    send('POST', '/v2/images/{waiting}/import', {'method': {'name': 'glance-direct'}}),
    ask('PUT', '/v2/images/{waiting}/stage', OCTETS, DATA), ask('GET', '/v2/images/{waiting}'),
    ask('GET', '/v2/images?status=uploading'), ask('PUT', '/v2/images/{waiting}/file', OCTETS, DATA),
    ask('POST', '/v2/images/{active}/actions/deactivate'), ask('DELETE', '/v2/stores/fs/{active}'),
    ask('GET', '/v2/tasks'), send('POST', '/v2/tasks', {'type': 'import', 'input': {}}), ask('GET', '/v2/tasks/nosuch'),
    ask('GET', '/v2/info/import'), ask('GET', '/v2/info/stores'), ask('GET', '/v2/info/usage'),
    ask('GET', '/v2/nosuch'),
    ask('GET', '/v2/schemas/member'), ask('GET', '/v2/schemas/nosuch'), ask('GET', '/v2/metadefs/namespaces'),
    *(ask(method, path) for method in ('PUT', 'DELETE', 'OPTIONS', 'TRACE', 'BREW', 'get') for path in
      ('/v2/images', '/v2/schemas/image', '/v2/images/{active}/nosuch')),
    ask('POST', '/v2/images/{active}'), ask('PUT', '/v2/images/{active}'),
    ask('GET', '/v2/images/{active}?_method=BREW'),

    # Delete
    ask('DELETE', '/v2/images/{cut}'), ask('DELETE', '/v2/images/{cut}'), ask('GET', '/v2/images/{cut}'),
    ask('DELETE', '/v2/images/{rejected}'), ask('DELETE', NOWHERE), ask('DELETE', '/v2/images'),
    lambda play: play.by(token('mallory', 'elsewhere')).request('DELETE', f'/v2/images/{play.ids["active"]}'),
    lambda play: play.by(admin_token()).request('DELETE', f'/v2/images/{play.ids["chunked"]}'),
    ask('GET', '/v2/images'),
]


def outcome(step: Step, play: Play) -> tuple[Any, ...]:
    """The answer without what differs each time; or the exception, which a server would answer with 500."""
    try:
        answer = step(play)
    except (TypeError, ValueError, UnicodeError, AttributeError) as error:
        return type(error), str(error)
    return *comparable(answer), answer.headers.get('Content-Length')


VARIANTS: dict[str, tuple[dict[str, str], str, int]] = {
    'whole script': ({}, 'keystone', len(SCRIPT)),
    'with a cache': ({}, 'keystone+cachemanagement', 50),
    'killed, refuse': ({'error_status': 'killed', 'on_store_failure': 'refuse'}, 'keystone', 50),
    'store down': ({'connection': 'sqlite:////nowhere/imgguard.db'}, 'keystone', 50),
}


@pytest.mark.parametrize('options, flavor, steps', VARIANTS.values(), ids=VARIANTS)
def test_a_script_of_requests_is_answered_alike(
    in_process_glance: InProcessGlance, tmp_path: Path, options: dict[str, str], flavor: str, steps: int,
) -> None:
    options = {'connection': f'sqlite:///{tmp_path}/imgguard.db', **options}
    guarded, bare = (Play(Images(TestApp(in_process_glance.load(each, flavor), lint=False),
                                 token('alice', new_project())))
                     for each in (options, None))
    assert len(SCRIPT) > 100
    for number, step in enumerate(SCRIPT[:steps]):
        expected = outcome(step, bare)
        assert outcome(step, guarded) == expected, f'step {number}'


def test_nothing_is_written_of_images_nobody_asked_for(
    in_process_glance: InProcessGlance, tmp_path: Path,
) -> None:
    pipelines = Pipelines(in_process_glance, tmp_path)
    images = pipelines.images()
    for upload in (images.upload_cut, lambda image_id: images.upload(image_id, DATA)):
        image_id = images.created()
        upload(image_id)
        assert pipelines.record(image_id) is None


def test_schema_documents_are_the_exception(
    in_process_glance: InProcessGlance, tmp_path: Path,
) -> None:
    images, bare = Pipelines(in_process_glance, tmp_path).callers()
    for name in ('image', 'images'):
        guarded, alone = (each.request('GET', f'/v2/schemas/{name}') for each in (images, bare))
        assert comparable(guarded)[:2] == comparable(alone)[:2] and guarded.json != alone.json
