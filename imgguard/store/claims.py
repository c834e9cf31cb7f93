"""The changes: claims on images, their signs of life and their ends. Each is one transaction.

The row of the image is locked first and its attempts after it, everywhere: so no two of these wait
for each other. Whoever holds ``running_number`` holds the image.
"""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, delete, select

from imgguard import codes
from imgguard.attempts import Busy, Claim, Failure, ImageRecord, Kind, NewAttempt, State
from imgguard.store.clock import Clock
from imgguard.store.engine import Database
from imgguard.store.models import attempts, fit, images
from imgguard.store.rows import make_or_update, record
from imgguard.store.statements import Statements, renewed_attempt, renewed_images

# With the first and the shown one that makes 100, the most that is kept of an image.
NEWEST_KEPT: Final = 98

# A verdict that time alone has spoken.
_NOBODY: Final = NewAttempt(Kind.DECLARE, True, None, None, None, '', '', None)


class Claims:
    """Writes of the store; every method raises :class:`imgguard.errors.StoreUnavailable` when it cannot."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database: Final = database
        self._clock: Final = clock
        self._sql: Final = Statements(clock)

    def begin(self, image_id: str, created_at: str, owner: str | None, new: NewAttempt) -> Claim | Busy:
        """Claim the image, unless an attempt on it is alive."""
        outcome = self._database.write(lambda connection: self._begun(connection, image_id, created_at, owner, new))
        if outcome is not None:
            return outcome

        def made(connection: Connection) -> Claim | Busy | None:
            make_or_update(connection, image_id, created_at, {})
            return self._begun(connection, image_id, created_at, owner, new)

        # Only now, for this locks a row that is there together with its neighbours.
        outcome = self._database.write(made)
        assert outcome is not None
        return outcome

    def finish(self, claim: Claim, state: State, failure: Failure | None, *, shown: bool, http_status: int | None,
               bytes_received: int) -> bool:
        """End the attempt that holds the claim; ``False`` when it holds it no longer."""
        if state is State.RUNNING or (state is not State.SUCCEEDED and failure is None):
            raise ValueError(f'an attempt cannot end as {state} with {failure}')
        of = {'of_key': claim.key, 'of_number': claim.number}
        code = failure.code or None if failure else None
        message = fit(attempts.c.message, failure.text) if failure else None
        verdict: dict[str, object] = {}
        free = self._sql.free()
        if state is State.SUCCEEDED:
            free = self._sql.succeed()
        elif shown:
            free = self._sql.show()
            verdict = {'error_code': code, 'error_text': message, 'error_bytes': bytes_received}

        def change(connection: Connection) -> bool:
            held = connection.execute(free, {**of, **verdict}).rowcount == 1
            connection.execute(self._sql.end(), {
                **of, 'state': state.value, 'code': code, 'message': message, 'http_status': http_status,
                'bytes_received': bytes_received})
            return held

        return self._database.write(change)

    def withdraw(self, claim: Claim) -> None:
        """Take back an attempt that was none; its number is not given again."""
        of = {'of_key': claim.key, 'of_number': claim.number}

        def change(connection: Connection) -> None:
            if connection.execute(self._sql.withdraw(), of).rowcount == 1:
                connection.execute(self._sql.forget(), of)

        self._database.write(change)

    def give_up(self, key: int, failure: Failure) -> bool:
        """Put an overdue image that waits for its data in error; ``True`` for the one caller whose call did it."""
        def change(connection: Connection) -> bool:
            found = connection.execute(self._sql.by_key(), {'of_key': key}).first()
            if found is None:
                return False
            known = record(found[:-1])
            if not known.overdue or known.running is not None or known.error is not None:
                return False
            self._declared(connection, key, int(found.last_number) + 1, _NOBODY, failure)
            return True

        return self._database.write(change)

    def lose(self, key: int, number: int) -> bool:
        """End an attempt that is not alive; ``True`` for the one caller whose call did it."""
        def change(connection: Connection) -> bool:
            found = connection.execute(self._sql.by_key(), {'of_key': key}).first()
            if found is None:
                return False
            running = record(found[:-1]).running
            if running is None or running.number != number or running.alive:
                return False
            self._lost(connection, key, number, running.guarded)
            return True

        return self._database.write(change)

    def renew(self, bytes_received: Mapping[tuple[int, int], int]) -> set[tuple[int, int]]:
        """Give a sign of life of many attempts; the answer names those that still hold their claim."""
        if not bytes_received:
            return set()
        return self._database.write(lambda connection: self._renewed(connection, bytes_received))

    def _renewed(self, connection: Connection, received: Mapping[tuple[int, int], int]) -> set[tuple[int, int]]:
        keys = sorted({key for key, _ in received})
        # In the order of the keys, or two workers could wait for each other.
        running = connection.execute(
            select(images.c.key, images.c.running_number).where(images.c.key.in_(keys))
            .order_by(images.c.key).with_for_update()).all()
        held = sorted((key, number) for key, number in running if (key, number) in received)
        if held:
            connection.execute(renewed_images(self._clock, [key for key, _ in held]))
            connection.execute(renewed_attempt(self._clock), [
                {'of_key': key, 'of_number': number, 'bytes_received': received[key, number]}
                for key, number in held])
        return set(held)

    def _begun(self, connection: Connection, image_id: str, created_at: str, owner: str | None,
               new: NewAttempt) -> Claim | Busy | None:
        """The claim or its refusal; ``None`` when the image has no row."""
        of = {'of_id': image_id, 'of_time': created_at}
        found = connection.execute(self._sql.by_name(), of).first()
        if found is None:
            return None
        known = record(found[:-1])
        if known.running is not None:
            if known.running.alive:
                return Busy(known.running)
            self._lost(connection, known.key, known.running.number, known.running.guarded)
            known = record(connection.execute(self._sql.by_name(), of).one()[:-1])
        number = int(found.last_number) + 1
        self._claimed(connection, known, number, owner, new)
        _prune(connection, known, number)
        return Claim(known.key, number, known.error)

    def _claimed(self, connection: Connection, known: ImageRecord, number: int, owner: str | None,
                 new: NewAttempt) -> None:
        connection.execute(self._sql.insert(), _row(known.key, number, new))
        connection.execute(self._sql.claim(), {
            'of_key': known.key, 'running_number': number, 'running_guarded': new.guarded, 'last_number': number,
            'attempts': known.attempts + 1, 'owner': known.owner if owner is None else fit(images.c.owner, owner)})

    def _declared(self, connection: Connection, key: int, number: int, new: NewAttempt, failure: Failure) -> None:
        connection.execute(self._sql.insert(), _row(key, number, new))
        connection.execute(self._sql.end(), {
            'of_key': key, 'of_number': number, 'state': State.FAILED.value, 'code': failure.code,
            'message': fit(attempts.c.message, failure.text)})
        connection.execute(self._sql.declare(), {
            'of_key': key, 'last_number': number, 'error_number': number, 'error_code': failure.code,
            'error_text': fit(images.c.error_text, failure.text),
            'error_request_id': fit(images.c.error_request_id, new.request_id)})

    def _lost(self, connection: Connection, key: int, number: int, guarded: bool) -> None:
        text = codes.default_text(codes.WORKER_LOST)
        of = {'of_key': key, 'of_number': number}
        connection.execute(self._sql.end(), {
            **of, 'state': State.LOST.value, 'code': codes.WORKER_LOST, 'message': text})
        if guarded:
            connection.execute(self._sql.show_lost(), {
                **of, 'error_code': codes.WORKER_LOST, 'error_text': fit(images.c.error_text, text)})
        else:
            connection.execute(self._sql.free(), of)


def _row(key: int, number: int, new: NewAttempt) -> dict[str, object]:
    return {'image_key': key, 'number': number, 'kind': new.kind.value, 'guarded': new.guarded,
            'request_id': fit(attempts.c.request_id, new.request_id), 'user_id': fit(attempts.c.user_id, new.user_id),
            'project_id': fit(attempts.c.project_id, new.project_id), 'host': fit(attempts.c.host, new.host),
            'worker': fit(attempts.c.worker, new.worker), 'bytes_expected': new.bytes_expected}


def _prune(connection: Connection, known: ImageRecord, number: int) -> None:
    """Forget the oldest attempts but the first and the shown one."""
    oldest_kept = number - NEWEST_KEPT + 1
    if oldest_kept <= 2:
        return
    old = delete(attempts).where(attempts.c.image_key == known.key, attempts.c.number > 1,
                                 attempts.c.number < oldest_kept)
    if known.error is not None:
        old = old.where(attempts.c.number != known.error.number)
    connection.execute(old)
