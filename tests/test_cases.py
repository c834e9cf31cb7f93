"""Every row of the table of cases that one process can play, on the real Glance, beside the same Glance alone."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from urllib3.exceptions import HTTPError
from webtest import TestResponse

from tests.cases import By, Case, Left, Way, proves
from tests.cases.scene import Scene, setting, stage, start, until
from tests.cases.imports import IMPORTS
from tests.cases.stages import STAGES, left_over, staged
from tests.cases.uploads import UPLOADS
from tests.harness import InProcessGlance
from tests.identity import reader_token, token
from tests.sources import AGAIN, DATA, Source, Stores, more_stores, serving
from tests.uploading import ERROR, KEEP, KEPT, Body, Images, Pipelines, comparable, new_project

# Glance leaves files and connections that it read from open, for the garbage collector to close.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

ROWS = {f'{case.number} {name}': (case, way)
        for case in (*UPLOADS, *STAGES, *IMPORTS) for name, way in case.ways.items()}
FAILURES = {name: (case, way) for name, (case, way) in ROWS.items() if case.code}
TAKEN = {name: (case, way) for name, (case, way) in ROWS.items() if not case.code and way.status < 300}
NO_FAILURES = {name: (case, way) for name, (case, way) in ROWS.items() if not case.code and way.status >= 300}
DIRECT = {'name': 'glance-direct'}
NO_KEEP = dict.fromkeys(KEEP, 'false')


@pytest.fixture(scope='module')
def source() -> Iterator[Source]:
    with serving() as source:
        yield source
    # While the mark of this module still lets Glance's leaks pass.
    gc.collect()


@pytest.fixture(scope='module')
def stores(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with more_stores(in_process_glance.glance.store, tmp_path_factory.mktemp('stores')) as stores:
        yield stores


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    # Without lint, which refuses a wrong Content-Length by itself.
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'), lint=False)


@pytest.fixture
def scene(in_process_glance: InProcessGlance, stores: Stores, source: Source) -> Iterator[Scene]:
    with setting(in_process_glance, stores, source) as scene:
        yield scene


@pytest.mark.parametrize(('case', 'way'), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_shown_and_the_same_image_can_be_tried_again(
    pipelines: Pipelines, scene: Scene, case: Case, way: Way,
) -> None:
    images, bare = pipelines.images(), Images(pipelines.bare, token('alice', new_project()))
    image_id, image_of_bare = way.create(scene, images), way.create(scene, bare)
    way.prepare(scene, images, image_id)
    failed = way.send(scene, images, image_id)
    accepted = failed.status_int == 202
    assert (failed.status_int, failed.headers[KEPT]) == (way.status, 'guarded' if accepted else 'error'), failed.text
    if accepted:
        until_cleared(pipelines, images, image_id)
    assert_in_error(scene, images, image_id, case, way, failed)

    if not way.by_the_guard:
        way.prepare(scene, bare, image_of_bare)
        alone = way.send(scene, bare, image_of_bare)
        del failed.headers[KEPT]
        assert comparable(failed) == comparable(alone)
        if accepted:
            scene.inside(image_of_bare).until_done(alone)
        assert isinstance(case.left, Left) and left(scene, image_of_bare) == as_seen(case.left)

    scene.repair()
    assert case.mend(scene, images, image_id)
    assert_works(pipelines, scene, images, image_id, case)
    if not way.by_the_guard and isinstance(case.left, Left):
        case.mend(scene, bare, image_of_bare)
        assert works(pipelines, scene, bare, image_of_bare, case) == case.left.retry_works
    tidy(scene, bare, image_of_bare)


def until_cleared(pipelines: Pipelines, images: Images, image_id: str) -> None:
    """Wait for the verdict on an import, and until what it has left is cleared away."""
    until(lambda: settled(images, image_id))

    def cleared() -> bool:
        record = pipelines.record(image_id)
        return record is not None and not record.remains
    until(cleared)


def assert_in_error(scene: Scene, images: Images, image_id: str, case: Case, way: Way, failed: TestResponse) -> None:
    """Shown, listed, in the history; and nothing of the attempt is left in Glance."""
    image = images.show(image_id)
    assert (image['status'], image.get(f'{ERROR}_code')) == ('error', case.code), image.get(ERROR)
    text = image[ERROR]
    assert [words for words in way.words or case.words if words not in text] == [], text
    assert str(scene.glance.glance.folder) not in text and '/srv' not in text, text
    assert image[f'{ERROR}_retryable'] == str(case.retryable).lower()
    assert image[f'{ERROR}_request_id'] == failed.headers['X-OpenStack-Request-Id']
    assert (images.listed('status=error'), images.listed('status=queued')) == ([image_id], [])
    attempt = history(images, image_id)[0]
    assert (attempt['state'], attempt['code'], attempt['message'], attempt['retryable']) == (
        'failed', case.code, text, case.retryable)
    assert (attempt['http_status'], attempt['request_id']) == (failed.status_int, image[f'{ERROR}_request_id'])
    assert images.download(image_id).status_int == 204
    assert scene.inside(image_id).remains() == {}


def assert_works(pipelines: Pipelines, scene: Scene, images: Images, image_id: str, case: Case) -> None:
    """The same image becomes active with the right bytes, and nothing else is left of it."""
    before = history(images, image_id)
    assert works(pipelines, scene, images, image_id, case)
    newest, *older = until(lambda: settled(images, image_id))
    assert newest['state'] == 'succeeded' and older[len(older) - len(before):] == before
    image = images.show(image_id)
    assert (image['size'], [name for name in image if name.startswith(ERROR)]) == (len(AGAIN), [])
    inside = scene.inside(image_id)
    assert (inside.stored(), inside.staged(), inside.locks(), inside.working()) == ({'fs'}, False, set(), set())
    assert images.listed('status=error') == []


def works(pipelines: Pipelines, scene: Scene, images: Images, image_id: str, case: Case) -> bool:
    """Whether what is sent again makes the image active with just that; of Glance alone, whether it can be staged."""
    if case.again is By.UPLOAD:
        answer = images.upload(image_id, AGAIN)
    elif case.again is By.WEB:
        answer = start(images, image_id, {'name': 'web-download', 'uri': scene.source.url('again')})
    else:
        answer = stage(images, image_id, AGAIN)
        if case.again is By.STAGE and images.application is pipelines.bare:
            return bool(answer.status_int == 204)
        if answer.status_int == 204:
            answer = start(images, image_id, DIRECT)
    if answer.status_int == 202:
        scene.inside(image_id).until_done(answer)
    return images.show(image_id)['status'] == 'active' and downloaded(images, image_id) == AGAIN


def downloaded(images: Images, image_id: str) -> bytes | None:
    """The data of the image; ``None`` where it breaks off, as at a location that Glance alone has kept."""
    try:
        data: bytes = images.download(image_id).body
    except HTTPError:
        return None
    return data


def history(images: Images, image_id: str) -> list[dict[str, Any]]:
    """The attempts, the newest first."""
    attempts: list[dict[str, Any]] = images.request('GET', f'/v2/images/{image_id}/attempts').json['attempts']
    return attempts


def settled(images: Images, image_id: str) -> list[dict[str, Any]]:
    """The attempts, once none runs any more."""
    attempts = history(images, image_id)
    return [] if any(attempt['state'] == 'running' for attempt in attempts) else attempts


def left(scene: Scene, image_id: str) -> tuple[str, bool, bool, bool]:
    """What Glance alone is left with."""
    inside = scene.inside(image_id)
    return (inside.row()['status'], bool(inside.stored()), inside.staged(),
            'os_glance_import_task' in inside.row()['properties'])


def as_seen(expected: Left) -> tuple[str, bool, bool, bool]:
    return expected.status, expected.stored, expected.staged, expected.locked


def tidy(scene: Scene, bare: Images, image_id: str) -> None:
    """Leave nothing of the image that nobody guards."""
    bare.request('DELETE', f'/v2/images/{image_id}')
    for folder in (*scene.stores.folders.values(), scene.staging):
        (folder / image_id).unlink(missing_ok=True)


@pytest.mark.parametrize(('case', 'way'), TAKEN.values(), ids=TAKEN)
def test_an_image_that_became_active_is_not_in_error(
    pipelines: Pipelines, scene: Scene, case: Case, way: Way,
) -> None:
    images, bare = pipelines.images(), Images(pipelines.bare, token('alice', new_project()))
    image_id, image_of_bare = way.create(scene, images), way.create(scene, bare)
    way.prepare(scene, images, image_id)
    answer = way.send(scene, images, image_id)
    assert (answer.status_int, answer.headers.pop(KEPT)) == (way.status, 'guarded')
    [newest, *_] = until(lambda: settled(images, image_id))
    assert (newest['state'], newest['code'], bool(newest['message'])) == ('succeeded', None, bool(way.words))
    assert [words for words in way.words if words not in newest['message']] == []
    image = images.show(image_id)
    assert (image['status'], image['size']) == ('active', newest['bytes_received'])
    assert not [name for name in image if name.startswith(ERROR)] and images.listed('status=error') == []
    way.prepare(scene, bare, image_of_bare)
    alone = way.send(scene, bare, image_of_bare)
    assert comparable(answer) == comparable(alone)
    if alone.status_int == 202:
        scene.inside(image_of_bare).until_done(alone)


@proves('2.11')
def test_staged_data_that_glance_has_forgotten_is_out_of_the_way_of_the_next_stage(
    pipelines: Pipelines, scene: Scene,
) -> None:
    images, bare = pipelines.images(), Images(pipelines.bare, token('alice', new_project()))
    for each, headers, status in ((images, {}, 204), (bare, {}, 409), (images, NO_KEEP, 409)):
        image_id = each.created(KEEP)
        left_over(scene, each, image_id)
        answer = stage(each, image_id, DATA, headers)
        assert answer.status_int == status, 'who does not ask to keep it gets what Glance says'
        tidy(scene, each, image_id)


@pytest.mark.parametrize(('case', 'way'), NO_FAILURES.values(), ids=NO_FAILURES)
def test_what_is_no_failure_of_the_image_says_nothing(
    pipelines: Pipelines, scene: Scene, case: Case, way: Way,
) -> None:
    images, bare = pipelines.images(), Images(pipelines.bare, token('alice', new_project()))
    image_id, image_of_bare = way.create(scene, images), way.create(scene, bare)
    before = scene.inside(image_id).row(), images.show(image_id), history(images, image_id)
    way.prepare(scene, images, image_id)
    answer = way.send(scene, images, image_id)
    assert (answer.status_int, KEPT in answer.headers) == (way.status, False), answer.text
    assert comparable(answer) == comparable(way.send(scene, bare, image_of_bare))
    assert (scene.inside(image_id).row(), images.show(image_id), history(images, image_id)) == before
    scene.repair()
    if before[1]['status'] == 'queued':
        assert case.mend(scene, images, image_id)
        assert_works(pipelines, scene, images, image_id, case)


# Rows of two callers at once.

@proves('1.16a')
def test_who_may_not_does_not_disturb_staged_data(pipelines: Pipelines, scene: Scene) -> None:
    images = pipelines.images()
    image_id = staged(scene, images)
    before = scene.inside(image_id).row(), images.show(image_id), history(images, image_id)
    reader = Images(pipelines.guarded, reader_token('rita', images.caller.split(':')[1]))
    for refused in (reader.upload(image_id, DATA), stage(reader, image_id), start(reader, image_id, DIRECT)):
        assert (refused.status_int, KEPT in refused.headers) == (403, False)
    assert (scene.inside(image_id).row(), images.show(image_id), history(images, image_id)) == before
    scene.inside(image_id).until_done(start(images, image_id, DIRECT))
    assert images.show(image_id)['status'] == 'active' and downloaded(images, image_id) == DATA
    until(lambda: settled(images, image_id))


@proves('2.12')
def test_an_image_deleted_while_it_is_staged(pipelines: Pipelines, scene: Scene) -> None:
    images = pipelines.images()
    image_id = images.created(KEEP)

    def blocks() -> Iterator[bytes]:
        yield DATA
        assert images.request('DELETE', f'/v2/images/{image_id}', NO_KEEP).status_int == 204
        yield DATA

    answer = stage(images, image_id, Body(blocks()))
    assert (answer.status_int, answer.headers.get(KEPT)) == (404, None)
    assert images.request('GET', f'/v2/images/{image_id}').status_int == 404
    assert not scene.inside(image_id).staged()
