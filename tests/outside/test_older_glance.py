"""The database of Glance 15 (Pike), the last with the v1 API: no ``os_hash_*``, tasks name neither image nor request.

Its tables are made by Glance's own migrations, which begin before it; the rows are what v1 leaves.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, MetaData, create_engine, insert, select

from imgguard.database_requeue import DatabaseRequeue
from imgguard.database_tasks import DatabaseTasks
from imgguard.glance_database import GlanceDatabase
from tests.outside.conftest import LOCK, of_glance

MIGRATE = '''
import sys
from alembic import command
from glance.common import config
from glance.db.sqlalchemy import alembic_migrations
from oslo_config import cfg
cfg.CONF(['--config-file', sys.argv[1]], project='glance')
command.upgrade(alembic_migrations.get_alembic_config(), 'pike_contract01')
'''
MADE = datetime(2017, 8, 30, 12, 0, 0)


@pytest.fixture(scope='module')
def url(new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    made = of_glance(new_database())
    configuration: Path = tmp_path_factory.mktemp('pike') / 'glance.conf'
    configuration.write_text(f'[database]\nconnection = {made}\n')
    subprocess.run([sys.executable, '-c', MIGRATE, str(configuration)], check=True, capture_output=True)
    return made


@pytest.fixture
def connection(url: str) -> Iterator[Connection]:
    engine = create_engine(url, isolation_level='AUTOCOMMIT')
    with engine.connect() as opened:
        yield opened
    engine.dispose()


@pytest.fixture
def database(url: str) -> Iterator[GlanceDatabase]:
    opened = GlanceDatabase(url)
    yield opened
    opened.close()


def test_an_image_that_v1_has_killed(connection: Connection, database: GlanceDatabase) -> None:
    tables = MetaData()
    tables.reflect(connection)
    images, locations = tables.tables['images'], tables.tables['image_locations']
    stamps = {'created_at': MADE, 'updated_at': MADE, 'deleted': False}
    connection.execute(insert(images).values(
        id='killed', status='killed', size=999, checksum='0' * 32, owner='red', min_disk=0, min_ram=0,
        protected=False, visibility='private', **stamps))
    connection.execute(insert(locations).values(
        image_id='killed', value='file:///gone', meta_data='{}', status='active', **stamps))
    requeue = DatabaseRequeue(database)
    assert database.statuses(['killed', 'other']) == {('killed', '2017-08-30T12:00:00Z'): 'killed'}
    assert requeue.needed('killed') and requeue.clear('killed', lambda: True)
    row = connection.execute(select(images)).one()
    assert (row.status, row.size, row.checksum, row.created_at) == ('queued', 0, None, MADE)
    assert [(each.deleted, each.status) for each in connection.execute(select(locations))] == [(True, 'deleted')]
    assert not requeue.needed('killed')


def test_tasks_that_name_neither_image_nor_request(connection: Connection, database: GlanceDatabase) -> None:
    tables = MetaData()
    tables.reflect(connection)
    stamps = {'created_at': MADE, 'updated_at': MADE, 'deleted': False}
    connection.execute(insert(tables.tables['images']).values(
        id='importing', status='importing', owner='red', min_disk=0, min_ram=0, protected=False,
        visibility='private', **stamps))
    connection.execute(insert(tables.tables['image_properties']).values(
        image_id='importing', name=LOCK, value='task', **stamps))
    connection.execute(insert(tables.tables['tasks']).values(
        id='task', type='api_image_import', status='processing', owner='red', **stamps))
    connection.execute(insert(tables.tables['task_info']).values(task_id='task', input='{"backend": ["fs"]}'))
    tasks = DatabaseTasks(database)
    assert tasks.find('importing', ['req-1']) is None
    seen = tasks.look('importing', '2017-08-30T12:00:00Z', 'task')
    assert seen.task is not None and (seen.status, seen.task.status) == ('importing', 'processing')
    assert DatabaseRequeue(database).clear('importing', lambda: True)
    seen = tasks.look('importing', '2017-08-30T12:00:00Z', 'task')
    assert seen.task is not None and (seen.status, seen.task.status) == ('queued', 'failure')
