"""An image that Glance holds dead is put back to a clean ``queued``, and the next attempt on it works.

Every state is made by the real Glance in this process, in the way it comes about: by an upload it
refuses too late, a process that ends in the middle, a store that is gone, a source that hangs.
"""

import hashlib
import itertools
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from oslo_config import cfg
from webtest import TestApp

from imgguard.dead_states import HELD, LEFT_OVER
from imgguard.requeue import CannotRequeue, Overtaken, Requeue
from tests import requeuing
from tests.harness import InProcessGlance
from tests.identity import reader_token
from tests.requeuing import DATA, RAW, Body, Client, Died, Inside, Source, died_uploading, eventually

# Glance leaves it to Python to close the staged file it has imported (glance/common/scripts/utils.py).
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

LOCK = 'os_glance_import_task'


@dataclass
class Case:
    """One Glance, one member of a new project, and what a test leaves to be ended."""

    client: Client
    inside: Inside
    store: Path
    staging: Path
    ending: ExitStack

    def source(self, data: bytes, at_once: int | None = None) -> Source:
        """A source for web-downloads that is open until the test has ended."""
        return self.ending.enter_context(Source(data, at_once).open())

    @contextmanager
    def store_gone(self) -> Iterator[None]:
        """Within the block the store's directory is missing, as an unmounted one is."""
        away = self.store.rename(self.store.with_name('unmounted'))
        try:
            yield
        finally:
            away.rename(self.store)

    def everything(self, image_id: str) -> tuple[dict[str, Any], list[str], dict[Path, tuple[int, int, int]]]:
        """All that can be changed about an image: row, tasks, files."""
        return self.inside.image(image_id), self.inside.tasks(image_id), self.inside.files()

    def clear(self, image_id: str) -> None:
        """Clear it as one to whom nothing comes in between."""
        Requeue().clear(image_id, lambda: True)


@contextmanager
def overridden(name: str, value: object, group: str | None = None) -> Iterator[None]:
    """Within the block an option of Glance has this value."""
    cfg.CONF.set_override(name, value, group)
    try:
        yield
    finally:
        cfg.CONF.clear_override(name, group)


@pytest.fixture(scope='module')
def application(in_process_glance: InProcessGlance) -> TestApp:
    return TestApp(in_process_glance.load(None), lint=False)


@pytest.fixture
def case(in_process_glance: InProcessGlance, application: TestApp) -> Iterator[Case]:
    glance = in_process_glance.glance
    with ExitStack() as ending, overridden('allowed_hosts', ['127.0.0.1'], 'import_filtering_opts'):
        yield Case(Client(application), Inside(glance.store, glance.staging), glance.store, glance.staging, ending)


# What each failure leaves. Every function makes an image and returns its id.

def rejected_content(case: Case) -> str:
    """The data is not what disk_format says: refused when all of it is stored, and it stays stored."""
    image_id = case.client.created()
    assert case.client.send(image_id, RAW) == 415
    image = case.inside.image(image_id)
    assert (image['status'], len(image['locations'])) == ('queued', 1)
    assert image['checksum'] == hashlib.md5(RAW).hexdigest()
    assert case.client.send(image_id, DATA) in (409, 500)
    return image_id


def over_quota_chunked(case: Case) -> str:
    """The quota is found exceeded after the data: Glance fails to restore the image."""
    image_id = case.client.created()
    with overridden('user_storage_quota', '1000'):
        assert case.client.send(image_id, Body([DATA])) == 413
    assert case.inside.image(image_id)['status'] == 'saving'
    return image_id


def upload_died(case: Case) -> str:
    """The worker is killed during the upload."""
    image_id = died_uploading(case.client)
    assert case.inside.image(image_id)['status'] == 'saving'
    assert 0 < (case.store / image_id).stat().st_size < len(DATA)
    return image_id


def staged(case: Case) -> str:
    """Staged data whose import never came."""
    image_id = case.client.created()
    assert case.client.send(image_id, DATA, 'stage') == 204
    assert case.inside.image(image_id)['status'] == 'uploading'
    return image_id


def staging_died(case: Case) -> str:
    """The worker is killed during the staging."""
    image_id = case.client.created()
    with pytest.raises(Died):
        case.client.send(image_id, Body([RAW[:200_000], Died()]), 'stage')
    assert case.inside.image(image_id)['status'] == 'uploading'
    return image_id


def staged_file_left_over(case: Case) -> str:
    """Somebody who may not upload tried to: Glance sets the image back, and forgets what was staged."""
    image_id = staged(case)
    reader = Client(case.client.application)
    reader.token = reader_token('rita', case.client.project)
    assert reader.send(image_id, DATA) == 403
    assert case.inside.image(image_id)['status'] == 'queued'
    assert case.client.send(image_id, DATA, 'stage') == 409
    return image_id


def import_to_broken_store(case: Case) -> str:
    """glance-direct to a store that fails: ``importing`` for ever."""
    image_id = staged(case)
    with case.store_gone():
        assert case.client.start_import(image_id, {'name': 'glance-direct'}) == 202
        wait_for_task(case, image_id, 'failure')
        eventually(lambda: LOCK not in case.inside.image(image_id)['properties'], 'the lock to go')
    assert case.inside.image(image_id)['status'] == 'importing'
    assert (case.staging / image_id).exists()
    return image_id


def download_hangs(case: Case) -> str:
    """web-download from a source that stands still, for which Glance has no timeout."""
    image_id = case.client.created()
    source = case.source(DATA, 100_000)
    assert case.client.start_import(image_id, source.method) == 202
    eventually(lambda: (case.staging / image_id).exists(), 'the download to begin')
    image = case.inside.image(image_id)
    assert (image['status'], case.inside.tasks(image_id)) == ('importing', ['processing'])
    assert LOCK in image['properties']
    return image_id


def lock_left(case: Case) -> str:
    """Not all stores had to succeed and none did: Glance stumbles over its own rollback and keeps the lock."""
    image_id = case.client.created()
    source = case.source(DATA)
    with case.store_gone():
        assert case.client.start_import(image_id, source.method, all_stores_must_succeed=False) == 202
        wait_for_task(case, image_id, 'failure')
    image = case.inside.image(image_id)
    assert (image['status'], image['properties']['os_glance_failed_import']) == ('queued', 'fs')
    assert case.client.start_import(image_id, source.method) == 409
    return image_id


def imported_content_rejected(case: Case) -> str:
    """The imported data is not what disk_format says: Glance forgets the file it has stored."""
    image_id = case.client.created()
    assert case.client.start_import(image_id, case.source(RAW).method) == 202
    wait_for_task(case, image_id, 'failure')
    eventually(lambda: LOCK not in case.inside.image(image_id)['properties'], 'the lock to go')
    assert case.inside.image(image_id)['status'] == 'queued'
    assert (case.store / image_id).exists()
    return image_id


def preset_checksum(case: Case) -> str:
    """The image names a checksum already, as v1 let clients set it: refused after the data, whose file stays."""
    image_id = case.client.created()
    case.inside.set(image_id, checksum='0' * 32)
    assert case.client.send(image_id, DATA) == 500
    assert case.inside.image(image_id)['status'] == 'queued'
    assert (case.store / image_id).exists()
    return image_id


LEFT_BEHIND = (
    rejected_content, over_quota_chunked, upload_died, staged, staging_died, staged_file_left_over,
    import_to_broken_store, download_hangs, lock_left, imported_content_rejected, preset_checksum,
)


def wait_for_task(case: Case, image_id: str, status: str) -> None:
    eventually(lambda: case.inside.tasks(image_id) == [status], f'the task to be {status}')


# How a client tries again.

def by_upload(case: Case, image_id: str) -> None:
    assert case.client.send(image_id, DATA) == 204


def by_stage_and_import(case: Case, image_id: str) -> None:
    assert case.client.send(image_id, DATA, 'stage') == 204
    assert case.client.start_import(image_id, {'name': 'glance-direct'}) == 202
    eventually(lambda: import_has_ended(case, image_id), 'the import to end')


def by_download(case: Case, image_id: str) -> None:
    assert case.client.start_import(image_id, case.source(DATA).method) == 202
    eventually(lambda: import_has_ended(case, image_id), 'the import to end')


def import_has_ended(case: Case, image_id: str) -> bool:
    return LOCK not in case.inside.image(image_id)['properties'] and 'processing' not in case.inside.tasks(image_id)


@pytest.mark.parametrize('again', [by_upload, by_stage_and_import, by_download])
@pytest.mark.parametrize('left_behind', LEFT_BEHIND)
def test_what_a_failure_leaves_is_cleared_and_the_retry_works(
        case: Case, left_behind: Callable[[Case], str], again: Callable[[Case, str], None]) -> None:
    others = case.inside.files()
    image_id = left_behind(case)
    before = case.inside.image(image_id)
    requeue = Requeue()
    assert requeue.needed(image_id)
    requeue.clear(image_id, lambda: True)

    assert not requeue.needed(image_id)
    cleared = case.inside.image(image_id)
    assert cleared == before | {
        'status': 'queued', 'properties': {}, 'locations': [],
        'size': None, 'virtual_size': None, 'checksum': None, 'os_hash_algo': None, 'os_hash_value': None}
    assert case.inside.files() == others
    assert set(case.inside.tasks(image_id)) <= {'failure'}
    assert case.inside.usage(case.client.project) == (0, 0, 0)

    again(case, image_id)
    image = case.client.show(image_id)
    assert (image['status'], image['size']) == ('active', len(DATA))
    assert image['checksum'] == hashlib.md5(DATA).hexdigest()
    assert image['os_hash_value'] == hashlib.sha512(DATA).hexdigest()
    assert case.client.request('GET', f'/v2/images/{image_id}/file').body == DATA
    files = case.inside.files()
    assert files.pop(case.store / image_id)
    assert files == others
    assert not requeue.needed(image_id)


@pytest.mark.parametrize('configuration', [requeuing.single_store, requeuing.several_directories])
def test_other_configurations_of_stores(tmp_path: Path, configuration: Callable[[Path], None]) -> None:
    # A process can have one Glance only, and this one has another.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as process:
        process.submit(configuration, tmp_path / 'glance').result()


# What is never touched.

@pytest.mark.parametrize('status', ['active', 'deactivated', 'pending_delete', 'deleted', 'killed'])
def test_an_image_that_has_data_or_is_deleted_is_never_touched(case: Case, status: str) -> None:
    image_id = case.client.created()
    assert case.client.send(image_id, DATA) == 204
    # What would be remains on any other image: an import into further stores is under way on an active one.
    case.inside.database.image_set_property_atomic(image_id, LOCK, 'task')
    (case.staging / image_id).write_bytes(DATA)
    case.ending.callback((case.staging / image_id).unlink)
    case.inside.set(image_id, status=status)
    before = case.inside.image(image_id), case.inside.files()
    requeue = Requeue()
    assert not requeue.needed(image_id)
    # Of one that has its data only what a task has left is put away whose worker is known to be dead.
    with pytest.raises(Overtaken) if status in ('active', 'deactivated') else nullcontext():
        requeue.clear(image_id, lambda: True, ['another task'])
    assert (case.inside.image(image_id), case.inside.files()) == before


def test_what_lies_under_the_name_of_a_deleted_image_goes(case: Case) -> None:
    """Glance deletes what it was told of, and a worker that died in the middle has told it nothing."""
    image_id = case.client.created()
    assert case.client.request('DELETE', f'/v2/images/{image_id}').status_int == 204
    for folder in (case.store, case.staging):
        (folder / image_id).write_bytes(DATA)
    assert not Requeue().needed(image_id), 'there is nothing to try again'
    with pytest.raises(Overtaken):
        Requeue().clear(image_id, lambda: False)
    case.clear(image_id)
    assert not (case.store / image_id).exists()
    assert not (case.staging / image_id).exists()


def test_an_image_nobody_knows(case: Case) -> None:
    assert not Requeue().needed('4711')
    case.clear('4711')


def test_a_clean_queued_image_is_not_written_to(case: Case) -> None:
    image_id = case.client.created()
    updated_at = case.client.show(image_id)['updated_at']
    assert not Requeue().needed(image_id)
    Requeue().clear(image_id, lambda: pytest.fail('nothing was to be done'))
    assert case.client.show(image_id)['updated_at'] == updated_at


def test_what_failed_elsewhere_is_told_by_glance_and_no_remains(case: Case) -> None:
    image_id = case.client.created()
    case.inside.database.image_set_property_atomic(image_id, 'os_glance_failed_import', 'fs')
    assert not Requeue().needed(image_id)


@pytest.mark.parametrize('properties', [
    {'os_glance_importing_to_stores': 'fs'}, {'os_glance_stage_host': 'http://gone'},
    {'os_glance_hash_op_host': 'http://gone'},
], ids=lambda properties: next(iter(properties)))
def test_a_property_that_defeats_imports_or_holds_quota_is_remains(case: Case, properties: dict[str, str]) -> None:
    image_id = case.client.created()
    for name, value in properties.items():
        case.inside.database.image_set_property_atomic(image_id, name, value)
    assert Requeue().needed(image_id)
    case.clear(image_id)
    assert case.inside.image(image_id)['properties'] == {}


def test_properties_of_the_user_stay(case: Case) -> None:
    image_id = case.client.created(hw_disk_bus='scsi', tags=['web'])
    assert case.client.send(image_id, RAW) == 415
    case.clear(image_id)
    image = case.client.show(image_id)
    assert (image['hw_disk_bus'], image['tags'], image['name']) == ('scsi', ['web'], 'server')


def test_what_plugins_made_of_staged_data_goes_with_it_and_nothing_else(case: Case) -> None:
    image_id = staged(case)
    for name in (f'{image_id}.uc', f'{image_id}.raw', f'{image_id}0.raw', 'notes'):
        (case.staging / name).write_bytes(b'x')
    case.clear(image_id)
    left = {path.name for path in case.staging.iterdir()}
    assert left >= {f'{image_id}0.raw', 'notes'}
    assert not left & {image_id, f'{image_id}.uc', f'{image_id}.raw'}
    for name in (f'{image_id}0.raw', 'notes'):
        (case.staging / name).unlink()


def test_a_location_that_is_another_images_data_is_forgotten_and_not_deleted(case: Case) -> None:
    other = case.client.created()
    assert case.client.send(other, DATA) == 204
    image_id = case.client.created()
    [location] = case.inside.image(other)['locations']
    case.inside.database.image_location_add(case.inside.context, image_id, location)
    case.clear(image_id)
    assert case.inside.image(image_id)['locations'] == []
    assert case.client.request('GET', f'/v2/images/{other}/file').body == DATA


def test_an_id_is_a_files_name_only_when_it_is_plain(case: Case) -> None:
    image_id = f'../victim-{case.client.project[-8:]}'
    case.inside.database.image_create(case.inside.context, {
        'id': image_id, 'status': 'saving', 'owner': case.client.project, 'disk_format': 'raw',
        'container_format': 'bare', 'min_disk': 0, 'min_ram': 0})
    victim = case.store / image_id
    victim.write_bytes(b'not yours')
    with pytest.raises(CannotRequeue, match='id of this image cannot be the name of a file'):
        case.clear(image_id)
    assert victim.read_bytes() == b'not yours'
    assert case.inside.image(image_id)['status'] == 'saving'
    case.inside.set(image_id, status='queued')
    assert not Requeue().needed(image_id)


# Others come in between.

@pytest.mark.parametrize('left_behind', LEFT_BEHIND)
def test_who_has_lost_the_right_to_clear_stops_before_the_next_step(
        case: Case, left_behind: Callable[[Case], str]) -> None:
    image_id = left_behind(case)
    for stop_at in range(1, 20):
        seen: list[object] = []

        def still_mine() -> bool:
            seen.append(case.everything(image_id))
            return len(seen) < stop_at

        try:
            Requeue().clear(image_id, still_mine)
        except Overtaken as error:
            assert 'another worker' in str(error)
            assert case.everything(image_id) == seen[-1]
            # The next to clear it finds it dead, wherever the last one stopped, unless all was done.
            image = case.inside.image(image_id)
            assert Requeue().needed(image_id) or image['status'] == 'queued' and LOCK not in image['properties']
        else:
            break
    assert stop_at > 1
    by_upload(case, image_id)


@pytest.mark.parametrize('left_behind', LEFT_BEHIND)
def test_the_right_to_clear_is_asked_for_again_before_others_may_begin(
        case: Case, left_behind: Callable[[Case], str]) -> None:
    """From ``queued`` on anybody may upload, and who cleared may have been paused after its last deletion."""
    image_id = left_behind(case)
    seen: list[tuple[dict[str, Any], list[str], dict[Path, tuple[int, int, int]]]] = []

    def still_mine() -> bool:
        seen.append(case.everything(image_id))
        return True

    Requeue().clear(image_id, still_mine)
    image, _, files = seen[-1]
    assert image['status'] in HELD.values()
    assert not image['locations'] and not image['properties'].keys() & set(LEFT_OVER)
    assert not [file for file in files if file.name.partition('.')[0] == image_id]


def test_an_upload_that_ends_well_after_all_wins(case: Case) -> None:
    image_id = case.client.created()
    answers: list[int] = []

    def end_upload() -> bool:
        """The right to clear is asked for again: just then the paused worker goes on."""
        if not answers:
            go_on.set()
            upload.join(requeuing.WAIT_SECONDS)
        return True

    go_on, begun = Event(), Event()
    body = Body([DATA[:200_000], begun.set, lambda: go_on.wait(requeuing.WAIT_SECONDS), DATA[200_000:]])
    upload = Thread(target=lambda: answers.append(case.client.send(image_id, body)))
    upload.start()
    assert begun.wait(requeuing.WAIT_SECONDS)
    with pytest.raises(Overtaken, match='was changed while it was being cleared'):
        Requeue().clear(image_id, end_upload)
    assert answers == [204]
    assert case.client.request('GET', f'/v2/images/{image_id}/file').body == DATA


def test_an_upload_that_wakes_up_too_late_activates_nothing(case: Case) -> None:
    image_id = case.client.created()
    body = Body([DATA[:200_000], lambda: case.clear(image_id), DATA[200_000:]])
    assert case.client.send(image_id, body) == 410
    assert case.inside.image(image_id)['status'] == 'queued'
    assert not Requeue().needed(image_id)
    by_upload(case, image_id)
    assert case.client.show(image_id)['status'] == 'active'


def test_a_download_that_wakes_up_after_the_retry_changes_nothing(case: Case) -> None:
    image_id = case.client.created()
    source = case.source(DATA, 100_000)
    assert case.client.start_import(image_id, source.method) == 202
    eventually(lambda: (case.staging / image_id).exists(), 'the download to begin')
    case.clear(image_id)
    by_upload(case, image_id)
    before = case.everything(image_id)
    with import_aborted():
        source.break_off()
    assert case.everything(image_id) == before


def test_a_copy_to_the_store_that_wakes_up_after_the_retry_changes_nothing(case: Case) -> None:
    image_id = staged(case)
    # Glance reads staged data from a pipe as from a file, but it can be made to wait there. A pipe has no size.
    (case.staging / image_id).unlink()
    case.inside.set(image_id, size=None)
    os.mkfifo(case.staging / image_id)
    assert case.client.start_import(image_id, {'name': 'glance-direct'}) == 202
    with import_aborted():
        # For reading too, so that this does not wait for Glance.
        with open(os.open(case.staging / image_id, os.O_RDWR), 'wb', buffering=0) as pipe:
            pipe.write(RAW[:50_000])
            eventually(lambda: (case.store / image_id).exists(), 'the copy to begin')
            case.clear(image_id)
            assert not (case.staging / image_id).exists()
            by_upload(case, image_id)
            before = case.everything(image_id)
            pipe.write(RAW[50_000:60_000])
    assert case.everything(image_id) == before
    assert case.client.request('GET', f'/v2/images/{image_id}/file').body == DATA


@contextmanager
def import_aborted() -> Iterator[None]:
    """Wait, at the end of the block, until Glance says that a running import has failed."""
    failed = Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith('Failed to execute task'):
                failed.set()

    handler = Handler()
    logging.getLogger('glance').addHandler(handler)
    try:
        yield
        assert failed.wait(requeuing.WAIT_SECONDS)
    finally:
        logging.getLogger('glance').removeHandler(handler)


def test_an_image_that_became_active_is_left_as_it_is(case: Case) -> None:
    image_id = upload_died(case)
    files = case.inside.files()

    def becomes_active() -> bool:
        case.inside.set(image_id, status='active', size=5)
        return True

    with pytest.raises(Overtaken, match='was changed'):
        Requeue().clear(image_id, becomes_active)
    assert (case.inside.image(image_id)['status'], case.inside.image(image_id)['size']) == ('active', 5)
    assert case.inside.files() == files


@pytest.mark.parametrize('left_behind', LEFT_BEHIND)
def test_a_client_of_an_unguarded_pipeline_cannot_begin_while_data_is_deleted(
        case: Case, left_behind: Callable[[Case], str]) -> None:
    image_id = left_behind(case)
    source = case.source(DATA)
    refused: list[tuple[int, ...]] = []

    def others_try() -> bool:
        if case.inside.image(image_id)['status'] in ('saving', 'importing') and LOCK not in (
                case.inside.image(image_id)['properties']):
            refused.append((case.client.send(image_id, DATA), case.client.send(image_id, DATA, 'stage'),
                            case.client.start_import(image_id, source.method)))
        return True

    Requeue().clear(image_id, others_try)
    assert refused and set(refused) == {(409, 409, 409)}
    by_upload(case, image_id)
    assert case.client.request('GET', f'/v2/images/{image_id}/file').body == DATA


def test_an_image_deleted_meanwhile_stays_deleted(case: Case) -> None:
    image_id = upload_died(case)
    asked = itertools.count(1)

    def deletes() -> bool:
        if next(asked) == 2:
            assert case.client.request('DELETE', f'/v2/images/{image_id}').status_int == 204
        return True

    with pytest.raises(Overtaken):
        Requeue().clear(image_id, deletes)
    assert case.inside.image(image_id)['status'] == 'deleted'


def test_a_new_import_that_takes_the_lock_goes_on(case: Case) -> None:
    image_id = lock_left(case)
    asked = itertools.count(1)

    def begins_again() -> bool:
        if next(asked) == 2:
            case.inside.database.image_set_property_atomic(image_id, LOCK, 'another task')
        return True

    with pytest.raises(Overtaken):
        Requeue().clear(image_id, begins_again)
    image = case.inside.image(image_id)
    assert (image['status'], image['properties'][LOCK]) == ('queued', 'another task')


# What cannot be cleared.

@pytest.mark.parametrize('left_behind, place, words', [
    (upload_died, 'store', 'its data in store fs could not be deleted'),
    (rejected_content, 'store', 'its data in store fs could not be deleted'),
    (staged, 'staging', 'its staged data could not be deleted'),
])
def test_data_that_cannot_be_deleted_leaves_the_image_as_it_was(
        case: Case, left_behind: Callable[[Case], str], place: str, words: str) -> None:
    image_id = left_behind(case)
    path = getattr(case, place) / image_id
    # Root may delete everything but a directory as if it were a file.
    path.unlink()
    path.mkdir()
    before = case.inside.image(image_id)
    with pytest.raises(CannotRequeue, match=words) as caught:
        case.clear(image_id)
    assert 'once an operator has removed the cause' in str(caught.value)
    assert str(case.store.parent) not in str(caught.value)
    assert case.inside.image(image_id) == before
    path.rmdir()
    case.clear(image_id)
    by_upload(case, image_id)


def test_a_location_in_a_store_that_is_not_here(case: Case) -> None:
    image_id = case.client.created()
    location = {'url': f'rbd://cluster/images/{image_id}/snap', 'status': 'active', 'metadata': {'store': 'ceph'}}
    case.inside.database.image_location_add(case.inside.context, image_id, location)
    with pytest.raises(CannotRequeue, match='its data in store ceph could not be deleted') as caught:
        case.clear(image_id)
    assert 'cluster' not in str(caught.value)
    assert case.inside.image(image_id)['status'] == 'queued'
    assert len(case.inside.image(image_id)['locations']) == 1


def test_a_broken_store_keeps_no_image_from_a_sound_one(case: Case) -> None:
    image_id = over_quota_chunked(case)
    with case.store_gone():
        case.clear(image_id)
    assert case.inside.image(image_id)['status'] == 'queued'


def test_data_is_deleted_at_once_even_where_glance_delays_it(case: Case) -> None:
    image_id = rejected_content(case)
    with overridden('delayed_delete', True):
        case.clear(image_id)
    assert not (case.store / image_id).exists()


def test_glances_database_does_not_answer(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from oslo_db.exception import DBConnectionError  # type: ignore[import-untyped]

    def fails(*arguments: object, **names: object) -> None:
        raise DBConnectionError('no such host: db.internal')

    image_id = upload_died(case)
    monkeypatch.setattr(case.inside.database, 'image_get', fails)
    for attempt in (Requeue().needed, case.clear):
        with pytest.raises(CannotRequeue, match="^Glance's database does not answer.$"):
            attempt(image_id)
