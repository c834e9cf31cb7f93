"""The revision of the store: what it is at, bringing it to the newest, and whether it will do.

Alembic is imported where it is needed only: it takes 10 MiB, which every worker would hold for life.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, text, update
from sqlalchemy.exc import DBAPIError

from imgguard.errors import StoreUnavailable
from imgguard.store.engine import Database
from imgguard.store.failures import REMEDY, made_meanwhile, translated
from imgguard.store.files import locked, make_private
from imgguard.store.models import HEAD, VERSION_TABLE, attempts, images, outbox, workers

if TYPE_CHECKING:
    from alembic.config import Config

# Any number will do that no other user of a shared PostgreSQL takes: the ASCII of "imgguard".
_ADVISORY_LOCK: Final = int.from_bytes(b'imgguard', 'big')
_WAIT_SECONDS: Final = 20
# Seconds between tries on MariaDB, enough for another node to make one table or index.
_PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
# The highest, for a node that was late may have left a lower one beside it, see _run_among_nodes().
_VERSION: Final = text(f'SELECT max(version_num) FROM {VERSION_TABLE}')
_LOWER: Final = text(f'DELETE FROM {VERSION_TABLE} WHERE version_num < :at')


def version(database: Database) -> str | None:
    """The revision the store is at; ``None`` when it was never upgraded.

    :raises StoreUnavailable: the database could not be read
    """
    return database.read(_version)


def upgrade(database: Database) -> None:
    """Bring the store to the newest revision; safe when many processes do so at once.

    :raises StoreUnavailable: the database could not be written, holds tables of these names that are
        not the guard's, or is at a revision that this imgguard does not know
    """
    at = version(database)
    if at == HEAD:
        return
    from alembic.util import CommandError
    with translated(database.place), _alone(database):
        try:
            database.write(_upgraded)
        except CommandError as error:
            raise StoreUnavailable(f'the store of imgguard ({database.place}) cannot be upgraded: {error}') from error


def check(database: Database) -> None:
    """See that the store is at the newest revision and can be written; changes nothing.

    :raises StoreUnavailable: it is not; the text names the remedy
    """
    at = version(database)
    if at is None:
        raise StoreUnavailable(f'the store of imgguard ({database.place}) has not got its tables: {REMEDY}')
    if at != HEAD:
        remedy = REMEDY if at in _known() else 'it was made by a newer imgguard: install that one'
        raise StoreUnavailable(f'the store of imgguard ({database.place}) is at revision {at}, not {HEAD}: {remedy}')
    # A database that only reads refuses the statement even though it meets no row.
    nothing = update(images).where(images.c.key == -1).values(last_number=images.c.last_number)
    database.write(lambda connection: connection.execute(nothing).rowcount)


def configuration() -> 'Config':
    """Alembic's configuration for the migrations in this package."""
    from alembic.config import Config
    config = Config()
    # Alembic reads the value through configparser, to which a percent sign is special.
    config.set_main_option('script_location', str(Path(__file__).with_name('migrations')).replace('%', '%%'))
    return config


def _known() -> set[str]:
    from alembic.script import ScriptDirectory
    return {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}


def _version(connection: Connection) -> str | None:
    # Asked first, for a query on a table that is not there would be an error in the server's log.
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(_VERSION).scalar()
    return None if found is None else str(found)


def _alone(database: Database) -> AbstractContextManager[None]:
    path = database.url.database
    if database.backend != 'sqlite' or path is None:
        return nullcontext()
    # The first to come makes the file, and it must not be SQLite that chooses its mode.
    make_private(path)
    # An upgrade may take longer than the busy timeout that bounds every other wait.
    return locked(path)


def _upgraded(connection: Connection) -> None:
    if connection.dialect.name == 'postgresql':
        connection.execute(text('SELECT pg_advisory_xact_lock(:name)'), {'name': _ADVISORY_LOCK})
        _run(connection)
    elif connection.dialect.name == 'sqlite':
        _run(connection)
    else:
        _run_locked(connection)


def _run_locked(connection: Connection) -> None:
    """MariaDB commits at every CREATE, so that only a lock of the session outlives the first."""
    # The lock is the server's, and the server may hold several stores.
    schema = connection.execute(text('SELECT database()')).scalar_one()
    name = 'imgguard-' + sha256(str(schema).encode()).hexdigest()[:32]
    if connection.execute(text('SELECT get_lock(:name, :wait)'), {'name': name, 'wait': _WAIT_SECONDS}).scalar() != 1:
        raise StoreUnavailable('another process is upgrading the store of imgguard: try again when it is done')
    try:
        _run_among_nodes(connection)
    finally:
        connection.execute(text('SELECT release_lock(:name)'), {'name': name})


def _run_among_nodes(connection: Connection) -> None:
    """Upgrade although the nodes of Galera do not know of each other's locks.

    Each table, column and index is made on all nodes at once, and only once. A migration leaves out what it finds; one
    that another node was quicker with begins anew from where the store is then. Late ones may note a revision beside
    a higher one, of which they are rid here.
    """
    from alembic.util import CommandError
    for pause in (*_PAUSES, None):
        try:
            # What is asked outside a transaction is asked of the present, on all nodes.
            connection.exec_driver_sql('COMMIT')
            at = _version(connection)
            if at is not None:
                connection.execute(_LOWER, {'at': at})
            return _run(connection)
        except (DBAPIError, CommandError) as error:
            helps = made_meanwhile(error) if isinstance(error, DBAPIError) else _version(connection) in _known()
            if pause is None or not helps:
                raise
        time.sleep(pause)


def _run(connection: Connection) -> None:
    if _version(connection) == HEAD:
        return
    from alembic import command
    _refuse_strangers(connection)
    config = configuration()
    config.attributes['connection'] = connection
    command.upgrade(config, 'head')


def _refuse_strangers(connection: Connection) -> None:
    """The operator may name a database that others use; never touch what is theirs."""
    inspector = inspect(connection)
    for table, column in ((images, images.c.running_guarded), (attempts, attempts.c.image_key),
                          (workers, workers.c.seen_at), (outbox, outbox.c.image_key)):
        if inspector.has_table(table.name) and column.name not in {
                found['name'] for found in inspector.get_columns(table.name)}:
            raise StoreUnavailable(f'the database has a table {table.name!r} that is not of imgguard: '
                                   'name a database of its own in the option connection')
