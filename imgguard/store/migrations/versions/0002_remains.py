"""When to look for what attempts have left in Glance: no image waits for somebody to look at it any more."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = '0002'
down_revision: Final = '0001'
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Add the column, and let every image in error be looked at whose remains were not cleared away."""
    bind = op.get_bind()
    # MariaDB keeps what was made before an upgrade was stopped.
    if 'remains_at' not in {column['name'] for column in sa.inspect(bind).get_columns('imgguard_images')}:
        op.add_column('imgguard_images', sa.Column('remains_at', sa.Double()))
    images = sa.Table('imgguard_images', sa.MetaData(), autoload_with=bind)
    if not any(index.name == 'imgguard_images_remains_at' for index in images.indexes):
        op.create_index('imgguard_images_remains_at', 'imgguard_images', ['remains_at'])
    bind.execute(images.update().where(
        images.c.error_number.is_not(None), images.c.deleted_at.is_(None), images.c.remains_at.is_(None),
        images.c.last_number > images.c.cleared_number).values(remains_at=images.c.error_at))


def downgrade() -> None:
    """Refused: a store is never taken back.

    :raises RuntimeError: always
    """
    raise RuntimeError('imgguard does not downgrade its store: restore the backup made before the upgrade')
