"""What one host tells another of a request that Glance hands on."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = '0003'
down_revision: Final = '0002'
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Add the columns; of the attempts that are there they say nothing."""
    # MariaDB keeps what was made before an upgrade was stopped.
    there = {column['name'] for column in sa.inspect(op.get_bind()).get_columns('imgguard_attempts')}
    for name in ('handed_on', 'unwanted'):
        if name not in there:
            op.add_column('imgguard_attempts', sa.Column(name, sa.Boolean()))


def downgrade() -> None:
    """Refused: a store is never taken back.

    :raises RuntimeError: always
    """
    raise RuntimeError('imgguard does not downgrade its store: restore the backup made before the upgrade')
