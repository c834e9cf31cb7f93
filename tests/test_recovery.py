"""From every dead state back: the verdict, the remains cleared away as soon as it is safe, the retry on the same id."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from webob import Request

from imgguard.admission import Admission
from imgguard.attempts import Claim, Failure, Kind, NewAttempt, State
from imgguard.glance_tasks import GlanceTasks
from imgguard.guard import Guard
from imgguard.glance_images import GlanceImages
from imgguard.images import Caller, Image
from imgguard.leases import Heartbeat
from imgguard.recovery import Recovery
from imgguard.requeue import Requeue
from imgguard.settings import resolve
from imgguard.workers import HOST, Workers
from imgguard.wsgi import Headers
from tests.harness import InProcessGlance
from tests.identity import token
from tests.uploading import KEEP, Body, Images, Pipelines, new_project, silence

DATA = b'data of an image' * 8192
UPLOAD = NewAttempt(Kind.UPLOAD, True, 'req-1', 'alice', 'red', 'another-host', 'another-host:1:abcd', None)


@pytest.fixture
def pipelines(in_process_glance: InProcessGlance, tmp_path: Path) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path, lint=False)


@pytest.fixture
def images(pipelines: Pipelines) -> Images:
    return pipelines.images()


@pytest.fixture
def files(in_process_glance: InProcessGlance) -> Iterator['Files']:
    yield Files(in_process_glance)


class Files:
    """What lies in Glance's store and staging folders under the name of an image."""

    def __init__(self, glance: InProcessGlance) -> None:
        self._folder = glance.glance.folder

    def of(self, image_id: str) -> list[Path]:
        """Every file of that name."""
        return sorted(self._folder.rglob(image_id))


def glances_status(pipelines: Pipelines, images: Images, image_id: str) -> str:
    status: str = Images(pipelines.bare, images.caller).show(image_id)['status']
    return status


def assert_works_again(images: Images, files: Files, image_id: str, data: bytes = DATA) -> None:
    answer = images.upload(image_id, data)
    assert answer.status_int == 204, answer.text
    image = images.show(image_id)
    assert (image['status'], image['checksum']) == ('active', hashlib.md5(data).hexdigest())
    assert not [name for name in image if name.startswith('os_glance_image_error')]
    assert len(files.of(image_id)) == 1
    assert images.request('GET', f'/v2/images/{image_id}/file').body == data


def killed(images: Images, image_id: str) -> None:
    """Stop the worker in the middle of an upload: Glance leaves ``saving`` and a partial file."""
    with pytest.raises(SystemExit):
        images.upload(image_id, Body([b'x' * 100_000, SystemExit()]))


def test_a_stopped_worker(pipelines: Pipelines, images: Images, files: Files) -> None:
    image_id = images.created(KEEP)
    killed(images, image_id)
    assert images.show(image_id)['os_glance_image_error_code'] == 'worker_lost'
    assert glances_status(pipelines, images, image_id) == 'queued', 'the attempt ended by itself: nothing to wait for'
    assert files.of(image_id) == []
    assert_works_again(images, files, image_id)


def test_staged_data_of_a_worker_that_was_stopped(pipelines: Pipelines, images: Images, files: Files) -> None:
    image_id = images.created(KEEP)
    with pytest.raises(SystemExit):
        images.request('PUT', f'/v2/images/{image_id}/stage', {'Content-Type': 'application/octet-stream'},
                       Body([DATA, SystemExit()]))
    assert images.show(image_id)['os_glance_image_error_code'] == 'worker_lost'
    assert (glances_status(pipelines, images, image_id), files.of(image_id)) == ('queued', [])
    assert_works_again(images, files, image_id)


class Lost:
    """An upload whose worker fell silent on another host, with what it left in Glance."""

    def __init__(self, pipelines: Pipelines, images: Images, image_id: str, new: NewAttempt = UPLOAD) -> None:
        self._pipelines = pipelines
        self.image_id = image_id
        bare = Images(pipelines.bare, images.caller)
        killed(bare, image_id)
        record = pipelines.record(image_id)
        assert record is not None
        claim = pipelines.store.begin(image_id, record.created_at, record.owner, new)
        assert isinstance(claim, Claim)
        self.claim = claim

    def silent_for(self, seconds: float) -> None:
        """Let the last sign of life be so long ago, and another worker have lived all the while."""
        silence(self._pipelines.connection, self.claim, seconds)


def test_lost_is_enough_to_show_the_error_and_not_to_clear_away(
    pipelines: Pipelines, images: Images, files: Files,
) -> None:
    image_id = images.created(KEEP)
    lost = Lost(pipelines, images, image_id)
    assert images.show(image_id)['status'] == 'saving', 'it may still be alive'
    assert images.upload(image_id, DATA).status_int == 409
    lost.silent_for(100)
    assert images.show(image_id)['os_glance_image_error_code'] == 'worker_lost'
    assert glances_status(pipelines, images, image_id) == 'saving', 'it may only be paused'
    refused = images.upload(image_id, DATA)
    assert refused.status_int == 409 and 'may still wake up' in refused.text
    assert images.show(image_id)['status'] == 'error', 'a retry refused at the door changes nothing'
    lost.silent_for(700)
    assert images.show(image_id)['status'] == 'error'
    assert glances_status(pipelines, images, image_id) == 'queued'
    assert_works_again(images, files, image_id)


def test_an_import_that_glance_may_still_work_on_is_not_given_up_for_a_retry(
    pipelines: Pipelines, images: Images,
) -> None:
    image_id = images.in_error()
    lost = Lost(pipelines, images, image_id, replace(UPLOAD, kind=Kind.IMPORT, handed_on=True))
    lost.silent_for(3500)
    refused = images.upload(image_id, DATA)
    assert refused.status_int == 409 and 'Glance may still be working on another import' in refused.text
    declared = images.patch(image_id, {'op': 'replace', 'path': '/status', 'value': 'error'})
    assert declared.status_int == 409
    assert images.show(image_id)['status'] == 'saving'
    assert [each.state for each in pipelines.attempts(image_id)] == [State.FAILED, State.RUNNING]
    lost.silent_for(3700)
    assert images.show(image_id)['os_glance_image_error_code'] == 'import_failed'
    lost.silent_for(3700)
    assert images.upload(image_id, DATA).status_int == 204


def test_no_number_of_declarations_opens_the_fence(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created(KEEP)
    lost = Lost(pipelines, images, image_id)
    lost.silent_for(100)
    record = pipelines.record(image_id)
    assert record is not None
    for _ in range(105):
        pipelines.store.declare(image_id, record.created_at, record.owner, replace(UPLOAD, kind=Kind.DECLARE),
                                Failure('declared', 'It will never come.'))
    refused = images.upload(image_id, DATA)
    assert refused.status_int == 409 and 'may still wake up' in refused.text
    assert glances_status(pipelines, images, image_id) == 'saving'


def test_who_is_second_to_find_an_attempt_silent_meets_the_fence_too(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created(KEEP)
    lost = Lost(pipelines, images, image_id)
    lost.silent_for(100)
    settings, store, workers = resolve({'connection': pipelines.connection}, 'a test'), pipelines.store, Workers()
    guard = Guard(store, Heartbeat(store, settings.lease_seconds, workers), settings)
    recovery = Recovery(store, guard, GlanceTasks(), Requeue(), workers, settings)
    admission = Admission(pipelines.guarded.app, settings, store, guard, recovery)

    def ask(by: Caller, image_id: str) -> Image:
        assert store.lose(lost.claim.key, lost.claim.number), 'the first'
        image = GlanceImages().look(by, image_id)
        assert image is not None
        return image

    from glance.context import get_admin_context
    by = Caller('alice', 'red', True, 'req-1', get_admin_context())
    statuses: list[str] = []

    def start_response(status: str, headers: Headers, exc_info: object = None) -> Callable[[bytes], object]:
        statuses.append(status)
        return bytes

    admission.admit(Request.blank('/', method='PUT').environ, start_response, image_id, by, Kind.UPLOAD, ask)
    assert statuses == ['409 Conflict']


@pytest.mark.parametrize(('handed_on', 'status'), [(False, 'queued'), (True, 'saving')])
def test_who_asked_another_host_proves_nothing_by_its_death(
    pipelines: Pipelines, images: Images, tmp_path: Path, handed_on: bool, status: str,
) -> None:
    """Nobody took its claim over: the work is done, or not, by a process that nothing is known of."""
    # A worker of this host holds the lock on a file of its name as long as it lives.
    worker = f'{HOST}:1:{tmp_path.name}'
    Workers().name()
    lock = Path(tempfile.gettempdir(), f'imgguard-{os.geteuid()}', f'{worker}.lock')
    lock.touch(mode=0o600)
    image_id = images.created(KEEP)
    Lost(pipelines, images, image_id, replace(UPLOAD, host=HOST, worker=worker, handed_on=handed_on)).silent_for(100)
    assert images.show(image_id)['os_glance_image_error_code'] == 'worker_lost'
    assert glances_status(pipelines, images, image_id) == status
    lock.unlink()


def test_the_filter_finds_what_was_lost(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created(KEEP)
    Lost(pipelines, images, image_id).silent_for(100)
    assert images.listed('status=error') == [image_id]


def test_a_delete_leaves_nothing_behind(pipelines: Pipelines, images: Images, files: Files) -> None:
    """Glance alone leaks the partial file of an upload that was killed."""
    image_id = images.created(KEEP)
    Lost(pipelines, images, image_id).silent_for(700)
    assert files.of(image_id) != []
    deleted = images.request('DELETE', f'/v2/images/{image_id}', {'X-OpenStack-Image-Keep-On-Failure': 'false'})
    assert deleted.status_int == 204
    assert files.of(image_id) == []


def test_where_the_operator_does_it(in_process_glance: InProcessGlance, tmp_path: Path, files: Files) -> None:
    pipelines = Pipelines(in_process_glance, tmp_path, lint=False, requeue='off')
    images = Images(pipelines.guarded, token('alice', new_project()))
    image_id = images.created(KEEP)
    killed(images, image_id)
    assert images.show(image_id)['status'] == 'error'
    assert glances_status(pipelines, images, image_id) == 'saving'
    refused = images.upload(image_id, DATA)
    assert refused.status_int == 409 and 'requeue = off' in refused.text


def test_the_place_of_data_that_glance_rejected_is_not_told(in_process_glance: InProcessGlance, tmp_path: Path) -> None:
    """Nobody clears it away where that is the operator's; Glance has the image with its location."""
    pipelines = Pipelines(in_process_glance, tmp_path, lint=False, requeue='off')
    images = pipelines.images()
    image_id = images.created(KEEP, disk_format='qcow2')
    assert images.upload(image_id, DATA).status_int == 415
    service = token('glance', images.caller.split(':')[1], 'service', 'member', 'reader')
    answers = [Images(each, service).request('GET', f'/v2/images/{image_id}/locations')
               for each in (pipelines.bare, pipelines.guarded)]
    assert [answer.status_int for answer in answers] == [200, 200]
    assert [len(answer.json) for answer in answers] == [1, 0]
    active = images.created(KEEP)
    assert images.upload(active, DATA).status_int == 204
    assert len(Images(pipelines.guarded, service).request('GET', f'/v2/images/{active}/locations').json) == 1
