"""Every row of the table of cases that one process can play, on the real Glance, beside the same Glance alone."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from webtest import TestResponse

from tests.cases import By, Case, Left, Way
from tests.cases.scene import Scene, setting, stage, start, until
from tests.cases.uploads import UPLOADS
from tests.harness import InProcessGlance
from tests.identity import token
from tests.sources import DATA, Source, Stores, more_stores, serving
from tests.uploading import ERROR, KEPT, Images, Pipelines, comparable, new_project

# Glance leaves files and connections that it read from open, for the garbage collector to close.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

FAILURES = {f'{case.number} {name}': (case, way) for case in UPLOADS if case.code for name, way in case.ways.items()}
NO_FAILURES = {f'{case.number} {name}': (case, way)
               for case in UPLOADS if not case.code for name, way in case.ways.items()}
DOCUMENTS = ('os_glance_image_error_at', 'updated_at')


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
    assert (failed.status_int, failed.headers[KEPT]) == (way.status, 'error'), failed.text
    assert_in_error(scene, images, image_id, case, way, failed)

    if not way.by_the_guard:
        way.prepare(scene, bare, image_of_bare)
        alone = way.send(scene, bare, image_of_bare)
        del failed.headers[KEPT]
        assert comparable(failed) == comparable(alone)
        assert isinstance(case.left, Left) and left(scene, image_of_bare) == as_seen(case.left)

    scene.repair()
    case.mend(scene, images, image_id)
    assert_works(scene, images, image_id, case)
    if not way.by_the_guard and isinstance(case.left, Left):
        case.mend(scene, bare, image_of_bare)
        assert works(scene, bare, image_of_bare, case) == case.left.retry_works
    tidy(scene, bare, image_of_bare)


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
    assert images.download(image_id).body != DATA
    assert scene.inside(image_id).remains() == {}


def assert_works(scene: Scene, images: Images, image_id: str, case: Case) -> None:
    """The same image becomes active with the right bytes, and nothing else is left of it."""
    before = history(images, image_id)
    assert works(scene, images, image_id, case)
    image = images.show(image_id)
    assert (image['size'], [name for name in image if name.startswith(ERROR)]) == (len(DATA), [])
    assert images.download(image_id).body == DATA
    inside = scene.inside(image_id)
    assert (inside.stored(), inside.staged(), inside.locks(), inside.at_rest()) == ({'fs'}, False, set(), True)
    assert images.listed('status=error') == []
    newest, *older = history(images, image_id)
    assert newest['state'] == 'succeeded' and older[-len(before):] == before


def works(scene: Scene, images: Images, image_id: str, case: Case) -> bool:
    """Whether data that is sent again makes the image active."""
    if case.again is By.UPLOAD:
        answer = images.upload(image_id, DATA)
    elif case.again is By.WEB:
        answer = start(images, image_id, {'name': 'web-download', 'uri': scene.source.url('good')})
    else:
        answer = stage(images, image_id)
        if answer.status_int == 204:
            answer = start(images, image_id, {'name': 'glance-direct'})
    if answer.status_int == 202:
        inside = scene.inside(image_id)
        until(lambda: inside.at_rest() and 'os_glance_import_task' not in inside.locks())
    return bool(images.show(image_id)['status'] == 'active')


def history(images: Images, image_id: str) -> list[dict[str, Any]]:
    """The attempts, the newest first."""
    attempts: list[dict[str, Any]] = images.request('GET', f'/v2/images/{image_id}/attempts').json['attempts']
    return attempts


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
        assert_works(scene, images, image_id, case)
