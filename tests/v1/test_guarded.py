"""The guard in the proxy in front of a real Glance 15.0.2: what becomes of an image whose upload by v1 fails."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.old_glance import OldGlance
from tests.sockets import eventually
from tests.sources import Source
from tests.uploading import ERROR, KEEP, KEPT
from tests.v1.cases import CASES, SMALL, Case, Target
from tests.v1.guarding import guarding
from tests.v1.images import OCTETS, V1Images

KEPT_HEADER = KEPT.lower()
ID_HEADER = 'x-openstack-image-id'
GOOD = SMALL[::-1]
STALL_SECONDS = 5

#: The code of the error that a row of the table ends in; rows without one end well, or without an image.
CODES = {
    'another content type': 'bad_request', 'no content type': 'bad_request', 'another size': 'size_mismatch',
    'another size, in chunks': 'size_mismatch', 'another checksum': 'digest_mismatch',
    'cut, the client waits': 'client_disconnected', 'cut, the client is gone': 'client_disconnected',
    'cut chunks, the client waits': 'client_disconnected', 'cut chunks, the client is gone': 'client_disconnected',
    'too large': 'size_limit_exceeded', 'too large, in chunks': 'size_limit_exceeded', 'no formats': 'bad_request',
    'a body and a copy': 'bad_request', 'a copy of what is not there': 'source_unreachable',
    'a copy from a source that fails': 'source_unreachable', 'a copy from where nobody listens': 'source_unreachable',
    'a copy by an unknown scheme': 'bad_request', 'a copy from nowhere': 'bad_request',
    'a copy of a size of what is not there': 'import_failed', 'a copy that is cut': 'import_failed',
    'a copy that is reset': 'import_failed', 'a copy with another checksum': 'import_failed',
    'a copy from a silent source that hangs up': 'import_failed', 'the worker dies': 'backend_error',
    'the worker dies in a copy': 'import_failed', 'the registry dies': 'backend_error',
    'put back to queued on the way': 'backend_error', 'a file of an earlier attempt': 'backend_error',
    # The DELETE of the client whose upload has failed is taken for its cleaning up.
    'deleted when it is stuck': 'backend_error'}
#: The same where a create is refused before there is an image.
CODES_OF_PUT = {'an unknown format': 'bad_request', 'an unknown field': 'bad_request',
                'an unknown store': 'bad_request', 'too many properties': 'quota_exceeded'}
#: Rows after which a file stays in Glance's store that only an operator can remove.
IN_THE_WAY = {case.name for case in CASES if case.file and case.name in CODES}


@pytest.fixture(scope='module', params=[True, False], ids=['database', 'alone'])
def port(request: pytest.FixtureRequest, glance: OldGlance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with guarding(glance, tmp_path_factory.mktemp('guard'), by_database=request.param, fence_seconds='6',
                  lease_seconds='5', import_stall_seconds=str(STALL_SECONDS)) as port:
        yield port


@pytest.mark.parametrize('creates', [True, False], ids=['POST', 'PUT'])
@pytest.mark.parametrize('case', CASES, ids=[case.name for case in CASES])
def test_a_failure_becomes_an_error_that_says_why(port: int, glance: OldGlance, source: Source, case: Case,
                                                  creates: bool) -> None:
    target = Target(glance, source, V1Images(port), str(uuid4()), creates, KEEP)
    if not creates:
        created = target.images.request(
            'POST', '/v1/images', {'x-image-meta-id': target.image_id, 'x-image-meta-name': 'n', **KEEP})
        assert (created.status, created.headers[KEPT_HEADER]) == (201, 'guarded')
    answer = case.send(target)
    code = (CODES if creates else CODES | CODES_OF_PUT).get(case.name)
    expected = 200 if case.status == 201 and not creates else case.status
    assert (answer.status if answer else None) == expected, answer
    # What says that another one is under way is the guard's own.
    assert answer is None or case.words in answer.text or case.name == 'two at once'
    if answer and code and answer.status >= 400:
        assert answer.headers[KEPT_HEADER] == 'error'
        assert answer.headers.get(ID_HEADER) == (target.image_id if creates else None)
    if code is None:
        left = 'active' if case.left(creates) == 'active' else None
        eventually(lambda: told(target).get('status') == left, f'{left}')
        return
    eventually(lambda: told(target).get('status') == 'error', 'the error')
    head, shown = told(target), target.images.show(target.image_id)
    assert head[f'property-{ERROR}_code'] == shown[f'{ERROR}_code'] == code
    assert head[f'property-{ERROR}'] and shown['status'] == 'error'
    assert (head['size'], head.get('checksum'), shown['size'], shown['checksum']) == ('0', None, None, None)
    assert target.images.request('GET', f'/v1/images/{target.image_id}').status == 404


def told(target: Target) -> dict[str, str]:
    """What HEAD tells of the image; empty where there is none."""
    answer = target.images.request('HEAD', f'/v1/images/{target.image_id}')
    return dict(target.images.head(target.image_id)) if answer.status == 200 else {}


@pytest.mark.parametrize('case', [case for case in CASES if case.name in CODES], ids=lambda case: case.name)
def test_the_same_image_can_be_tried_again(glance: OldGlance, source: Source, case: Case, tmp_path_factory:
                                           pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp('guard')
    with guarding(glance, folder, fence_seconds='6', lease_seconds='5', import_stall_seconds='1') as port:
        target = Target(glance, source, V1Images(port), str(uuid4()), True, KEEP)
        case.send(target)
        eventually(lambda: told(target).get('status') == 'error', 'the error')
        if case.name in IN_THE_WAY:
            (glance.store / target.image_id).unlink(missing_ok=True)
        answer = eventually(lambda: retried(target), 'a retry')
        assert answer == 200
        shown = target.images.show(target.image_id)
        assert (shown['status'], shown['size'], ERROR in shown) == ('active', len(GOOD), False)
        assert target.images.request('GET', f'/v1/images/{target.image_id}').body == GOOD


def retried(target: Target) -> int | None:
    """The status of an upload of good data, once the fence lets one through."""
    formats = {'x-image-meta-disk_format': 'raw', 'x-image-meta-container_format': 'bare'}
    answer = target.images.upload(target.image_id, GOOD, {**formats, 'x-image-meta-size': str(len(GOOD))})
    return None if answer.status == 409 and 'may still wake up' in answer.text else answer.status


def test_without_a_way_to_the_database_a_retry_is_told_what_an_operator_can_do(glance: OldGlance,
                                                                               source: Source, port: int) -> None:
    target = Target(glance, source, V1Images(port), str(uuid4()), True, KEEP)
    target.send({**OCTETS, 'x-image-meta-disk_format': 'raw', 'x-image-meta-container_format': 'bare',
                 'x-image-meta-size': '999'}, SMALL)
    answer = target.images.upload(target.image_id, SMALL)
    if target.status() == 'killed':
        assert answer.status == 409 and 'glance_connection' in answer.text
        assert told(target)['status'] == 'error'
    else:
        assert answer.status == 200
