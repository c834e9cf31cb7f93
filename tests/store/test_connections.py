"""Connections that die, transactions that collide, processes that fork, and what the errors tell."""

import contextlib
import logging
import os
import sqlite3
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, QueuePool, insert, select, text, update

from imgguard.errors import StoreUnavailable
from imgguard.store import Store
from imgguard.store.engine import Database
from imgguard.store.models import images
from tests.store.conftest import CREATED, LEASE, begun

SESSION = {'postgresql': 'SELECT pg_backend_pid()', 'mariadb': 'SELECT connection_id()'}
SECRET = 'sec' + 'ret'
KILL = {'postgresql': 'SELECT pg_terminate_backend(%s)', 'mariadb': 'KILL %s'}


@pytest.fixture
def server(backend: str) -> str:
    if backend == 'sqlite':
        pytest.skip('SQLite has no server')
    return backend


def _session(database: Database) -> int:
    number: int = database.read(lambda connection: connection.exec_driver_sql(SESSION[database.backend]).scalar_one())
    return number


def _session_of_looks(database: Database) -> int:
    return int(database.rows(select(text(SESSION[database.backend].removeprefix('SELECT '))), {})[0][0])


def _kill(database: Database, session: int) -> None:
    other = Database(database.url.render_as_string(hide_password=False))
    other.read(lambda connection: connection.exec_driver_sql(KILL[database.backend] % session).close())
    other.close()


def test_a_read_survives_a_dead_connection(server: str, database: Database) -> None:
    session = _session(database)
    _kill(database, session)
    assert _session(database) != session


@pytest.mark.parametrize('session', [_session, _session_of_looks])
def test_a_look_at_one_image_survives_a_dead_connection(
        server: str, url: str, session: Callable[[Database], int]) -> None:
    store = Store(url, LEASE)
    begun(store)
    _kill(store._database, session(store._database))
    assert set(store.records(['image'])) == {('image', CREATED)}
    assert set(store.records(['image'])) == {('image', CREATED)}
    store.close()


def test_looks_keep_few_connections_from_all_else(database: Database) -> None:
    mine = database._mine()
    pool = mine.engine.pool
    assert isinstance(pool, QueuePool)
    taken = [mine.connection() for _ in range(10)]
    assert len({id(connection.dbapi_connection) for connection in taken}) == 10, 'none is used twice at a time'
    for connection in taken:
        mine.give_back(connection)
    assert pool.checkedout() == 3
    again = mine.connection()
    assert again in taken
    mine.give_back(again)
    database.write(lambda connection: None)
    assert pool.checkedout() == 0, 'none is silent for longer than a worker is'


def test_what_a_server_has_forgotten_is_prepared_again(server: str, url: str) -> None:
    """psycopg makes PostgreSQL forget it with a ROLLBACK, a server between with another connection."""
    store = Store(url, LEASE)
    begun(store)
    sessions = set()
    for _ in range(3):
        assert set(store.records(['image'])) == {('image', CREATED)}
        connection, = store._database._mine().idle
        sessions.add(id(connection.driver_connection))
        cursor = connection.cursor()
        cursor.execute('DEALLOCATE ALL' if server == 'postgresql' else 'FLUSH TABLES')
        cursor.close()
    assert len(sessions) == 1, 'that is no reason to connect again'
    store.close()


@pytest.mark.parametrize('image_id', ['image', 'im\0age', 'imäge', "im'a\\ge", 'im%%age %s $1', '\ud800'])
def test_an_id_is_what_it_is(database: Database, url: str, image_id: str) -> None:
    store = Store(url, LEASE)
    begun(store, 'im')
    if image_id not in ('im\0age', '\ud800'):
        begun(store, image_id)
        assert set(store.records([image_id])) == {(image_id, CREATED)}
    else:
        # Not storable everywhere, so that no image has it.
        with contextlib.suppress(StoreUnavailable, UnicodeError):
            assert store.records([image_id]) == {}
    store.close()


def test_a_look_at_one_image_tells_what_is_wrong(database: Database) -> None:
    query = select(text('nothing')).select_from(text('nowhere'))
    with pytest.raises(StoreUnavailable, match='nothing|nowhere|tables'):
        database.rows(query, {})
    assert database.read(lambda connection: connection.exec_driver_sql('SELECT 1').scalar_one()) == 1


def test_a_write_survives_a_dead_connection(server: str, url: str, database: Database) -> None:
    calls: list[int] = []

    def change(connection: Connection) -> None:
        calls.append(1)
        connection.execute(insert(images).values(image_id='x', created_at=CREATED, attempts=0, last_number=0))
        if len(calls) == 1:
            _kill(database, connection.exec_driver_sql(SESSION[server]).scalar_one())
            connection.exec_driver_sql('SELECT 1')

    database.write(change)
    assert len(calls) == 2
    assert len(database.read(lambda connection: connection.execute(select(images)).all())) == 1


@pytest.mark.parametrize('number,same', [(1047, False), (1213, True), (1684, True)])
def test_what_a_node_refuses_is_asked_again(server: str, database: Database, number: int, same: bool) -> None:
    """On another connection where this one's node has lost the cluster: the next may reach another node."""
    if server != 'mariadb':
        pytest.skip('only MariaDB has nodes')
    sessions: list[int] = []

    def ask(connection: Connection) -> int:
        session: int = connection.exec_driver_sql(SESSION[server]).scalar_one()
        sessions.append(session)
        if len(sessions) == 1:
            connection.exec_driver_sql(f"SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {number}")
        return session

    assert database.read(ask) == sessions[1]
    assert (sessions[0] == sessions[1]) is same


def test_a_commit_is_never_repeated(server: str, database: Database) -> None:
    """Nobody knows whether it happened."""
    calls: list[int] = []

    def change(connection: Connection) -> None:
        calls.append(1)
        _kill(database, connection.exec_driver_sql(SESSION[server]).scalar_one())

    with pytest.raises(StoreUnavailable):
        database.write(change)
    assert len(calls) == 1


def test_a_deadlock_is_tried_again(server: str, url: str, database: Database) -> None:
    store = Store(url, LEASE)
    keys = [begun(store, image).key for image in ('one', 'two')]
    store.close()
    both, calls = threading.Barrier(2), []

    def work(order: list[int]) -> None:
        def change(connection: Connection) -> None:
            calls.append(order)
            for key in order:
                connection.execute(update(images).where(images.c.key == key).values(last_number=2))
                if len(calls) <= 2 and key == order[0]:
                    both.wait(10)

        database.write(change)

    threads = [threading.Thread(target=work, args=(order,)) for order in (keys, keys[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(calls) == 3


def test_a_failed_change_leaves_nothing(database: Database) -> None:
    def change(connection: Connection) -> None:
        connection.execute(insert(images).values(image_id='x', created_at=CREATED, attempts=0, last_number=0))
        raise RuntimeError('stopped')

    with pytest.raises(RuntimeError):
        database.write(change)
    assert database.read(lambda connection: connection.execute(select(images)).all()) == []


def test_reads_open_no_transaction(server: str, url: str, database: Database,
                                   statements: list[tuple[str, object, str]]) -> None:
    question = {'postgresql': 'SELECT now() <> statement_timestamp()', 'mariadb': 'SELECT @@in_transaction'}[server]

    def ask(connection: Connection) -> object:
        connection.execute(select(images)).all()
        return connection.exec_driver_sql(question).scalar()

    assert not database.read(ask)
    statements.clear()
    database.read(ask)
    assert [statement.split()[0] for statement, _, _ in statements] == ['SELECT', 'SELECT']


def test_a_forked_process_has_its_own_connections(backend: str, url: str) -> None:
    store = Store(url, LEASE)
    claim = begun(store)
    process = os.fork()
    if not process:
        code = 1
        try:
            same = store.renew('worker', 'host', {(claim.key, claim.number): 1}) == {(claim.key, claim.number)}
            code = 0 if same and begun(store, 'of the child').number == 1 else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert store.renew('worker', 'host', {(claim.key, claim.number): 2}) == {(claim.key, claim.number)}
    assert begun(store, 'of the parent').number == 1
    store.close()


@pytest.mark.parametrize('session', [_session, _session_of_looks])
def test_a_fork_leaves_the_session_of_the_parent(
        server: str, database: Database, session: Callable[[Database], int]) -> None:
    before = session(database)
    process = os.fork()
    if not process:
        code = 1
        try:
            code = 0 if session(database) != before else 2
            database.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert session(database) == before


def test_close_is_no_end(url: str) -> None:
    store = Store(url, LEASE)
    begun(store)
    store.close()
    store.close()
    assert store.records(['image'])
    store.close()


@pytest.mark.parametrize('unreachable', [
    'postgresql+psycopg://guard:sesame@127.0.0.1:1/imgguard',
    'postgresql+psycopg://127.0.0.1:1/imgguard?user=guard&password=sesame',
    'mysql+pymysql://guard:sesame@127.0.0.1:1/imgguard',
])
def test_no_password_in_any_error_or_log(unreachable: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(unreachable, LEASE)
    with caplog.at_level(logging.DEBUG):
        calls: list[Callable[[], object]] = [
            store.version, store.upgrade, store.check, lambda: store.records(['image']),
            lambda: store.remember('image', CREATED, None, None)]
        for call in calls:
            with pytest.raises(StoreUnavailable, match='database imgguard at 127.0.0.1:1') as caught:
                call()
            assert caught.value.__cause__ is not None
            assert 'sesame' not in ''.join(traceback.format_exception(caught.value))
            assert 'onnection refused' in str(caught.value) or "Can't connect" in str(caught.value)
    assert 'sesame' not in caplog.text + repr(store) + repr(vars(store))


def test_no_value_in_any_error(database: Database) -> None:
    twice = insert(images).values(image_id='a secret', created_at=CREATED, attempts=0, last_number=0)

    def change(connection: Connection) -> None:
        connection.execute(twice)
        connection.execute(twice)

    with pytest.raises(StoreUnavailable) as caught:
        database.write(change)
    assert 'a secret' not in str(caught.value)
    assert 'IntegrityError' in str(caught.value) or 'UniqueViolation' in str(caught.value)
    assert database.read(lambda connection: connection.execute(select(images)).all()) == []


def test_no_parameter_even_in_the_cause(database: Database) -> None:
    statement = text('SELECT 1 FROM nowhere WHERE :value = :value')
    for run in (database.read, database.write):
        with pytest.raises(StoreUnavailable) as caught:
            run(lambda connection: connection.execute(statement, {'value': SECRET}))
        assert 'nowhere' in str(caught.value.__cause__)
        assert SECRET not in ''.join(traceback.format_exception(caught.value))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / 'guard.db').write_text('no database at all, but quite a long text ' * 100)
    with pytest.raises(StoreUnavailable, match='file is not a database'):
        Store(f'sqlite:///{tmp_path}/guard.db', LEASE).upgrade()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    store = Store(f'sqlite:///{tmp_path}/missing/guard.db', LEASE)
    for call in (store.upgrade, store.check, store.version):
        with pytest.raises(StoreUnavailable, match='No such file or directory'):
            call()


def test_how_a_sqlite_store_is_opened(tmp_path: Path) -> None:
    """Nothing that was answered is lost with the machine: the journal is synced at each commit."""
    database = Database(f'sqlite:///{tmp_path}/guard.db')
    pragmas = {name: database.read(lambda connection: connection.exec_driver_sql(f'PRAGMA {name}').scalar())
               for name in ('journal_mode', 'synchronous', 'foreign_keys', 'busy_timeout')}
    database.close()
    assert pragmas == {'journal_mode': 'wal', 'synchronous': 2, 'foreign_keys': 1, 'busy_timeout': 30000}


def test_a_sqlite_write_takes_the_lock_at_once(tmp_path: Path) -> None:
    """Two transactions that read first and write then would not queue, but fail."""
    database = Database(f'sqlite:///{tmp_path}/guard.db')

    def change(connection: Connection) -> None:
        other = sqlite3.connect(tmp_path / 'guard.db', timeout=0, isolation_level=None)
        try:
            with pytest.raises(sqlite3.OperationalError, match='locked'):
                other.execute('BEGIN IMMEDIATE')
        finally:
            other.close()

    database.write(change)
    database.close()


def test_waiting_for_a_lock_ends(server: str, database: Database) -> None:
    question = {'postgresql': 'SHOW lock_timeout', 'mariadb': 'SELECT @@innodb_lock_wait_timeout'}[server]
    answer: object = database.read(lambda connection: connection.exec_driver_sql(question).scalar())
    assert answer in ('10s', 10)


def test_a_session_of_mariadb_runs_in_utc(server: str, database: Database) -> None:
    """The seconds of a local time are ambiguous in the hour when summer ends."""
    if server != 'mariadb':
        pytest.skip('only MariaDB tells seconds by way of a local time')
    question = 'SELECT @@session.time_zone'
    assert database.read(lambda connection: connection.exec_driver_sql(question).scalar()) == '+00:00'


def test_the_engine_is_made_when_it_is_needed(new_database: Callable[[], str]) -> None:
    assert Database(new_database())._processes == {}
