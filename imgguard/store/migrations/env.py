"""What Alembic runs around the migrations: on the connection handed in, within its transaction."""

from alembic import context

from imgguard.store.models import VERSION_TABLE, metadata

context.configure(connection=context.config.attributes['connection'], target_metadata=metadata,
                  version_table=VERSION_TABLE)
context.run_migrations()
