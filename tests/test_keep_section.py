"""The keep section: the same API a second time under a prefix, where every image is kept; as nova uses it.

The paste file is the sample itself. What nova sends, and when, was recorded from nova 34: its own image
API with python-glanceclient, which asks for the schema in between and never sends a header of the guard.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp, TestResponse

from imgguard.store import Store
from tests.harness import InProcessGlance
from tests.identity import token
from tests.uploading import ERROR, KEPT, Body, Images, new_project

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / 'etc' / 'glance-api-paste.ini'
WITH_KEEP_SECTION = ROOT / 'etc' / 'glance-api-paste-keep.ini'
AUTHTOKEN = 'keystonemiddleware.auth_token:filter_factory'
DATA = b'data of a snapshot' * 4096


def test_the_sample_is_the_other_sample_and_a_keep_section() -> None:
    lines = [Counter(line for line in path.read_text().splitlines() if line and not line.startswith('#'))
             for path in (SAMPLE, WITH_KEEP_SECTION)]
    assert not lines[0] - lines[1]
    pipelines = [line for line in lines[0] if ' imgguard ' in line]
    assert len(pipelines) == 6
    assert lines[1] - lines[0] == Counter([
        *['/keep: api-keep'] * 6, '[composite:api-keep]', 'paste.composite_factory = glance.api:pipeline_factory',
        *(line.replace(' imgguard ', ' imgguard-keep ') for line in pipelines),
        '[filter:imgguard-keep]', 'use = egg:imgguard', 'keep_default = always'])


class Sections:
    """The application of the sample, its two sections on one store."""

    def __init__(self, glance: InProcessGlance, folder: Path) -> None:
        from glance.common import config
        from oslo_config import cfg
        connection = f'sqlite:///{folder}/imgguard.db'
        text = WITH_KEEP_SECTION.read_text()
        text, replaced = re.subn('^use = egg:imgguard$', rf'\g<0>\nconnection = {connection}', text, flags=re.M)
        assert replaced == 2 and AUTHTOKEN in text
        path = folder / 'glance-api-paste.ini'
        path.write_text(text.replace(AUTHTOKEN, 'tests.identity:filter_factory'))
        cfg.CONF.set_override('flavor', 'keystone', group='paste_deploy')
        try:
            self.application = TestApp(config.load_paste_app('glance-api', 'keystone', str(path)), lint=False)
        finally:
            cfg.CONF.clear_override('flavor', group='paste_deploy')
        self.store = Store(connection, lease_seconds=60)


@pytest.fixture(scope='module')
def sections(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Sections:
    return Sections(in_process_glance, tmp_path_factory.mktemp('keep'))


@pytest.fixture
def user(sections: Sections) -> Images:
    """A user of the ordinary section."""
    return Images(sections.application, token('alice', new_project()))


class Nova:
    """nova-api and nova-compute on behalf of a user; the numbers are the statuses of the answers."""

    def __init__(self, user: Images, prefix: str = '/keep') -> None:
        self._user = user
        self._prefix = prefix
        self.image_id = ''

    def send(self, method: str, path: str = '', document: object = None) -> TestResponse:
        """One request of nova, with the token of the user."""
        path = f'{self._prefix}/v2/images{path}'
        headers = {'User-Agent': 'python-glanceclient', 'Accept-Encoding': 'gzip, deflate', 'Accept': '*/*'}
        if document is None:
            return self._user.request(method, path, headers)
        content = 'application/openstack-images-v2.1-json-patch' if method == 'PATCH' else 'application/json'
        return self._user.json(method, path, document, {**headers, 'Content-Type': content})

    def begin(self) -> TestResponse:
        """What nova-api does: the image without formats."""
        self._schema()
        created = self.send('POST', document={
            'name': 'snapshot', 'visibility': 'private', 'image_type': 'snapshot', 'instance_uuid': 'an instance',
            'user_id': 'alice', 'boot_roles': 'member,reader', 'base_image_ref': 'an image'})
        assert created.status_int == 201
        self.image_id = created.json['id']
        return created

    def describe(self) -> None:
        """What the driver of nova-compute does before it uploads."""
        self._show()
        self._show()
        self._schema()
        changed = self.send('PATCH', f'/{self.image_id}', [
            {'op': 'add', 'path': '/disk_format', 'value': 'raw'},
            {'op': 'add', 'path': '/container_format', 'value': 'bare'},
            {'op': 'add', 'path': '/image_state', 'value': 'available'}])
        assert changed.status_int == 200
        self._show()

    def upload(self, body: Body | bytes) -> TestResponse:
        """In chunks and without a size, but for bytes."""
        return self._user.request(
            'PUT', f'{self._prefix}/v2/images/{self.image_id}/file', {'Content-Type': 'application/octet-stream'}, body)

    def clean_up(self) -> list[int]:
        """What its decorators do when anything has failed: they may be nested, and each of them deletes."""
        return [self.send('DELETE', f'/{self.image_id}').status_int for _ in range(2)]

    def _show(self) -> dict[str, Any]:
        shown = self.send('GET', f'/{self.image_id}')
        assert shown.status_int == 200
        self._schema()
        return dict(shown.json)

    def _schema(self) -> None:
        schema = self._user.request('GET', f'{self._prefix}/v2/schemas/image')
        assert schema.status_int == 200 and 'error' in schema.json['properties']['status']['enum']


@pytest.fixture
def nova(user: Images) -> Nova:
    return Nova(user)


def test_a_snapshot_that_succeeds(user: Images, nova: Nova) -> None:
    assert nova.begin().headers[KEPT] == 'guarded'
    nova.describe()
    uploaded = nova.upload(Body([DATA]))
    assert (uploaded.status_int, uploaded.headers[KEPT]) == (204, 'guarded')
    assert user.show(nova.image_id)['status'] == 'active'
    assert user.download(nova.image_id).body == DATA


def test_a_snapshot_whose_upload_fails_is_kept_with_its_reason(user: Images, nova: Nova) -> None:
    nova.begin()
    nova.describe()
    failed = nova.upload(Body([DATA, OSError('connection reset')]))
    assert (failed.status_int, failed.headers[KEPT]) == (500, 'error')
    assert nova.clean_up() == [204, 204]
    shown = user.show(nova.image_id)
    assert (shown['status'], shown[f'{ERROR}_code']) == ('error', 'client_disconnected')
    assert user.listed('status=error') == [nova.image_id]


def test_a_body_that_is_repeated_after_it_was_used_up_makes_no_empty_image(user: Images, nova: Nova) -> None:
    nova.begin()
    nova.describe()
    nova.upload(Body([DATA, OSError('connection reset')]))
    assert nova.upload(Body([])).status_int == 400
    assert nova.clean_up() == [204, 204]
    assert user.show(nova.image_id)[f'{ERROR}_code'] == 'client_disconnected'


@pytest.mark.parametrize('described', [False, True])
def test_a_snapshot_that_fails_before_its_upload_is_kept_too(user: Images, nova: Nova, described: bool) -> None:
    nova.begin()
    if described:
        nova.describe()
    assert nova.clean_up() == [204, 204]
    shown = user.show(nova.image_id)
    assert (shown['status'], shown[f'{ERROR}_code']) == ('error', 'abandoned')


def test_a_snapshot_of_a_volume_has_no_bytes(user: Images, nova: Nova) -> None:
    nova.begin()
    nova.describe()
    empty = nova.upload(b'')
    assert empty.status_int == 204
    assert user.show(nova.image_id)['status'] == 'active'


def test_the_rotation_of_backups_deletes_what_is_active(user: Images, nova: Nova) -> None:
    nova.begin()
    nova.describe()
    nova.upload(Body([DATA]))
    assert nova.clean_up() == [204, 404]
    assert user.request('GET', f'/v2/images/{nova.image_id}').status_int == 404


def test_the_user_can_delete_what_nova_could_not(user: Images, nova: Nova) -> None:
    nova.begin()
    nova.clean_up()
    deleted = user.request('DELETE', f'/v2/images/{nova.image_id}', {'X-OpenStack-Image-Keep-On-Failure': 'false'})
    assert (deleted.status_int, KEPT in deleted.headers) == (204, False)
    assert user.request('GET', f'/v2/images/{nova.image_id}').status_int == 404


def test_without_the_prefix_nothing_is_kept(user: Images) -> None:
    nova = Nova(user, prefix='')
    assert KEPT not in nova.begin().headers
    nova.describe()
    nova.upload(Body([DATA, OSError('connection reset')]))
    assert nova.clean_up() == [204, 404]
    assert user.listed('status=error') == []


def test_links_lead_on_under_the_prefix(user: Images) -> None:
    nova = Nova(user)
    for _ in range(3):
        nova.begin()
        nova.clean_up()
    page = nova.send('GET', '?status=error&limit=2').json
    assert len(page['images']) == 2
    rest = nova.send('GET', page['next'].removeprefix('/v2/images')).json
    assert len(rest['images']) == 1
