"""A project with images of every kind on a Glance 15.0.2, put straight into its database and into the guard's store."""

import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import create_engine, insert, text

from imgguard.store import Store
from imgguard.store.models import images as rows_of_the_guard
from imgguard.store.models import workers
from tests.identity import token
from tests.old_glance import OldGlance

OWNER: Final = 'red'
ALICE: Final = token('alice', OWNER)


@dataclass
class Row:
    """An image.

    :param code: of its error; ``None`` where the guard knows none
    """

    number: int
    status: str
    code: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    tags: Iterable[str] = ()

    @property
    def id(self) -> str:
        """Its id; in an order of its own."""
        return str(uuid5(NAMESPACE_URL, str(self.number)))

    @property
    def created_at(self) -> str:
        """As the database spells it; of two in turn at the same moment, of some more in the same second."""
        second, fraction = divmod(self.number, 6)
        return self.fields.get('created_at') or (
            f'2026-01-01 00:{second // 60:02}:{second % 60:02}.{fraction // 2:06}')

    def values(self) -> dict[str, Any]:
        """The columns."""
        return {
            'id': self.id, 'name': f'image-{self.number}', 'size': 0, 'status': self.status, 'visibility': 'shared',
            'created_at': self.created_at, 'updated_at': self.created_at, 'deleted': 0, 'deleted_at': None,
            'disk_format': 'raw', 'container_format': 'bare', 'owner': OWNER, 'min_disk': 0, 'min_ram': 0,
            'protected': 0, 'checksum': None, **self.fields}

    def written_in_glance(self, database: sqlite3.Connection) -> None:
        """Put it into Glance's database."""
        values = self.values()
        database.execute(f'INSERT INTO images ({", ".join(values)}) VALUES ({", ".join("?" * len(values))})',
                         list(values.values()))
        for name, value in self.properties.items():
            database.execute('INSERT INTO image_properties (image_id, name, value, created_at, updated_at, deleted) '
                             'VALUES (?, ?, ?, ?, ?, 0)', [self.id, name, value, self.created_at, self.created_at])
        for tag in self.tags:
            database.execute('INSERT INTO image_tags (image_id, value, created_at, updated_at, deleted) '
                             'VALUES (?, ?, ?, ?, 0)', [self.id, tag, self.created_at, self.created_at])


def put(rows: Iterable[Row], glance: Path, store: str) -> None:
    """Put these images where Glance and the guard keep theirs.

    :param glance: the database of Glance
    :param store: the URL of the guard's store, which is made if it is not there
    """
    rows = list(rows)
    with closing(sqlite3.connect(glance)) as database, database:
        for row in rows:
            row.written_in_glance(database)
    Store(store, 60).upgrade()
    engine = create_engine(store)
    with engine.begin() as connection:
        connection.execute(insert(rows_of_the_guard), [
            {'image_id': row.id, 'created_at': f'{row.created_at[:19].replace(" ", "T")}Z', 'attempts': 1,
             'last_number': 1, 'error_number': 1, 'error_code': row.code, 'error_text': 'put', 'cleared_number': 1,
             'error_at': 1e9 + row.number, 'error_bytes': 5} for row in rows if row.code is not None])
        connection.execute(text(
            'INSERT INTO imgguard_attempts (image_key, number, kind, state, guarded, code, started_at, updated_at, '
            "bytes_received, host, worker) SELECT \"key\", 1, 'upload', 'failed', true, error_code, error_at, "
            "error_at, 5, 'host', 'worker' FROM imgguard_images WHERE error_text = 'put'"))
    engine.dispose()


def let_die(store: str) -> None:
    """Make all attempts in the guard's store such as still run, but whose worker has died, with no verdict yet."""
    engine = create_engine(store)
    with engine.begin() as connection:
        connection.execute(text("UPDATE imgguard_attempts SET state = 'running', code = NULL"))
        connection.execute(text(
            'UPDATE imgguard_images SET error_number = NULL, error_code = NULL, error_text = NULL, error_at = NULL, '
            'error_bytes = NULL, cleared_number = 0, running_number = 1, running_guarded = true, running_since = 1e9, '
            'running_at = 1e9'))
        # One that lives proves that the store could be reached.
        connection.execute(insert(workers), {'worker': 'living', 'host': 'elsewhere', 'since': time.time() - 3600,
                                             'seen_at': time.time()})
    engine.dispose()


def in_order(glance: OldGlance, rows: Iterable[Row], key: str = 'created_at', direction: str = 'desc') -> list[str]:
    """The ids of these images as Glance's database sorts them."""
    among = {row.id for row in rows}
    with closing(sqlite3.connect(glance.database)) as database:
        keys = ', '.join(f'{name} {direction}' for name in dict.fromkeys([key, 'created_at', 'id']))
        return [found for found, in database.execute(f'SELECT id FROM images ORDER BY {keys}') if found in among]
