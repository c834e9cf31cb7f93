"""The rows of the table of cases in which a process ends, a client is silent or the database goes, on real servers."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest
from sqlalchemy import URL, make_url

from demo.client import Client
from demo.private_glance import PrivateGlance, lay_out
from demo.server import HOST, Kind, Server, Size, start
from tests import conftest
from tests.cases import Case, proves
from tests.cases.servers import SERVERS
from tests.harness import IDENTITY, skip_or_fail
from tests.identity import token
from tests.sockets import TIMEOUT_SECONDS, Exchange, eventually
from tests.sources import AGAIN, DATA, Source, serving
from tests.uploading import ERROR, KEEP

CALLER = token('alice', 'project')
OCTETS = {'X-Auth-Token': CALLER, 'Content-Type': 'application/octet-stream'}
CASES = {case.number: case for case in SERVERS}
HALF = len(DATA) // 2


class Line:
    """The way to PostgreSQL, which can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nobody gets through any more."""
        self._is_cut = True
        while self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """New connections get through again."""
        self._is_cut = False

    def close(self) -> None:
        """Cut it for good."""
        self.cut()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listening.accept()
                if self._is_cut:
                    caller.close()
                    continue
                called = socket.create_connection(self._target)
                self._open += [caller, called]
                for one, other in ((caller, called), (called, caller)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope='module')
def glances_database(new_glance_database: conftest.NewGlanceDatabase) -> URL:
    """PostgreSQL: Glance on SQLite may refuse one writer of several, and cannot be cut off."""
    settings = new_glance_database()
    if not settings:
        skip_or_fail('postgresql', 'Glance needs a database that can be cut off')
    return make_url(settings['database']['connection'])


@pytest.fixture(scope='module')
def line(glances_database: URL) -> Iterator[Line]:
    with closing(Line(glances_database.host or HOST, glances_database.port or 5432)) as line:
        yield line


@pytest.fixture(scope='module')
def glance(
    line: Line, glances_database: URL, glance_template: PrivateGlance, tmp_path_factory: pytest.TempPathFactory,
) -> PrivateGlance:
    """A Glance whose database is at the end of the line; the lease of its guard is the shortest there is."""
    url = glances_database.set(host=HOST, port=line.port)
    settings = {'database': {'connection': url.render_as_string(hide_password=False)},
                'import_filtering_opts': {'allowed_hosts': '[127.0.0.1]', 'allowed_ports': '[]'}}
    return lay_out(tmp_path_factory.mktemp('glance') / 'glance', guard={'lease_seconds': '5'}, identity=IDENTITY,
                   settings=settings, database=glance_template.database)


@pytest.fixture(scope='module')
def source() -> Iterator[Source]:
    with serving() as source:
        yield source


class Life:
    """One Glance, served by one server after another."""

    def __init__(self, glance: PrivateGlance, source: Source) -> None:
        self.glance = glance
        self.source = source
        self._running: Server | None = None

    def under(self, kind: Kind, *arguments: str) -> Server:
        """A server of this kind; what ran before is stopped."""
        self.stop()
        self._running = start(self.glance, kind, Size(processes=2, threads=4), arguments)
        return self._running

    def server(self) -> Server:
        """The running server; uWSGI, where none runs any more."""
        running = self._running
        if running is None or running.process.poll() is not None:
            running = self.under(Kind.UWSGI_HTTP_SOCKET, '--socket-timeout=3')
        return running

    @staticmethod
    def wait_for_the_end_of(server: Server) -> None:
        """Wait until it has ended by itself."""
        try:
            server.process.wait(TIMEOUT_SECONDS)
        finally:
            server.kill()

    def stop(self) -> None:
        """Stop what runs."""
        if self._running is not None:
            self._running.stop()


@pytest.fixture(scope='module')
def life(glance: PrivateGlance, source: Source) -> Iterator[Life]:
    life = Life(glance, source)
    yield life
    life.stop()


class Trial:
    """One image, an attempt that stands still in its middle, and what comes of it."""

    def __init__(self, life: Life, case: Case) -> None:
        self.case = case
        self._life = life
        self._client = Client(life.server().port, OCTETS)
        answer = self._client.create({**KEEP, 'Content-Type': 'application/json'})
        assert answer.status == 201, answer.text
        self.image_id: str = answer.json['id']

    def send(self, to: str, data: bytes = DATA[:HALF]) -> Exchange:
        """Half of the data, and wait until it is on its way."""
        exchange = Exchange(self._client.port).head(
            'PUT', f'/v2/images/{self.image_id}/{to}', {**OCTETS, 'Content-Length': str(len(DATA))}).send(data)
        status = 'saving' if to == 'file' else 'uploading'
        eventually(lambda: self.show()['status'] == status, f'{status}: {self.case.what}')
        return exchange

    def fetch(self, path: str) -> None:
        """A download by Glance."""
        source = self._life.source
        source.asked.clear()
        answer = self._import({'name': 'web-download', 'uri': source.url(path)})
        assert answer.status == 202, answer.text
        eventually(lambda: self.show()['status'] == 'importing', 'importing')
        assert source.asked.wait(TIMEOUT_SECONDS)

    def _import(self, method: dict[str, str]) -> Any:
        return self._client.request('POST', f'/v2/images/{self.image_id}/import', json.dumps(
            {'method': method}).encode(), {'Content-Type': 'application/json'})

    def show(self) -> dict[str, Any]:
        """The image."""
        image: dict[str, Any] = self._client.show(self.image_id).json
        return image

    def check(self) -> None:
        """It is shown in error as the row says, and works on the same id; nothing is left behind."""
        self._client = Client(self._life.server().port, OCTETS)
        image = eventually(self._in_error, self.case.what)
        assert image[f'{ERROR}_code'] == self.case.code, image
        assert [words for words in self.case.words if words not in image[ERROR]] == [], image
        assert image[f'{ERROR}_retryable'] == str(self.case.retryable).lower()
        eventually(lambda: self._client.upload(self.image_id, AGAIN).status == 204, f'a retry: {self.case.what}')
        self.check_active(AGAIN)
        newest, *older = self._client.request('GET', f'/v2/images/{self.image_id}/attempts').json['attempts']
        assert newest['state'] == 'succeeded' and older[-1]['state'] in ('failed', 'lost')
        assert older[-1]['code'] == self.case.code

    def _in_error(self) -> dict[str, Any]:
        image = self.show()
        return image if image['status'] == 'error' else {}

    def check_active(self, data: bytes) -> None:
        """It is active with this data, and nothing else is left of it."""
        self._client = Client(self._life.server().port, OCTETS)
        eventually(lambda: self.show()['status'] == 'active', self.case.what)
        image = self.show()
        assert image['checksum'] == hashlib.md5(data).hexdigest()
        assert not [name for name in image if name.startswith(ERROR)]
        glance = self._life.glance
        assert self._client.request('GET', f'/v2/images/{self.image_id}/file').body == data
        assert (glance.store / self.image_id).read_bytes() == data

        def rest() -> set[str]:
            held = {name for name in ('os_glance_import_task', 'os_glance_stage_host') if name in self.show()}
            return held | {path.name for path in glance.staging.glob(f'{self.image_id}*')}
        eventually(lambda: not rest(), f'no rest: {self.case.what}')
        tasks = self._client.request('GET', f'/v2/images/{self.image_id}/tasks').json['tasks']
        assert {task['status'] for task in tasks} <= {'success', 'failure'}


@proves('1.20', '2.14', '4.28')
def test_the_workers_are_killed(life: Life) -> None:
    server = life.server()
    upload, stage, fetch = (Trial(life, CASES[number]) for number in ('1.20', '2.14', '4.28'))
    with ExitStack() as open_ones:
        open_ones.enter_context(upload.send('file'))
        open_ones.enter_context(stage.send('stage'))
        fetch.fetch('silent')
        server.kill()
        life.source.release()
    for trial in (upload, stage, fetch):
        trial.check()


@proves('1.21')
def test_uwsgi_is_stopped_during_uploads(life: Life) -> None:
    server = life.server()
    upload, stage = (Trial(life, CASES[number]) for number in ('1.21', '2.14'))
    with upload.send('file'), stage.send('stage'):
        server.process.terminate()
        life.wait_for_the_end_of(server)
    for trial in (upload, stage):
        trial.check()


@proves('4.29')
def test_uwsgi_is_stopped_during_an_import(life: Life) -> None:
    server = life.server()
    fetch = Trial(life, CASES['4.29'])
    fetch.fetch('slow')
    server.process.terminate()
    life.source.release()
    life.wait_for_the_end_of(server)
    fetch.check_active(DATA)


@proves('1.40')
def test_the_client_is_silent(life: Life) -> None:
    trial = Trial(life, CASES['1.40'])
    with trial.send('file') as exchange:
        assert exchange.status() == 500
    trial.check()


@proves('1.23')
def test_glances_database_is_lost(life: Life, line: Line) -> None:
    trial = Trial(life, CASES['1.23'])
    with trial.send('file') as exchange:
        line.cut()
        assert exchange.send(DATA[HALF:]).status() == 500
    line.mend()
    trial.check()


@proves('1.22')
def test_gunicorn_ends_a_worker(life: Life) -> None:
    life.under(Kind.GUNICORN_SYNC, '--timeout=3')
    trial = Trial(life, CASES['1.22'])
    with trial.send('file') as exchange:
        assert exchange.status() in (None, 500)
    trial.check()
