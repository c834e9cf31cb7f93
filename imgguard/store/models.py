"""The tables of the store, as SQLAlchemy Core sees them.

Every time is a double: seconds since the epoch, UTC, by the database's clock. The migrations under
``migrations/`` make the tables; a test holds that they and this module describe the same.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.dialects.mysql import VARCHAR

VERSION_TABLE: Final = 'imgguard_alembic_version'
HEAD: Final = '0004'

metadata: Final = MetaData()

# MariaDB folds case by default, and an id in another case must be another image as elsewhere.
_IMAGE_ID: Final = String(36).with_variant(
    VARCHAR(36, charset='utf8mb4', collation='utf8mb4_bin'), 'mysql', 'mariadb')
# SQLite counts up by itself only in a column spelled INTEGER.
_KEY: Final = BigInteger().with_variant(Integer(), 'sqlite')
_MARIADB: Final[dict[str, Any]] = {'mysql_engine': 'InnoDB', 'mysql_charset': 'utf8mb4',
                                   'mariadb_engine': 'InnoDB', 'mariadb_charset': 'utf8mb4'}

images: Final = Table(
    'imgguard_images', metadata,
    Column('key', _KEY, primary_key=True, autoincrement=True),
    Column('image_id', _IMAGE_ID, nullable=False),
    Column('created_at', String(32), nullable=False),
    Column('owner', String(255)),
    Column('keep', Boolean),
    Column('attempts', Integer, nullable=False),
    Column('last_number', Integer, nullable=False),
    Column('give_up_at', Double),
    Column('running_number', Integer),
    Column('running_guarded', Boolean),
    Column('running_since', Double),
    Column('running_at', Double),
    Column('error_number', Integer),
    Column('error_code', String(32)),
    Column('error_text', String(1024)),
    Column('error_at', Double),
    Column('error_request_id', String(255)),
    Column('error_bytes', BigInteger),
    Column('deleted_at', Double),
    Column('cleared_number', Integer, nullable=False, default=0),
    Column('clearing_number', Integer, nullable=False, default=0),
    Column('clearing_by', String(255)),
    Column('clearing_at', Double),
    Column('remains_at', Double),
    UniqueConstraint('image_id', 'created_at', name='imgguard_images_image_id_created_at'),
    Index('imgguard_images_error_at', 'error_at'),
    Index('imgguard_images_error_code_error_at', 'error_code', 'error_at'),
    Index('imgguard_images_give_up_at', 'give_up_at'),
    Index('imgguard_images_running_at', 'running_at'),
    Index('imgguard_images_remains_at', 'remains_at'),
    # A key used again after a purge would hand an old claim a new image.
    sqlite_autoincrement=True,
    **_MARIADB,
)

attempts: Final = Table(
    'imgguard_attempts', metadata,
    Column('image_key', _KEY, ForeignKey('imgguard_images.key', name='imgguard_attempts_image_key'),
           primary_key=True, autoincrement=False),
    Column('number', Integer, primary_key=True, autoincrement=False),
    Column('kind', String(16), nullable=False),
    Column('state', String(16), nullable=False),
    Column('guarded', Boolean, nullable=False),
    Column('code', String(32)),
    Column('message', String(1024)),
    Column('http_status', Integer),
    Column('request_id', String(255)),
    Column('started_at', Double, nullable=False),
    Column('updated_at', Double, nullable=False),
    Column('finished_at', Double),
    Column('bytes_received', BigInteger, nullable=False),
    Column('bytes_expected', BigInteger),
    Column('user_id', String(255)),
    Column('project_id', String(255)),
    Column('host', String(255), nullable=False),
    Column('worker', String(255), nullable=False),
    Column('task_id', String(36)),
    Column('handed_on', Boolean),
    Column('unwanted', Boolean),
    **_MARIADB,
)

workers: Final = Table(
    'imgguard_workers', metadata,
    Column('worker', String(255), primary_key=True),
    Column('host', String(255), nullable=False),
    Column('since', Double, nullable=False),
    Column('seen_at', Double, nullable=False),
    Index('imgguard_workers_seen_at', 'seen_at'),
    **_MARIADB,
)

outbox: Final = Table(
    'imgguard_outbox', metadata,
    Column('key', _KEY, primary_key=True, autoincrement=True),
    # No foreign key: what happened is told also when the image is forgotten meanwhile.
    Column('image_key', _KEY, nullable=False),
    Column('image_id', _IMAGE_ID, nullable=False),
    Column('created_at', String(32), nullable=False),
    Column('owner', String(255)),
    Column('event', String(32), nullable=False),
    Column('at', Double, nullable=False),
    Column('number', Integer, nullable=False),
    Column('kind', String(16), nullable=False),
    Column('code', String(32), nullable=False),
    Column('text', String(1024), nullable=False),
    Column('request_id', String(255)),
    Column('bytes_received', BigInteger, nullable=False),
    Column('claimed_by', String(255)),
    Column('claimed_at', Double),
    Index('imgguard_outbox_image_key', 'image_key'),
    # The keys tell the order of the events of an image.
    sqlite_autoincrement=True,
    **_MARIADB,
)


def fit(column: Column[Any], text: str | None) -> str | None:
    """Make a text from outside storable in a column on every database.

    A verdict must not be lost because PostgreSQL knows no NUL character, UTF-8 no lone surrogate,
    or a request id is longer than its column.
    """
    if text is None:
        return None
    length: int | None = getattr(column.type, 'length', None)
    return text.replace('\0', '').encode('utf-8', 'replace').decode('utf-8')[:length]
