"""Workers of real uWSGI servers are killed and paused at random instants of what they do for guarded images.

``IMGGUARD_KILL_SEED`` repeats the instants of a run as far as processes can be made to repeat themselves;
``IMGGUARD_KILL_ROUNDS`` and ``IMGGUARD_STOP_ROUNDS`` make it longer.
"""

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socketserver
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final, TypeVar

import pytest
from sqlalchemy import create_engine, make_url

from demo.client import Answer, Client
from demo.private_glance import PrivateGlance, Sections, lay_out
from demo.server import Kind, Server, Size
from imgguard.attempts import State
from imgguard.store import AttemptRow
from tests import conftest
from tests.harness import IDENTITY
from tests.identity import token
from tests.sockets import Exchange, GuardsStore, chunked
from tests.uploading import ERROR, KEEP

SEED: Final = int(os.environ.get('IMGGUARD_KILL_SEED') or SystemRandom().randrange(2**32))
KILL_ROUNDS: Final = int(os.environ.get('IMGGUARD_KILL_ROUNDS') or 8)
STOP_ROUNDS: Final = int(os.environ.get('IMGGUARD_STOP_ROUNDS') or 2)
#: So many rounds are played at once; the worker that one of them kills may be at work for another.
PLAYERS: Final = 3
CALLER: Final = token('alice', 'project')
HEADERS: Final = {'X-Auth-Token': CALLER, 'Content-Type': 'application/octet-stream'}
LEASE_SECONDS: Final = 5.0
#: A verdict takes eleven seconds, a new worker as many on a busy machine, and other rounds kill retries, too.
ENOUGH_SECONDS: Final = 120.0
POLL_SECONDS: Final = 0.1
MOST_BYTES: Final = 400_000
MOST_LOOKS: Final = 100
WAYS: Final = ('upload', 'upload in chunks', 'stage', 'web-download', 'glance-direct')
PAUSED_WAYS: Final = WAYS[:4]

Value = TypeVar('Value')
Request = tuple[str, str, bytes, dict[str, str]]


def wait_for(look: Callable[[], Value | None], what: Callable[[], str], pause: float = POLL_SECONDS) -> Value:
    """Look again and again until there is something to see, and return it."""
    deadline = time.monotonic() + ENOUGH_SECONDS
    while (seen := look()) is None:
        assert time.monotonic() < deadline, f'not within {ENOUGH_SECONDS:.0f} s: {what()}'
        time.sleep(pause)
    return seen


class SlowSource:
    """A web server on loopback: it sends its data up to a point, and the rest when it is told to."""

    def __init__(self) -> None:
        self._offers: dict[str, tuple[bytes, int, threading.Event]] = {}
        source = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                method, path = self.rfile.readline().decode().split()[:2]
                while self.rfile.readline().strip():
                    continue
                source._answer(self.wfile.write, method, path.strip('/'))

        self._server = socketserver.ThreadingTCPServer(('127.0.0.1', 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.05})
        self._thread.start()

    def offer(self, name: str, data: bytes, upto: int | None = None) -> tuple[str, threading.Event]:
        """Its address, and what lets it go on after ``upto`` bytes; without them it does not stop."""
        goes_on = threading.Event()
        if upto is None:
            goes_on.set()
        self._offers[name] = (data, upto or 0, goes_on)
        return f'http://127.0.0.1:{self._server.server_address[1]}/{name}', goes_on

    def close(self) -> None:
        """Stop, and let go of who waits."""
        for _, _, goes_on in self._offers.values():
            goes_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, write: Callable[[bytes], object], method: str, name: str) -> None:
        data, upto, goes_on = self._offers[name]
        with contextlib.suppress(OSError):
            write(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n' % len(data))
            if method != 'HEAD':
                write(data[:upto])
                goes_on.wait(ENOUGH_SECONDS)
                write(data[upto:])


class Caller:
    """Requests of one user, who is used to workers that die."""

    def __init__(self, server: Server) -> None:
        self._client = Client(server.port, {'X-Auth-Token': CALLER})

    def ask(self, method: str, path: str, body: bytes | None = None,
            headers: Mapping[str, str] | None = None) -> Answer | None:
        """The answer; ``None`` when there is none."""
        try:
            answer = self._client.request(method, path, body, {**HEADERS, **(headers or {})})
        except (OSError, http.client.HTTPException):
            return None
        # uWSGI's own, for a worker that is gone.
        return None if answer.status in (502, 503, 504) else answer

    def ask_on(self, method: str, path: str, body: bytes | None = None,
               headers: Mapping[str, str] | None = None) -> Answer:
        """The answer at last."""
        return wait_for(lambda: self.ask(method, path, body, headers), lambda: f'an answer to {method} {path}')

    def create(self) -> str:
        """The id of a new image that is to be kept."""
        body = json.dumps({'disk_format': 'raw', 'container_format': 'bare'}).encode()
        answer = self.ask_on('POST', '/v2/images', body, {'Content-Type': 'application/json', **KEEP})
        assert answer.status == 201, answer.text
        return str(answer.json['id'])

    def show(self, image_id: str) -> dict[str, Any]:
        """The image."""
        answer = self.ask_on('GET', f'/v2/images/{image_id}')
        assert answer.status == 200, answer.text
        shown: dict[str, Any] = answer.json
        return shown


def importing(image_id: str, url: str | None = None) -> Request:
    """The request for an import of what is staged, or of what is at an address."""
    method = {'name': 'glance-direct'} if url is None else {'name': 'web-download', 'uri': url}
    return ('POST', f'/v2/images/{image_id}/import', json.dumps({'method': method}).encode(),
            {'Content-Type': 'application/json'})


class Trial:
    """One image, and all that is done to it and expected of it."""

    def __init__(self, way: str, random: Random, caller: Caller, store: GuardsStore, source: SlowSource) -> None:
        self.way = way
        self.image_id = caller.create()
        self.seen: list[str] = []
        self._random = random
        self._caller = caller
        self._store = store
        self._source = source
        self._first = random.randbytes(random.randrange(1, MOST_BYTES))
        self._second = random.randbytes(random.randrange(1, MOST_BYTES))
        self._upto = random.choice((random.randrange(len(self._first)), len(self._first)))
        self._looks = random.randrange(MOST_LOOKS)
        self._exchange: Exchange | None = None
        self._goes_on: threading.Event | None = None
        self._retried = False

    def __str__(self) -> str:
        return f'{self.way}, {self._upto}/{len(self._first)} B, {self._looks} looks, {self.image_id}: ' + (
            ', '.join(self.seen))

    def begin(self, port: int) -> AttemptRow | None:
        """Go on to the random instant; the attempt is ``None`` when its request did not live to make one."""
        before = 0
        if self.way == 'glance-direct':
            before = 1
            staged = self._caller.ask('PUT', f'/v2/images/{self.image_id}/stage', self._first)
            if staged is None or staged.status != 204:
                return None
        self._exchange = Exchange(port)
        with contextlib.suppress(OSError):
            if self.way in ('glance-direct', 'web-download'):
                url = None
                if self.way == 'web-download':
                    url, self._goes_on = self._source.offer(self.image_id, self._first, self._upto)
                method, path, body, headers = importing(self.image_id, url)
                self._exchange.head(method, path, {**HEADERS, **headers, 'Content-Length': str(len(body))}).send(body)
            else:
                framing = {'Content-Length': str(len(self._first))}
                if self.way == 'upload in chunks':
                    framing = {'Transfer-Encoding': 'chunked'}
                where = 'stage' if self.way == 'stage' else 'file'
                self._exchange.head('PUT', f'/v2/images/{self.image_id}/{where}', {**HEADERS, **framing})
                self._send(self._first[:self._upto])
                if self._upto == len(self._first):
                    self._send(b'')
        return self._instant(before)

    def _instant(self, before: int) -> AttemptRow | None:
        """Some looks after the attempt has begun, or its end."""
        looks, deadline = self._looks, time.monotonic() + LEASE_SECONDS
        while True:
            attempts = self._store.attempts(self.image_id)
            if len(attempts) > before:
                looks -= 1
                if looks < 0 or attempts[-1].state is not State.RUNNING:
                    return attempts[-1]
            elif time.monotonic() > deadline:
                return None
            time.sleep(POLL_SECONDS / 100)

    def go_on(self) -> int | None:
        """Do the rest, and return the status of the answer."""
        if self._goes_on is not None:
            self._goes_on.set()
        if self._exchange is None:
            return None
        with self._exchange, contextlib.suppress(OSError):
            if self.way in PAUSED_WAYS[:3] and self._upto < len(self._first):
                self._send(self._first[self._upto:])
                self._send(b'')
            return self._exchange.status()
        return None

    def _send(self, data: bytes) -> None:
        """In pieces of random sizes; no data ends what is sent in chunks."""
        assert self._exchange is not None
        in_chunks = self.way == 'upload in chunks'
        if not data and in_chunks:
            self._exchange.chunk(b'')
        while data:
            size = self._random.randrange(1, len(data) + 1)
            piece, data = data[:size], data[size:]
            self._exchange.send(chunked(piece) if in_chunks else piece)

    def retry(self) -> Answer | None:
        """Bring other data into the image."""
        way = self._random.choice(('file', 'stage'))
        if self.way == 'web-download':
            way = 'import'
            url, _ = self._source.offer(f'{self.image_id}-again', self._second)
            answer = self._caller.ask(*importing(self.image_id, url))
        else:
            answer = self._caller.ask('PUT', f'/v2/images/{self.image_id}/{way}', self._second)
        self.see(f'{way} {answer.status if answer else "unanswered"}')
        if answer is not None:
            assert answer.status in (202, 204, 409), (str(self), answer.status, answer.text)
            self._retried |= answer.status != 409
        return answer

    def finish(self) -> None:
        """Look and try again until the image is active; on the way it is never anything but what is promised."""
        wait_for(self._active, lambda: str(self))
        answer = self._caller.ask_on('GET', f'/v2/images/{self.image_id}/file')
        image = self._caller.show(self.image_id)
        content = answer.body
        assert content == self._second or (content == self._first and not self._retried), str(self)
        assert (image['checksum'], image['size']) == (hashlib.md5(content).hexdigest(), len(content)), str(self)
        assert ERROR not in image, str(self)

    def _active(self) -> bool | None:
        image = self._caller.show(self.image_id)
        status = image['status']
        self.see(status)
        if status == 'active':
            return True
        attempts = self._store.attempts(self.image_id)
        running = bool(attempts) and attempts[-1].state is State.RUNNING
        if status == 'error':
            assert image[f'{ERROR}_retryable'] == 'true', (str(self), image)
            self.retry()
        elif status == 'queued' and not running:
            # Without an error it must be untouched; what ended just now shows at the next look.
            again = self._caller.show(self.image_id)['status']
            assert not attempts or again != 'queued', (str(self), attempts)
            if again == 'queued':
                self.retry()
        elif status == 'uploading' and not running:
            answer = self._caller.ask(*importing(self.image_id))
            self.see(f'import {answer.status if answer else "unanswered"}')
            assert answer is None or answer.status in (202, 409), (str(self), answer.text)
        return None

    def refused(self, because: str) -> None:
        """It is to be refused to bring data into the image now."""
        answer = self.retry()
        assert answer is not None and answer.status == 409, str(self)
        assert because in answer.text, (str(self), answer.text)

    def see(self, what: str) -> None:
        """Note what happened, if it is new."""
        if not self.seen or self.seen[-1] != what:
            self.seen.append(what)


class Strikes:
    """Signals to workers, and the names of those that have had one."""

    def __init__(self, server: Server) -> None:
        self.workers: set[str] = set()
        self._server = server

    def kill(self, worker: str) -> bool:
        """Kill this worker; whether it was there."""
        return self.send(worker, signal.SIGKILL)

    def send(self, worker: str, what: signal.Signals) -> bool:
        """Send a signal to this worker; whether it was there."""
        process = int(worker.split(':')[1])
        self.workers.add(worker)
        with contextlib.suppress(OSError):
            # Its number could be another's by now.
            parent = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[1]
            if int(parent) == self._server.process.pid:
                os.kill(process, what)
                return True
        return False


@pytest.fixture(scope='module')
def glances_database(new_glance_database: conftest.NewGlanceDatabase) -> Sections:
    return new_glance_database()


@pytest.fixture(scope='module')
def glance(
    glances_database: Sections, glance_template: PrivateGlance, tmp_path_factory: pytest.TempPathFactory,
) -> PrivateGlance:
    """A Glance with the guard; the lease is the shortest there is, and the fence stays closed without a proof."""
    # Glance does not import from loopback unless it is told to.
    settings = {**glances_database, 'import_filtering_opts': {'allowed_hosts': '[127.0.0.1]', 'allowed_ports': '[]'}}
    return lay_out(
        tmp_path_factory.mktemp('glance') / 'glance', guard={'lease_seconds': '5', 'fence_seconds': '3600'},
        identity=IDENTITY, settings=settings, database=glance_template.database)


@pytest.fixture(scope='module')
def server(glance: PrivateGlance, start_module_server: conftest.StartServer) -> Iterator[Server]:
    """Four processes of two threads."""
    with start_module_server(Kind.UWSGI_HTTP, None, size=Size(4, 2), again=glance) as running:
        yield running


@pytest.fixture(scope='module')
def guards_store(server: Server) -> Iterator[GuardsStore]:
    """What the guard has stored."""
    store = GuardsStore(server, LEASE_SECONDS)
    yield store
    store.close()


@pytest.fixture(scope='module')
def source() -> Iterator[SlowSource]:
    """Where web-download finds data."""
    made = SlowSource()
    yield made
    made.close()


def check_rest(server: Server, caller: Caller, store: GuardsStore, trials: list[Trial], struck: set[str]) -> None:
    """Nothing is left behind, and no verdict was spoken on an attempt whose worker lived."""
    def attempts(state: State) -> set[tuple[str, str]]:
        return {(trial.image_id, each.worker) for trial in trials for each in store.attempts(trial.image_id)
                if each.state is state}

    def tidy() -> bool | None:
        residues[:] = [f'{image_id} runs' for image_id, _ in attempts(State.RUNNING)]
        residues.extend(f'{path.name} is staged' for path in server.glance.staging.iterdir() if path.name in ids)
        for path in server.glance.store.iterdir():
            status = caller.show(path.name)['status']
            if status != 'active':
                residues.append(f'{path.name} is stored, but {status}')
        for trial in trials:
            locks = caller.show(trial.image_id).keys() & {'os_glance_import_task', 'os_glance_stage_host'}
            residues.extend(f'{trial.image_id} has {name}' for name in locks)
        return not residues or None

    ids = {trial.image_id for trial in trials}
    residues: list[str] = []
    # An import becomes active before it has put its things away, and its attempt ends after it; where its worker died
    # in between, another one does that.
    wait_for(tidy, lambda: f'{residues}: {[str(each) for each in trials if each.image_id in str(residues)]}')
    wrong = [(str(trial), attempt) for trial in trials for attempt in store.attempts(trial.image_id)
             if attempt.state in (State.FAILED, State.LOST) and attempt.worker not in struck]
    assert not wrong


def report(title: str, trials: list[Trial], store: GuardsStore) -> None:
    """Print what happened, for whoever wants to see it (``pytest -s``, or when something is wrong)."""
    states = Counter(attempt.state.value for trial in trials for attempt in store.attempts(trial.image_id))
    print(f'\nIMGGUARD_KILL_SEED={SEED}: {title}; attempts: {dict(states)}')
    for trial in trials:
        print(f'  {trial}')


def test_workers_killed_at_any_instant(server: Server, guards_store: GuardsStore, source: SlowSource) -> None:
    caller, strikes = Caller(server), Strikes(server)
    trials: list[Trial] = []
    print(f'IMGGUARD_KILL_SEED={SEED}')

    def play(number: int) -> None:
        trial = Trial(WAYS[number % len(WAYS)], Random(f'{SEED}/{number}'), caller, guards_store, source)
        trials.append(trial)
        attempt = trial.begin(server.port)
        if attempt is None:
            # Its worker died of another round.
            trial.see(f'not begun {trial.go_on()}')
        else:
            trial.see(f'{attempt.state} {strikes.kill(attempt.worker)} {trial.go_on()}')
        trial.finish()

    with ThreadPoolExecutor(PLAYERS) as players:
        rounds = [players.submit(play, number) for number in range(KILL_ROUNDS)]
    report(f'{KILL_ROUNDS} rounds of killing', trials, guards_store)
    for each in rounds:
        each.result()
    check_rest(server, caller, guards_store, trials, strikes.workers)


class Locks:
    """Whether a paused worker holds a lock in a database: then nobody else can do anything, guarded or not."""

    def __init__(self, glance: PrivateGlance, database: Sections) -> None:
        self._files = [glance.guard_database] if database else [glance.guard_database, glance.database]
        self._url = make_url(database['database']['connection']) if database else None

    def are_free(self) -> bool:
        """Whether everybody else could write."""
        return all(map(self._is_free, self._files)) and not self._in_transaction()

    @staticmethod
    def _is_free(path: Path) -> bool:
        with contextlib.closing(sqlite3.connect(path, timeout=2, isolation_level=None)) as connection:
            try:
                connection.execute('BEGIN IMMEDIATE')
                connection.execute('ROLLBACK')
            except sqlite3.OperationalError:
                return False
        return True

    def _in_transaction(self) -> bool:
        if self._url is None:
            return False
        engine = create_engine(self._url, isolation_level='AUTOCOMMIT')
        try:
            with engine.connect() as connection:
                looks = [connection.exec_driver_sql(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND state LIKE 'idle in transaction%%'").scalar_one() for _ in range(20)]
        finally:
            engine.dispose()
        return all(looks)


def pause(strikes: Strikes, worker: str, locks: Locks) -> None:
    """Stop the worker where it holds no lock."""
    def stopped() -> bool | None:
        assert strikes.send(worker, signal.SIGSTOP)
        if locks.are_free():
            return True
        strikes.send(worker, signal.SIGCONT)
        return None

    wait_for(stopped, lambda: 'an instant without locks')


def pass_the_fence(glance: PrivateGlance, worker: str) -> None:
    """Let the last sign of life of this worker's attempts be so old that they may be cleared away."""
    with contextlib.closing(sqlite3.connect(glance.guard_database, timeout=30)) as connection, connection:
        connection.execute('UPDATE imgguard_attempts SET updated_at = updated_at - 3600 WHERE worker = ?', [worker])


@pytest.mark.parametrize('number', range(STOP_ROUNDS))
def test_a_worker_paused_at_any_instant(
    number: int, server: Server, glance: PrivateGlance, glances_database: Sections, guards_store: GuardsStore,
    source: SlowSource, start_server: conftest.StartServer,
) -> None:
    """In every second round its images are cleared and tried again before it wakes up."""
    caller, cleared = Caller(server), number % 2 == 1
    print(f'IMGGUARD_KILL_SEED={SEED}')
    # A server of its own: a paused worker of uWSGI may hold the lock that all of them need to take requests.
    with start_server(Kind.UWSGI_HTTP, None, size=Size(1, len(PAUSED_WAYS)), again=glance) as paused:
        strikes = Strikes(paused)
        random = Random(f'{SEED}/stop/{number}')
        trials = [Trial(way, random, caller, guards_store, source) for way in PAUSED_WAYS]
        begun = [trial.begin(paused.port) for trial in trials]
        [worker] = {attempt.worker for attempt in begun if attempt is not None}
        pause(strikes, worker, Locks(glance, glances_database))
        try:
            held = [trial for trial in trials if guards_store.running(trial.image_id)]
            for trial in held:
                trial.refused('under way')
            for trial in held:
                wait_for(lambda: caller.show(trial.image_id)['status'] in ('error', 'active') or None,
                         lambda: f'a verdict: {trial}')
                if caller.show(trial.image_id)['status'] == 'error':
                    trial.refused('A new attempt works from')
            if cleared:
                pass_the_fence(glance, worker)
                for trial in held:
                    trial.finish()
        finally:
            strikes.send(worker, signal.SIGCONT)
        for trial in trials:
            trial.see(f'awake, {"paused" if trial in held else "ended before"}')
            trial.see(f'answered {trial.go_on()}')
        for trial in trials:
            trial.finish()
        report(f'{"cleared" if cleared else "not cleared"} while it was paused', trials, guards_store)
        # What an import has left it may put away only now.
        check_rest(server, caller, guards_store, trials, strikes.workers)
