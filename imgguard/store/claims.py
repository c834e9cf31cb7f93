"""The changes of those who bring data: claims on images, their signs of life and their ends.

Each is one transaction.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, select

from imgguard.attempts import Busy, Claim, End, Failure, ImageRecord, Kind, NewAttempt, State
from imgguard.store.clock import Clock
from imgguard.store.engine import Database, note
from imgguard.store.held import Held, Rows
from imgguard.store.models import attempts, fit, images, workers
from imgguard.store.outbox import Outbox
from imgguard.store.statements import NO_ERROR, Statements, renewed_attempts, renewed_images

Names = set[tuple[int, int]]
Result = TypeVar('Result')


class Claims:
    """Writes of the store; every method raises :class:`imgguard.errors.StoreUnavailable` when it cannot."""

    def __init__(self, database: Database, outbox: Outbox, clock: Clock, sql: Statements, rows: Rows) -> None:
        self._database: Final = database
        self._outbox: Final = outbox
        self._clock: Final = clock
        self._sql: Final = sql
        self._rows: Final = rows

    def begin(self, image_id: str, created_at: str, owner: str | None, new: NewAttempt,
              instead_of: int | None, seen: ImageRecord | None) -> Claim | Busy:
        """Claim the image, unless another attempt holds it or its remains are being cleared away."""
        if seen is not None and seen.running is None:
            # Mostly nothing has changed since, which the claim itself finds out: a round trip less than to look again.
            claim = self._outbox.write(lambda connection: self._outbox.noting(
                connection, seen.key, lambda: self._claimed(connection, seen, owner, new)))
            if claim is not None:
                return claim
        return self._rows.write(
            image_id, created_at, lambda connection, held: self._begun(connection, held, owner, new, instead_of),
            is_new=seen is None)

    def set_task(self, claim: Claim, task_id: str) -> None:
        """Note the task of Glance that does the work of an attempt."""
        statement = attempts.update().where(attempts.c.image_key == claim.key, attempts.c.number == claim.number)
        values = {'task_id': fit(attempts.c.task_id, task_id)}
        self._database.write(lambda connection: connection.execute(statement, values).close())

    def finish(self, claim: Claim, state: State, failure: Failure | None, *, shown: bool, remains: bool,
               http_status: int | None, bytes_received: int) -> bool:
        """End the attempt that holds the claim, or that was lost and nothing came after it."""
        if state is State.RUNNING or (state is not State.SUCCEEDED and failure is None):
            raise ValueError(f'an attempt cannot end as {state} with {failure}')
        of = {'of_key': claim.key, 'of_number': claim.number}
        code = failure.code or None if failure else None
        message = fit(attempts.c.message, failure.text) if failure else None
        end = {**of, 'state': state.value, 'code': code, 'message': message, 'http_status': http_status,
               'bytes_received': bytes_received}
        told = End(claim.kind, state, code, bytes_received)
        verdict: dict[str, object] = {}
        free = self._sql.free()
        if state is State.SUCCEEDED:
            # Staged data is not the image's yet.
            free = self._sql.succeed_staged() if claim.kind is Kind.STAGE else self._sql.succeed()
        elif shown:
            free = self._sql.show()
            verdict = {'error_code': code, 'error_text': message, 'error_bytes': bytes_received}

        def change(connection: Connection) -> bool:
            if connection.execute(free, {**of, **verdict}).rowcount == 1:
                connection.execute(self._sql.end(), end)
                if remains and state is not State.SUCCEEDED:
                    connection.execute(self._sql.remain(), {'of_key': claim.key})
                note(connection, told)
                return True
            if not self._is_newest(connection, claim) or connection.execute(self._sql.end_late(), end).rowcount != 1:
                return False
            if state is State.SUCCEEDED:
                # Whoever clears loses the right to: the image is active.
                deadline = {} if claim.kind is Kind.STAGE else {'give_up_at': None}
                connection.execute(self._sql.change(), {
                    'of_key': claim.key, **NO_ERROR, **deadline, 'clearing_by': None, 'clearing_at': None,
                    'remains_at': None, 'cleared_number': claim.number})
            elif verdict:
                connection.execute(self._sql.replace(), {**of, **verdict})
            note(connection, told)
            return True

        return self._changed(claim, change)

    def withdraw(self, claim: Claim) -> None:
        """Take back an attempt that was none; its number is not given again."""
        of = {'of_key': claim.key, 'of_number': claim.number}

        def change(connection: Connection) -> None:
            if connection.execute(self._sql.withdraw(), of).rowcount == 1:
                connection.execute(self._sql.forget(), of)
            elif self._is_newest(connection, claim) and connection.execute(self._sql.forget_lost(), of).rowcount == 1:
                connection.execute(self._sql.unshow(), of)
                connection.execute(self._sql.uncount(), {'of_key': claim.key})

        self._changed(claim, change)

    def renew(self, worker: str, host: str, bytes_received: Mapping[tuple[int, int], int]) -> Names:
        """Give a sign of life of a worker and of its attempts; the answer names those that hold their claim."""
        who = {'of_worker': fit(workers.c.worker, worker), 'of_host': fit(workers.c.host, host)}

        def change(connection: Connection) -> Names:
            held = self._renewed(connection, bytes_received) if bytes_received else set()
            connection.execute(self._sql.seen(), who)
            return held

        return self._outbox.write(change)

    def _renewed(self, connection: Connection, received: Mapping[tuple[int, int], int]) -> Names:
        keys = sorted({key for key, _ in received})
        # In the order of the keys, or two workers could wait for each other.
        known = connection.execute(
            select(images.c.key, images.c.running_number, images.c.last_number, images.c.clearing_number).where(
                images.c.key.in_(keys)).order_by(images.c.key).with_for_update()).all()
        held = sorted((row.key, row.running_number) for row in known if (row.key, row.running_number) in received)
        if held:
            connection.execute(renewed_images(self._clock, [key for key, _ in held]))
            connection.execute(renewed_attempts(self._clock, {name[0]: received[name] for name in held}))
        return {*held, *(name for row in known if (name := (row.key, row.last_number)) in received
                         and row.running_number is None and self._taken_back(connection, row, received[name]))}

    def _taken_back(self, connection: Connection, row: Any, received: int) -> bool:
        """Let the newest attempt run again if it was given up as lost, and nobody began to clear it away."""
        of = {'of_key': row.key, 'of_number': row.last_number}
        if row.clearing_number >= row.last_number:
            return False

        def change() -> bool:
            if connection.execute(self._sql.revive(), {**of, 'bytes_received': received}).rowcount != 1:
                return False
            connection.execute(self._sql.unshow(), of)
            connection.execute(self._sql.reclaim(), of)
            return True

        return self._outbox.noting(connection, row.key, change)

    def _changed(self, claim: Claim, change: Callable[[Connection], Result]) -> Result:
        """Run a transaction on the image of a claim."""
        return self._outbox.write(lambda connection: self._outbox.noting(
            connection, claim.key, lambda: change(connection)))

    def _is_newest(self, connection: Connection, claim: Claim) -> bool:
        """Whether nothing came after this attempt, and its remains were not cleared away."""
        held = self._rows.by_key(connection, claim.key)
        return (held is not None and held.record.last_number == claim.number
                and held.record.cleared_number < claim.number)

    def _begun(self, connection: Connection, held: Held, owner: str | None, new: NewAttempt,
               instead_of: int | None) -> Claim | Busy:
        running = held.record.running
        replaces = running is not None and running.number == instead_of
        if not replaces:
            held = self._rows.without_silent(connection, held)
            if held.record.running is not None or held.clearing:
                return Busy(held.record.running)
        claim = self._claimed(connection, held.record, owner, new, instead_of if replaces else None)
        if claim is None:
            # The clock was set back after the row was read: somebody has the right to clear again.
            return Busy(None)
        if replaces:
            # Whoever made it has lost it by its number, as one that was taken back.
            connection.execute(self._sql.forget(), {'of_key': held.record.key, 'of_number': instead_of})
        return claim

    def _claimed(self, connection: Connection, seen: ImageRecord, owner: str | None, new: NewAttempt,
                 replaced: int | None = None) -> Claim | None:
        """Claim the image and enter the attempt; ``None`` when the image is not any more as it was seen.

        :param replaced: the number of the attempt that held it, and is forgotten
        """
        number = seen.last_number + 1
        of = {'of_key': seen.key, 'of_last': seen.last_number, 'of_attempts': seen.attempts, 'of_running': replaced,
              'of_error': None if seen.error is None else seen.error.number}
        owned = {} if owner is None else {'owner': fit(images.c.owner, owner)}
        if connection.execute(self._sql.claim(), {
                **of, **owned, 'running_number': number, 'running_guarded': new.guarded, 'last_number': number,
                'attempts': seen.attempts + (replaced is None)}).rowcount != 1:
            return None
        self._rows.enter(connection, seen, new)
        return Claim(seen.key, number, seen.error, seen.image_id, new.kind, new.request_id)
