"""What a worker does without being asked: nobody looks at these images, and yet they are settled and cleared away."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

import imgguard.housekeeping
from imgguard.attempts import Claim, Failure, Kind, NewAttempt, State
from imgguard.glance_tasks import GlanceTasks
from imgguard.guard import Guard
from imgguard.housekeeping import AGAIN_SECONDS, Housekeeping
from imgguard.leases import Heartbeat
from imgguard.recovery import Recovery
from imgguard.requeue import Requeue
from imgguard.settings import resolve
from imgguard.workers import Workers
from tests.harness import InProcessGlance
from tests.requeuing import Inside
from tests.test_recovery import Files, killed
from tests.uploading import KEEP, Images, Pipelines

DATA = b'data of an image' * 8192
LOCK = 'os_glance_import_task'
UPLOAD = NewAttempt(Kind.UPLOAD, True, 'req-1', 'alice', 'red', 'another-host', 'another-host:1:abcd', None)
IMPORT = replace(UPLOAD, kind=Kind.IMPORT)
COPY = replace(UPLOAD, kind=Kind.COPY)
CUT = Failure('client_disconnected', 'The connection was lost.')
PAST_THE_LEASE, PAST_THE_FENCE = 100.0, 700.0


@pytest.fixture
def pipelines(in_process_glance: InProcessGlance, tmp_path: Path) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path, lint=False)


@pytest.fixture
def images(pipelines: Pipelines) -> Images:
    """Somebody in front of the guard, who does not come back."""
    return pipelines.images()


@pytest.fixture
def glance(pipelines: Pipelines, images: Images, in_process_glance: InProcessGlance) -> Iterator['Glance']:
    yield Glance(pipelines, images, in_process_glance)


class Glance:
    """What Glance itself has, and a worker of another host that falls silent."""

    def __init__(self, pipelines: Pipelines, images: Images, in_process: InProcessGlance) -> None:
        self.bare = Images(pipelines.bare, images.caller)
        self.inside = Inside(in_process.glance.store, in_process.glance.staging)
        self.staging = in_process.glance.staging
        self.files = Files(in_process)
        self._pipelines = pipelines

    def status(self, image_id: str) -> str:
        status: str = self.inside.image(image_id)['status']
        return status

    def attempt(self, image_id: str, new: NewAttempt, task_id: str | None = None) -> Claim:
        """An attempt of that other host."""
        image = self.bare.show(image_id)
        claim = self._pipelines.store.begin(image_id, image['created_at'], image['owner'], new)
        assert isinstance(claim, Claim)
        if task_id is not None:
            self._pipelines.store.set_task(claim, task_id)
        return claim

    def silent_for(self, claim: Claim, seconds: float) -> None:
        """Let its last sign of life be so long ago, and another worker have lived all the while."""
        now = "((julianday('now') - 2440587.5) * 86400.0)"
        values = {'s': seconds, 'key': claim.key}
        engine = create_engine(self._pipelines.connection)
        with engine.begin() as connection:
            connection.execute(text(f'UPDATE imgguard_images SET running_at = {now} - :s WHERE "key" = :key '
                                    'AND running_number IS NOT NULL'), values)
            connection.execute(text('UPDATE imgguard_images SET remains_at = 1 WHERE "key" = :key '
                                    'AND remains_at IS NOT NULL'), values)
            connection.execute(text(f'UPDATE imgguard_attempts SET updated_at = {now} - :s WHERE image_key = :key'),
                               values)
            connection.execute(text('INSERT OR REPLACE INTO imgguard_workers (worker, host, since, seen_at) '
                                    f"VALUES ('witness', 'here', {now} - :s - 100, {now})"), values)
        engine.dispose()

    def task(self, image_id: str, kind: str = 'web-download') -> str:
        """A task of Glance that its worker left ``processing``, with its lock on the image."""
        database, context = self.inside.database, self.inside.context
        task: dict[str, Any] = database.task_create(context, {
            'type': 'api_image_import', 'status': 'processing', 'owner': 'red', 'image_id': image_id,
            'request_id': 'req-1', 'user_id': 'alice', 'message': '', 'expires_at': None,
            'input': {'image_id': image_id, 'import_req': {'method': {'name': kind}}, 'backend': ['fs']}})
        database.image_set_property_atomic(image_id, LOCK, task['id'])
        return str(task['id'])


def housekeeping(pipelines: Pipelines, clears: bool = True) -> Housekeeping:
    store, settings, workers = pipelines.store, resolve({'connection': pipelines.connection}, 'a test'), Workers()
    guard = Guard(store, Heartbeat(store, settings.lease_seconds, workers), settings)
    recovery = Recovery(store, guard, GlanceTasks(), Requeue(), workers, settings)
    return Housekeeping(store, recovery, GlanceTasks(), clears)


def test_an_upload_that_glance_took_and_said_that_it_had_not(
    pipelines: Pipelines, images: Images, glance: Glance,
) -> None:
    """Its database went away as it answered. Nobody is shown the error, and whoever was told of it hears its end."""
    image_id = images.created(KEEP)
    claim = glance.attempt(image_id, UPLOAD)
    assert glance.bare.upload(image_id, DATA).status_int == 204
    pipelines.store.finish(claim, State.FAILED, CUT, shown=True, http_status=500, bytes_received=len(DATA))
    record = pipelines.record(image_id)
    assert record is not None and record.error is not None
    housekeeping(pipelines).run_once()
    record = pipelines.record(image_id)
    assert record is not None and record.error is None
    assert (glance.status(image_id), images.show(image_id)['size']) == ('active', len(DATA))


def test_an_upload_whose_host_died(pipelines: Pipelines, images: Images, glance: Glance) -> None:
    image_id = images.created(KEEP)
    killed(glance.bare, image_id)
    claim = glance.attempt(image_id, UPLOAD)
    assert housekeeping(pipelines).run_once() == 0, 'it may be alive'
    glance.silent_for(claim, PAST_THE_LEASE)
    assert housekeeping(pipelines).run_once() == 1
    record = pipelines.record(image_id)
    assert record is not None and record.error is not None and record.error.code == 'worker_lost'
    assert (glance.status(image_id), len(glance.files.of(image_id))) == ('saving', 1), 'it may only be paused'
    assert housekeeping(pipelines).run_once() == 0, 'not before the fence is open'
    glance.silent_for(claim, PAST_THE_FENCE)
    assert housekeeping(pipelines).run_once() == 1
    assert (glance.status(image_id), glance.files.of(image_id)) == ('queued', [])
    assert housekeeping(pipelines).run_once() == 0, 'it is done'


def past_the_deadline(pipelines: Pipelines, *image_ids: str) -> None:
    engine = create_engine(pipelines.connection)
    with engine.begin() as connection:
        connection.execute(text('UPDATE imgguard_images SET give_up_at = 1 WHERE image_id = :id'),
                           [{'id': image_id} for image_id in image_ids])
    engine.dispose()


def test_a_deadline_nobody_looks_at(pipelines: Pipelines, images: Images) -> None:
    image_id = images.created({**KEEP, 'X-OpenStack-Image-Give-Up-After': '1'})
    past_the_deadline(pipelines, image_id)
    assert housekeeping(pipelines).run_once() == 1
    record = pipelines.record(image_id)
    assert record is not None and record.error is not None and record.error.code == 'never_arrived'


def test_a_deadline_that_data_came_before_by_a_way_past_the_guard(
    pipelines: Pipelines, images: Images, glance: Glance,
) -> None:
    """During an outage of the guard's store, for example. It does not stand before what is due for ever."""
    image_id = images.created({**KEEP, 'X-OpenStack-Image-Give-Up-After': '1'})
    assert glance.bare.upload(image_id, DATA).status_int == 204
    past_the_deadline(pipelines, image_id)
    assert housekeeping(pipelines).run_once() == 1
    assert pipelines.store.due(10) == []
    assert housekeeping(pipelines).run_once() == 0
    assert images.show(image_id)['status'] == 'active'


def test_what_is_due_takes_no_turn_from_what_is_to_be_cleared_away(
    pipelines: Pipelines, images: Images, glance: Glance, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(imgguard.housekeeping, 'MOST', 1)
    waits = images.created({**KEEP, 'X-OpenStack-Image-Give-Up-After': '1'})
    assert glance.bare.request('PUT', f'/v2/images/{waits}/stage', {'Content-Type': 'application/octet-stream'},
                               DATA).status_int == 204
    past_the_deadline(pipelines, waits)
    image_id = images.created(KEEP)
    killed(glance.bare, image_id)
    claim = glance.attempt(image_id, UPLOAD)
    pipelines.store.finish(claim, State.FAILED, CUT, shown=True, http_status=None, bytes_received=1)
    housekeeping(pipelines).run_once()
    assert glance.status(image_id) == 'queued'


def test_an_upload_whose_worker_died_after_the_image_became_active(
    pipelines: Pipelines, images: Images, glance: Glance,
) -> None:
    image_id = images.created(KEEP)
    assert glance.bare.upload(image_id, DATA).status_int == 204
    glance.silent_for(glance.attempt(image_id, UPLOAD), PAST_THE_FENCE)
    housekeeping(pipelines).run_once()
    attempt, = pipelines.attempts(image_id)
    assert attempt.state is State.SUCCEEDED
    assert images.show(image_id)['status'] == 'active'
    assert images.download(image_id).body == DATA


def test_an_import_whose_worker_died_after_the_image_became_active(
    pipelines: Pipelines, images: Images, glance: Glance,
) -> None:
    """Its lock would keep every copy of the image away for an hour, its staged data its disk for ever."""
    image_id = images.created(KEEP)
    assert glance.bare.upload(image_id, DATA).status_int == 204
    task_id = glance.task(image_id)
    (glance.staging / image_id).write_bytes(DATA)
    glance.inside.database.image_set_property_atomic(image_id, 'os_glance_importing_to_stores', 'fs2')
    claim = glance.attempt(image_id, IMPORT, task_id)
    glance.silent_for(claim, PAST_THE_LEASE)
    housekeeping(pipelines).run_once()
    assert [attempt.state for attempt in pipelines.attempts(image_id)] == [State.SUCCEEDED]
    assert LOCK in glance.inside.image(image_id)['properties'], 'the worker may only be paused'
    glance.silent_for(claim, PAST_THE_FENCE)
    housekeeping(pipelines).run_once()
    image = glance.inside.image(image_id)
    assert (image['status'], image['checksum']) == ('active', hashlib.md5(DATA).hexdigest())
    assert not [name for name in image['properties'] if name.startswith('os_glance')]
    assert not (glance.staging / image_id).exists()
    assert glance.inside.tasks(image_id) == ['failure']
    assert images.download(image_id).body == DATA
    assert housekeeping(pipelines).run_once() == 0


def test_a_copy_whose_worker_died(pipelines: Pipelines, images: Images, glance: Glance) -> None:
    image_id = images.created(KEEP)
    assert images.upload(image_id, DATA).status_int == 204
    task_id = glance.task(image_id, 'copy-image')
    (glance.staging / image_id).write_bytes(DATA[:100])
    glance.silent_for(glance.attempt(image_id, COPY, task_id), PAST_THE_FENCE)
    housekeeping(pipelines).run_once()
    assert [attempt.state for attempt in pipelines.attempts(image_id)] == [State.SUCCEEDED, State.LOST]
    assert images.show(image_id)['status'] == 'active'
    assert LOCK not in glance.inside.image(image_id)['properties']
    assert not (glance.staging / image_id).exists()
    assert images.download(image_id).body == DATA


def test_the_import_of_somebody_else_is_let_be(pipelines: Pipelines, images: Images, glance: Glance) -> None:
    image_id = images.created(KEEP)
    assert images.upload(image_id, DATA).status_int == 204
    glance.silent_for(glance.attempt(image_id, COPY, glance.task(image_id, 'copy-image')), PAST_THE_FENCE)
    database = glance.inside.database
    dead = glance.inside.image(image_id)['properties'][LOCK]
    database.image_delete_property_atomic(image_id, LOCK, dead)
    living = glance.task(image_id, 'copy-image')
    (glance.staging / image_id).write_bytes(DATA)
    housekeeping(pipelines).run_once()
    assert glance.inside.image(image_id)['properties'][LOCK] == living
    assert (glance.staging / image_id).exists()
    record = pipelines.record(image_id)
    assert record is not None and record.remains, 'it is looked at again'


def test_an_image_that_glance_deleted_meanwhile(pipelines: Pipelines, images: Images, glance: Glance) -> None:
    image_id = images.in_error()
    claim = glance.attempt(image_id, UPLOAD)
    assert glance.bare.request('DELETE', f'/v2/images/{image_id}').status_int == 204
    glance.silent_for(claim, PAST_THE_LEASE)
    housekeeping(pipelines).run_once()
    record = pipelines.record(image_id)
    assert record is not None and record.deleted and record.running is None


def test_an_image_that_was_deleted_while_its_worker_was_dead(
    pipelines: Pipelines, images: Images, glance: Glance,
) -> None:
    """Glance deletes no data that it was not told of; and nobody asks for the image any more."""
    image_id = images.created(KEEP)
    killed(glance.bare, image_id)
    claim = glance.attempt(image_id, UPLOAD)
    no_cleanup = {'X-OpenStack-Image-Keep-On-Failure': 'false'}
    assert images.request('DELETE', f'/v2/images/{image_id}', no_cleanup).status_int == 204
    glance.silent_for(claim, PAST_THE_LEASE)
    housekeeping(pipelines).run_once()
    assert [attempt.state for attempt in pipelines.attempts(image_id)] == [State.LOST]
    assert len(glance.files.of(image_id)) == 1, 'it may only be paused'
    glance.silent_for(claim, PAST_THE_FENCE)
    housekeeping(pipelines).run_once()
    assert glance.files.of(image_id) == []
    assert housekeeping(pipelines).run_once() == 0


def test_staged_data_that_comes_to_light_after_its_image_was_cleared(
    pipelines: Pipelines, images: Images, glance: Glance,
) -> None:
    """Another host cleared; here a worker that was paused wakes up, lets go, and leaves what it had."""
    cleared, active, deleted = images.in_error(), images.in_error(), images.in_error()
    assert images.upload(active, DATA).status_int == 204
    no_cleanup = {'X-OpenStack-Image-Keep-On-Failure': 'false'}
    assert images.request('DELETE', f'/v2/images/{deleted}', no_cleanup).status_int == 204
    for image_id in (cleared, active, deleted):
        (glance.staging / image_id).write_bytes(DATA[:100])
    (glance.staging / f'{cleared}.qcow2').write_bytes(DATA[:100])
    housekeeping(pipelines).run_once()
    left = {path.name.partition('.')[0] for path in glance.staging.iterdir()}
    assert not left & {cleared, active, deleted}
    assert (images.show(cleared)['status'], images.show(active)['status']) == ('error', 'active')


def test_staged_data_that_is_needed_stays(pipelines: Pipelines, images: Images, glance: Glance) -> None:
    staged, begun, copied = (images.created(KEEP) for _ in range(3))
    assert images.request('PUT', f'/v2/images/{staged}/stage', {'Content-Type': 'application/octet-stream'},
                          DATA).status_int == 204
    glance.attempt(begun, IMPORT)
    assert images.upload(copied, DATA).status_int == 204
    glance.task(copied, 'copy-image')
    no_image = str(uuid4())
    needed = {begun, copied, no_image}
    for image_id in needed:
        (glance.staging / image_id).write_bytes(DATA[:100])
    housekeeping(pipelines).run_once()
    assert needed | {staged} <= {path.name for path in glance.staging.iterdir()}
    for image_id in needed:
        (glance.staging / image_id).unlink()


def test_with_requeue_off_verdicts_are_spoken_and_nothing_is_touched(
    pipelines: Pipelines, images: Images, glance: Glance,
) -> None:
    image_id = images.created(KEEP)
    killed(glance.bare, image_id)
    claim = glance.attempt(image_id, UPLOAD)
    glance.silent_for(claim, PAST_THE_FENCE)
    assert housekeeping(pipelines, clears=False).run_once() == 1
    record = pipelines.record(image_id)
    assert record is not None and record.error is not None
    assert glance.status(image_id) == 'saving'
    assert housekeeping(pipelines, clears=False).run_once() == 0


def test_one_image_that_makes_trouble_does_not_keep_the_others_waiting(
    pipelines: Pipelines, images: Images, glance: Glance,
) -> None:
    """Where a file cannot be deleted it is tried again later."""
    troubled, other = images.created(KEEP), images.created(KEEP)
    for image_id in (troubled, other):
        killed(glance.bare, image_id)
        glance.silent_for(glance.attempt(image_id, UPLOAD), PAST_THE_FENCE)
    stored, = glance.files.of(troubled)
    stored.unlink()
    stored.mkdir()
    try:
        assert housekeeping(pipelines).run_once() == 2
        assert (glance.status(troubled), glance.status(other)) == ('saving', 'queued')
        assert pipelines.store.remaining(10) == [], f'not before {AGAIN_SECONDS} seconds have passed'
    finally:
        stored.rmdir()


def test_an_outage_of_the_store_ends_nothing(pipelines: Pipelines, images: Images) -> None:
    images.in_error()
    store_file = Path(pipelines.connection.removeprefix('sqlite:///'))
    keeper = housekeeping(pipelines)
    pipelines.store.close()
    store_file.write_bytes(b'no database at all' * 100)
    assert keeper.run_once() == 0
