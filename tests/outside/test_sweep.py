"""``imgguard-manage sweep`` and ``requeue`` with ``glance_connection``, beside a real Glance whose workers die."""

import hashlib
import json
import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from demo.private_glance import PrivateGlance, lay_out
from demo.server import Kind as ServerKind
from demo.server import Size, start
from imgguard.attempts import Kind, NewAttempt, State
from imgguard.cli import main
from imgguard.outside import Outside as GuardOutside
from imgguard.settings import Settings, resolve
from imgguard.settling import Counts
from imgguard.store import AttemptRow, Store
from imgguard.sweep import Sweep
from tests.harness import IDENTITY
from tests.outside.conftest import DATA, LEASE_SECONDS, LOCK, Outside, killed
from tests.requeuing import Source
from tests.sockets import Exchange, eventually
from tests.test_killing import Locks, Strikes, pause
from tests.uploading import ERROR, KEEP

#: An attempt of a worker on a host that nobody can look at.
ELSEWHERE = NewAttempt(Kind.UPLOAD, True, 'req-1', 'alice', 'red', 'elsewhere', 'elsewhere:1:ab', 10)
NOTHING = {'lost': 0, 'settled': 0, 'given_up': 0, 'requeued': 0, 'deleted': 0, 'forgotten': 0, 'published': 0,
           'unproven': 0, 'fenced': 0}
#: Longer than a lease and shorter than the fence; longer than any fence.
SILENT, FENCED = LEASE_SECONDS + 10, 7300


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    status: int
    said: Any
    notes: str


Run = Callable[..., Ran]


@pytest.fixture
def options(outside: Outside) -> dict[str, str]:
    """As an operator's file has them."""
    return {'connection': f'sqlite:///{outside.glance.guard_database}', 'glance_connection': outside.url,
            'lease_seconds': str(LEASE_SECONDS)}


@pytest.fixture
def run(options: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command as the shell does, with other options where they are given."""
    def ran(*words: str, **others: str) -> Ran:
        path = tmp_path / 'imgguard.conf'
        lines = [f'{name} = {value}' for name, value in {**options, **others}.items()]
        path.write_text('\n'.join(['[imgguard]', *lines, '']))
        status = main(['--config-file', str(path), '--format', 'json', *words])
        out, err = capsys.readouterr()
        return Ran(status, json.loads(out) if out else None, err)

    return ran


@pytest.fixture
def quiet(outside: Outside, run: Run) -> None:
    """What other tests have left is swept."""
    run('sweep', '--once')


def did(**counts: int) -> dict[str, int]:
    """What a sweep is to answer."""
    return {**NOTHING, **counts}


def attempts(outside: Outside, image_id: str) -> list[AttemptRow]:
    record = outside.store.find(image_id)[-1]
    return outside.store.attempts(record.key, 100)


def code(outside: Outside, image_id: str) -> str | None:
    error = outside.store.find(image_id)[-1].error
    return None if error is None else error.code


# Workers that are killed

class Deaths:
    """Images whose workers were killed while they took the data, none of which anybody has looked at since."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._ending = ExitStack()
        self._workers: set[str] = set()
        self.uploading = self._begun('file')
        self.staging = self._begun('stage')
        source = self._ending.enter_context(Source(DATA, 1000).open())
        self.importing = outside.created(KEEP)
        assert outside.start_import(self.importing, source.method['uri']).status == 202
        eventually(lambda: outside.files(self.importing), 'the download to begin')
        self._workers.add(outside.holder(self.importing))

    def _begun(self, to: str) -> str:
        image_id = self._outside.created(KEEP)
        exchange = self._ending.enter_context(Exchange(self._outside.server.port))
        exchange.head('PUT', f'/v2/images/{image_id}/{to}', {
            'X-Auth-Token': self._outside.caller, 'Content-Type': 'application/octet-stream',
            'Content-Length': str(len(DATA))}).send(DATA[:150_000])
        eventually(lambda: self._outside.files(image_id), f'data in {to}')
        self._workers.add(self._outside.holder(image_id))
        return image_id

    def strike(self) -> None:
        """Kill them all with SIGKILL."""
        for worker in self._workers:
            killed(worker)
        self._ending.close()

    @property
    def images(self) -> tuple[str, str, str]:
        """All of them."""
        return self.uploading, self.staging, self.importing


@pytest.fixture
def deaths(outside: Outside, quiet: None) -> Deaths:
    made = Deaths(outside)
    made.strike()
    assert [outside.rows.status(each) for each in made.images] == ['saving', 'uploading', 'importing']
    assert LOCK in outside.rows.image(made.importing)['properties']
    outside.silent_for(SILENT, *made.images)
    return made


def test_images_of_workers_that_were_killed_can_be_tried_again(outside: Outside, run: Run, deaths: Deaths) -> None:
    ran = run('sweep', '--once')
    assert (ran.status, ran.said) == (0, did(lost=3, requeued=3))
    assert '3 images were put back to queued; data they may have left' in ran.notes
    assert {code(outside, each) for each in deaths.images} == {'worker_lost'}
    for each in deaths.images:
        image = outside.rows.image(each)
        assert (image['status'], image['properties'], image['size']) == ('queued', {}, None)
        record = outside.store.find(each)[-1]
        assert record.cleared_number < record.last_number, 'the files are still there, and nobody says otherwise'
        assert outside.files(each) != []
    assert {status for status, _ in outside.rows.tasks(deaths.importing)} == {'failure'}
    assert run('sweep', '--once').said == did()

    for each in deaths.images:
        # The guard in Glance's process ends what could not be done from outside: at a look, or at the retry.
        if each != deaths.staging:
            assert outside.show(each)[f'{ERROR}_code'] == 'worker_lost'
            assert outside.files(each) == []
        outside.assert_works_again(each)


def test_with_requeue_off_nothing_is_changed_in_glance(outside: Outside, run: Run, deaths: Deaths) -> None:
    before = [outside.rows.image(each) for each in deaths.images]
    ran = run('sweep', '--once', requeue='off')
    assert (ran.status, ran.said) == (0, did(lost=3)) and 'nothing is changed in Glance' in ran.notes
    ran = run('requeue', deaths.uploading, requeue='off')
    assert ran.status == 1 and 'requeue = off' in ran.notes
    assert [outside.rows.image(each) for each in deaths.images] == before


def test_while_glances_database_is_down_leases_are_settled_and_imports_wait(
        outside: Outside, run: Run, deaths: Deaths) -> None:
    down = {'glance_connection': 'postgresql://glance:s3cret@127.0.0.1:1/glance'}
    ran = run('sweep', '--once', **down)
    assert (ran.status, ran.said) == (1, did(lost=2))
    assert "Glance's database (postgresql database glance at 127.0.0.1:1) failed" in ran.notes
    assert 'leases and deadlines were settled without it, imports were not' in ran.notes
    refused = run('requeue', deaths.uploading, **down)
    assert refused.status == 1 and "Glance's database (postgresql database glance at 127.0.0.1:1)" in refused.notes
    assert 's3cret' not in ran.notes + refused.notes
    assert run('sweep', '--once').said == did(lost=1, requeued=3)


@pytest.fixture
def beside(outside: Outside, glance_template: PrivateGlance, tmp_path: Path) -> PrivateGlance:
    """The same Glance for another server, whose guard has the lease that the sweep goes by."""
    glance = outside.glance
    return lay_out(
        tmp_path / 'glance', identity=IDENTITY, database=glance_template.database,
        guard={'lease_seconds': str(LEASE_SECONDS), 'connection': f'sqlite:///{glance.guard_database}'},
        settings={'database': {'connection': outside.url}, 'fs': {'filesystem_store_datadir': str(glance.store)},
                  'os_glance_staging_store': {'filesystem_store_datadir': str(glance.staging)}})


def test_a_paused_worker_that_wakes_up_changes_nothing(
        outside: Outside, beside: PrivateGlance, run: Run, quiet: None) -> None:
    """It was silent past the fence; its image was put back by a sweep, and tried again with other data."""
    image_id = outside.created(KEEP)
    other = b'other data ' * 20_000
    # A server of its own: a paused worker of uWSGI may hold the lock that all of them need to take requests.
    with start(beside, ServerKind.UWSGI_HTTP, Size(1, 2)) as server, Exchange(server.port) as exchange:
        exchange.head('PUT', f'/v2/images/{image_id}/file', {
            'X-Auth-Token': outside.caller, 'Content-Type': 'application/octet-stream',
            'Content-Length': str(len(other))}).send(other[:150_000])
        eventually(lambda: outside.files(image_id), 'data')
        strikes, worker = Strikes(server), outside.holder(image_id)
        pause(strikes, worker, Locks(outside.glance, {}))
        try:
            # In real time: who wakes up within half a lease has no reason to ask whether he still holds his claim.
            eventually(lambda: run('sweep', '--once').said == did(lost=1, fenced=1), 'its loss')
            assert outside.rows.status(image_id) == 'saving'
            outside.silent_for(FENCED, image_id)
            assert run('sweep', '--once').said == did(requeued=1)
            outside.assert_works_again(image_id)
        finally:
            strikes.send(worker, signal.SIGCONT)
        exchange.send(other[150_000:])
        answered = exchange.status()
        assert answered is None or answered >= 400
    assert outside.show(image_id)['checksum'] == hashlib.md5(DATA).hexdigest()
    assert outside.ask('GET', f'/v2/images/{image_id}/file').body == DATA
    assert outside.files(image_id) == [outside.glance.store / image_id]
    assert attempts(outside, image_id)[0].state is State.SUCCEEDED


# By Glance's word

def test_an_attempt_whose_image_is_active_has_succeeded(outside: Outside, run: Run, quiet: None) -> None:
    image_id = outside.created()
    assert outside.put(image_id, DATA).status == 204
    outside.begun(image_id, ELSEWHERE)
    outside.silent_for(SILENT, image_id)
    assert run('sweep', '--once').said == did(settled=1)
    attempt, = attempts(outside, image_id)
    assert (attempt.state, code(outside, image_id)) == (State.SUCCEEDED, None)


def test_one_that_was_given_up_as_lost_too_soon_has_succeeded_all_the_same(
        outside: Outside, run: Run, quiet: None) -> None:
    image_id = outside.created()
    assert outside.put(image_id, DATA).status == 204
    claim = outside.begun(image_id, ELSEWHERE)
    outside.silent_for(SILENT, image_id)
    assert outside.store.lose(claim.key, claim.number)
    assert code(outside, image_id) == 'worker_lost'
    assert run('sweep', '--once').said == did(settled=1)
    assert (attempts(outside, image_id)[0].state, code(outside, image_id)) == (State.SUCCEEDED, None)


@pytest.mark.parametrize(('data', 'state', 'expected'), [
    (DATA, State.SUCCEEDED, None), (None, State.FAILED, 'import_failed'),
], ids=['success', 'failure'])
def test_an_import_ended_as_its_task_says(
        outside: Outside, run: Run, quiet: None, data: bytes | None, state: State, expected: str | None) -> None:
    """Its worker died after Glance had ended the task, before the guard had noted that."""
    image_id = outside.created()
    with Source(data or DATA).open() as source:
        url = source.method['uri'] if data is not None else 'http://127.0.0.1:1/nothing'
        request_id = outside.start_import(image_id, url).headers['x-openstack-request-id']
        ended = 'success' if data is not None else 'failure'
        eventually(lambda: [status for status, _ in outside.rows.tasks(image_id)] == [ended], 'the import to end')
    eventually(lambda: LOCK not in outside.rows.image(image_id)['properties'], 'the lock to go')
    outside.begun(image_id, replace(ELSEWHERE, kind=Kind.IMPORT, request_id=request_id))
    outside.silent_for(SILENT, image_id)
    assert run('sweep', '--once').said == did(settled=1)
    assert (attempts(outside, image_id)[0].state, code(outside, image_id)) == (state, expected)


def test_a_deadline_counts_only_while_glance_waits_for_data_too(outside: Outside, run: Run, quiet: None) -> None:
    waiting, killed_by_v1, looked_at, arrived = (outside.created() for _ in range(4))
    assert outside.put(arrived, DATA).status == 204
    for each in (killed_by_v1, looked_at):
        outside.rows.set(each, status='killed')
    for each in (waiting, killed_by_v1, looked_at, arrived):
        outside.store.remember(each, outside.created_at(each), 'red', True, give_up_at_after=-1)
    assert outside.show(looked_at)['os_glance_image_error_code'] == 'never_arrived'
    # The one that is in error already can be queued again.
    assert run('sweep', '--once').said == did(given_up=2, requeued=1)
    assert (code(outside, waiting), code(outside, killed_by_v1), code(outside, arrived)) == (
        'never_arrived', 'never_arrived', None)
    assert outside.store.find(arrived)[-1].give_up_at is None


def test_images_that_glance_has_deleted_are_noted(outside: Outside, run: Run, quiet: None) -> None:
    """Deleted past the guard; one that Glance's database does not know at all may be another database's."""
    image_id = outside.created()
    created_at = outside.created_at(image_id)
    assert outside.ask('DELETE', f'/v2/images/{image_id}').status == 204
    outside.store.remember(image_id, created_at, 'red', True)
    outside.store.remember('nowhere', created_at, 'red', True)
    assert run('sweep', '--once').said == did(deleted=1)
    assert outside.store.find(image_id)[-1].deleted
    assert not outside.store.find('nowhere')[-1].deleted
    assert 'is deleted' in run('requeue', image_id).notes
    ran = run('requeue', 'nowhere')
    assert ran.status == 1 and "Glance's database does not know image nowhere: see glance_connection" in ran.notes


# The fence

def test_what_a_worker_on_another_host_left_waits_for_the_fence(outside: Outside, run: Run, quiet: None) -> None:
    image_id = outside.created()
    outside.begun(image_id, ELSEWHERE)
    outside.rows.set(image_id, status='saving')
    outside.silent_for(SILENT, image_id)
    assert run('sweep', '--once').said == did(lost=1, fenced=1)
    assert outside.rows.status(image_id) == 'saving'
    fenced = run('requeue', image_id)
    assert fenced.status == 1 and 'may only be paused' in fenced.notes and '--worker-is-dead' in fenced.notes
    assert outside.rows.status(image_id) == 'saving'
    outside.silent_for(FENCED, image_id)
    assert run('sweep', '--once').said == did(requeued=1)
    assert outside.rows.status(image_id) == 'queued'
    outside.assert_works_again(image_id)


def test_an_operator_need_not_wait_for_it(outside: Outside, run: Run, quiet: None) -> None:
    image_id = outside.created()
    outside.begun(image_id, ELSEWHERE)
    outside.rows.set(image_id, status='saving')
    alive = run('requeue', image_id, '--worker-is-dead')
    assert alive.status == 1 and 'attempt 1 of image' in alive.notes and outside.rows.status(image_id) == 'saving'
    outside.silent_for(SILENT, image_id)
    ran = run('requeue', image_id, '--worker-is-dead')
    assert (ran.status, ran.said['declared_dead']) == (0, 1)
    assert 'was put back to queued' in ran.said['next'] and 'cannot be deleted from here' in ran.notes
    assert outside.rows.status(image_id) == 'queued'
    again = run('requeue', image_id)
    assert 'is queued in Glance' in again.said['next']
    outside.assert_works_again(image_id)
    assert run('requeue', image_id).said['next'] == 'nothing: the image is active'


def test_staged_data_that_is_sound_stays(outside: Outside, run: Run, quiet: None) -> None:
    """Its import failed, and can be asked for again."""
    image_id = outside.created()
    assert outside.put(image_id, DATA, 'stage').status == 204
    outside.begun(image_id, replace(ELSEWHERE, kind=Kind.IMPORT))
    outside.silent_for(FENCED, image_id)
    assert run('sweep', '--once').said == did(lost=1)
    assert 'can be asked for again' in run('requeue', image_id).said['next']
    assert outside.rows.status(image_id) == 'uploading'


# Many at a time

class Never:
    """Never stops."""

    def is_set(self) -> bool:
        return False

    def wait(self, timeout: float) -> bool:
        return False


def test_many_sweeps_at_a_time_do_everything_once(
        outside: Outside, options: dict[str, str], quiet: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    images = [outside.created() for _ in range(8)]
    for each in images:
        outside.begun(each, ELSEWHERE)
        outside.rows.set(each, status='saving')
    outside.silent_for(FENCED, *images)
    settings = resolve(options, 'the test')
    found: list[Counts] = []
    threads = [threading.Thread(target=lambda: found.append(swept(settings))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.append(swept(settings))
    assert len(found) == 4
    assert sum(each.lost for each in found) == 8
    # Of these: the fence of what an earlier test has left may open meanwhile.
    assert Counter(line.__dict__['image_id'] for line in caplog.records
                   if 'it was put back' in line.getMessage() and line.__dict__['image_id'] in images) == Counter(images)
    assert sum(each.requeued for each in found) >= 8
    assert {outside.rows.status(each) for each in images} == {'queued'}


def swept(settings: Settings) -> Counts:
    """One sweep with connections of its own."""
    store = Store(settings.connection, LEASE_SECONDS)
    assert settings.glance_connection is not None
    opened = GuardOutside.of_commands(settings.glance_connection, store, settings)
    try:
        sweeper = Sweep(store, settings, lambda: 0.0, Never(), opened.settling)
        counts = sweeper.run_once()
        assert sweeper.outage is None
        return counts
    finally:
        opened.close()
        store.close()


def test_more_than_a_page(
        outside: Outside, run: Run, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('imgguard.sweep.PAGE', 2)
    images = [outside.created() for _ in range(5)]
    for each in images:
        outside.begun(each, ELSEWHERE)
        outside.rows.set(each, status='saving')
    outside.silent_for(FENCED, *images)
    assert run('sweep', '--once').said == did(lost=5, requeued=5)
