"""A worker that was paused wakes up after its image was cleared and tried again: it has to ask before it goes on.

In one process, for the sake of every way to wake up. Real processes that are stopped: :mod:`tests.test_hosts`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from webtest import TestApp

from imgguard.admission import Admission
from imgguard.attempts import Claim, State
from imgguard.glance_images import GlanceImages
from imgguard.glance_tasks import GlanceTasks
from imgguard.guard import Guard
from imgguard.images import Caller
from imgguard.leases import Heartbeat
from imgguard.operations import recognise
from imgguard.recovery import BeingCleared, Recovery
from imgguard.requeue import Requeue
from imgguard.settings import resolve
from imgguard.store import Store
from imgguard.uploads import Uploads
from imgguard.workers import Workers
from imgguard.wsgi import Environ, StartResponse
from tests.harness import InProcessGlance
from tests.test_recovery import UPLOAD, Files, glances_status, killed
from tests.uploading import KEEP, Body, Images, Pipelines, silence

OLD, NEW = b'of the first' * 40_000, b'of the second' * 20_000
PAST_THE_FENCE = 700.0


class Paused(Heartbeat):
    """Of a worker whose threads stand still; it was silent for so long that it does not trust its claim."""

    def __init__(self, store: Store, workers: Workers) -> None:
        super().__init__(store, 0, workers)

    def runs(self) -> bool:
        """Whether it ran when the claim was made."""
        return True


@pytest.fixture
def pipelines(in_process_glance: InProcessGlance, tmp_path: Path) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path, lint=False)


@pytest.fixture
def images(pipelines: Pipelines) -> Images:
    return pipelines.images()


@pytest.fixture
def files(in_process_glance: InProcessGlance) -> Files:
    return Files(in_process_glance)


@pytest.fixture
def sleeper(pipelines: Pipelines, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Images]:
    """The same caller, in front of another worker, which will be paused."""
    settings, workers = resolve({'connection': pipelines.connection}, 'a test'), Workers(tmp_path / 'locks')
    store = Store(pipelines.connection, settings.lease_seconds)
    heartbeat = Paused(store, workers)
    with monkeypatch.context() as without_threads:
        without_threads.setattr('imgguard.servers.threads_run', lambda: False)
        heartbeat.beat()
    guard = Guard(store, heartbeat, settings)
    recovery = Recovery(store, guard, GlanceTasks(), Requeue(), workers, settings)
    glance = pipelines.bare.app
    uploads = Uploads(glance, Admission(glance, settings, store, guard, recovery), guard, heartbeat, GlanceImages(),
                      recovery)

    from glance.context import RequestContext
    user, project, roles = images.caller.split(':')
    by = Caller(user, project, False, 'req-1', RequestContext(
        user_id=user, project_id=project, roles=roles.split(','), overwrite=False))

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        operation = recognise(environ)
        assert operation is not None
        return uploads(environ, start_response, operation, by)

    yield Images(TestApp(application, lint=False), images.caller)
    store.close()


def lost(pipelines: Pipelines, image_id: str) -> Claim:
    """Let the running attempt have been silent past the fence."""
    record = pipelines.record(image_id)
    assert record is not None and record.running is not None
    claim = Claim(record.key, record.running.number, None, image_id, record.running.kind, None)
    silence(pipelines.connection, claim, PAST_THE_FENCE)
    return claim


@pytest.mark.parametrize('end', [OLD[300_000:], OSError('gone')], ids=['goes on', 'breaks off'])
@pytest.mark.parametrize('length', [{'CONTENT_LENGTH': str(len(OLD))}, {}], ids=['length', 'chunked'])
@pytest.mark.parametrize('what', ['file', 'stage'])
def test_an_upload_asks_whether_its_image_is_still_its_own(
    what: str, length: dict[str, str], end: bytes | OSError, pipelines: Pipelines, images: Images, sleeper: Images,
    files: Files,
) -> None:
    """Before its last bytes, or Glance would activate; and before a failure, or Glance would restore and delete."""
    image_id = images.created(KEEP)

    def blocks() -> Iterator[bytes | BaseException]:
        yield OLD[:300_000]
        assert glances_status(pipelines, images, image_id) == {'file': 'saving', 'stage': 'uploading'}[what]
        lost(pipelines, image_id)
        assert images.show(image_id)['os_glance_image_error_code'] == 'worker_lost'
        assert images.upload(image_id, NEW).status_int == 204
        yield end

    answer = sleeper.request('PUT', f'/v2/images/{image_id}/{what}', {'Content-Type': 'application/octet-stream'},
                             Body(blocks()), length)
    assert answer.status_int == 409, answer.text
    assert 'was silent for so long that it was given up' in answer.text
    image = images.show(image_id)
    assert (image['status'], image['size']) == ('active', len(NEW))
    assert images.download(image_id).body == NEW
    assert [file.read_bytes() for file in files.of(image_id)] == [NEW]
    assert [each.state for each in pipelines.attempts(image_id)] == [State.LOST, State.SUCCEEDED]


@pytest.mark.parametrize('end', [OLD[300_000:], OSError('gone')], ids=['goes on', 'breaks off'])
def test_an_upload_that_was_cleared_away_and_not_tried_again(
    end: bytes | OSError, pipelines: Pipelines, images: Images, sleeper: Images, files: Files,
) -> None:
    image_id = images.created(KEEP)

    def blocks() -> Iterator[bytes | BaseException]:
        yield OLD[:300_000]
        lost(pipelines, image_id)
        assert images.show(image_id)['status'] == 'error'
        assert files.of(image_id) == []
        yield end

    assert sleeper.upload(image_id, Body(blocks())).status_int == 409
    assert images.show(image_id)['os_glance_image_error_code'] == 'worker_lost'
    assert glances_status(pipelines, images, image_id) == 'queued'
    assert images.upload(image_id, NEW).status_int == 204
    assert images.download(image_id).body == NEW


class Sleepy(Requeue):
    """Is paused as it asks, the time of this number, whether it may go on."""

    def __init__(self, number: int, meanwhile: Callable[[], object]) -> None:
        self._number, self._meanwhile = number, meanwhile
        self.asked = 0

    def clear(self, image_id: str, still_mine: Callable[[], bool], tasks: Collection[str] = ()) -> bool:
        """As every other."""
        def ask() -> bool:
            self.asked += 1
            if self.asked == self._number:
                self._meanwhile()
            return still_mine()

        return super().clear(image_id, ask, tasks)


@pytest.mark.parametrize('number', [1, 2, 3])
@pytest.mark.parametrize('again', [False, True], ids=['another clears', 'tried again'])
def test_who_clears_asks_whether_the_right_to_is_still_its_own(
    again: bool, number: int, pipelines: Pipelines, images: Images, files: Files, tmp_path: Path,
) -> None:
    settings, workers = resolve({'connection': pipelines.connection}, 'a test'), Workers(tmp_path)
    store = pipelines.store
    image_id = images.created(KEEP)
    killed(Images(pipelines.bare, images.caller), image_id)
    record = pipelines.record(image_id)
    assert record is not None
    assert isinstance(store.begin(image_id, record.created_at, record.owner, UPLOAD), Claim)
    lost(pipelines, image_id)
    record = pipelines.record(image_id)
    assert record is not None and store.lose(record.key, record.last_number)
    record = pipelines.record(image_id)
    assert record is not None

    def everything() -> tuple[str, list[tuple[Path, int]]]:
        return glances_status(pipelines, images, image_id), [(file, file.stat().st_size) for file in files.of(image_id)]

    before = everything()

    def meanwhile() -> None:
        nonlocal before
        engine = create_engine(pipelines.connection)
        with engine.begin() as connection:
            connection.execute(text('UPDATE imgguard_images SET clearing_at = 0 WHERE clearing_at IS NOT NULL'))
        engine.dispose()
        if again:
            assert images.upload(image_id, NEW).status_int == 204
        else:
            assert store.begin_clearing(record.key, record.last_number, 'another')
        before = everything()

    sleepy = Sleepy(number, meanwhile)
    guard = Guard(store, Heartbeat(store, settings.lease_seconds, workers), settings)
    with pytest.raises(BeingCleared):
        Recovery(store, guard, GlanceTasks(), sleepy, workers, settings).clear(record, 'saving')
    assert sleepy.asked == number
    assert everything() == before
    if again:
        assert images.download(image_id).body == NEW
    else:
        assert store.keep_clearing(record.key, 'another')
