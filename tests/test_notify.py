"""Events through oslo.messaging, heard on a real RabbitMQ: what they say, and that each arrives, whatever breaks.

Which change is an event is told in ``tests/store/test_outbox.py``; here is how an event gets to who listens.
"""

import json
import logging
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp

from demo.client import Client
from demo.private_glance import PrivateGlance, script
from demo.server import Kind as ServerKind
from demo.server import Size
from imgguard import factory, notify
from imgguard.attempts import Claim, Event, Failure, Happening, Kind, NewAttempt, State
from imgguard.cli import main
from imgguard.errors import ConfigurationError
from imgguard.factory import filter_factory
from imgguard.notify import Publisher
from imgguard.store import Store, outbox
from tests.broker import URL, Heard, Listener, Way, listening
from tests.conftest import LoadClient, OverrideGlance, StartServer
from tests.harness import InProcessGlance
from tests.identity import admin_token, token
from tests.sockets import eventually
from tests.sources import DATA, more_stores, serving
from tests.uploading import ALICE, KEEP, Body, Images, new_project

CREATED = '2026-11-22T22:19:29Z'
UPLOAD = NewAttempt(Kind.UPLOAD, True, 'req-1', 'user', 'project', 'host', 'worker', 10)
FULL = Failure('storage_full', 'The store is full.')
EVENT = Event(Happening.ERROR, 'image', CREATED, 'owner', 1_800_000_000.25, 2, Kind.UPLOAD, 'storage_full',
              'The store is full.', 'req-1', 7)
SECTION = '[oslo_messaging_notifications]'


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


@pytest.fixture
def way() -> Iterator[Way]:
    way = Way()
    yield way
    way.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f'sqlite:///{tmp_path}/guard.db', 60, with_events=True)
    opened.upgrade()
    yield opened
    opened.close()


def fail(store: Store, image_id: str = 'image') -> None:
    claim = store.begin(image_id, CREATED, 'owner', UPLOAD)
    assert isinstance(claim, Claim)
    store.finish(claim, State.FAILED, FULL, shown=True, http_status=500, bytes_received=7)


# What an event says

def test_what_is_heard(store: Store, listener: Listener, tmp_path: Path) -> None:
    fail(store)
    store.clear_error('image', CREATED)
    store.remember('late', CREATED, 'owner', True, give_up_at_after=0)
    store.give_up(store.find('late')[0].key, Failure('never_arrived', 'It never arrived.'))
    file = listener.configure(tmp_path / 'guard.conf', f'sqlite:///{tmp_path}/guard.db')
    assert Publisher(store.outbox, file).publish() == 3
    error, cleared, late = listener.wait_for(3)
    assert [(each.queue, each.message['priority'], *each.brief) for each in (error, cleared, late)] == [
        ('error', 'ERROR', 'image.error', 1, 'storage_full'),
        ('info', 'INFO', 'image.error.cleared', 1, 'storage_full'),
        ('error', 'ERROR', 'image.give_up', 1, 'never_arrived')]
    at = error.payload['at']
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', at)
    assert error.payload == {
        'event_id': error.message['message_id'], 'id': 'image', 'created_at': CREATED, 'owner': 'owner',
        'status': 'error', 'code': 'storage_full', 'text': 'The store is full.', 'retryable': True, 'attempt': 1,
        'kind': 'upload', 'request_id': 'req-1', 'bytes_received': 7, 'at': at}
    assert 'status' not in cleared.payload
    assert set(error.message) - {'_unique_id'} == {
        'message_id', 'publisher_id', 'event_type', 'priority', 'payload', 'timestamp'}
    assert error.message['timestamp'].startswith(at[:-1].replace('T', ' '))
    assert error.message['publisher_id'].startswith('image.')


@pytest.mark.parametrize('change', [
    {'happening': Happening.CLEARED}, {'image_id': 'other'}, {'created_at': '2026-11-22T22:19:30Z'}, {'number': 3},
    {'code': 'worker_lost'}, {'at': 1_800_000_000.5},
])
def test_the_id_of_an_event_is_its_own(change: dict[str, Any]) -> None:
    assert notify.event_id(EVENT) == notify.event_id(replace(EVENT, text='other words', owner=None))
    assert notify.event_id(EVENT) != notify.event_id(replace(EVENT, **change))


# Every way into and out of error on a real Glance. The events of an image, as (event, attempt, code).

FAILED = ('image.error', 1, 'client_disconnected')
OVER = ('image.error.cleared', 1, 'client_disconnected')


@dataclass
class Scene:
    """A member of a project in front of a guard that notifies, and what may be broken."""

    images: Images
    administrator: Images
    source: Callable[[str], str]
    spoil: Callable[[str], None]

    def data(self, image_id: str, path: str, document: object) -> object:
        """Have Glance fetch the data of the image, with the header that keeps it."""
        return self.images.json('POST', f'/v2/images/{image_id}/{path}', document, KEEP)


@pytest.fixture(scope='module')
def heard_of(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[
        tuple[Images, Listener]]:
    """A caller in front of the guard, and who listens."""
    folder = tmp_path_factory.mktemp('guard')
    with listening() as listener:
        file = listener.configure(folder / 'guard.conf', f'sqlite:///{folder}/imgguard.db')
        yield Images(TestApp(in_process_glance.load({'connection': f'sqlite:///{folder}/imgguard.db',
                                                     'oslo_config_file': file}), lint=True)), listener


@pytest.fixture
def scene(heard_of: tuple[Images, Listener], in_process_glance: InProcessGlance, override_glance: OverrideGlance,
          tmp_path: Path) -> Iterator[Scene]:
    override_glance('allowed_hosts', ['127.0.0.1'], 'import_filtering_opts')
    application = heard_of[0].application
    with serving() as source, more_stores(in_process_glance.glance.store, tmp_path) as stores:
        yield Scene(Images(application, token('alice', new_project())), Images(application, admin_token()),
                    source.url, lambda name: stores.take_away(name))
        stores.repair()


def cut_stage(scene: Scene, image_id: str) -> object:
    return scene.images.request('PUT', f'/v2/images/{image_id}/stage', {'Content-Type': 'application/octet-stream'},
                                Body([b'x' * 300]), {'CONTENT_LENGTH': '1000'})


def import_nothing(scene: Scene, image_id: str) -> object:
    return scene.data(image_id, 'import', {'method': {'name': 'web-download', 'uri': scene.source('404')}})


def add_no_location(scene: Scene, image_id: str) -> object:
    return scene.data(image_id, 'locations', {'url': scene.source('404')})


def copy_to_no_store(scene: Scene, image_id: str) -> object:
    scene.images.upload(image_id, DATA)
    scene.spoil('fs2')
    return scene.administrator.json('POST', f'/v2/images/{image_id}/import', {
        'method': {'name': 'copy-image'}, 'stores': ['fs2'], 'all_stores_must_succeed': True}, KEEP)


def cut(scene: Scene, image_id: str) -> object:
    return scene.images.upload_cut(image_id)


def retry(scene: Scene, image_id: str) -> object:
    return scene.images.upload(image_id, DATA)


def declare(scene: Scene, image_id: str) -> object:
    return scene.images.patch(image_id, {'op': 'replace', 'path': '/status', 'value': 'error'})


def reset(scene: Scene, image_id: str) -> object:
    return scene.images.patch(image_id, {'op': 'replace', 'path': '/status', 'value': 'queued'})


def abandon(scene: Scene, image_id: str) -> object:
    return scene.images.request('DELETE', f'/v2/images/{image_id}', KEEP)


def remove(scene: Scene, image_id: str) -> object:
    return scene.images.request('DELETE', f'/v2/images/{image_id}', {'X-OpenStack-Image-Keep-On-Failure': 'false'})


WAYS: dict[str, tuple[list[Callable[[Scene, str], object]], list[tuple[str, int, str]]]] = {
    'an upload is cut': ([cut], [FAILED]),
    'a stage is cut': ([cut_stage], [FAILED]),
    'an import fails': ([import_nothing], [('image.error', 1, 'source_unreachable')]),
    'a location cannot be read': ([add_no_location], [('image.error', 1, 'source_unreachable')]),
    'a retry fails': ([cut, cut], [FAILED, ('image.error', 2, 'client_disconnected')]),
    'a retry succeeds': ([cut, retry], [FAILED, OVER]),
    'it is declared': ([declare], [('image.error', 1, 'declared')]),
    'it is reset': ([declare, reset], [('image.error', 1, 'declared'), ('image.error.cleared', 1, 'declared')]),
    'it is abandoned': ([abandon], [('image.error', 1, 'abandoned')]),
    'a copy of it fails': ([copy_to_no_store], []),
    'it is deleted in error': ([cut, remove], [FAILED]),
}


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_every_way_is_heard_of_once(scene: Scene, heard_of: tuple[Images, Listener], way: str) -> None:
    steps, events = WAYS[way]
    image_id, last_id = scene.images.created(KEEP), scene.images.created(KEEP)
    for step in steps:
        step(scene, image_id)
    if way == 'a copy of it fails':
        path = f'/v2/images/{image_id}/attempts'
        eventually(lambda: scene.images.request('GET', path).json['attempts'][0]['state'] == 'failed', 'the end')
    told: list[Heard] = []
    listener = heard_of[1]
    while len(told) < len(events):
        told += [each for each in listener.wait_for(1) if each.payload['id'] == image_id]
    # Had there been another event of the first image, it would have come before one of the last.
    cut(scene, last_id)
    while not any(each.payload['id'] == last_id for each in told):
        told += listener.wait_for(1)
    assert [each.brief for each in told if each.payload['id'] == image_id] == events


def test_workers_that_were_forked_publish(start_server: StartServer, listener: Listener, tmp_path: Path) -> None:
    connection = f'sqlite:///{tmp_path}/guard.db'
    file = listener.configure(tmp_path / 'guard.conf', connection)
    server = start_server(ServerKind.UWSGI_HTTP, {
        'connection': connection, 'oslo_config_file': file, 'keep_default': 'always'}, size=Size(processes=2))
    client = Client(server.port, {'X-Auth-Token': ALICE})
    ids = [client.create().json['id'] for _ in range(6)]
    for image_id in ids:
        client.cut_upload(image_id, b'x' * 300, 1000)
    heard = listener.wait_for(6)
    assert sorted(each.payload['id'] for each in heard) == sorted(ids)
    assert {each.payload['owner'] for each in heard} == {'red'}


# Each arrives

def test_who_dies_between_commit_and_publishing_loses_nothing(
        start_server: StartServer, listener: Listener, way: Way, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    """All workers are killed while their events wait; the sweep of another day publishes them."""
    connection = f'sqlite:///{tmp_path}/guard.db'
    file = listener.configure(tmp_path / 'guard.conf', connection, way.url)
    server = start_server(ServerKind.UWSGI_HTTP, {
        'connection': connection, 'oslo_config_file': file, 'keep_default': 'always'})
    client = Client(server.port, {'X-Auth-Token': ALICE})
    image_id = client.create().json['id']
    client.cut_upload(image_id, b'x' * 300, 1000)
    eventually(lambda: client.show(image_id).json['status'] == 'error', 'the error')
    # Tried, in vain, and given back.
    eventually(lambda: waiting(tmp_path / 'guard.db') == [(image_id, None)], 'the event in the outbox')
    server.kill()
    assert listener.heard() == []
    way.open()
    assert main(['--config-file', file, '--format', 'json', 'sweep', '--once']) == 0
    assert json.loads(capsys.readouterr().out)['published'] == 1
    assert [(each.payload['id'], *each.brief) for each in listener.wait_for(1)] == [(image_id, *FAILED)]
    assert waiting(tmp_path / 'guard.db') == []


def waiting(database: Path) -> list[tuple[str, str | None]]:
    with closing(sqlite3.connect(database)) as opened:
        return opened.execute('SELECT image_id, claimed_by FROM imgguard_outbox ORDER BY "key"').fetchall()


def test_who_dies_while_publishing_is_followed_by_another_with_the_same_ids(
        store: Store, listener: Listener, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep is killed after it sent and before it noted so, for the broker's word did not reach it."""
    fail(store)
    way.deaf_after = b'image.error'
    way.open()
    file = listener.configure(tmp_path / 'guard.conf', f'sqlite:///{tmp_path}/guard.db', way.url)
    sweep = subprocess.Popen([script('imgguard-manage'), '--config-file', file, 'sweep', '--once'],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (first,) = listener.wait_for(1)
    sweep.kill()
    sweep.wait()
    publisher = Publisher(store.outbox, listener.configure(tmp_path / 'guard.conf', f'sqlite:///{tmp_path}/guard.db'))
    assert publisher.publish() == 0
    monkeypatch.setattr(outbox, 'CLAIM_SECONDS', 0)
    assert publisher.publish() == 1
    (second,) = listener.wait_for(1)
    assert first.message['message_id'] == second.message['message_id']
    assert first.payload == second.payload


def test_two_processes_publish_everything_once(store: Store, listener: Listener, tmp_path: Path) -> None:
    for number in range(200):
        fail(store, f'image-{number}')
    file = listener.configure(tmp_path / 'guard.conf', f'sqlite:///{tmp_path}/guard.db')
    command = [script('imgguard-manage'), '--config-file', file, '--format', 'json', 'sweep', '--once']
    sweeps = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    counts = [json.loads(sweep.communicate()[0])['published'] for sweep in sweeps]
    assert sum(counts) == 200
    heard = listener.wait_for(200)
    assert sorted(each.payload['id'] for each in heard) == sorted(f'image-{number}' for number in range(200))
    assert listener.heard() == []


def test_a_dead_broker_delays_nothing_and_loses_nothing(
        load_client: LoadClient, listener: Listener, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    """Trouble is told once when it begins and once when it is over, by the guard and not by oslo.messaging too."""
    monkeypatch.setattr(factory, 'POLL_SECONDS', 0.2)
    file = listener.configure(tmp_path / 'guard.conf', f'sqlite:///{tmp_path}/imgguard.db', way.url)
    images = Images(load_client({'connection': f'sqlite:///{tmp_path}/imgguard.db', 'oslo_config_file': file}))
    with caplog.at_level(logging.INFO):
        ids = [images.in_error() for _ in range(3)]
        eventually(lambda: 'events cannot be published now' in caplog.text, 'trouble')
        assert all(images.show(image_id)['status'] == 'error' for image_id in ids)
        way.open()
        assert [each.payload['id'] for each in listener.wait_for(3)] == ids
        eventually(lambda: 'events are published again' in caplog.text, 'its end')
    told = [record.message for record in caplog.records if record.name.startswith(('imgguard.notify', 'oslo.messag'))]
    assert told == ['events cannot be published now and wait: OperationalError: [Errno 111] Connection refused',
                    'events are published again']


def test_a_broker_that_never_answers_holds_up_no_request(
        load_client: LoadClient, listener: Listener, tmp_path: Path) -> None:
    database = tmp_path / 'imgguard.db'
    with socket.create_server(('127.0.0.1', 0)) as silent:
        url = f'rabbit://guest:guest@127.0.0.1:{silent.getsockname()[1]}/'
        file = listener.configure(tmp_path / 'guard.conf', f'sqlite:///{database}', url)
        images = Images(load_client({'connection': f'sqlite:///{database}', 'oslo_config_file': file}))
        first = images.in_error()
        eventually(lambda: waiting(database)[0][1], 'that the first is being published')
        second = images.in_error()
        assert images.upload(second, DATA).status_int == 204
        assert images.show(first)['status'] == 'error'
        assert [image_id for image_id, _ in waiting(database)] == [first, second, second]


def test_the_log_driver_needs_no_broker(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fail(store)
    file = tmp_path / 'guard.conf'
    file.write_text(f'[imgguard]\n{SECTION}\ndriver = log\n')
    with caplog.at_level(logging.INFO):
        assert Publisher(store.outbox, str(file)).publish() == 1
    (told,) = [record for record in caplog.records if record.name == 'oslo.messaging.notification.image.error']
    assert json.loads(told.message)['payload']['id'] == 'image'


def test_no_password_is_told(
        store: Store, listener: Listener, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fail(store)
    wrong = re.sub('//.*@', '//nobody:s3cret@', URL)
    file = listener.configure(tmp_path / 'guard.conf', f'sqlite:///{tmp_path}/guard.db', wrong)
    publisher = Publisher(store.outbox, file)
    with caplog.at_level(logging.DEBUG):
        assert (publisher.publish(), publisher.publish()) == (0, 0)
    assert 's3cret' not in caplog.text
    assert caplog.text.count('events cannot be published now') == 1


def test_the_second_of_two_hosts_of_a_broker_will_do(
        store: Store, listener: Listener, way: Way, tmp_path: Path) -> None:
    fail(store)
    closed, opened = Way(), way
    opened.open()
    url = closed.url.rstrip('/') + ',' + opened.url.removeprefix('rabbit://')
    file = listener.configure(tmp_path / 'guard.conf', f'sqlite:///{tmp_path}/guard.db', url)
    assert Publisher(store.outbox, file).publish() == 1
    assert len(listener.wait_for(1)) == 1


def test_the_oldest_of_too_many_are_dropped_counted_and_told_once(
        store: Store, listener: Listener, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(outbox, 'MOST_WAITING', 2)
    publisher = Publisher(store.outbox, listener.configure(
        tmp_path / 'guard.conf', f'sqlite:///{tmp_path}/guard.db', way.url))
    for number in range(5):
        fail(store, f'image-{number}')
        publisher.publish()
    way.open()
    assert publisher.publish() == 2
    assert publisher.dropped == 3
    assert [each.payload['id'] for each in listener.wait_for(2)] == ['image-3', 'image-4']
    told = [record.message for record in caplog.records if 'drop' in record.message]
    assert told == ['too many events wait to be published: the oldest are dropped, 1 so far',
                    'no more events are dropped; 3 were by this process']


# Set up, and not

def test_off_by_default(tmp_path: Path) -> None:
    """Nothing is written, and oslo.messaging is not even imported."""
    file = tmp_path / 'guard.conf'
    file.write_text(f'[imgguard]\nconnection = sqlite:///{tmp_path}/guard.db\n')
    program = ('import sys; from imgguard.factory import filter_factory; '
               'filter_factory({}, oslo_config_file=sys.argv[1])(None); print("oslo_messaging" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', program, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == 'False\n'


def test_the_configuration_of_glance_itself_can_be_named(
        load_client: LoadClient, listener: Listener, tmp_path: Path, glance_template: PrivateGlance) -> None:
    """With an empty group [imgguard] in it: nothing is taken from Glance that was not pointed at."""
    file = tmp_path / 'glance-api.conf'
    shutil.copyfile(glance_template.configuration / 'glance-api.conf', file)
    text = Path(listener.configure(tmp_path / 'part.conf', 'unused')).read_text()
    default, _, rest = text.partition('[oslo_messaging_notifications]')
    mine = file.read_text().replace('[DEFAULT]\n', default) + SECTION + rest.partition('[imgguard]')[0] + '[imgguard]\n'
    file.write_text(mine)
    images = Images(load_client({'connection': f'sqlite:///{tmp_path}/imgguard.db', 'oslo_config_file': str(file)}))
    image_id = images.in_error()
    assert [each.payload['id'] for each in listener.wait_for(1)] == [image_id]


@pytest.mark.parametrize(('lines', 'text'), [
    ('driver = messagingv3\n', "option 'driver' in group [oslo_messaging_notifications] of FILE: 'messagingv3' is not "
                               'allowed; known are: log, messaging, messagingv2, noop, routing, test'),
    ('driver = messagingv2\ntransport_url = carrier://u:s3cret@pigeon/\n',
     'oslo.messaging cannot use transport_url in group [oslo_messaging_notifications] of FILE: DriverLoadFailure'),
    ('driver = messagingv2\ntransport_url = s3cret\n',
     'oslo.messaging cannot use transport_url in group [oslo_messaging_notifications] of FILE: InvalidTransportURL'),
    ('driver = messagingv2\ntransport_url = rabbit://u:s3cret@pigeon:wing/\n',
     'oslo.messaging cannot use transport_url in group [oslo_messaging_notifications] of FILE: ValueError'),
    ('driver = messagingv2\ntransport_url = rabbit://u:s3$cret@pigeon/\n',
     'a value in group [oslo_messaging_notifications] of FILE cannot be used (NoSuchOptError); a $ that is meant as '
     'such is written $$'),
])
def test_what_is_wrong_stops_the_load(tmp_path: Path, lines: str, text: str) -> None:
    file = tmp_path / 'guard.conf'
    file.write_text(f'[imgguard]\nconnection = sqlite:///{tmp_path}/guard.db\n{SECTION}\n{lines}')
    with pytest.raises(ConfigurationError) as refused:
        filter_factory({}, oslo_config_file=str(file))
    assert str(refused.value).replace(str(file), 'FILE') == f'imgguard: {text}'


def test_without_the_extra_the_load_stops_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / 'guard.conf'
    file.write_text(f'[imgguard]\nconnection = sqlite:///{tmp_path}/guard.db\n{SECTION}\ndriver = messagingv2\n')
    monkeypatch.setitem(sys.modules, 'oslo_messaging', None)
    with pytest.raises(ConfigurationError, match=re.escape('install imgguard[messaging]')):
        filter_factory({}, oslo_config_file=str(file))
    assert main(['--config-file', str(file), 'sweep', '--once']) == 2
