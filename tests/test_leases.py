"""The signs of life of a worker process: who renews them, what waits for the store, and who is proven dead.

The heartbeat is beaten by hand where its thread does not matter; its own period is then longer than any test.
"""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from imgguard import leases
from imgguard.attempts import Claim, Failure, Kind, NewAttempt, State
from imgguard.errors import StoreUnavailable
from imgguard.guard import Guard
from imgguard.images import Caller, Image
from imgguard.leases import Heartbeat
from imgguard.settings import resolve
from imgguard.store import Store
from imgguard.workers import HOST, Workers

CREATED = '2026-11-22T22:19:29Z'
UPLOAD = NewAttempt(Kind.UPLOAD, guarded=True, request_id='req-1', user_id='user', project_id='project', host=HOST,
                    worker='worker', bytes_expected=10)
CUT = Failure('client_disconnected', 'The connection was lost.')
LEASE = 60.0
PATIENCE = 30.0
TAKE_NAME_AND_WAIT = '''
import sys, time
from pathlib import Path
from imgguard.workers import Workers
print(Workers(Path(sys.argv[1])).name(), flush=True)
time.sleep(600)
'''


class Switch(Store):
    """A store that an outage can be made of."""

    down = False
    renewals = 0

    def renew(self, worker: str, host: str, bytes_received: Mapping[tuple[int, int], int]) -> set[tuple[int, int]]:
        self.renewals += 1
        if self.down:
            raise StoreUnavailable('the store is down')
        return super().renew(worker, host, bytes_received)

    def finish(self, *arguments: Any, **named: Any) -> bool:
        if self.down:
            raise StoreUnavailable('the store is down')
        return super().finish(*arguments, **named)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Switch]:
    opened = Switch(f'sqlite:///{tmp_path}/imgguard.db', LEASE)
    opened.upgrade()
    yield opened
    opened.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / 'locks'


@pytest.fixture
def heartbeat(store: Switch, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Heartbeat:
    """Without its thread: ``heartbeat.beat()`` is what the thread does."""
    monkeypatch.setattr('imgguard.servers.threads_run', lambda: False)
    return Heartbeat(store, LEASE, Workers(directory))


def _begun(store: Store, image_id: str = 'image') -> Claim:
    claim = store.begin(image_id, CREATED, 'owner', UPLOAD)
    assert isinstance(claim, Claim)
    return claim


def _claim(number: int) -> Claim:
    return Claim(1, number, None, 'image', Kind.UPLOAD, 'req-1')


def _failure_of(store: Store, claim: Claim) -> Callable[[], bool]:
    return lambda: store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == 'imgguard-heartbeat']


def test_a_beat_renews_what_was_added_and_tells_how_far_it_came(store: Switch, heartbeat: Heartbeat) -> None:
    claim = _begun(store)
    heartbeat.add(claim, lambda: 5)
    heartbeat.beat()
    assert store.attempts(claim.key, 1)[0].bytes_received == 5
    heartbeat.remove(claim)
    heartbeat.beat()
    assert store.renewals == 2, 'a worker without a claim gives a sign of its own life'


def test_a_young_claim_is_held_without_asking(store: Switch, heartbeat: Heartbeat) -> None:
    claim = _begun(store)
    heartbeat.add(claim, lambda: 5)
    assert heartbeat.holds(claim)
    assert store.renewals == 0


def test_an_old_claim_is_asked_for(store: Switch, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('imgguard.servers.threads_run', lambda: False)
    heartbeat = Heartbeat(store, 0, Workers(directory))
    held, taken = _begun(store, 'held'), _begun(store, 'taken')
    for claim in (held, taken):
        heartbeat.add(claim, lambda: 5)
    assert _failure_of(store, taken)()
    assert (heartbeat.holds(held), heartbeat.holds(taken)) == (True, False)
    store.down = True
    assert heartbeat.holds(taken), 'an outage takes nothing away'


def test_an_end_that_could_not_be_stored_waits_for_the_store(store: Switch, heartbeat: Heartbeat) -> None:
    claim = _begun(store)
    end = _failure_of(store, claim)
    store.down = True
    with pytest.raises(StoreUnavailable):
        end()
    heartbeat.finish_later(claim, end)
    with pytest.raises(StoreUnavailable):
        heartbeat.beat()
    store.down = False
    assert store.records(['image'])['image', CREATED].error is None
    heartbeat.beat()
    error = store.records(['image'])['image', CREATED].error
    assert error is not None and error.code == CUT.code
    renewed = _begun(store)
    heartbeat.beat()
    assert store.records(['image'])['image', CREATED].running is not None, 'it is stored once'
    assert renewed.number == 2


def test_the_guard_lets_an_end_wait_that_it_could_not_store(store: Switch, heartbeat: Heartbeat,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, 'runs', lambda: True)
    settings = resolve({'connection': 'sqlite:////nowhere/imgguard.db'}, 'the test')
    guard = Guard(store, heartbeat, settings)
    image = Image('image', CREATED, 'queued', 'owner', None)
    claim = guard.begin(image, Caller('user', 'project', False, 'req-1', None), True, 10)
    assert isinstance(claim, Claim)
    running = store.records(['image'])['image', CREATED].running
    assert running is not None and (running.host, running.worker) == (HOST, heartbeat.worker)
    store.down = True
    with pytest.raises(StoreUnavailable):
        guard.failed(image, claim, CUT, 400, 7, True)
    store.down = False
    heartbeat.beat()
    error = store.records(['image'])['image', CREATED].error
    assert error is not None and error.code == CUT.code


def test_an_end_that_can_never_be_stored_stops_no_other(heartbeat: Heartbeat,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    stored = []

    def unavailable() -> None:
        raise StoreUnavailable('a value that does not fit')

    def wrong() -> None:
        raise RuntimeError('a mistake of ours')

    heartbeat.finish_later(_claim(1), unavailable)
    heartbeat.finish_later(_claim(2), wrong)
    heartbeat.finish_later(_claim(3), lambda: stored.append('good'))
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match='does not fit'):
            heartbeat.beat()
    assert stored == ['good']
    assert [record.message for record in caplog.records if record.exc_info] == [
        'image image: attempt 2: its end cannot be stored']


def test_what_waits_is_bounded(store: Switch, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch,
                               caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(leases, 'MOST_PENDING', 2)
    stored: list[int] = []
    for number in range(3):
        heartbeat.finish_later(_claim(number), lambda number=number: stored.append(number))  # type: ignore[misc]
    assert 'image image: attempt 0: its end is never stored: too much waits for the store' in caplog.text
    heartbeat.beat()
    assert stored == [1, 2]


def test_an_end_that_is_tried_again_and_again_waits_once(store: Switch, heartbeat: Heartbeat) -> None:
    """Whoever watches an import does so at each look, and must not crowd out the ends of others."""
    stored: list[int] = []
    for number in range(3):
        heartbeat.finish_later(_claim(1), lambda number=number: stored.append(number))  # type: ignore[misc]
    heartbeat.beat()
    assert stored == [2]


def test_trouble_is_told_when_it_begins_and_when_it_is_over(store: Switch, heartbeat: Heartbeat,
                                                            caplog: pytest.LogCaptureFixture) -> None:
    for store.down in (False, True, True, True, False, False):
        heartbeat.try_to_beat()
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, 'cannot store the signs of life of this process: the store is down'),
        (logging.WARNING, 'the signs of life of this process are stored again')]


def test_the_first_request_starts_one_thread(store: Switch, directory: Path) -> None:
    before = len(_threads())
    heartbeat = Heartbeat(store, LEASE, Workers(directory))
    assert len(_threads()) == before, 'none before a fork'
    for _ in range(3):
        heartbeat.start()
    assert heartbeat.runs()
    assert len(_threads()) == before + 1
    _until(lambda: store.renewals)
    del heartbeat
    gc.collect()
    _until(lambda: len(_threads()) == before)


def test_no_thread_where_none_would_run(heartbeat: Heartbeat) -> None:
    before = len(_threads())
    heartbeat.start()
    assert not heartbeat.runs()
    assert len(_threads()) == before


def test_what_waits_is_stored_soon_by_the_thread(store: Switch, directory: Path) -> None:
    heartbeat = Heartbeat(store, LEASE, Workers(directory))
    heartbeat.start()
    _until(lambda: store.renewals)
    claim = _begun(store)
    heartbeat.finish_later(claim, _failure_of(store, claim))
    _until(lambda: store.records(['image'])['image', CREATED].error)


def test_after_an_outage_the_thread_is_back_soon(store: Switch, directory: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before a third of the lease is over, which is what proves another worker's death."""
    monkeypatch.setattr(leases, '_AGAIN_SECONDS', 0.01)
    store.down = True
    heartbeat = Heartbeat(store, 10000, Workers(directory))
    heartbeat.start()
    _until(lambda: store.renewals > 3)
    store.down = False
    claim = _begun(store)
    heartbeat.finish_later(claim, _failure_of(store, claim))
    _until(lambda: store.records(['image'])['image', CREATED].error)


# Python 3.12 and later warn of just what is tried here: servers do fork beside threads.
@pytest.mark.filterwarnings('ignore:.*use of fork:DeprecationWarning')
def test_a_forked_process_has_its_own_thread_and_claims(store: Switch, directory: Path) -> None:
    heartbeat = Heartbeat(store, LEASE, Workers(directory))
    assert heartbeat.runs()
    _until(lambda: store.renewals)
    claim, parent = _begun(store), heartbeat.worker
    heartbeat.add(claim, lambda: 5)
    process = os.fork()
    if not process:
        code = 1
        try:
            code = 0 if heartbeat.runs() and heartbeat.worker != parent else 2
            heartbeat.beat()
            code = code or (3 if store.attempts(claim.key, 1)[0].bytes_received else 0)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    heartbeat.beat()
    assert store.attempts(claim.key, 1)[0].bytes_received == 5


def test_a_name_is_unique_and_stays(directory: Path) -> None:
    own = Workers(directory)
    assert own.name() == own.name()
    assert own.name() != Workers(directory).name()
    host, process, _ = own.name().rsplit(':', 2)
    assert (host, int(process)) == (HOST, os.getpid())


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_ended_is_proven_gone(directory: Path, number: int) -> None:
    here = Workers(directory)
    with subprocess.Popen([sys.executable, '-c', TAKE_NAME_AND_WAIT, str(directory)], stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert here.is_gone(HOST, name) is False
        process.send_signal(signal.SIGSTOP)
        assert here.is_gone(HOST, name) is False, 'paused is not gone'
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        process.wait(PATIENCE)
        assert here.is_gone(HOST, name) is True
        assert here.is_gone(HOST, name) is True


def test_this_process_is_not_gone(directory: Path) -> None:
    here = Workers(directory)
    assert here.is_gone(HOST, here.name()) is False


@pytest.mark.parametrize(('host', 'worker'), [
    ('elsewhere', None), (HOST, f'{HOST}:1:00000000'), (HOST, ''), (HOST, '../other'), ('', '')])
def test_what_cannot_be_told(directory: Path, host: str, worker: str | None) -> None:
    """Another host, a file that is not there, a verdict that nobody's process spoke."""
    here = Workers(directory)
    assert here.is_gone(host, worker if worker is not None else here.name()) is None


def test_a_fork_does_not_keep_its_parent_alive(directory: Path) -> None:
    """Once it has a name of its own, which is with its first request."""
    here = Workers(directory)
    script = f'''
import os, sys
from pathlib import Path
from imgguard.workers import Workers
mine = Workers(Path({str(directory)!r}))
print(mine.name(), flush=True)
if os.fork():
    os._exit(0)
print(mine.name(), flush=True)
sys.stdin.read()
'''
    with subprocess.Popen([sys.executable, '-c', script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        parent, child = process.stdout.readline().strip(), process.stdout.readline().strip()
        process.wait(PATIENCE)
        assert (here.is_gone(HOST, parent), here.is_gone(HOST, child)) == (True, False)
        process.stdin.close()
        _until(lambda: here.is_gone(HOST, child))


@pytest.mark.parametrize('mode', [0o755, 0o777])
def test_a_directory_that_others_may_enter_is_not_trusted(directory: Path, mode: int,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    directory.mkdir()
    directory.chmod(mode)
    here = Workers(directory)
    assert here.is_gone(HOST, here.name()) is None
    assert here.name() == here.name()
    assert [record.message for record in caplog.records] == [
        'the death of this process could not be proven, so that what it leaves is cleared away later than need be: '
        f'{directory} is not a directory of this user alone']
    assert list(directory.iterdir()) == []


def test_a_link_in_its_place_is_not_followed(directory: Path, tmp_path: Path) -> None:
    (tmp_path / 'target').mkdir(mode=0o700)
    directory.symlink_to(tmp_path / 'target')
    here = Workers(directory)
    assert here.is_gone(HOST, here.name()) is None
    assert list((tmp_path / 'target').iterdir()) == []


def test_files_of_the_long_dead_are_removed(directory: Path) -> None:
    alive = Workers(directory)
    names = {name: directory / f'{name}.lock' for name in ('host:1:old', 'host:1:young', alive.name())}
    for name, path in names.items():
        path.touch(mode=0o600)
        age = 0 if name == 'host:1:young' else 8 * 86400
        os.utime(path, (time.time() - age,) * 2)
    later = Workers(directory)
    later.name()
    assert [name for name, path in names.items() if not path.exists()] == ['host:1:old']
    alive.touch()
    assert names[alive.name()].stat().st_mtime > time.time() - 86400


def test_the_directory_is_this_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr('tempfile.gettempdir', lambda: str(tmp_path))
    name = Workers().name()
    place = tmp_path / f'imgguard-{os.geteuid()}'
    assert [path.name for path in place.iterdir()] == [f'{name}.lock']
    assert place.stat().st_mode & 0o777 == 0o700


# What else a worker does beside its requests

def test_other_work_can_be_had_at_once_and_ends_with_what_it_serves(store: Switch, directory: Path) -> None:
    done = threading.Event()
    heartbeat = Heartbeat(store, LEASE, Workers(directory))
    wake = heartbeat.accompany('imgguard-other', done.set, 3600)
    wake()
    heartbeat.start()
    (thread,) = [each for each in threading.enumerate() if each.name == 'imgguard-other']
    assert not done.is_set()
    wake()
    assert done.wait(PATIENCE)
    del heartbeat, wake
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()
