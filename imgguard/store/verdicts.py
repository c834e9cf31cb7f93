"""The changes of those who judge: time, readers, and the client's word. Each is one transaction."""

from typing import Any, Final

from sqlalchemy import Connection, bindparam, select, update

from imgguard import codes
from imgguard.attempts import Busy, Failure, Kind, NewAttempt, Running
from imgguard.store.clock import Clock
from imgguard.store.engine import Database
from imgguard.store.held import Held, Rows
from imgguard.store.models import attempts, fit, images
from imgguard.store.outbox import Outbox
from imgguard.store.rows import make_or_update
from imgguard.store.statements import NO_ERROR, Statements

_UNWANTED: Final = update(attempts).where(attempts.c.image_key == bindparam('of_key')).values(unwanted=True)
# A verdict that time alone has spoken.
_NOBODY: Final = NewAttempt(Kind.DECLARE, True, None, None, None, '', '', None)


class Verdicts:
    """Writes of the store; every method raises :class:`imgguard.errors.StoreUnavailable` when it cannot."""

    def __init__(self, database: Database, outbox: Outbox, clock: Clock, sql: Statements, rows: Rows) -> None:
        self._database: Final = database
        self._outbox: Final = outbox
        self._clock: Final = clock
        self._sql: Final = sql
        self._rows: Final = rows

    def remember(self, image_id: str, created_at: str, owner: str | None, keep: bool | None,
                 give_up_at_after: float | None) -> None:
        """Make or update what is known of an image; with a new deadline one that was given up waits again."""
        changes: dict[str, Any] = {}
        if owner is not None:
            changes['owner'] = fit(images.c.owner, owner)
        if keep is not None:
            changes['keep'] = keep
        if give_up_at_after is not None:
            changes['give_up_at'] = self._clock.now() + give_up_at_after

        def change(connection: Connection) -> None:
            make_or_update(connection, image_id, created_at, changes)
            if give_up_at_after is not None:
                key = connection.execute(select(images.c.key).where(
                    images.c.image_id == image_id, images.c.created_at == created_at)).scalar_one()
                waits_again = update(images).where(
                    images.c.key == key, images.c.error_code == codes.NEVER_ARRIVED).values(**NO_ERROR)
                self._outbox.noting(connection, key, lambda: connection.execute(waits_again).close())

        self._outbox.write(change)

    def give_up(self, key: int, failure: Failure) -> bool:
        """Put an overdue image that waits for its data in error; ``True`` for the one caller whose call did it."""
        def change(connection: Connection, held: Held) -> bool:
            known = held.record
            if not known.overdue or known.running is not None or known.error is not None or known.deleted:
                return False
            self._rows.declare(connection, known, _NOBODY, failure)
            # Staged data that nobody imports stands in the way of an upload.
            connection.execute(self._sql.remain(), {'of_key': key})
            return True

        return self._rows.write_key(key, change, unknown=False)

    def lose(self, key: int, number: int) -> bool:
        """End an attempt that is not alive as lost; ``True`` for the one caller whose call did it."""
        def change(connection: Connection, held: Held) -> bool:
            running = _silent(held, number)
            if running is not None:
                self._rows.lose(connection, key, running)
            return running is not None

        return self._rows.write_key(key, change, unknown=False)

    def arrive(self, key: int, number: int, remark: str | None) -> bool:
        """End an attempt that is not alive, or the newest if it was lost, as succeeded; ``True`` for who did it."""
        def change(connection: Connection, held: Held) -> bool:
            running = _silent(held, number)
            if running is not None:
                self._rows.arrive(connection, key, running, remark)
                return True
            return (held.record.last_number == number and held.record.running is None
                    and self._rows.arrive_lost(connection, key, number, remark))

        return self._rows.write_key(key, change, unknown=False)

    def declare_dead(self, key: int) -> Busy | int:
        """Take an operator's word that the workers of silent attempts are dead; the answer counts these attempts."""
        def change(connection: Connection, held: Held) -> Busy | int:
            running = held.record.running
            if running is not None:
                # That nobody proved the store reachable meanwhile does not count against the operator's word.
                if running.silent_for <= self._clock.silence:
                    return Busy(running)
                self._rows.lose(connection, key, running)
            of = {'of_key': key, 'of_above': held.record.cleared_number}
            return connection.execute(self._sql.end_dead(), of).rowcount

        return self._rows.write_key(key, change, unknown=0)

    def declare(self, image_id: str, created_at: str, owner: str | None, new: NewAttempt,
                failure: Failure) -> Busy | int:
        """Put an image in error without an attempt, unless one is alive; the answer is its number."""
        def change(connection: Connection, held: Held) -> Busy | int:
            known = self._rows.without_silent(connection, held).record
            if known.running is not None:
                return Busy(known.running)
            number = self._rows.declare(connection, known, new, failure)
            if owner is not None:
                connection.execute(self._sql.change(), {'of_key': known.key, 'owner': fit(images.c.owner, owner)})
            return number

        return self._rows.write(image_id, created_at, change)

    def clear_error(self, image_id: str, created_at: str) -> Busy | bool:
        """Let an image wait again, unless an attempt is alive; ``False`` when it had no verdict and none was due."""
        def change(connection: Connection, held: Held) -> Busy | bool:
            known = self._rows.without_silent(connection, held).record
            if known.running is not None:
                return Busy(known.running)
            if known.error is None and not known.overdue:
                return False
            # A deadline that has passed would speak the next verdict at once.
            deadline = None if known.overdue else known.give_up_at
            connection.execute(self._sql.change(), {'of_key': known.key, **NO_ERROR, 'give_up_at': deadline})
            return True

        return self._rows.write_named(image_id, created_at, change, unknown=False)

    def deleted(self, image_id: str, created_at: str) -> None:
        """Note that Glance has deleted the image, if it is known."""
        of = {'of_id': image_id, 'of_time': created_at}
        self._database.write(lambda connection: connection.execute(self._sql.delete(), of).close())

    def unwanted(self, image_id: str, created_at: str) -> None:
        """Note on all attempts of an image that a DELETE was no clean-up after them."""
        def change(connection: Connection) -> None:
            held = self._rows.by_name(connection, image_id, created_at)
            if held is not None:
                connection.execute(_UNWANTED, {'of_key': held.record.key})

        self._database.write(change)


def _silent(held: Held, number: int) -> Running | None:
    """The running attempt of this number, if it is not alive."""
    running = held.record.running
    return None if running is None or running.number != number or running.alive else running
