"""The right to clear away what dead attempts left in Glance: one at a time, and no attempt meanwhile."""

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Update

from imgguard.store.engine import Database
from imgguard.store.held import Held, Rows
from imgguard.store.models import fit, images
from imgguard.store.statements import Statements


class Clearing:
    """Writes of the store; every method raises :class:`imgguard.errors.StoreUnavailable` when it cannot."""

    def __init__(self, database: Database, sql: Statements, rows: Rows) -> None:
        self._database: Final = database
        self._sql: Final = sql
        self._rows: Final = rows

    def begin(self, key: int, number: int, worker: str) -> bool:
        """Get the right, if no attempt is alive, none came after ``number``, and nobody else has it."""
        def change(connection: Connection, held: Held) -> bool:
            held = self._rows.without_silent(connection, held)
            if held.record.running is not None or held.clearing or held.record.last_number != number:
                return False
            # From now on no attempt is taken back, even if this clearing breaks off half way.
            connection.execute(self._sql.clear(), {
                'of_key': key, 'clearing_by': fit(images.c.clearing_by, worker), 'clearing_number': number})
            return True

        return self._rows.write_key(key, change, unknown=False)

    def keep(self, key: int, worker: str) -> bool:
        """Give a sign of life of the clearing; ``False`` when the right is lost."""
        return self._changed(self._sql.keep_clearing, key, worker)

    def end(self, key: int, worker: str, cleared: bool) -> bool:
        """Give the right back; ``False`` when it was lost."""
        return self._changed(self._sql.cleared if cleared else self._sql.not_cleared, key, worker)

    def postpone(self, key: int, seconds: float) -> None:
        """Look for the remains of this image not before so many seconds have passed."""
        self._database.write(lambda connection: connection.execute(
            self._sql.postpone(), {'of_key': key, 'of_seconds': seconds}).close())

    def _changed(self, statement: Callable[[], Update], key: int, worker: str) -> bool:
        of = {'of_key': key, 'of_worker': fit(images.c.clearing_by, worker)}
        return self._database.write(lambda connection: connection.execute(statement(), of).rowcount == 1)
