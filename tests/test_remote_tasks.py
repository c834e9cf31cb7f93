"""Glance's tasks, asked for through a proxy: as whom."""

import gc
import json
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from imgguard.attempts import Claim, Kind, NewAttempt, State
from imgguard.guard import Guard
from imgguard.images import Caller, Image
from imgguard.leases import Heartbeat
from imgguard.remote_images import Remote
from imgguard.remote_tasks import RemoteTasks
from imgguard.settings import resolve
from imgguard.store import Store
from imgguard.tasks import CannotLook
from imgguard.watch import Import, Watch
from imgguard.workers import Workers

CREATED = '2026-11-22T22:19:29Z'
IMPORT = NewAttempt(Kind.IMPORT, True, 'req-1', 'alice', 'red', 'host', 'worker', None, handed_on=True)


class Glance:
    """An image that is being imported.

    :ivar asked: the tokens of the requests
    :ivar refused: a token that is no longer good
    """

    def __init__(self) -> None:
        self.image = {'id': 'image', 'created_at': CREATED, 'status': 'importing', 'os_glance_import_task': 'task'}
        self.asked: list[str] = []
        self.refused = ''

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.asked.append(environ['HTTP_X_AUTH_TOKEN'])
        if self.asked[-1] == self.refused:
            start_response('401 Unauthorized', [('Content-Length', '0')])
            return [b'']
        tasks = {'tasks': [{'id': 'task', 'type': 'api_image_import', 'status': 'success', 'message': ''}]}
        body = json.dumps(tasks if environ['PATH_INFO'].endswith('/tasks') else self.image).encode()
        start_response('200 OK', [('Content-Type', 'application/json'), ('Content-Length', str(len(body)))])
        return [body]


@pytest.fixture
def glance() -> Glance:
    return Glance()


@pytest.fixture
def remote(glance: Glance) -> Remote:
    return Remote(glance)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(f'sqlite:///{tmp_path}/imgguard.db', 60)) as store:
        store.upgrade()
        yield store


@pytest.fixture
def watch(remote: Remote, store: Store, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """It looks when it is told to."""
    monkeypatch.setattr('imgguard.servers.threads_run', lambda: False)
    heartbeat = Heartbeat(store, 60, Workers())
    return Watch(store, Guard(store, heartbeat, resolve({}, 'this test')), heartbeat, RemoteTasks(remote),
                 lambda image_id, created_at: None, 3600, poll_seconds=600, around=remote.asked_by)


def caller(remote: Remote, name: str) -> Caller:
    by = remote.identify(False)({'HTTP_X_AUTH_TOKEN': name})
    assert by is not None
    return by


def begun(store: Store, watch: Watch, by: Caller) -> Claim:
    claim = store.begin('image', CREATED, 'red', IMPORT)
    assert isinstance(claim, Claim)
    watch.add(Import(Kind.IMPORT, Image('image', CREATED, 'queued', 'red', None), claim, True, None, {'req-1'}, by))
    return claim


def test_an_import_is_followed_as_who_began_it_whoever_looks(
    glance: Glance, remote: Remote, store: Store, watch: Watch,
) -> None:
    claim = begun(store, watch, caller(remote, 'alice'))
    with remote.asked_by(caller(remote, 'bob')):
        assert RemoteTasks(remote).find('image', {'req-1'}) == 'task'
    glance.asked.clear()
    watch.look()
    assert set(glance.asked) == {'alice'}
    assert store.attempts(claim.key, 1)[0].task_id == 'task'


def test_the_token_is_forgotten_when_the_import_has_ended(
    glance: Glance, remote: Remote, store: Store, watch: Watch,
) -> None:
    alice = caller(remote, 'alice')
    asker = weakref.ref(alice.context)
    claim = begun(store, watch, alice)
    del alice
    watch.look()
    gc.collect()
    assert asker() is not None
    glance.image = {'id': 'image', 'created_at': CREATED, 'status': 'active'}
    watch.look()
    assert store.attempts(claim.key, 1)[0].state is State.SUCCEEDED
    gc.collect()
    assert asker() is None


def test_with_a_token_that_is_no_longer_good_it_is_followed_no_longer(
    glance: Glance, remote: Remote, store: Store, watch: Watch, caplog: pytest.LogCaptureFixture,
) -> None:
    begun(store, watch, caller(remote, 'alice'))
    glance.refused = 'alice'
    watch.look()
    watch.look()
    assert glance.asked == ['alice']
    assert 'the import is followed no longer: Glance refuses the token it is asked with' in caplog.text


def test_without_anybody_to_ask_as_nothing_can_be_looked_at(glance: Glance, remote: Remote) -> None:
    with pytest.raises(CannotLook, match='nobody'):
        RemoteTasks(remote).look('image', CREATED, 'task')
    assert glance.asked == []
