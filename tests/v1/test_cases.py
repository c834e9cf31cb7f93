"""The table of cases, played on a bare Glance 15.0.2: what the client gets, and what is left."""

import subprocess
from uuid import uuid4

import pytest

from tests.old_glance import OldGlance
from tests.sockets import Exchange, chunked, eventually
from tests.sources import DATA, Source
from tests.v1.cases import CAP, CASES, SMALL, Case, Target
from tests.v1.conftest import StartOldGlance
from tests.v1.images import FORMATS, OCTETS, V1Images


@pytest.mark.parametrize('creates', [True, False], ids=['POST', 'PUT'])
@pytest.mark.parametrize('case', CASES, ids=[case.name for case in CASES])
def test_what_glance_answers_and_what_is_left(glance: OldGlance, source: Source, case: Case, creates: bool) -> None:
    target = Target(glance, source, V1Images(glance.port), str(uuid4()), creates)
    if not creates:
        given = {'x-image-meta-id': target.image_id, 'x-image-meta-name': 'n'}
        assert target.images.request('POST', '/v1/images', given).status == 201
    answer = case.send(target)
    expected = 200 if case.status == 201 and not creates else case.status
    assert (answer.status if answer else None) == expected, answer
    assert answer is None or case.words in answer.text
    left = case.left(creates)
    eventually(lambda: target.status() == left, f'{left} instead of {target.status()}')
    eventually(lambda: (glance.store / target.image_id).exists() is case.file, 'what is to stay in the store')


def test_a_client_that_stands_still_and_a_quota(start_old_glance: StartOldGlance, source: Source) -> None:
    glance = start_old_glance({'DEFAULT': {'client_socket_timeout': '1', 'user_storage_quota': str(CAP)}})
    target = Target(glance, source, V1Images(glance.port), str(uuid4()), creates=True)
    with target.begin(SMALL, len(DATA)) as exchange:
        assert exchange.status() == 400
    eventually(lambda: target.status() == 'killed', 'the end of the upload')
    answer = target.images.create(iter([DATA]))
    # It names the other limit.
    assert (answer.status, 'Denying attempt to upload image larger than' in answer.text) == (413, True)
    answer = target.images.create(DATA, {'x-image-meta-size': str(len(DATA))})
    assert (answer.status, 'exceeds the quota' in answer.text) == (413, True)


def test_a_disk_that_is_full(start_old_glance: StartOldGlance, source: Source) -> None:
    glance = start_old_glance()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(glance.store)],
                             capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f'mount: {mounted.stderr.strip()}')
    try:
        for body in (DATA, iter([DATA])):
            target = Target(glance, source, V1Images(glance.port), str(uuid4()), creates=True)
            answer = target.send({**FORMATS, **OCTETS}, body)
            assert (answer.status, 'Image storage media is full' in answer.text) == (413, True)
            assert target.status() == 'killed'
    finally:
        subprocess.run(['umount', '--lazy', str(glance.store)], check=True)


def test_a_cut_upload_by_v2_leaves_the_image_queued(glance: OldGlance) -> None:
    images = V1Images(glance.port)
    for announced, status in ((1000, 500), (None, 400)):
        image_id = images.created()
        length = {'Transfer-Encoding': 'chunked'} if announced is None else {'Content-Length': str(announced)}
        with Exchange(glance.port) as exchange:
            exchange.head('PUT', f'/v2/images/{image_id}/file', {'X-Auth-Token': images.caller, **OCTETS, **length})
            exchange.send(chunked(SMALL[:300]) if announced is None else SMALL[:300])
            assert exchange.half_close().answer().status == status
        eventually(lambda: images.status(image_id) == 'queued', 'the end of the upload')
