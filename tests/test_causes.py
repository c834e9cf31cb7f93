"""What is common to all failures of uploads: their text, and the form and the order of the guard's own refusals.

The ways in which uploads fail are rows of the table of cases, see :mod:`tests.cases`.
"""

import base64
import hashlib
import re
from collections.abc import Callable

import pytest
from webtest import TestResponse

from tests.conftest import OverrideGlance
from tests.harness import InProcessGlance
from tests.uploading import ERROR, KEEP, KEPT, Body, Images, Pipelines, comparable

DATA = b'data of an image' * 8192
NO_SHA_256 = f'sha-256=:{base64.b64encode(hashlib.sha256(b"other data").digest()).decode()}:'

Sends = Callable[[Images, str], TestResponse]


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    # Without lint, which refuses a wrong Content-Length by itself.
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'), lint=False)


def test_a_file_is_in_the_place_of_the_stores_directory(
    pipelines: Pipelines, in_process_glance: InProcessGlance,
) -> None:
    images, bare = pipelines.callers()
    image_id, image_of_bare = images.created(KEEP), bare.created()
    store = in_process_glance.glance.store
    away = store.rename(store.with_name('away'))
    try:
        store.write_text('not a directory')
        failed, failed_bare = images.upload(image_id, DATA), bare.upload(image_of_bare, DATA)
    finally:
        store.unlink(missing_ok=True)
        away.rename(store)
    assert (failed.status_int, failed.headers[KEPT]) == (500, 'error')
    del failed.headers[KEPT]
    assert comparable(failed) == comparable(failed_bare)
    image = images.show(image_id)
    assert 'Glance logged: [Errno 2' in image[ERROR] and '(path)' in image[ERROR]
    assert str(in_process_glance.glance.folder) not in image[ERROR] and image_id not in image[ERROR]
    assert images.upload(image_id, DATA).status_int == 204, 'the same image, once the store is back'


@pytest.mark.parametrize('accept', ['*/*', 'text/plain', 'text/html', 'application/json'])
def test_the_text_is_the_same_in_whatever_form_the_client_was_answered(
    pipelines: Pipelines, override_glance: OverrideGlance, accept: str,
) -> None:
    images, _ = pipelines.callers()
    override_glance('image_size_cap', 1000)
    image_id = images.created(KEEP)
    images.upload(image_id, DATA, {'Accept': accept})
    assert images.show(image_id)[ERROR] == 'The incoming image is too large: The provided image is too large.'


ORDER = {
    'Content-Length': lambda images, image_id: images.upload(image_id, DATA, {'Content-Digest': NO_SHA_256}),
    'chunked': lambda images, image_id: images.upload(image_id, Body([DATA]), {'Content-Digest': NO_SHA_256}),
    'chunked, size': lambda images, image_id: images.upload(
        image_id, Body([DATA]), {'X-OpenStack-Image-Size': str(len(DATA) + 1)}),
}


@pytest.mark.parametrize('send', ORDER.values(), ids=ORDER)
def test_data_that_is_not_what_was_announced_never_becomes_active(
    pipelines: Pipelines, in_process_glance: InProcessGlance, send: Sends,
) -> None:
    images, bare = pipelines.callers()
    image_id = images.created(KEEP)
    assert send(images, image_id).status_int == 400
    assert bare.show(image_id)['status'] == 'queued'
    assert not (in_process_glance.glance.store / image_id).exists(), 'the store has nothing of it'
    assert images.upload(image_id, DATA).status_int == 204


def test_the_guards_own_refusals_have_the_form_of_glances(pipelines: Pipelines) -> None:
    images, _ = pipelines.callers()
    image_id = images.created(KEEP)
    for accept, form in (
            ('text/plain', r'400 Bad Request\n\n'), ('text/html', r'<html>\s*<head>'),
            ('application/json', r'\{"message": ".*", "code": "400 Bad Request", "title": "Bad Request"\}')):
        refused = images.upload(image_id, DATA, {'Accept': accept, 'Content-Digest': 'sha-256=abc'})
        assert refused.content_type == accept
        assert re.match(form, refused.text), refused.text
        assert 'Content-Digest must look like sha-256=:BASE64: (RFC 9530).' in refused.text
