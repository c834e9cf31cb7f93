"""Options in a real paste file: filters side by side, mistakes that stop the load, a wrong place in the pipeline."""

import logging
from pathlib import Path

import pytest
from oslo_config import cfg
from webtest import TestApp

from demo.private_glance import write_paste_file
from imgguard.errors import ConfigurationError
from tests.conftest import LoadClient
from tests.harness import IDENTITY, InProcessGlance
from tests.identity import token
from tests.uploading import ERROR, KEEP, KEPT, Images, comparable, new_project

DATA = b'data of an image' * 8192


def test_two_filters_with_different_options_share_a_process(load_client: LoadClient) -> None:
    """As with a keep section: one store, two policies, two spellings."""
    caller = token('alice', new_project())
    plain = Images(load_client({}), caller)
    keeping = Images(load_client({'keep_default': 'always', 'error_status': 'killed'}), caller)
    plain_again = Images(load_client({}), caller)

    unkept, kept = plain.created(), keeping.created()
    assert plain.upload_cut(unkept).headers.get(KEPT) is None
    assert keeping.upload_cut(kept).headers[KEPT] == 'error'
    for images, status in ((plain, 'error'), (keeping, 'killed'), (plain_again, 'error')):
        assert images.show(kept)['status'] == status
        assert images.show(unkept)['status'] == 'queued'
        assert images.listed(f'status={status}') == images.listed('status=error') == [kept]
    assert plain.listed('status=killed') == []


def test_an_upload_through_one_filter_is_seen_by_the_other(load_client: LoadClient) -> None:
    caller = token('alice', new_project())
    first, second = Images(load_client({}), caller), Images(load_client({'keep_default': 'always'}), caller)
    image_id = first.in_error()
    with first.uploading(image_id) as running:
        assert second.upload(image_id, DATA).status_int == 409
        assert second.show(image_id)['status'] == 'saving'
    assert running.answer is not None and running.answer.status_int == 204
    assert second.show(image_id)['status'] == 'active'


def test_filters_with_stores_of_their_own_know_nothing_of_each_other(load_client: LoadClient, tmp_path: Path) -> None:
    caller = token('alice', new_project())
    first = Images(load_client({}), caller)
    second = Images(load_client({'connection': f'sqlite:///{tmp_path}/other.db'}), caller)
    image_id = first.in_error()
    assert (first.show(image_id)['status'], second.show(image_id)['status']) == ('error', 'queued')


def test_the_options_may_stand_in_a_file_of_oslo_config(load_client: LoadClient, tmp_path: Path) -> None:
    file = tmp_path / 'imgguard.conf'
    file.write_text(f'[imgguard]\nconnection = sqlite:///{tmp_path}/imgguard.db\nkeep_default = always\n')
    images = Images(load_client({'oslo_config_file': str(file), 'connection': f'sqlite:///{tmp_path}/section.db'}),
                    token('alice', new_project()))
    assert images.upload_cut(images.created()).headers[KEPT] == 'error'
    assert (tmp_path / 'section.db').exists() and not (tmp_path / 'imgguard.db').exists(), 'the section wins'


MISTAKES = {
    'unknown, with a likely one': ({'keep_defualt': 'always'}, ('keep_defualt', "did you mean 'keep_default'?")),
    'unknown': ({'nosuch': 'x'}, ('nosuch', 'known are: connection')),
    'not among the values': ({'keep_default': 'sometimes'}, ('keep_default', 'sometimes', 'never, snapshots, always')),
    'no number': ({'lease_seconds': 'long'}, ('lease_seconds', 'long', 'a whole number')),
    'relative path': ({'connection': 'sqlite:///imgguard.db'}, ('connection', 'four slashes')),
    'no database': ({'connection': 'postgresql+nosuch://u:s3cret@h/d'}, ('connection', 'postgresql+nosuch')),
    'missing file': ({'oslo_config_file': '/nowhere/imgguard.conf'}, ('oslo_config_file', '/nowhere/imgguard.conf')),
}


@pytest.mark.parametrize('options, words', MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_stops_the_load_with_a_text_that_helps(
    load_client: LoadClient, options: dict[str, str], words: tuple[str, ...],
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_client(options)
    text = str(caught.value)
    assert text.startswith('imgguard: ')
    assert not [word for word in words if word not in text], text
    assert 's3cret' not in text


def load(glance: InProcessGlance, path: Path) -> TestApp:
    """Load a paste file as Glance does."""
    from glance.common import config
    cfg.CONF.set_override('flavor', 'keystone', group='paste_deploy')
    try:
        return TestApp(config.load_paste_app('glance-api', 'keystone', str(path)))
    finally:
        cfg.CONF.clear_override('flavor', group='paste_deploy')


def test_an_option_in_the_default_section_stops_the_load(in_process_glance: InProcessGlance, tmp_path: Path) -> None:
    path = tmp_path / 'paste.ini'
    write_paste_file(path, in_process_glance.glance, guard={}, identity=IDENTITY)
    path.write_text('[DEFAULT]\nkeep_default = always\n' + path.read_text())
    with pytest.raises(ConfigurationError, match=r'^imgguard: .*keep_default .*\[DEFAULT\].*move it'):
        load(in_process_glance, path)


PLACES = {
    'before context': ('authtoken context imgguard', 'authtoken imgguard context'),
    'before authtoken': ('authtoken context imgguard', 'imgguard authtoken context'),
    'first': ('cors http_proxy_to_wsgi', 'imgguard cors http_proxy_to_wsgi'),
}


@pytest.mark.parametrize('right, wrong', PLACES.values(), ids=PLACES)
def test_before_context_the_guard_hands_through_and_says_so(
    in_process_glance: InProcessGlance, load_client: LoadClient, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    right: str, wrong: str,
) -> None:
    path = tmp_path / 'paste.ini'
    options = {'connection': f'sqlite:///{tmp_path}/misplaced.db', 'keep_default': 'always'}
    write_paste_file(path, in_process_glance.glance, guard=options, identity=IDENTITY)
    text = path.read_text().replace(right, wrong)
    if wrong.startswith('imgguard cors'):
        text = text.replace('context imgguard', 'context')
    path.write_text(text)
    caller = token('alice', new_project())
    images, bare = Images(load(in_process_glance, path), caller), Images(load_client(None), caller)

    created = images.create(KEEP)
    image_id, twin = created.json['id'], bare.created()
    assert KEPT not in created.headers
    assert comparable(images.upload_cut(image_id, headers=KEEP)) == comparable(bare.upload_cut(twin))
    # Nor do headers of a client make an identity.
    forged = {'X-Identity-Status': 'Confirmed', 'X-Roles': 'admin', 'X-User-Id': 'root', **KEEP}
    assert images.upload_cut(image_id, headers=forged).headers.get(KEPT) is None
    image = images.show(image_id)
    assert image['status'] == 'queued' and ERROR not in image
    for target in ('/v2/schemas/image', f'/v2/images/{image_id}/file'):
        assert comparable(images.request('GET', target)) == comparable(bare.request('GET', target))
    said = {record.getMessage() for record in caplog.records
            if record.name.startswith('imgguard') and record.levelno == logging.ERROR}
    assert [words for words in said if 'imgguard stands before the filter "context"' in words]
