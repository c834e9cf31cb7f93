"""The migrations: from nothing to the newest revision, at once, twice, and what stands in their way."""

import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, insert, inspect, make_url, select

import imgguard
from imgguard.errors import StoreUnavailable
from imgguard.store import Store, schema
from imgguard.store.engine import Database
from imgguard.store.files import locked
from imgguard.store.models import HEAD, VERSION_TABLE, metadata
from tests.harness import administer
from tests.store.conftest import LEASE, begun


def test_from_nothing_to_the_newest(new_database: Callable[[], str]) -> None:
    store = Store(new_database(), LEASE)
    assert store.version() is None
    store.upgrade()
    assert store.version() == HEAD
    store.check()
    begun(store)
    store.close()


def test_head_is_the_newest_of_the_migrations() -> None:
    assert ScriptDirectory.from_config(schema.configuration()).get_current_head() == HEAD


def test_twice_does_nothing(new_database: Callable[[], str], statements: list[tuple[str, object, str]]) -> None:
    store = Store(new_database(), LEASE)
    store.upgrade()
    claim = begun(store)
    statements.clear()
    store.upgrade()
    assert not [text for text, _, _ in statements if text.lstrip().startswith(('CREATE', 'INSERT', 'BEGIN'))]
    assert store.renew('worker', 'host', {(claim.key, claim.number): 1})
    store.close()


def test_migrations_and_models_describe_the_same(database: Database) -> None:
    def drift(connection: Connection) -> object:
        context = MigrationContext.configure(
            connection, opts={'version_table': VERSION_TABLE, 'compare_type': True, 'compare_server_default': True})
        return compare_metadata(context, metadata)

    assert database.read(drift) == []


def test_the_models_name_the_same_collations(database: Database, new_database: Callable[[], str]) -> None:
    """What Alembic's comparison leaves out: an id in another case is another image, on every database."""
    from_models = Database(new_database())
    from_models.write(metadata.create_all)

    def columns(connection: Connection) -> list[str]:
        return [str(column['type']) + str(getattr(column['type'], 'collation', None))
                for table in ('imgguard_images', 'imgguard_attempts', 'imgguard_workers', 'imgguard_outbox')
                for column in inspect(connection).get_columns(table)]

    assert from_models.read(columns) == database.read(columns)
    from_models.close()


def test_from_the_first_revision_with_data(new_database: Callable[[], str]) -> None:
    """What was not cleared away under the old imgguard is looked for under the new one."""
    database = Database(new_database())
    config = schema.configuration()

    def first(connection: Connection) -> None:
        config.attributes['connection'] = connection
        command.upgrade(config, '0001')

    def data(connection: Connection) -> None:
        tables = MetaData()
        old = Table('imgguard_images', tables, autoload_with=connection)
        history = Table('imgguard_attempts', tables, autoload_with=connection)
        made = {'created_at': '2026-11-22T22:19:29Z', 'attempts': 1, 'clearing_number': 0}
        for image_id, number, cleared, error in (('clean', 1, 1, 1), ('left', 2, 1, 2), ('waits', 0, 0, None)):
            connection.execute(insert(old).values(
                **made, image_id=image_id, last_number=number, cleared_number=cleared, error_number=error,
                error_code=error and 'declared', error_at=error and 1.5))
            key = connection.execute(select(old.c.key).where(old.c.image_id == image_id)).scalar_one()
            for each in range(number):
                connection.execute(insert(history).values(
                    image_key=key, number=each + 1, kind='upload', state='failed', guarded=True, started_at=1,
                    updated_at=1, bytes_received=0, host='h', worker='w'))

    database.write(first)
    database.write(data)
    schema.upgrade(database)
    assert schema.version(database) == HEAD
    store = Store(database.url.render_as_string(hide_password=False), LEASE)
    found = [record for image_id in ('clean', 'left', 'waits') for record in store.find(image_id)]
    assert [(record.image_id, record.remains) for record in found] == [
        ('clean', False), ('left', True), ('waits', False)]
    assert store.remaining(10) == ['left']
    store.close()
    database.close()


def _upgrade(url: str, start: object) -> None:
    store = Store(url, LEASE)
    start.wait()  # type: ignore[attr-defined]
    store.upgrade()
    assert store.version() == HEAD
    begun(store, image_id='another' + str(multiprocessing.current_process().pid))
    store.close()


def test_eight_processes_at_once(new_database: Callable[[], str]) -> None:
    url = new_database()
    spawn = multiprocessing.get_context('spawn')
    start = spawn.Barrier(8)
    processes = [spawn.Process(target=_upgrade, args=(url, start)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 8


def test_an_upgrade_of_a_file_waits_for_another(tmp_path: Path) -> None:
    store = Store(f'sqlite:///{tmp_path}/guard.db', LEASE)
    assert store.version() is None
    waiting = threading.Thread(target=store.upgrade)
    with locked(f'{tmp_path}/guard.db'):
        waiting.start()
        waiting.join(0.5)
        assert store.version() is None
    waiting.join(60)
    assert store.version() == HEAD
    store.close()


def test_a_half_made_store_is_completed(new_database: Callable[[], str]) -> None:
    """MariaDB keeps what was made before the upgrade was killed."""
    url = new_database()
    database = Database(url)
    database.write(metadata.tables['imgguard_images'].create)
    database.close()
    store = Store(url, LEASE)
    store.upgrade()
    store.check()
    begun(store)
    store.close()


def test_tables_of_somebody_else_are_left_alone(new_database: Callable[[], str]) -> None:
    """Whatever it is, it is not ours to change."""
    url = new_database()
    database = Database(url)
    database.write(lambda connection: connection.exec_driver_sql('CREATE TABLE imgguard_images (id INTEGER)'))
    store = Store(url, LEASE)
    with pytest.raises(StoreUnavailable, match="a table 'imgguard_images' that is not of imgguard.*option connection"):
        store.upgrade()
    assert store.version() is None
    assert database.read(lambda connection: inspect(connection).get_table_names()) == ['imgguard_images']
    store.close()
    database.close()


def test_there_is_no_way_back(url: str) -> None:
    database = Database(url)
    config = schema.configuration()

    def downgrade(connection: Connection) -> None:
        config.attributes['connection'] = connection
        command.downgrade(config, 'base')

    with pytest.raises(RuntimeError, match='imgguard does not downgrade its store: restore the backup'):
        database.write(downgrade)
    assert schema.version(database) == HEAD
    database.close()


def test_check_names_the_remedy(new_database: Callable[[], str]) -> None:
    url = new_database()
    store = Store(url, LEASE)
    with pytest.raises(StoreUnavailable, match='has not got its tables: run `imgguard-manage db upgrade`'):
        store.check()
    with pytest.raises(StoreUnavailable, match='has not got its tables: run `imgguard-manage db upgrade`'):
        store.records(['image'])
    store.upgrade()
    database = Database(url)
    database.write(lambda connection: connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match='is at revision 9999, not .*: it was made by a newer imgguard'):
        store.check()
    with pytest.raises(StoreUnavailable, match='cannot be upgraded: .*9999'):
        store.upgrade()
    database.close()
    store.close()


def test_check_sees_a_store_that_only_reads(backend: str, new_database: Callable[[], str]) -> None:
    if backend == 'sqlite' and os.geteuid() == 0:
        pytest.skip('root writes where no one may')
    url = new_database()
    store = Store(url, LEASE)
    store.upgrade()
    store.close()
    name = url.rpartition('/')[2]
    if backend == 'sqlite':
        os.chmod(url.removeprefix('sqlite:///'), 0o400)
        store = Store(url, LEASE)
    elif backend == 'postgresql':
        administer(backend, f'ALTER DATABASE {name} SET default_transaction_read_only = on')
    else:
        reader = f'{name[-20:]}_reader'
        administer(backend, f"GRANT SELECT ON {name}.* TO {reader}@'%%' IDENTIFIED BY 'reader'")
        reading = make_url(url).set(username=reader, password='reader')
        store = Store(reading.render_as_string(hide_password=False), LEASE)
    with pytest.raises(StoreUnavailable, match='readonly database|read-only transaction|UPDATE command denied'):
        store.check()
    assert store.records(['image']) == {}
    store.close()
    if backend == 'mariadb':
        administer(backend, f"DROP USER {reader}@'%%'")


def test_the_file_is_private(tmp_path: Path) -> None:
    store = Store(f'sqlite:///{tmp_path}/guard.db', LEASE)
    store.upgrade()
    begun(store)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    store.close()
    assert modes == dict.fromkeys(['guard.db', 'guard.db-wal', 'guard.db-shm', 'guard.db.lock'], 0o600)


def test_the_migrations_travel_with_the_package(tmp_path: Path) -> None:
    """Also to a place whose name means something to the parser of Alembic's configuration."""
    shutil.copytree(Path(imgguard.__file__).parent, tmp_path / '50%(s)' / 'imgguard')
    script = (f"import imgguard; from imgguard.store import Store; store = Store('sqlite:///{tmp_path}/guard.db', 60); "
              "store.upgrade(); store.check(); store.close(); print(imgguard.__file__)")
    done = subprocess.run([sys.executable, '-W', 'error', '-c', script], cwd=tmp_path / '50%(s)', text=True,
                          capture_output=True, check=True)
    assert done.stdout.startswith(str(tmp_path))


def test_a_store_that_is_up_to_date_needs_no_alembic(tmp_path: Path) -> None:
    """It would take 10 MiB in every worker of Glance."""
    url = f'sqlite:///{tmp_path}/imgguard.db'
    Store(url, LEASE).upgrade()
    script = ('import sys; from imgguard.store import Store; import imgguard.factory; '
              'store = Store(sys.argv[1], 60); store.upgrade(); store.check(); print("alembic" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', script, url], capture_output=True, text=True, check=True)
    assert done.stdout == 'False\n'
