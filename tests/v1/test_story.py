"""What a caller of v1 can ask of the guard in the proxy, what is told and to whom, and what it survives."""

import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from demo.client import Answer
from imgguard import uploads
from imgguard.tasks import LAST_WORD_SECONDS
from tests.identity import admin_token
from tests.old_glance import OldGlance
from tests.proxying import Between
from tests.sockets import GuardsStore, eventually
from tests.sources import DATA as GOOD, Source
from tests.uploading import ERROR, KEEP, KEPT
from tests.v1.conftest import StartOldGlance
from tests.v1.guarding import guarding, started
from tests.v1.images import FORMATS, KEEP_PROPERTIES, OCTETS, V1Images

KEPT_HEADER, ID_HEADER = KEPT.lower(), 'x-openstack-image-id'
DATA = b'data of an image' * 100
WRONG = {'x-image-meta-checksum': '0' * 32}


@pytest.fixture(scope='module')
def port(old_glance: OldGlance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with guarding(old_glance, tmp_path_factory.mktemp('guard')) as port:
        yield port


@pytest.fixture
def images(port: int) -> V1Images:
    return V1Images(port)


def in_error(images: V1Images, **headers: str) -> str:
    """Create an image whose data is not what its checksum says."""
    answer = images.create(DATA, {**KEEP, **WRONG, **headers})
    assert (answer.status, answer.headers[KEPT_HEADER]) == (400, 'error')
    return answer.headers[ID_HEADER]


def test_the_story(images: V1Images) -> None:
    image_id = in_error(images, **{'x-image-meta-property-os_distro': 'debian'})
    head, shown = images.head(image_id), images.show(image_id)
    assert (head['status'], shown['status']) == ('error', 'error')
    assert head[f'property-{ERROR}_code'] == shown[f'{ERROR}_code'] == 'digest_mismatch'
    assert head[f'property-{ERROR}_attempts'] == '1' and 'did not match' in head[f'property-{ERROR}']
    # What the client cleans up is kept.
    absorbed = images.request('DELETE', f'/v1/images/{image_id}')
    assert (absorbed.status, absorbed.headers[KEPT_HEADER], absorbed.body) == (200, 'error', b'')
    answer = images.upload(image_id, DATA)
    assert (answer.status, answer.headers[KEPT_HEADER]) == (200, 'guarded')
    assert images.request('GET', f'/v1/images/{image_id}').body == DATA
    head = images.head(image_id)
    assert (head['status'], head['property-os_distro'], f'property-{ERROR}' in head) == ('active', 'debian', False)
    attempts = images.request('GET', f'/v2/images/{image_id}/attempts').json['attempts']
    assert [each['state'] for each in attempts] == ['succeeded', 'failed']


@pytest.mark.parametrize('way', ['copy', 'v2'])
def test_a_retry_may_be_a_copy_or_come_by_v2(images: V1Images, source: Source, way: str) -> None:
    image_id = in_error(images)
    if way == 'copy':
        again = images.request('PUT', f'/v1/images/{image_id}', {'x-glance-api-copy-from': source.url('good')})
    else:
        again = images.request('PUT', f'/v2/images/{image_id}/file', OCTETS, GOOD)
    assert (again.status, again.headers[KEPT_HEADER]) == (200 if way == 'copy' else 204, 'guarded')
    eventually(lambda: images.status(image_id) == 'active', 'the data')
    shown = images.show(image_id)
    assert (shown['size'], shown['checksum']) == (len(GOOD), md5(GOOD).hexdigest())
    assert images.request('GET', f'/v1/images/{image_id}').body == GOOD


def test_a_create_with_data_that_ends_well_is_answered_as_without_the_guard(images: V1Images, port: int,
                                                                            old_glance: OldGlance) -> None:
    bare = V1Images(old_glance.port, images.caller)
    answers = [each.create(DATA, {**KEEP, 'x-image-meta-property-os_distro': 'debian'}) for each in (images, bare)]
    made = [answer.json['image'] for answer in answers]
    varies = ('id', 'name', 'created_at', 'updated_at')
    assert {**made[0], **dict.fromkeys(varies)} == {**made[1], **dict.fromkeys(varies)}
    assert [answer.status for answer in answers] == [201, 201]
    assert answers[0].headers['location'] == f'http://127.0.0.1:{port}/v1/images/{made[0]["id"]}'
    ours = {KEPT_HEADER, ID_HEADER, 'server'}
    assert set(answers[0].headers) - ours == set(answers[1].headers)


@pytest.mark.parametrize(('path', 'accepted'), [
    ('/images', 'application/vnd.openstack.images-v1'), ('/images', 'Application/vnd.openstack.images-v1'),
    ('/v1.1//images', None), ('/v1/images', 'text/plain')])
def test_other_spellings_are_no_way_round(images: V1Images, path: str, accepted: str | None) -> None:
    accept = {} if accepted is None else {'Accept': accepted}
    answer = images.request('POST', path, {**FORMATS, **OCTETS, **KEEP, **WRONG, **accept}, DATA)
    assert (answer.status, answer.headers[KEPT_HEADER]) == (400, 'error')
    assert images.status(answer.headers[ID_HEADER]) == 'error'


def test_the_id_that_the_client_chooses_is_kept(images: V1Images) -> None:
    chosen = str(uuid4())
    assert in_error(images, **{'x-image-meta-id': chosen}) == chosen
    taken = images.create(DATA, {**KEEP, 'x-image-meta-id': chosen})
    assert taken.status == 409 and 'already exists' in taken.text
    # It is not what this create has left.
    assert ID_HEADER not in taken.headers


@pytest.mark.parametrize(('keep', 'status'), [({'x-image-meta-property-imgguard_keep_on_failure': 'yes'}, 'error'),
                                              ({KEPT.replace('Kept', 'Keep-On-Failure'): 'false'}, 'killed'),
                                              ({}, 'killed')])
def test_who_asks_is_kept(images: V1Images, keep: dict[str, str], status: str) -> None:
    image_id = images.created(keep)
    assert 'property-imgguard_keep_on_failure' not in images.head(image_id)
    assert images.upload(image_id, DATA, WRONG).status == 400
    assert images.status(image_id) == status


def test_a_create_that_nobody_asked_to_keep_tells_its_image_too(images: V1Images) -> None:
    killed = images.create(DATA, WRONG)
    assert (killed.status, images.status(killed.headers[ID_HEADER])) == (400, 'killed')
    refused = images.create(DATA, {'x-image-meta-disk_format': 'none of Glance'})
    assert (refused.status, refused.headers.get(ID_HEADER)) == (400, None)
    good = images.create(DATA)
    assert (good.status, good.headers.get(ID_HEADER)) == (201, None)


def test_what_cannot_be_understood_is_refused_before_glance_sees_it(images: V1Images) -> None:
    before = images.listed()
    for headers in ({KEPT.replace('Kept', 'Keep-On-Failure'): 'maybe'},
                    {'x-image-meta-property-imgguard_keep_on_failure': 'maybe'}):
        answer = images.create(DATA, headers)
        assert answer.status == 400 and 'must be true or false' in answer.text
    assert images.listed() == before


@pytest.mark.parametrize('name', [ERROR, f'{ERROR}_code', 'os_glance_image_give_up_at'])
def test_properties_of_the_guard_cannot_be_set(images: V1Images, name: str) -> None:
    image_id = images.created()
    header = {f'x-image-meta-property-{name}': 'made up'}
    for answer in (images.create(headers=header), images.create(DATA, header), images.upload(image_id, DATA, header),
                   images.request('PUT', f'/v1/images/{image_id}', header),
                   images.client.request('POST', '/v2/images', b'{"name": "n", "%s": "made up"}' % name.encode(),
                                         {'Content-Type': 'application/json'}),
                   images.client.request(
                       'PATCH', f'/v2/images/{image_id}',
                       b'[{"op": "add", "path": "/%s", "value": "made up"}]' % name.encode(),
                       {'Content-Type': 'application/openstack-images-v2.1-json-patch'})):
        assert answer.status == 403, answer
    assert images.status(image_id) == 'queued' and name not in images.show(image_id)


def test_an_update_shows_the_error_and_leaves_it(images: V1Images) -> None:
    image_id = in_error(images)
    answer = images.request('PUT', f'/v1/images/{image_id}', {**KEEP_PROPERTIES, 'x-image-meta-name': 'new'})
    told = answer.json['image']
    assert (told['name'], told['status'], told['size'], told['checksum']) == ('new', 'error', 0, None)
    assert told['properties'][f'{ERROR}_code'] == 'digest_mismatch'
    assert 'etag' not in answer.headers


def test_declared_by_v2_and_told_by_v1(images: V1Images) -> None:
    image_id = images.created(KEEP)
    patched = images.client.request(
        'PATCH', f'/v2/images/{image_id}', b'[{"op": "replace", "path": "/status", "value": "error"}]',
        {'Content-Type': 'application/openstack-images-v2.1-json-patch'})
    assert patched.status == 200, patched
    assert images.head(image_id)[f'property-{ERROR}_code'] == 'declared'


def test_a_delete_that_is_no_clean_up_deletes(images: V1Images) -> None:
    image_id = in_error(images)
    answer = images.request('DELETE', f'/v1/images/{image_id}', {KEPT.replace('Kept', 'Keep-On-Failure'): 'false'})
    assert (answer.status, answer.headers.get(KEPT_HEADER)) == (200, None)
    assert images.request('HEAD', f'/v1/images/{image_id}').status == 404


# Who may do and see what

def test_a_stranger_learns_that_a_public_image_failed_and_not_why(images: V1Images, port: int) -> None:
    image_id = in_error(images)
    admin = V1Images(port, admin_token())
    admin.request('PUT', f'/v1/images/{image_id}', {**KEEP_PROPERTIES, 'x-image-meta-is_public': 'True'})
    for caller, details in ((images, True), (admin, True), (V1Images(port), False)):
        head = caller.head(image_id)
        assert (head['status'], f'property-{ERROR}' in head) == ('error', details)


def test_who_may_not_modify_an_image_cannot_touch_it(images: V1Images, port: int) -> None:
    image_id = in_error(images)
    admin, member, stranger = V1Images(port, admin_token()), V1Images(port), V1Images(port)
    project = member.caller.split(':')[1]
    assert images.request('PUT', f'/v1/images/{image_id}/members/{project}').status == 204
    admin.request('PUT', f'/v1/images/{image_id}', {**KEEP_PROPERTIES, 'x-image-meta-is_public': 'False'})
    # A member is told by Glance what it makes of the request, before it says that a member may not.
    for caller, statuses in ((member, (400, 403, 404, 409, 500)), (stranger, (403, 404))):
        for answer in (caller.upload(image_id, DATA, KEEP),
                       caller.request('PUT', f'/v1/images/{image_id}', {**FORMATS, **KEEP, 'x-glance-api-copy-from':
                                                                        'http://127.0.0.1:9/x'}),
                       caller.request('DELETE', f'/v1/images/{image_id}', KEEP)):
            assert answer.status in statuses, answer
    assert images.status(image_id) == 'error'
    assert len(images.request('GET', f'/v2/images/{image_id}/attempts').json['attempts']) == 1


def test_a_stranger_cannot_tell_an_image_that_the_guard_knows_from_none(images: V1Images, port: int) -> None:
    known, stranger = in_error(images), V1Images(port)
    copied = {**KEEP, 'x-glance-api-copy-from': 'http://127.0.0.1:9/x'}
    for method, headers, body in (('PUT', {**OCTETS, **KEEP}, DATA), ('PUT', copied, None), ('DELETE', KEEP, None),
                                  ('HEAD', {}, None), ('GET', {}, None), ('PUT', {}, None)):
        answers = []
        for image_id in (known, str(uuid4())):
            answer = stranger.request(method, f'/v1/images/{image_id}', headers, body)
            varies = dict.fromkeys(('x-openstack-request-id', 'date'))
            answers.append((answer.status, {**answer.headers, **varies}, answer.text.replace(image_id, 'ID')))
        assert answers[0] == answers[1] and answers[0][0] == 404


@pytest.mark.parametrize(('method', 'query'), [('HEAD', ''), ('PUT', '?_method=HEAD'), ('POST', '?_method=HEAD')])
def test_what_a_stranger_slips_behind_an_answer_is_not_given_to_others(
        images: V1Images, port: int, method: str, query: str) -> None:
    """v2 takes values with line ends, and v1 puts them into the headers of its answers as they are."""
    image_id = images.created()
    slipped = r'x\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nEVIL!'
    added = images.client.request('PATCH', f'/v2/images/{image_id}', b'[{"op": "add", "path": "/a", "value": "%s"}]' %
                                  slipped.encode(), {'Content-Type': 'application/openstack-images-v2.1-json-patch'})
    assert added.status == 200, added
    victim = V1Images(port)
    public = victim.listed()
    for _ in range(3):
        images.request(method, f'/v1/images/{image_id}{query}')
        assert victim.listed() == public


def test_the_policy_of_glance_decides(start_old_glance: StartOldGlance, tmp_path: Path) -> None:
    glance = start_old_glance(policy={'modify_image': 'role:admin'})
    with guarding(glance, tmp_path) as port:
        images = V1Images(port)
        image_id = images.created(KEEP)
        assert images.upload(image_id, DATA, KEEP).status == 403
        assert images.status(image_id) == 'queued'
        assert images.request('GET', f'/v2/images/{image_id}/attempts').json['attempts'] == []


def test_it_decides_on_what_is_asked_by_v2_too(start_old_glance: StartOldGlance, tmp_path: Path) -> None:
    glance = start_old_glance(policy={'modify_image': 'role:admin'})
    with guarding(glance, tmp_path) as port:
        images = V1Images(port)
        image_id = images.created(KEEP)
        patched = images.client.request(
            'PATCH', f'/v2/images/{image_id}', b'[{"op": "replace", "path": "/status", "value": "error"}]',
            {'Content-Type': 'application/openstack-images-v2.1-json-patch'})
        assert (patched.status, images.status(image_id)) == (403, 'queued')


def test_a_create_whose_data_is_refused_leaves_no_image(start_old_glance: StartOldGlance, tmp_path: Path) -> None:
    glance = start_old_glance(policy={'upload_image': 'role:admin'})
    with guarding(glance, tmp_path) as port:
        images = V1Images(port)
        answer = images.create(DATA, KEEP)
        assert (answer.status, answer.headers.get(ID_HEADER), images.listed()) == (403, None, [])


@pytest.mark.parametrize('by_database', [True, False])
def test_a_glance_that_has_no_v2(start_old_glance: StartOldGlance, tmp_path: Path, by_database: bool) -> None:
    glance = start_old_glance({'DEFAULT': {'enable_v2_api': 'False'}})
    with guarding(glance, tmp_path, by_database) as port:
        images = V1Images(port)
        image_id = in_error(images)
        assert images.status(image_id) == 'error'
        copied = images.create(headers={**KEEP, 'x-image-meta-size': '5',
                                        'x-glance-api-copy-from': 'http://127.0.0.1:9/x'})
        image_id = copied.headers[ID_HEADER]
        assert copied.status == 201
        eventually(lambda: images.head(image_id).get(f'property-{ERROR}_code') == 'import_failed', 'the end of it')
        again = images.upload(image_id, DATA, {'x-image-meta-size': str(len(DATA))})
        if by_database:
            assert (again.status, images.status(image_id)) == (200, 'active')
        else:
            assert again.status == 409 and 'glance_connection' in again.text


def test_a_copy_that_takes_long_is_not_cleared_away_under_glance(old_glance: OldGlance, source: Source,
                                                                 tmp_path: Path) -> None:
    with guarding(old_glance, tmp_path, import_stall_seconds='1', lease_seconds='5', fence_seconds='6') as port:
        images, store = V1Images(port), GuardsStore(f'sqlite:///{tmp_path}/imgguard.db')
        copied = images.create(headers={**KEEP, 'x-glance-api-copy-from': source.url('slow')})
        image_id = copied.headers[ID_HEADER]
        eventually(lambda: images.status(image_id) == 'error', 'the error')
        eventually(lambda: store.attempts(image_id)[0].silent_for > 7, 'the end of the fence')
        assert images.status(image_id) == 'error'
        source.release()
        eventually(lambda: images.status(image_id) == 'active', 'the data')
        store.close()


# The command line

def glance_command(port: int, caller: str, *arguments: str,
                   file: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``glance`` with v1; with a file as its standard input, as it reads the data of an update."""
    command = [os.path.join(sysconfig.get_path('scripts'), 'glance'), '--os-image-api-version', '1', '--os-auth-token',
               caller, '--os-image-url', f'http://127.0.0.1:{port}', *arguments]
    with (file or Path(os.devnull)).open('rb') as stdin:
        return subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)


def test_the_command_line_is_told_and_tries_again(old_glance: OldGlance, tmp_path: Path) -> None:
    with guarding(old_glance, tmp_path, v1_error_status='queued') as port:
        images = V1Images(port)
        data = tmp_path / 'data'
        data.write_bytes(DATA)
        failed = glance_command(
            port, images.caller, 'image-create', '--name', 'of-the-command-line', '--disk-format', 'raw',
            '--container-format', 'bare', '--checksum', '0' * 32, '--property', 'imgguard_keep_on_failure=true',
            file=data)
        assert failed.returncode != 0 and 'did not match' in failed.stderr
        image_id, = images.listed('name=of-the-command-line')
        shown = glance_command(port, images.caller, 'image-show', image_id)
        assert f"Property '{ERROR}_code'" in shown.stdout and 'digest_mismatch' in shown.stdout
        assert images.status(image_id) == 'queued'
        again = glance_command(port, images.caller, 'image-update', image_id, '--file', str(data))
        assert again.returncode == 0, again
        assert images.status(image_id) == 'active'


# What breaks

def test_no_retry_begins_before_glance_has_had_its_last_word(old_glance: OldGlance, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an upload without an answer: what Glance has killed it may still delete and kill once more, by its name."""
    retries: list[Answer] = []

    def sleep(seconds: float) -> None:
        if seconds == LAST_WORD_SECONDS:
            retries.append(images.upload(image_id, DATA))
        else:
            time.sleep(seconds)

    monkeypatch.setattr(uploads, 'time', SimpleNamespace(sleep=sleep))
    with Between(old_glance.url) as between, guarding(old_glance, tmp_path, backend_url=between.url) as port:
        images = V1Images(port)
        image_id = images.created(KEEP)
        between.loses = lambda environ: '504' if 'HTTP_X_IMAGE_META_CHECKSUM' in environ else None
        answer = images.upload(image_id, DATA, WRONG)
        assert (answer.status, answer.headers[KEPT_HEADER]) == (504, 'error')
        retry, = retries
        assert retry.status == 409 and 'is under way' in retry.text
        assert images.upload(image_id, DATA).status == 200
        assert images.status(image_id) == 'active'


def test_an_upload_whose_proxy_dies_can_be_sent_again_at_once(old_glance: OldGlance, tmp_path: Path) -> None:
    with started(old_glance, tmp_path, lease_seconds='5') as first, started(
            old_glance, tmp_path, lease_seconds='5') as second:
        images, others = V1Images(first.port), V1Images(second.port)
        others.caller = images.caller
        others.client.headers['X-Auth-Token'] = images.caller
        image_id = images.created(KEEP)
        with images.uploading(image_id):
            eventually((old_glance.store / image_id).exists, 'an upload')
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
        eventually(lambda: others.head(image_id).get(f'property-{ERROR}_code') == 'worker_lost', 'the verdict')
        # Glance itself says that it has given the upload up: nothing needs to be waited for.
        assert others.upload(image_id, DATA).status == 200
        assert others.status(image_id) == 'active'
