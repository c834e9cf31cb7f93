"""Glance's own database, read and written by SQL from outside Glance's process (option ``glance_connection``).

The tables are those of Glance 33 (``glance/db/sqlalchemy/models.py``) and, with columns and tables missing, of older
ones down to Glance 15: what is there is looked up once. A SQLite file is used as it is: neither made nor changed in
mode. Times in it are UTC without a zone, as Glance's hosts tell them.
"""

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    false,
    inspect,
    select,
)
from sqlalchemy.types import TypeEngine

from imgguard.errors import GlanceUnavailable
from imgguard.store.engine import Database
from imgguard.store.failures import Whose

Result = TypeVar('Result')

_Types = Mapping[str, TypeEngine[Any]]

_DELETED: Final[_Types] = {
    'updated_at': DateTime(), 'deleted_at': DateTime(), 'deleted': Boolean(create_constraint=False)}
_IMAGES: Final[_Types] = {
    'id': String(36), 'status': String(30), 'created_at': DateTime(), **_DELETED, 'size': BigInteger(),
    'virtual_size': BigInteger(), 'checksum': String(32), 'os_hash_algo': String(64), 'os_hash_value': String(128)}
_PROPERTIES: Final[_Types] = {
    'id': Integer(), 'image_id': String(36), 'name': String(255), 'value': String(), **_DELETED}
_LOCATIONS: Final[_Types] = {
    'id': Integer(), 'image_id': String(36), 'status': String(30), 'meta_data': String(), **_DELETED}
_TASKS: Final[_Types] = {
    'id': String(36), 'type': String(30), 'status': String(30), 'image_id': String(36), 'request_id': String(64),
    'created_at': DateTime(), 'updated_at': DateTime(), 'expires_at': DateTime()}
_TASK_INFO: Final[_Types] = {'task_id': String(36), 'input': String(), 'message': String()}


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables with the columns that are there.

    :param tasks: ``None`` where this Glance has no tasks
    """

    images: Table
    properties: Table
    locations: Table
    tasks: Table | None
    task_info: Table | None


class _Connections(Database):
    """Connections to Glance's database, which is not ours to make or to set up."""

    option: ClassVar[str] = 'glance_connection'
    whose: ClassVar[Whose] = Whose(
        "Glance's database", 'has not got the tables of Glance: see glance_connection', GlanceUnavailable,
        GlanceUnavailable)

    def _before_connect(self, *_: Any) -> None:
        if self.backend == 'sqlite' and not os.path.exists(str(self.url.database)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.url.database)

    def _after_connect(self, connection: Any, _: Any) -> None:
        if self.backend != 'sqlite':
            super()._after_connect(connection, _)


class GlanceDatabase:
    """Glance's database, shared by all threads of a process; making it does not connect.

    :param url: the option ``glance_connection``
    :raises imgguard.errors.ConfigurationError: the URL cannot be used; the text names the option and the remedy
    """

    def __init__(self, url: str) -> None:
        self._connections: Final = _Connections(url)
        self._tables: Tables | None = None

    def tables(self) -> Tables:
        """The tables that are there, looked up at the first call.

        :raises GlanceUnavailable: the database cannot be used; its text holds no password and no value
        """
        tables = self._tables
        if tables is None:
            tables = self._tables = self._connections.read(self._inspected)
        return tables

    def read(self, ask: Callable[[Connection], Result]) -> Result:
        """Ask outside any transaction.

        :raises GlanceUnavailable: as with :meth:`tables`
        """
        return self._connections.read(ask)

    def write(self, change: Callable[[Connection], Result]) -> Result:
        """Run a transaction and commit it, as a whole again when it did nothing.

        :raises GlanceUnavailable: as with :meth:`tables`
        """
        return self._connections.write(change)

    def statuses(self, image_ids: Sequence[str]) -> dict[tuple[str, str], str]:
        """The statuses of a page of images, by id and time of creation as Glance's API shows it: one query.

        An image that Glance has deleted is ``deleted``; one that Glance does not know (any more) is not among them.

        :raises GlanceUnavailable: as with :meth:`tables`
        """
        if not image_ids:
            return {}
        images = self.tables().images
        rows = self.read(lambda connection: connection.execute(select(
            images.c.id, images.c.created_at, images.c.status, images.c.deleted,
        ).where(images.c.id.in_(image_ids))).all())
        return {(row.id, spelled(row.created_at)): 'deleted' if row.deleted else row.status for row in rows}

    def close(self) -> None:
        """Close the idle connections of this process. A later call opens new ones."""
        self._connections.close()

    def _inspected(self, connection: Connection) -> Tables:
        inspector, metadata = inspect(connection), MetaData()
        there = set(inspector.get_table_names())

        def table(name: str, types: _Types) -> Table | None:
            if name not in there:
                return None
            known = {column['name'] for column in inspector.get_columns(name)}
            return Table(name, metadata, *(Column(each, types[each]) for each in types if each in known))

        images, properties, locations = (
            table('images', _IMAGES), table('image_properties', _PROPERTIES), table('image_locations', _LOCATIONS))
        if images is None or properties is None or locations is None:
            raise GlanceUnavailable(f'{self._connections.whose.name} ({self._connections.place}) '
                                    f'{self._connections.whose.without_tables}')
        return Tables(images, properties, locations, table('tasks', _TASKS), table('task_info', _TASK_INFO))


def alive(table: Table) -> ColumnElement[bool]:
    """The rows of this table that are not deleted."""
    kept: ColumnElement[bool] = table.c.deleted.is_(false())
    return kept


def now() -> datetime:
    """The present time as Glance writes it."""
    return datetime.now(UTC).replace(tzinfo=None)


def spelled(moment: datetime) -> str:
    """A time of Glance's database as its API shows it."""
    return moment.replace(microsecond=0, tzinfo=None).isoformat() + 'Z'


def present(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of these values those whose columns this Glance has."""
    return {name: value for name, value in values.items() if name in table.c}
