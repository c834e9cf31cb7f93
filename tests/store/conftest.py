"""A store on each database: SQLite in a file, PostgreSQL and MariaDB where a server can be reached.

``IMGGUARD_TEST_POSTGRESQL`` and ``IMGGUARD_TEST_MARIADB`` are URLs of an account that may create databases.
``IMGGUARD_REQUIRE=postgresql,mariadb`` makes a server that cannot be reached an error instead of a skip.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from sqlalchemy import ColumnElement, Connection, Double, event, literal, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from imgguard.attempts import Claim, ErrorState, Failure, Kind, NewAttempt, Running, State
from imgguard.store import Store
from imgguard.store.engine import Database
from tests.harness import SERVERS, administer

LEASE = 60.0
SKEW = 5.0
UPLOAD = NewAttempt(Kind.UPLOAD, guarded=True, request_id='req-1', user_id='user', project_id='project',
                    host='host', worker='worker', bytes_expected=10)
UNGUARDED = replace(UPLOAD, guarded=False)
CUT = Failure('client_disconnected', 'The connection was lost.')
RUNNING = Running(1, guarded=True, alive=True, since=0.0, kind=Kind.UPLOAD, host='host', worker='worker', task_id=None,
                  silent_for=0.0)
VERDICT = ErrorState(1, 'client_disconnected', 'The connection was lost.', at=0.0, request_id='req-1', bytes_received=7)
SILENCE = LEASE + SKEW
CREATED = '2026-11-22T22:19:29Z'

_counter = itertools.count()


class Hands:
    """A clock whose hands the test moves: ``hands.seconds += 66``."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.25

    def __call__(self) -> ColumnElement[float]:
        return literal(self.seconds, Double())


@pytest.fixture(scope='session', params=['sqlite', 'postgresql', 'mariadb'])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a database whose server can be reached."""
    name: str = request.param
    if name in SERVERS:
        try:
            administer(name, 'SELECT 1')
        except SQLAlchemyError as error:
            if name in os.environ.get('IMGGUARD_REQUIRE', '').split(','):
                raise
            pytest.skip(f'no {name} at {make_url(SERVERS[name]).host}: {type(error).__name__}')
    return name


@pytest.fixture(scope='session')
def new_database(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Gives the URL of an empty database at each call; all are dropped at the end."""
    made: list[str] = []

    def make() -> str:
        name = f'imgguard_store_{os.getpid()}_{next(_counter)}'
        if backend == 'sqlite':
            return f'sqlite:///{tmp_path_factory.mktemp("store")}/{name}.db'
        administer(backend, f'CREATE DATABASE {name}')
        made.append(name)
        return make_url(SERVERS[backend]).set(database=name).render_as_string(hide_password=False)

    yield make
    for name in made:
        administer(backend, f'DROP DATABASE {name}' + (' WITH (FORCE)' if backend == 'postgresql' else ''))


@pytest.fixture(scope='session')
def upgraded_url(new_database: Callable[[], str]) -> str:
    url = new_database()
    store = Store(url, LEASE)
    store.upgrade()
    store.close()
    return url


@pytest.fixture
def url(upgraded_url: str) -> str:
    """A database at the newest revision and without a row."""
    database = Database(upgraded_url)

    def empty(connection: Connection) -> None:
        connection.exec_driver_sql('DELETE FROM imgguard_attempts')
        connection.exec_driver_sql('DELETE FROM imgguard_images')
        connection.exec_driver_sql('DELETE FROM imgguard_workers')
        connection.exec_driver_sql('DELETE FROM imgguard_outbox')

    database.write(empty)
    database.close()
    return upgraded_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def store(url: str, hands: Hands) -> Iterator[Store]:
    """A store whose time is told by ``hands``."""
    opened = Store(url, LEASE, SKEW, hands)
    yield opened
    opened.close()


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, object, str]]]:
    """Every statement sent from here on: text, parameters, and how SQLAlchemy's cache of statements did.

    Queries that go past SQLAlchemy go through it meanwhile.
    """
    monkeypatch.setattr(Database, 'rows', lambda database, query, parameters: database.read(
        lambda connection: connection.execute(query, parameters).all()))
    seen: list[tuple[str, object, str]] = []

    def note(connection: Connection, cursor: object, statement: str, parameters: object, context: object,
             many: bool) -> None:
        cache = getattr(getattr(context, 'cache_hit', None), 'name', 'NONE')
        seen.append((statement, parameters, cache))

    event.listen(Engine, 'before_cursor_execute', note)
    yield seen
    event.remove(Engine, 'before_cursor_execute', note)


def begun(store: Store, image_id: str = 'image', new: NewAttempt = UPLOAD, created_at: str = CREATED) -> Claim:
    """A claim that must not be refused."""
    claim = store.begin(image_id, created_at, 'owner', new)
    assert isinstance(claim, Claim)
    return claim


def failed(store: Store, image_id: str = 'image', failure: Failure = CUT, created_at: str = CREATED) -> Claim:
    """An attempt that failed and shows it."""
    claim = begun(store, image_id, created_at=created_at)
    assert store.finish(claim, State.FAILED, failure, shown=True, http_status=400, bytes_received=7)
    return claim


def elapse(store: Store, hands: Hands, seconds: float) -> None:
    """Time passes while another worker lives on and reaches the store: whoever is silent now is dead."""
    end = hands.seconds + seconds
    while hands.seconds + LEASE / 3 <= end:
        hands.seconds += LEASE / 3
        store.renew('another', 'elsewhere', {})
    hands.seconds = end


def error_of(store: Store, image_id: str = 'image') -> ErrorState | None:
    """The verdict the image shows."""
    return store.records([image_id])[image_id, CREATED].error
