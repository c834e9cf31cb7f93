"""Asking to keep: by header, by property, by the operator's policy; and what happens when it cannot be promised."""

import gc
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imgguard.store import Store
from tests.conftest import LoadClient
from tests.harness import InProcessGlance
from tests.identity import reader_token, token
from tests.requeuing import eventually
from tests.uploading import ERROR, KEEP, KEPT, Body, Images, Pipelines, comparable, new_project

HEADER = 'X-OpenStack-Image-Keep-On-Failure'
GIVE_UP = 'X-OpenStack-Image-Give-Up-After'
PROPERTY = 'imgguard_keep_on_failure'
DATA = b'data of an image' * 8192


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'))


@pytest.fixture
def images(pipelines: Pipelines) -> Images:
    return pipelines.images()


def status_after_a_cut(images: Images, image_id: str, headers: dict[str, str] | None = None) -> str:
    """Cut an upload, and return the status that the image then shows."""
    images.upload_cut(image_id, headers=headers)
    status: str = images.show(image_id)['status']
    return status


# The header

TRUE = ['true', 'True', 'TRUE', '1', 'yes', 'YES', 'on', 'On', ' true ']
FALSE = ['false', 'False', 'FALSE', '0', 'no', 'No', 'off', 'OFF']
BAD = ['', 'maybe', '2', 'tru', 'true,true', 'null', '-1', 'y', 't', 'ja']


@pytest.mark.parametrize('word', TRUE)
def test_words_that_ask_to_keep(images: Images, word: str) -> None:
    created = images.create({HEADER: word})
    assert created.headers[KEPT] == 'guarded'
    assert status_after_a_cut(images, created.json['id']) == 'error'


@pytest.mark.parametrize('word', FALSE)
def test_words_that_ask_not_to_keep(images: Images, word: str) -> None:
    created = images.create({HEADER: word})
    assert KEPT not in created.headers
    assert status_after_a_cut(images, created.json['id']) == 'queued'


@pytest.mark.parametrize('word', BAD)
def test_other_words_are_refused_before_glance_is_called(images: Images, pipelines: Pipelines, word: str) -> None:
    image_id = images.created()
    before = images.show(image_id)
    body = Body([DATA])
    for refused in (images.create({HEADER: word}), images.upload(image_id, body, {HEADER: word})):
        assert refused.status_int == 400
        assert f'The header {HEADER} must be true or false (also 1/0, yes/no, on/off)' in refused.text
        assert KEPT not in refused.headers
    assert body.reads == 0
    assert images.show(image_id) == before and images.listed('') == [image_id]
    assert pipelines.record(image_id) is None


def test_the_header_is_ignored_on_other_requests(images: Images, pipelines: Pipelines) -> None:
    image_id = images.created()
    ignored = {HEADER: 'maybe'}
    path = f'/v2/images/{image_id}'
    assert images.request('GET', '/v2/images', ignored).status_int == 200
    assert images.request('GET', path, ignored).status_int == 200
    assert images.request('GET', f'{path}/file', ignored).status_int == 204
    assert images.request('GET', '/v2/schemas/image', ignored).status_int == 200
    assert images.patch(image_id, {'op': 'add', 'path': '/x', 'value': 'y'}, headers=ignored).status_int == 200
    assert images.patch(image_id, {'op': 'add', 'path': '/z', 'value': 'y'}, headers=KEEP).status_int == 200
    assert images.request('PUT', f'{path}/tags/red', ignored).status_int == 204
    assert pipelines.record(image_id) is None


@pytest.mark.parametrize('seconds', ['0', '-1', '31536001', '1.5', 'soon', '', '1e3', '٣'])
def test_a_deadline_that_is_no_number_of_seconds_is_refused(images: Images, seconds: str) -> None:
    refused = images.create({**KEEP, GIVE_UP: seconds.encode().decode('latin-1')})
    assert refused.status_int == 400
    assert f'The header {GIVE_UP} must be a number of seconds, 1 to 31536000.' in refused.text
    assert images.listed('') == []


@pytest.mark.parametrize('seconds', ['1', '3600', '31536000'])
def test_an_image_with_a_deadline_shows_it_while_it_waits(images: Images, seconds: str) -> None:
    created = images.create({**KEEP, GIVE_UP: seconds})
    image_id = created.json['id']
    deadline = created.json['os_glance_image_give_up_at']
    shown = [images.show(image_id)]
    for query in ('', 'status=queued', 'status=in:queued,active', f'name={created.json["name"]}&status=queued'):
        shown += images.request('GET', f'/v2/images?{query}').json['images']
    assert [image.get('os_glance_image_give_up_at') for image in shown] == [deadline] * 5
    images.upload(image_id, DATA)
    assert 'os_glance_image_give_up_at' not in images.show(image_id)


def stage(images: Images, image_id: str) -> int:
    octets = {'Content-Type': 'application/octet-stream'}
    status: int = images.request('PUT', f'/v2/images/{image_id}/stage', octets, DATA).status_int
    return status


def import_staged(images: Images, image_id: str) -> int:
    answer = images.json('POST', f'/v2/images/{image_id}/import', {'method': {'name': 'glance-direct'}})
    # Glance on SQLite refuses who else writes meanwhile.
    attempts = f'/v2/images/{image_id}/attempts'
    eventually(lambda: images.request('GET', attempts).json['attempts'][0]['state'] != 'running', 'the import to end')
    status: int = answer.status_int
    return status


@pytest.mark.parametrize(('again', 'status'), [
    (import_staged, 202), (stage, 204), (lambda images, image_id: images.upload(image_id, DATA).status_int, 204),
], ids=['import', 'stage', 'upload'])
def test_an_image_whose_data_is_only_staged_still_waits(
    pipelines: Pipelines, images: Images, again: Callable[[Images, str], int], status: int,
) -> None:
    """Nobody may ever import it. Given up, the staged data is still good for an import, and in nobody's way."""
    created = images.create({**KEEP, GIVE_UP: '3600'}).json
    image_id, deadline = created['id'], created['os_glance_image_give_up_at']
    assert stage(images, image_id) == 204
    image = images.show(image_id)
    assert (image['status'], image['os_glance_image_give_up_at']) == ('uploading', deadline)
    pipelines.store.remember(image_id, image['created_at'], None, None, 0.001)
    assert images.show(image_id)[f'{ERROR}_code'] == 'never_arrived'
    assert images.show(image_id)['status'] == 'error', 'looking takes nothing away'
    assert again(images, image_id) == status


def test_a_new_deadline_takes_no_staged_data_away(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created({**KEEP, GIVE_UP: '3600'})
    assert stage(images, image_id) == 204
    pipelines.store.remember(image_id, images.show(image_id)['created_at'], None, None, 0.001)
    assert images.show(image_id)['status'] == 'error'
    images.patch(image_id, {'op': 'add', 'path': '/more', 'value': 'time'}, headers={GIVE_UP: '3600'})
    assert images.show(image_id)['status'] == 'uploading'
    assert import_staged(images, image_id) == 202


# Sticky, for one attempt, and against each other

def test_asked_at_create_it_holds_for_every_later_attempt(images: Images) -> None:
    image_id = images.created(KEEP)
    for _ in range(3):
        assert status_after_a_cut(images, image_id) == 'error'
    assert images.show(image_id)[f'{ERROR}_attempts'] == '3'


def test_asked_at_the_upload_it_holds_for_this_attempt(images: Images) -> None:
    image_id = images.created()
    failed = images.upload_cut(image_id, headers=KEEP)
    assert failed.headers[KEPT] == 'error'
    assert images.show(image_id)['status'] == 'error'
    other = images.created()
    assert images.upload(other, DATA, KEEP).headers[KEPT] == 'guarded'


def test_not_asked_nothing_is_kept_or_said(images: Images, pipelines: Pipelines) -> None:
    created = images.create()
    image_id = created.json['id']
    failed = images.upload_cut(image_id)
    assert KEPT not in created.headers and KEPT not in failed.headers
    assert images.show(image_id)['status'] == 'queued'
    assert pipelines.record(image_id) is None


def test_an_upload_can_opt_out(images: Images, pipelines: Pipelines) -> None:
    image_id = images.created(KEEP)
    failed = images.upload_cut(image_id, headers={HEADER: 'false'})
    assert KEPT not in failed.headers
    assert images.show(image_id)['status'] == 'queued'
    assert [attempt.guarded for attempt in pipelines.attempts(image_id)] == [False], 'yet it is recorded'
    assert status_after_a_cut(images, image_id) == 'error', 'the next one is kept again'


def test_an_unguarded_failure_leaves_the_shown_error_and_an_unguarded_success_ends_it(images: Images) -> None:
    image_id = images.in_error()
    images.upload(image_id, DATA, {HEADER: 'false', 'X-OpenStack-Image-Size': '9'})
    image = images.show(image_id)
    assert (image['status'], image[f'{ERROR}_code']) == ('error', 'client_disconnected')
    assert images.upload(image_id, DATA, {HEADER: 'false'}).status_int == 204
    assert images.show(image_id)['status'] == 'active'


def test_while_an_unguarded_attempt_is_alive_the_error_is_not_shown(images: Images) -> None:
    image_id = images.in_error()
    with images.uploading(image_id, headers={HEADER: 'false'}):
        assert images.show(image_id)['status'] == 'saving'
    assert images.show(image_id)['status'] == 'active'


# The property, for clients that cannot send headers

@pytest.mark.parametrize('word', ['true', 'True', '1', 'yes', 'on', True])
def test_the_property_asks_to_keep_and_glance_never_sees_it(images: Images, word: object) -> None:
    created = images.create(None, **{PROPERTY: word, 'other': 'property'})
    assert (created.status_int, created.headers[KEPT]) == (201, 'guarded')
    assert PROPERTY not in created.json and created.json['other'] == 'property'
    assert status_after_a_cut(images, created.json['id']) == 'error'
    assert PROPERTY not in images.show(created.json['id'])


def test_the_property_may_be_spelled_as_json_allows(images: Images) -> None:
    document = rb'{"disk_format": "raw", "container_format": "bare", "imgguard_keep\u005fon_failure": "true"}'
    created = images.request('POST', '/v2/images', {'Content-Type': 'application/json'}, document)
    assert (created.status_int, created.headers[KEPT]) == (201, 'guarded')
    assert PROPERTY not in created.json


@pytest.mark.parametrize('word', ['false', 'off', False])
def test_the_property_can_say_no(images: Images, word: object) -> None:
    created = images.create(None, **{PROPERTY: word})
    assert created.status_int == 201 and KEPT not in created.headers
    assert status_after_a_cut(images, created.json['id']) == 'queued'


@pytest.mark.parametrize('word', ['maybe', '', None, 7, ['true'], {'true': 1}])
def test_the_property_with_another_value_is_refused(images: Images, word: object) -> None:
    refused = images.create(None, **{PROPERTY: word})
    assert refused.status_int == 400
    assert f'The property {PROPERTY} must be true or false' in refused.text
    assert images.listed('') == []


# Who wins: the header, then what was asked at create, then the policy.

PRECEDENCE = {
    # policy, header at create, property at create, image_type, header at upload: kept?
    'policy never': ('never', None, None, None, None, False),
    'policy always': ('always', None, None, None, None, True),
    'policy always, no at create': ('always', 'false', None, None, None, False),
    'policy always, no by property': ('always', None, 'false', None, None, False),
    'policy always, no at upload': ('always', None, None, None, 'false', False),
    'policy never, yes at upload': ('never', None, None, None, 'true', True),
    'no at create, yes at upload': ('never', 'false', None, None, 'true', True),
    'yes at create, no at upload': ('never', 'true', None, None, 'false', False),
    'header yes, property no': ('never', 'true', 'false', None, None, True),
    'header no, property yes': ('never', 'false', 'true', None, None, False),
    'policy snapshots, an image': ('snapshots', None, None, None, None, False),
    'policy snapshots, a snapshot': ('snapshots', None, None, 'snapshot', None, True),
    'policy snapshots, a backup': ('snapshots', None, None, 'backup', None, False),
    'policy snapshots, a snapshot, no at create': ('snapshots', 'false', None, 'snapshot', None, False),
}


@pytest.fixture(scope='module')
def images_by_policy(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Images]:
    return {policy: Pipelines(in_process_glance, tmp_path_factory.mktemp(policy), keep_default=policy).images()
            for policy in ('never', 'snapshots', 'always')}


@pytest.mark.parametrize(
    'policy, at_create, by_property, image_type, at_upload, kept', PRECEDENCE.values(), ids=PRECEDENCE)
def test_who_wins(
    images_by_policy: dict[str, Images], policy: str, at_create: str | None, by_property: str | None,
    image_type: str | None, at_upload: str | None, kept: bool,
) -> None:
    images = images_by_policy[policy]
    properties = {name: value for name, value in ((PROPERTY, by_property), ('image_type', image_type)) if value}
    image_id = images.created({HEADER: at_create} if at_create else None, **properties)
    failed = images.upload_cut(image_id, headers={HEADER: at_upload} if at_upload else None)
    assert failed.headers.get(KEPT) == ('error' if kept else None)
    assert images.show(image_id)['status'] == ('error' if kept else 'queued')


def test_the_policy_looks_at_the_image_as_it_is_at_the_upload(images_by_policy: dict[str, Images]) -> None:
    images = images_by_policy['snapshots']
    image_id = images.created()
    images.patch(image_id, {'op': 'add', 'path': '/image_type', 'value': 'snapshot'})
    assert status_after_a_cut(images, image_id) == 'error'


# The guard's own store is gone

Lose = Callable[[Path], object]
LOSSES: dict[str, Lose] = {
    'its directory is removed': shutil.rmtree,
    'it is no database any more': lambda folder: (folder / 'imgguard.db').write_bytes(b'no database' * 1000),
    'it has no tables any more': lambda folder: (folder / 'imgguard.db').unlink(),
}


class Outage:
    """A pipeline whose guard has lost its store, after it had been at work."""

    def __init__(self, load_client: LoadClient, folder: Path, lose: Lose, **options: str) -> None:
        folder.mkdir()
        self.images = Images(load_client({'connection': f'sqlite:///{folder}/imgguard.db', **options}),
                             token('alice', new_project()))
        self.bare = Images(load_client(None), self.images.caller)
        self.in_error = self.images.in_error()
        # An open SQLite file outlives its removal.
        for each in gc.get_objects():
            if type(each) is Store:
                each.close()
        lose(folder)


@pytest.fixture(params=LOSSES)
def lose(request: pytest.FixtureRequest) -> Lose:
    return LOSSES[request.param]


def test_pass_lets_the_upload_run_and_says_so(
    load_client: LoadClient, tmp_path: Path, lose: Lose, caplog: pytest.LogCaptureFixture,
) -> None:
    images = Outage(load_client, tmp_path / 'guard', lose).images
    created = images.create(KEEP)
    assert (created.status_int, created.headers[KEPT]) == (201, 'unavailable')
    image_id = created.json['id']
    uploaded = images.upload(image_id, DATA, KEEP)
    assert (uploaded.status_int, uploaded.headers[KEPT]) == (204, 'unavailable')
    assert images.show(image_id)['status'] == 'active'
    failed = images.upload_cut(images.created(), headers=KEEP)
    assert (failed.status_int, failed.headers[KEPT]) == (500, 'unavailable')
    said = [(record.getMessage(), getattr(record, 'request_id', None)) for record in caplog.records
            if record.name.startswith('imgguard') and record.levelno == logging.ERROR]
    assert [words for words, request_id in said if words.startswith(f'image {image_id}: an upload runs unguarded: ')
            and request_id == uploaded.headers['X-Openstack-Request-Id']]


def test_what_was_asked_at_create_is_told_unavailable_when_glance_cannot_be_asked(
    load_client: LoadClient, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A short outage of Glance's database: the guard does not learn what it has to know, and Glance goes on."""
    import glance.db
    images = Images(load_client({}), token('alice', new_project()))
    image_id = images.created(KEEP)
    get, failures = glance.db.ImageRepo.get, [RuntimeError('the database is away')]

    def fail_first(repo: glance.db.ImageRepo, image_id: str) -> object:
        if failures:
            raise failures.pop()
        return get(repo, image_id)

    monkeypatch.setattr(glance.db.ImageRepo, 'get', fail_first)
    uploaded = images.upload(image_id, DATA)
    assert (uploaded.status_int, uploaded.headers[KEPT]) == (204, 'unavailable')


def test_refuse_answers_500_before_any_byte_is_read(
    load_client: LoadClient, tmp_path: Path, lose: Lose,
) -> None:
    images = Outage(load_client, tmp_path / 'guard', lose, on_store_failure='refuse').images
    assert images.create(KEEP).status_int == 500
    image_id = images.created()
    body = Body([DATA])
    refused = images.upload(image_id, body, KEEP)
    assert refused.status_int == 500
    assert 'This image cannot be kept if its upload fails, for the guard cannot store that now.' in refused.text
    assert body.reads == 0
    assert images.show(image_id)['status'] == 'queued'
    # Nobody asked to keep this one.
    uploaded = images.upload(image_id, DATA)
    assert uploaded.status_int == 204 and KEPT not in uploaded.headers


@pytest.mark.parametrize('policy', ['always', 'snapshots'])
def test_what_the_policy_keeps_is_refused_too(load_client: LoadClient, tmp_path: Path, policy: str) -> None:
    images = Outage(
        load_client, tmp_path / 'guard', shutil.rmtree, on_store_failure='refuse', keep_default=policy).images
    image_id = images.created({HEADER: 'false'}, image_type='snapshot')
    assert images.upload(image_id, DATA).status_int == 500
    assert images.upload(image_id, DATA, {HEADER: 'false'}).status_int == 204


def test_what_the_policy_keeps_is_said_to_be_unguarded(load_client: LoadClient, tmp_path: Path) -> None:
    images = Outage(load_client, tmp_path / 'guard', shutil.rmtree, keep_default='always').images
    created = images.create()
    assert created.headers[KEPT] == 'unavailable'
    uploaded = images.upload(created.json['id'], DATA)
    assert (uploaded.status_int, uploaded.headers[KEPT]) == (204, 'unavailable')


@pytest.mark.parametrize('on_failure', ['pass', 'refuse'])
def test_who_may_not_upload_gets_glances_answer_during_an_outage_too(
    load_client: LoadClient, tmp_path: Path, on_failure: str,
) -> None:
    outage = Outage(load_client, tmp_path / 'guard', shutil.rmtree, on_store_failure=on_failure)
    project = outage.images.caller.split(':')[1]
    image_id = outage.images.created()
    for caller in (token('mallory', 'elsewhere'), reader_token('carol', project)):
        for headers in (KEEP, {**KEEP, 'Content-Type': 'text/plain'}, {**KEEP, 'X-Image-Meta-Store': 'nope'}):
            answers = [Images(each.application, caller).upload(image_id, DATA, headers)
                       for each in (outage.images, outage.bare)]
            assert comparable(answers[0]) == comparable(answers[1])


def test_reads_are_the_bare_ones_during_an_outage(
    load_client: LoadClient, tmp_path: Path, lose: Lose,
) -> None:
    outage = Outage(load_client, tmp_path / 'guard', lose)
    image_id = outage.in_error
    for path in ('/v2/images', '/v2/images?status=error', '/v2/images?status=queued', f'/v2/images/{image_id}',
                 f'/v2/images/{image_id}/file', '/v2/images?os_glance_image_error_code=client_disconnected'):
        assert comparable(outage.images.request('GET', path)) == comparable(outage.bare.request('GET', path)), path
    updated = outage.images.patch(image_id, {'op': 'replace', 'path': '/name', 'value': 'other'})
    assert (updated.status_int, updated.json['status']) == (200, 'queued')


def test_the_filter_loads_without_its_store(
    load_client: LoadClient, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    client = load_client({'connection': f'sqlite:///{tmp_path}/missing/imgguard.db'})
    assert 'nothing can be guarded now' in caplog.text
    images = Images(client, token('alice', new_project()))
    image_id = images.created()
    assert images.upload(image_id, DATA, KEEP).headers[KEPT] == 'unavailable'
    assert images.show(image_id)['status'] == 'active'


def test_a_second_upload_of_an_image_that_is_not_kept_gets_glances_answer(
    images: Images, pipelines: Pipelines,
) -> None:
    refused, bare = [], Images(pipelines.bare, images.caller)
    for each, headers in ((images, {'X-OpenStack-Image-Keep-On-Failure': 'false'}), (bare, {})):
        image_id = each.created(headers)
        with each.uploading(image_id):
            refused.append(each.upload(image_id, b'x' * 10))
    assert refused[0].status_int == 409
    assert refused[0].text == refused[1].text
