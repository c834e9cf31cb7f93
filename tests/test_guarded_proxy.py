"""The guard in the proxy, as the sample paste file puts it together, in front of a real Glance that has no guard."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp

from demo.server import Kind, Server
from imgguard.errors import ConfigurationError
from imgguard.proxy import Proxy, application
from imgguard.proxy.target import target
from imgguard.wsgi import Environ
from tests import conftest
from tests.identity import admin_token, reader_token, token
from tests.proxying import Between, sample
from tests.uploading import ERROR, KEEP, KEPT, Body, Images, new_project

PRIVATE = {'visibility': 'private'}
DATA = b'data of an image' * 100

Load = Callable[..., TestApp]


@pytest.fixture(scope='module')
def glance(start_module_server: conftest.StartServer) -> Server:
    return start_module_server(Kind.UWSGI_HTTP, None)


@pytest.fixture
def load(glance: Server, tmp_path: Path) -> Load:
    """``load(pipeline=, **options)``: see :func:`tests.proxying.sample`."""
    return partial(sample, tmp_path, glance.url)


def test_the_story(load: Load) -> None:
    images = Images(load('http_proxy_to_wsgi authtoken imgguard'), token('alice', new_project()))
    created = images.create(KEEP, **PRIVATE)
    image_id = created.json['id']
    assert created.headers[KEPT] == 'guarded'
    assert created.headers['Location'] == f'http://localhost:80/v2/images/{image_id}'
    assert images.upload_cut(image_id).headers[KEPT] == 'error'
    shown = images.show(image_id)
    assert (shown['status'], shown[f'{ERROR}_code']) == ('error', 'client_disconnected')
    assert images.listed('status=error') == [image_id]
    # What is the caller's own clean-up is told by who authtoken says the caller is.
    assert images.request('DELETE', f'/v2/images/{image_id}').headers[KEPT] == 'error'
    assert images.upload(image_id, DATA).headers[KEPT] == 'guarded'
    assert images.show(image_id)['status'] == 'active'
    assert images.download(image_id).body == DATA
    attempts = images.request('GET', f'/v2/images/{image_id}/attempts').json['attempts']
    assert [(each['state'], each['user_id']) for each in attempts] == [('succeeded', 'alice'), ('failed', 'alice')]


def test_a_stranger_learns_why_of_no_image_that_is_not_theirs(load: Load) -> None:
    application, project = load(), new_project()
    image_id = Images(application, token('alice', project)).in_error(visibility='community')
    for caller, details in ((token('alice', project), True), (reader_token('bob', project), True),
                            (admin_token(), True), (token('mallory', new_project()), False)):
        shown = Images(application, caller).show(image_id)
        assert (shown['status'], ERROR in shown) == ('error', details)


@pytest.mark.parametrize(('pipeline', 'options', 'believed'), [
    ('authtoken imgguard', {}, False),
    ('imgguard', {}, False),
    ('imgguard', {'forward_identity': 'true'}, True),
])
def test_identity_headers_of_a_client_are_believed_only_where_the_operator_says_so(
    load: Load, pipeline: str, options: dict[str, str], believed: bool,
) -> None:
    project = new_project()
    image_id = Images(load(), token('alice', project)).in_error(visibility='community')
    forged = {'X-User-Id': 'alice', 'X-Project-Id': project, 'X-Roles': 'admin', 'X-Identity-Status': 'Confirmed'}
    shown = Images(load(pipeline, **options), token('mallory', new_project())).request(
        'GET', f'/v2/images/{image_id}', forged).json
    assert (shown['status'], ERROR in shown) == ('error', believed)


def test_without_authtoken_details_are_told_of_private_images_only_and_no_delete_is_absorbed(load: Load) -> None:
    images = Images(load('imgguard'), token('alice', new_project()))
    for visibility, details in (('private', True), ('shared', False), ('community', False)):
        image_id = images.in_error(visibility=visibility)
        shown = images.show(image_id)
        assert (shown['status'], ERROR in shown) == ('error', details)
        assert images.request('DELETE', f'/v2/images/{image_id}').headers.get(KEPT) is None
        assert images.request('GET', f'/v2/images/{image_id}').status_int == 404


def test_who_may_not_modify_an_image_claims_nothing(load: Load) -> None:
    application = load()
    alice, mallory = (Images(application, token(user, new_project())) for user in ('alice', 'mallory'))
    image_id = alice.created(KEEP, visibility='community')
    for method, path, body in (('PUT', 'file', Body([b'x'])), ('PUT', 'stage', Body([b'x']))):
        refused = mallory.request(method, f'/v2/images/{image_id}/{path}',
                                  {**KEEP, 'Content-Type': 'application/octet-stream'}, body, {'CONTENT_LENGTH': '1'})
        assert refused.status_int == 403
    assert alice.request('GET', f'/v2/images/{image_id}/attempts').json == {'attempts': []}
    assert alice.upload(image_id, DATA).status_int == 204


def test_while_glance_cannot_be_reached_the_answer_says_so(load: Load) -> None:
    images = Images(load(backend_url='http://127.0.0.1:9'), token('alice', new_project()))
    for answer in (images.request('GET', '/v2/images'), images.upload('0' * 8, DATA, KEEP)):
        assert answer.status_int == 502 and 'could not be reached' in answer.text


def test_who_only_sees_an_image_does_not_claim_it_for_a_copy(load: Load) -> None:
    application = load()
    alice, mallory = (Images(application, token(user, new_project())) for user in ('alice', 'mallory'))
    image_id = alice.created(KEEP, visibility='community')
    alice.upload(image_id, DATA)
    refused = mallory.json('POST', f'/v2/images/{image_id}/import', {'method': {'name': 'copy-image'}}, KEEP)
    assert refused.status_int in (400, 403, 409)
    assert len(alice.request('GET', f'/v2/images/{image_id}/attempts').json['attempts']) == 1


def test_a_version_in_the_media_type_is_no_way_round(load: Load) -> None:
    images = Images(load(), token('alice', new_project()))
    image_id = images.created(KEEP)
    cut = images.request('PUT', f'/images/{image_id}/file', {
        'Content-Type': 'application/octet-stream', 'Accept': 'application/vnd.openstack.images-v2'},
        Body([b'x' * 300]), {'CONTENT_LENGTH': '1000'})
    assert cut.headers[KEPT] == 'error'
    assert images.show(image_id)['status'] == 'error'


@pytest.mark.parametrize('path', ['/v2/x/../images/{}/file', '/v2/images/./{}/file', '/v2/images/{}/file/../file'])
def test_a_path_that_leads_elsewhere_is_no_way_round(load: Load, path: str) -> None:
    """uWSGI in front of Glance resolves dot segments."""
    images = Images(load(), token('alice', new_project()))
    image_id = images.in_error()
    refused = images.request('PUT', path.format(image_id), {'Content-Type': 'application/octet-stream'}, DATA)
    assert refused.status_int == 400
    assert len(images.request('GET', f'/v2/images/{image_id}/attempts').json['attempts']) == 1
    assert images.show(image_id)['status'] == 'error'


@pytest.fixture
def between(glance: Server) -> Iterator[Between]:
    with Between(glance.url) as backend:
        yield backend


def test_what_packs_between_the_proxy_and_glance_hides_no_error(load: Load, between: Between) -> None:
    packed: list[bool] = []

    def packs(accepted: str) -> bool:
        packed.append('gzip' in accepted)
        return packed[-1]

    between.packs = packs
    images = Images(load(backend_url=between.url), token('alice', new_project()))
    accepts = {'Accept-Encoding': 'gzip, deflate'}
    image_id = images.create({**KEEP, **accepts}).json['id']
    images.upload_cut(image_id, headers=accepts)
    shown = images.request('GET', f'/v2/images/{image_id}', accepts)
    assert shown.json['status'] == 'error'
    for query in ('', '?status=error'):
        [image] = images.request('GET', f'/v2/images{query}', accepts).json['images']
        assert image['status'] == 'error'
    assert not any(packed)
    # Data is the client's affair.
    assert images.upload(image_id, DATA).status_int == 204
    assert images.download(image_id, accepts).body == DATA
    assert packed[-1]


def test_what_packs_unasked_is_told_to_whom_it_would_hide_an_error(load: Load, between: Between) -> None:
    images = Images(load(backend_url=between.url), token('alice', new_project()))
    sound = images.created()
    between.packs = lambda accepted: True
    assert images.show(sound)['status'] == 'queued'
    assert images.listed('') == [sound]
    unknown = images.create(KEEP)
    assert (unknown.status_int, unknown.headers[KEPT]) == (201, 'unavailable')
    between.packs = lambda accepted: False
    image_id = images.in_error()
    between.packs = lambda accepted: True
    for path in (f'/v2/images/{image_id}', '/v2/images', '/v2/images?status=error'):
        answer = images.request('GET', path)
        assert answer.status_int == 502 and 'packed although it was asked for unpacked' in answer.text, path
    assert images.show(sound)['status'] == 'queued'


def test_while_glance_is_away_every_answer_is_its_own(load: Load, between: Between) -> None:
    images = Images(load(backend_url=between.url), token('alice', new_project()))
    image_id = images.in_error()
    between.away = True
    for method, path, document in (
            ('PUT', f'/v2/images/{image_id}/file', None), ('DELETE', f'/v2/images/{image_id}', None),
            ('GET', f'/v2/images/{image_id}', None), ('GET', f'/v2/images/{image_id}/file', None),
            ('PATCH', f'/v2/images/{image_id}', [{'op': 'replace', 'path': '/status', 'value': 'queued'}]),
            ('POST', f'/v2/images/{image_id}/import', {'method': {'name': 'web-download', 'uri': 'http://x/'}})):
        answer = images.request(method, path) if document is None else images.json(
            method, path, document, {'Content-Type': 'application/openstack-images-v2.1-json-patch'}
            if method == 'PATCH' else None)
        assert answer.status_int == 503, (method, path)
    unknown = images.request('GET', f'/v2/images/{image_id}/attempts')
    assert unknown.status_int == 500 and 'try again later' in unknown.text
    between.away = False
    assert images.show(image_id)['status'] == 'error'
    assert images.upload(image_id, DATA).status_int == 204


@pytest.mark.parametrize(('status', 'allowed'), [
    ('401 Unauthorized', True), ('404 Not Found', True), ('403 Forbidden', False)])
def test_a_v1_that_says_nothing_of_the_caller_forbids_nothing(load: Load, monkeypatch: pytest.MonkeyPatch, status: str,
                                                              allowed: bool) -> None:
    """Whoever is in front of Glance may not let v1 through; of what v2 allows only a 403 of v1 says otherwise."""
    asked: list[str] = []
    send = Proxy.__call__

    def answered(self: Proxy, environ: Environ, start_response: Any) -> Any:
        if not environ['PATH_INFO'].startswith('/v1/'):
            return send(self, environ, start_response)
        asked.append(f'{environ["REQUEST_METHOD"]} {environ["PATH_INFO"]}')
        start_response(status, [('Content-Length', '2'), ('Content-Type', 'text/plain')])
        return [b'no']
    monkeypatch.setattr(Proxy, '__call__', answered)
    images = Images(load(), token('alice', new_project()))
    image_id = images.created(KEEP)
    first = images.upload_cut(image_id)
    assert asked[0] == f'PUT /v1/images/{image_id}'
    if not allowed:
        assert (first.status_int, first.body) == (403, b'no')
        return
    assert first.headers[KEPT] == 'error'
    again = images.upload(image_id, DATA)
    assert (again.status_int, again.headers[KEPT]) == (204, 'guarded')


@pytest.mark.parametrize(('options', 'said'), [
    ({'backend_url': 'glance:9292'}, "option 'backend_url' in"),
    ({'backend_url': 'http://user:secret@glance:9292'}, "option 'backend_url' in"),
    ({'cafile': '/nowhere/ca.pem', 'backend_url': 'https://glance:9292'}, 'option cafile: /nowhere/ca.pem'),
    ({'connect_timeout': '0'}, "option 'connect_timeout' in"),
    ({'backend_urls': 'x'}, "did you mean 'backend_url'?"),
])
def test_a_bad_option_stops_the_load(load: Load, options: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError, match='^imgguard: ') as raised:
        load(**options)
    assert said in str(raised.value) and 'secret' not in str(raised.value)


def test_more_images_in_error_than_a_target_has_room_for(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """130 ids are more than the 4 KiB that uWSGI has for a request by default."""
    images = Images(load(), token('alice', new_project()))
    patch = {'Content-Type': 'application/openstack-images-v2.1-json-patch'}
    declared = set()
    for _ in range(130):
        image_id = images.created(KEEP)
        images.json('PATCH', f'/v2/images/{image_id}', [{'op': 'replace', 'path': '/status', 'value': 'error'}], patch)
        declared.add(image_id)
    targets: list[bytes] = []

    def noted(environ: Environ, prefix: bytes) -> bytes:
        targets.append(target(environ, prefix))
        return targets[-1]

    monkeypatch.setattr(application, 'target', noted)
    assert set(images.listed('status=error&limit=1000')) == declared
    assert 0 < max(map(len, targets)) < 3000


def test_of_an_api_v1_that_is_not_there_a_list_asks_once_and_not_before_an_image_is_in_error(
        load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    send = Proxy.__call__

    def noted(self: Proxy, environ: Any, start_response: Any) -> Any:
        # Meanwhile the guard looks on its own whether a failed image may be cleared.
        if environ['PATH_INFO'].endswith(('/images', '/images/detail')):
            sent.append(f'{environ["REQUEST_METHOD"]} {environ["PATH_INFO"]}')
        return send(self, environ, start_response)
    monkeypatch.setattr(Proxy, '__call__', noted)
    images = Images(load(), token('alice', new_project()))
    images.created()

    def asked() -> list[str]:
        sent.clear()
        images.listed('')
        images.listed('member_status=all')
        return sent
    assert asked() == ['GET /v2/images'] * 2
    image_id = images.in_error()
    assert asked() == ['GET /v1/images/detail', *['GET /v2/images'] * 2]
    assert asked() == ['GET /v2/images'] * 2
    assert image_id in images.listed('status=error')
    assert image_id in images.listed('')
