"""The tables of images, attempts and workers.

The columns are spelled out, not imported: a migration stays as it was released.
"""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision: Final = '0001'
down_revision: Final = None
branch_labels: Final = None
depends_on: Final = None

_KEY: Final = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
_IMAGE_ID: Final = sa.String(36).with_variant(
    mysql.VARCHAR(36, charset='utf8mb4', collation='utf8mb4_bin'), 'mysql', 'mariadb')
_MARIADB: Final[dict[str, Any]] = {'mysql_engine': 'InnoDB', 'mysql_charset': 'utf8mb4',
                                   'mariadb_engine': 'InnoDB', 'mariadb_charset': 'utf8mb4'}


def upgrade() -> None:
    """Make the tables, and where MariaDB was stopped half way, what is missing of them."""
    metadata = sa.MetaData()
    images = _images(metadata)
    attempts = _attempts(metadata)
    bind = op.get_bind()
    images.create(bind, checkfirst=True)
    for columns in (['error_at'], ['error_code', 'error_at'], ['give_up_at'], ['running_at']):
        name = '_'.join(['imgguard_images', *columns])
        sa.Index(name, *(images.c[column] for column in columns)).create(bind, checkfirst=True)
    attempts.create(bind, checkfirst=True)
    workers = _workers(metadata)
    workers.create(bind, checkfirst=True)
    sa.Index('imgguard_workers_seen_at', workers.c.seen_at).create(bind, checkfirst=True)


def downgrade() -> None:
    """Refused: there is nothing before the first revision.

    :raises RuntimeError: always
    """
    raise RuntimeError('imgguard does not downgrade its store: restore the backup made before the upgrade')


def _images(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        'imgguard_images', metadata,
        sa.Column('key', _KEY, primary_key=True, autoincrement=True),
        sa.Column('image_id', _IMAGE_ID, nullable=False),
        sa.Column('created_at', sa.String(32), nullable=False),
        sa.Column('owner', sa.String(255)),
        sa.Column('keep', sa.Boolean()),
        sa.Column('attempts', sa.Integer(), nullable=False),
        sa.Column('last_number', sa.Integer(), nullable=False),
        sa.Column('give_up_at', sa.Double()),
        sa.Column('running_number', sa.Integer()),
        sa.Column('running_guarded', sa.Boolean()),
        sa.Column('running_since', sa.Double()),
        sa.Column('running_at', sa.Double()),
        sa.Column('error_number', sa.Integer()),
        sa.Column('error_code', sa.String(32)),
        sa.Column('error_text', sa.String(1024)),
        sa.Column('error_at', sa.Double()),
        sa.Column('error_request_id', sa.String(255)),
        sa.Column('error_bytes', sa.BigInteger()),
        sa.Column('deleted_at', sa.Double()),
        sa.Column('cleared_number', sa.Integer(), nullable=False),
        sa.Column('clearing_number', sa.Integer(), nullable=False),
        sa.Column('clearing_by', sa.String(255)),
        sa.Column('clearing_at', sa.Double()),
        sa.UniqueConstraint('image_id', 'created_at', name='imgguard_images_image_id_created_at'),
        sqlite_autoincrement=True, **_MARIADB)


def _attempts(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        'imgguard_attempts', metadata,
        sa.Column('image_key', _KEY, sa.ForeignKey('imgguard_images.key', name='imgguard_attempts_image_key'),
                  primary_key=True, autoincrement=False),
        sa.Column('number', sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column('kind', sa.String(16), nullable=False),
        sa.Column('state', sa.String(16), nullable=False),
        sa.Column('guarded', sa.Boolean(), nullable=False),
        sa.Column('code', sa.String(32)),
        sa.Column('message', sa.String(1024)),
        sa.Column('http_status', sa.Integer()),
        sa.Column('request_id', sa.String(255)),
        sa.Column('started_at', sa.Double(), nullable=False),
        sa.Column('updated_at', sa.Double(), nullable=False),
        sa.Column('finished_at', sa.Double()),
        sa.Column('bytes_received', sa.BigInteger(), nullable=False),
        sa.Column('bytes_expected', sa.BigInteger()),
        sa.Column('user_id', sa.String(255)),
        sa.Column('project_id', sa.String(255)),
        sa.Column('host', sa.String(255), nullable=False),
        sa.Column('worker', sa.String(255), nullable=False),
        sa.Column('task_id', sa.String(36)),
        **_MARIADB)


def _workers(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        'imgguard_workers', metadata,
        sa.Column('worker', sa.String(255), primary_key=True),
        sa.Column('host', sa.String(255), nullable=False),
        sa.Column('since', sa.Double(), nullable=False),
        sa.Column('seen_at', sa.Double(), nullable=False),
        **_MARIADB)
