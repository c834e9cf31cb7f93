"""The table of the events that wait to be published.

The columns are spelled out, not imported: a migration stays as it was released.
"""

from typing import Any, Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision: Final = '0004'
down_revision: Final = '0003'
branch_labels: Final = None
depends_on: Final = None

_KEY: Final = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
_IMAGE_ID: Final = sa.String(36).with_variant(
    mysql.VARCHAR(36, charset='utf8mb4', collation='utf8mb4_bin'), 'mysql', 'mariadb')
_MARIADB: Final[dict[str, Any]] = {'mysql_engine': 'InnoDB', 'mysql_charset': 'utf8mb4',
                                   'mariadb_engine': 'InnoDB', 'mariadb_charset': 'utf8mb4'}


def upgrade() -> None:
    """Make the table, and where MariaDB was stopped half way, what is missing of it."""
    outbox = sa.Table(
        'imgguard_outbox', sa.MetaData(),
        sa.Column('key', _KEY, primary_key=True, autoincrement=True),
        sa.Column('image_key', _KEY, nullable=False),
        sa.Column('image_id', _IMAGE_ID, nullable=False),
        sa.Column('created_at', sa.String(32), nullable=False),
        sa.Column('owner', sa.String(255)),
        sa.Column('event', sa.String(32), nullable=False),
        sa.Column('at', sa.Double(), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('kind', sa.String(16), nullable=False),
        sa.Column('code', sa.String(32), nullable=False),
        sa.Column('text', sa.String(1024), nullable=False),
        sa.Column('request_id', sa.String(255)),
        sa.Column('bytes_received', sa.BigInteger(), nullable=False),
        sa.Column('claimed_by', sa.String(255)),
        sa.Column('claimed_at', sa.Double()),
        sqlite_autoincrement=True, **_MARIADB)
    bind = op.get_bind()
    outbox.create(bind, checkfirst=True)
    sa.Index('imgguard_outbox_image_key', outbox.c.image_key).create(bind, checkfirst=True)


def downgrade() -> None:
    """Refused: events that were never published would be lost.

    :raises RuntimeError: always
    """
    raise RuntimeError('imgguard does not downgrade its store: restore the backup made before the upgrade')
