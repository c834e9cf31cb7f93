"""Connections to the store: made when first needed, never carried over a fork, tried again when it helps.

Every connection is in AUTOCOMMIT, so that a read costs one round trip; a write opens its transaction
itself. That also gives SQLite what pysqlite hides: a transaction that takes the write lock at once.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Any, ClassVar, Final, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine, PoolProxiedConnection, Select, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from imgguard.attempts import End
from imgguard.counts import Counts
from imgguard.errors import StoreUnavailable
from imgguard.store.address import parsed, place
from imgguard.store.drivers import Ask, asking
from imgguard.store.failures import OURS, Whose, collided, described, may_repeat, translated
from imgguard.store.files import make_private, use_write_ahead_log
from imgguard.store.galera import left_the_cluster, see_all_commits

Result = TypeVar('Result')

_ENDS: Final = 'imgguard_ends'

BUSY_SECONDS: Final = 30
LOCK_SECONDS: Final = 10
CONNECT_SECONDS: Final = 5
ANSWER_SECONDS: Final = 30
# Of the fifteen that a pool of SQLAlchemy has.
_MOST_IDLE: Final = 3
# Seconds before the second and every later try of a transaction, times 0.5 to 1.5.
_PAUSES: Final = (0.01, 0.03, 0.1, 0.3)
# And after that if it met another once more: between nodes of Galera nobody queues.
_MORE_PAUSES: Final = (0.3, 0.4, 0.5, 0.6)

# IMMEDIATE: two transactions that read before they write would refuse each other instead of queueing.
_BEGIN: Final = {'sqlite': 'BEGIN IMMEDIATE', 'postgresql': 'BEGIN ISOLATION LEVEL READ COMMITTED',
                 'mysql': 'START TRANSACTION', 'mariadb': 'START TRANSACTION'}
_ARGUMENTS: Final[dict[str, dict[str, Any]]] = {
    'sqlite': {'timeout': BUSY_SECONDS},
    'postgresql': {'connect_timeout': CONNECT_SECONDS, 'tcp_user_timeout': ANSWER_SECONDS * 1000},
    'mysql': {'connect_timeout': CONNECT_SECONDS, 'read_timeout': ANSWER_SECONDS, 'write_timeout': ANSWER_SECONDS},
}
_ARGUMENTS['mariadb'] = _ARGUMENTS['mysql']
_SESSION: Final[dict[str, tuple[str, ...]]] = {
    'sqlite': ('PRAGMA synchronous=FULL', 'PRAGMA foreign_keys=ON'),
    'postgresql': (f"SET lock_timeout = '{LOCK_SECONDS}s'",),
    'mysql': (f"SET time_zone = '+00:00', innodb_lock_wait_timeout = {LOCK_SECONDS}",),
}
_SESSION['mariadb'] = _SESSION['mysql']


@dataclass(frozen=True, slots=True)
class _Process:
    """What a process has of its own.

    :param ask: see :func:`imgguard.store.drivers.asking`
    :param idle: connections that are kept out of the pool for the next :meth:`Database.rows`, for to check one out
        takes as long as the query of SQLite; until the next write, which comes with every sign of life
    """

    engine: Engine
    ask: Ask
    idle: list[PoolProxiedConnection] = field(default_factory=list)

    def connection(self) -> PoolProxiedConnection:
        """One that nobody else uses."""
        try:
            return self.idle.pop()
        except IndexError:
            return self.engine.raw_connection()

    def give_back(self, connection: PoolProxiedConnection) -> None:
        """Have it used again."""
        if len(self.idle) < _MOST_IDLE:
            self.idle.append(connection)
        else:
            connection.close()

    def release(self) -> None:
        """Let the pool have those that are idle.

        It uses all in turn, so that none is silent for so long that a firewall forgets it, and renews all once one was
        dead.
        """
        while True:
            try:
                connection = self.idle.pop()
            except IndexError:
                return
            connection.close()


class Database:
    """The guard's database, shared by all threads of a process and safe over fork.

    :param url: the option ``connection``
    :param observer: is told what was committed, and when the database could not be used
    :raises ConfigurationError: see :func:`imgguard.store.address.parsed`
    """

    #: The option that names it, and whose it is.
    option: ClassVar[str] = 'connection'
    whose: ClassVar[Whose] = OURS

    def __init__(self, url: str, observer: Counts | None = None) -> None:
        self.url: Final = parsed(url, self.option)
        self._observer: Final = observer or Counts()
        self.place: Final = place(self.url)
        self.backend: Final = self.url.get_backend_name()
        self._processes: dict[int, _Process] = {}
        self._inherited: list[_Process] = []

    def engine(self) -> Engine:
        """The engine of this process; making it does not connect."""
        return self._mine().engine

    def read(self, ask: Callable[[Connection], Result]) -> Result:
        """Run one query outside any transaction, once more if that may help: mostly its connection was dead.

        :raises StoreUnavailable: the database could not be read
        """
        with self._told(), translated(self.place, self.whose):
            try:
                return self._asked(ask)
            except DBAPIError as error:
                if not (error.connection_invalidated or collided(error)):
                    raise
            return self._asked(ask)

    def rows(self, query: Select[Any], parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows of a query as the driver itself gives them, on PostgreSQL each value as text.

        :param query: of which there are few: each is compiled once
        :raises StoreUnavailable: the database could not be read
        """
        mine = self._mine()
        try:
            connection = mine.connection()
            try:
                rows = mine.ask(connection, query, parameters)
            except BaseException:
                # Nobody knows what its server still sends.
                connection.invalidate()
                raise
        except (SQLAlchemyError, mine.engine.dialect.loaded_dbapi.Error, OSError):
            # The long way knows what can be done about it, or what to say.
            return self.read(lambda connection: connection.execute(query, parameters).all())
        mine.give_back(connection)
        return rows

    def write(self, change: Callable[[Connection], Result]) -> Result:
        """Run a transaction and commit it; as a whole again when it did nothing.

        At most five times; nine where it met others on its rows, of which one went on.

        :param change: may be called several times, each in a transaction of its own
        :raises StoreUnavailable: the database could not be written
        """
        with self._told(), translated(self.place, self.whose):
            for tried, pause in enumerate((*_PAUSES, *_MORE_PAUSES)):
                try:
                    return self._committed(change)
                except DBAPIError as error:
                    if not (may_repeat(error) if tried < len(_PAUSES) else collided(error)):
                        raise
                time.sleep(pause * SystemRandom().uniform(0.5, 1.5))
            return self._committed(change)

    def close(self) -> None:
        """Close this process's idle connections. A later call opens new ones."""
        mine = self._processes.pop(os.getpid(), None)
        if mine is not None:
            mine.release()
            mine.engine.dispose()

    def _mine(self) -> _Process:
        number = os.getpid()
        mine = self._processes.get(number)
        if mine is None:
            # No lock: another thread may have held it while the process forked.
            mine = self._processes.setdefault(number, self._new())
            for other in list(self._processes):
                inherited = self._processes.pop(other, None) if other != number else None
                if inherited is not None:
                    # Kept, not closed: closing says goodbye on a socket that the parent still uses,
                    # and so would the garbage collector.
                    self._inherited.append(inherited)
        return mine

    def _new(self) -> _Process:
        engine = self._made()
        return _Process(engine, asking(engine.dialect))

    def _asked(self, ask: Callable[[Connection], Result]) -> Result:
        with self.engine().connect() as connection:
            return ask(connection)

    def _committed(self, change: Callable[[Connection], Result]) -> Result:
        mine = self._mine()
        mine.release()
        with mine.engine.connect() as connection:
            # It belongs to the connection of the driver, and may hold what a transaction that failed has left.
            connection.info[_ENDS] = []
            connection.exec_driver_sql(_BEGIN[self.backend])
            try:
                result = change(connection)
                self._commit(connection)
                ends: list[End] = connection.info[_ENDS]
            except DBAPIError:
                _roll_back(connection)
                raise
            except BaseException:
                # Where a thread was stopped inside the driver nobody knows what the server still sends.
                connection.invalidate()
                raise
        for end in ends:
            self._observer.ended(end)
        return result

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable:
            self._observer.store_failed()
            raise

    def _commit(self, connection: Connection) -> None:
        try:
            connection.exec_driver_sql('COMMIT')
        except DBAPIError as error:
            if error.connection_invalidated:
                raise self.whose.unknown(described(self.place, error, self.whose)) from error
            raise

    def _made(self) -> Engine:
        arguments = {name: value for name, value in _ARGUMENTS[self.backend].items() if name not in self.url.query}
        options: dict[str, Any] = {}
        if _skips_rollback():
            options['skip_autocommit_rollback'] = True
        engine = create_engine(self.url, isolation_level='AUTOCOMMIT', hide_parameters=True,
                               connect_args=arguments, **options)
        event.listen(engine, 'do_connect', self._before_connect)
        event.listen(engine, 'connect', self._after_connect)
        event.listen(engine, 'handle_error', left_the_cluster)
        return engine

    def _before_connect(self, *_: Any) -> None:
        if self.url.database is not None and self.backend == 'sqlite':
            make_private(self.url.database)

    def _after_connect(self, connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        try:
            if self.url.database is not None and self.backend == 'sqlite':
                use_write_ahead_log(cursor, self.url.database)
            for statement in _SESSION[self.backend]:
                cursor.execute(statement)
            if self.backend in ('mysql', 'mariadb'):
                see_all_commits(cursor)
        finally:
            cursor.close()


def note(connection: Connection, end: End) -> None:
    """Have it told to the observer that an attempt has ended, once the transaction is committed."""
    connection.info[_ENDS].append(end)


def _roll_back(connection: Connection) -> None:
    if connection.invalidated:
        return
    try:
        connection.exec_driver_sql('ROLLBACK')
    except SQLAlchemyError:
        connection.invalidate()


def _skips_rollback() -> bool:
    """Whether SQLAlchemy can leave out the ROLLBACK that ends a read, a round trip to MariaDB."""
    version = tuple(int(part) for part in sqlalchemy.__version__.split('.')[:3] if part.isdigit())
    return version >= (2, 0, 43)
