"""The migrations of the store, run by Alembic (see imgguard.store.schema)."""
