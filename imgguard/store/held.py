"""The row of an image, locked until the transaction ends, and the ends that any change may have to bring first.

The row of the image is locked first and its attempts after it, everywhere: so no two changes wait
for each other. Whoever holds ``running_number`` holds the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Row, select

from imgguard import codes
from imgguard.attempts import End, Failure, ImageRecord, Kind, NewAttempt, Running, State
from imgguard.store.clock import Clock
from imgguard.store.engine import note
from imgguard.store.models import attempts, fit, images
from imgguard.store.outbox import Outbox
from imgguard.store.rows import RECORD_COLUMNS, make_or_update, record
from imgguard.store.statements import NO_ERROR, Statements

Result = TypeVar('Result')
Unknown = TypeVar('Unknown')

MOST_KEPT: Final = 100
"""How many attempts are kept of an image, declarations among them."""


@dataclass(frozen=True, slots=True)
class Held:
    """An image whose row is locked.

    :param clearing: whether somebody has the right to clear its remains
    """

    record: ImageRecord
    clearing: bool


class Rows:
    """Reads and ends under the lock of an image; every method but the first three belongs into a transaction."""

    def __init__(self, outbox: Outbox, sql: Statements, clock: Clock) -> None:
        self._outbox: Final = outbox
        self._sql: Final = sql
        self._clock: Final = clock

    def write(self, image_id: str, created_at: str, change: Callable[[Connection, Held], Result],
              is_new: bool = False) -> Result:
        """Run a transaction on an image, which gets a row if it has none.

        :param is_new: whether it had none a moment ago, which saves looking for it in a transaction of its own
        :raises imgguard.errors.StoreUnavailable: the database could not be written
        """
        def made(connection: Connection) -> Result:
            make_or_update(connection, image_id, created_at, {})
            held = self.by_name(connection, image_id, created_at)
            assert held is not None
            return self._changed(connection, held, change)

        if is_new:
            return self._outbox.write(made)
        outcome = self.write_named(image_id, created_at, lambda connection, held: (change(connection, held),), None)
        # Only now, for making locks a row that is there together with its neighbours.
        return self._outbox.write(made) if outcome is None else outcome[0]

    def write_named(self, image_id: str, created_at: str, change: Callable[[Connection, Held], Result],
                    unknown: Unknown) -> Result | Unknown:
        """Run a transaction on an image, if it has a row; else the answer is ``unknown``.

        :raises imgguard.errors.StoreUnavailable: the database could not be written
        """
        def known(connection: Connection) -> Result | Unknown:
            held = self.by_name(connection, image_id, created_at)
            return unknown if held is None else self._changed(connection, held, change)

        return self._outbox.write(known)

    def write_key(self, key: int, change: Callable[[Connection, Held], Result],
                  unknown: Unknown) -> Result | Unknown:
        """The same for an image whose key is known."""
        def known(connection: Connection) -> Result | Unknown:
            held = self.by_key(connection, key)
            return unknown if held is None else self._changed(connection, held, change)

        return self._outbox.write(known)

    def by_name(self, connection: Connection, image_id: str, created_at: str) -> Held | None:
        """Lock an image; ``None`` when it has no row."""
        return self._held(connection, connection.execute(
            self._sql.by_name(), {'of_id': image_id, 'of_time': created_at}).first())

    def by_key(self, connection: Connection, key: int) -> Held | None:
        """Lock an image; ``None`` when it has no row."""
        return self._held(connection, connection.execute(self._sql.by_key(), {'of_key': key}).first())

    def without_silent(self, connection: Connection, held: Held) -> Held:
        """The image after its running attempt, if that does not hold it any more, was ended as lost."""
        running = held.record.running
        if running is None or running.holds:
            return held
        self.lose(connection, held.record.key, running)
        now = self.by_key(connection, held.record.key)
        assert now is not None
        return now

    def lose(self, connection: Connection, key: int, running: Running) -> None:
        """End the running attempt as lost; it becomes the verdict if it was guarded."""
        text = codes.default_text(codes.WORKER_LOST)
        of = {'of_key': key, 'of_number': running.number}
        connection.execute(self._sql.end_silent(), {
            **of, 'state': State.LOST.value, 'code': codes.WORKER_LOST, 'message': text})
        note(connection, End(running.kind, State.LOST, codes.WORKER_LOST, 0))
        # A copy failed, not the image, which has its data.
        if running.guarded and running.kind is not Kind.COPY:
            connection.execute(self._sql.show_lost(), {
                **of, 'error_code': codes.WORKER_LOST, 'error_text': fit(images.c.error_text, text)})
        else:
            connection.execute(self._sql.free(), of)
        if running.guarded:
            connection.execute(self._sql.remain(), {'of_key': key})

    def arrive(self, connection: Connection, key: int, running: Running, remark: str | None) -> None:
        """End the running attempt as succeeded although it said nothing; its verdict and deadline are cleared."""
        of = {'of_key': key, 'of_number': running.number}
        connection.execute(self._sql.end_silent(), {**of, **_arrived(remark)})
        note(connection, End(running.kind, State.SUCCEEDED, None, 0))
        connection.execute(self._sql.free(), of)
        connection.execute(self._sql.change(), {'of_key': key, **NO_ERROR, 'give_up_at': None})
        if running.guarded:
            connection.execute(self._sql.remain(), {'of_key': key})

    def arrive_lost(self, connection: Connection, key: int, number: int, remark: str | None) -> bool:
        """The same of an attempt that was given up as lost; what remains of it is noted already."""
        of = {'of_key': key, 'of_number': number}
        if connection.execute(self._sql.end_lost(), {**of, **_arrived(remark)}).rowcount != 1:
            return False
        connection.execute(self._sql.change(), {'of_key': key, **NO_ERROR, 'give_up_at': None})
        kind = connection.execute(select(attempts.c.kind).where(
            attempts.c.image_key == key, attempts.c.number == number)).scalar_one()
        note(connection, End(Kind(kind), State.SUCCEEDED, None, 0))
        return True

    def enter(self, connection: Connection, known: ImageRecord, new: NewAttempt) -> int:
        """Enter an attempt into the history, from which old ones go, and return its number."""
        number = known.last_number + 1
        connection.execute(self._sql.insert(), _attempt_row(known.key, number, new))
        if number > MOST_KEPT:
            of = {'of_key': known.key, 'of_above': known.cleared_number}
            # The fence is theirs, see imgguard/fence.py; the last one to fall silent opens it last.
            lost = connection.execute(self._sql.newest_lost(), of).scalar()
            always = {1, known.error.number if known.error is not None else 1, lost or 1}
            connection.execute(self._sql.forget_old(), {
                'of_key': known.key, 'of_below': number - MOST_KEPT + len(always) + 1, 'of_always': sorted(always)})
        return number

    def declare(self, connection: Connection, known: ImageRecord, new: NewAttempt, failure: Failure) -> int:
        """Put an image in error that no attempt holds, as an entry of its history, whose number is returned."""
        key, number = known.key, self.enter(connection, known, new)
        if known.last_number:
            # Also where nothing was left: what a good stage has brought is not to be imported any more.
            connection.execute(self._sql.remain(), {'of_key': key})
        connection.execute(self._sql.end(), {
            'of_key': key, 'of_number': number, 'state': State.FAILED.value, 'code': failure.code,
            'message': fit(attempts.c.message, failure.text)})
        note(connection, End(new.kind, State.FAILED, failure.code, 0))
        connection.execute(self._sql.declare(), {
            'of_key': key, 'last_number': number, 'error_number': number, 'error_code': failure.code,
            'error_text': fit(images.c.error_text, failure.text),
            'error_request_id': fit(images.c.error_request_id, new.request_id)})
        return number

    def _changed(self, connection: Connection, held: Held, change: Callable[[Connection, Held], Result]) -> Result:
        return self._outbox.noting(connection, held.record.key, lambda: change(connection, held))

    def _held(self, connection: Connection, row: Row[Any] | None) -> Held | None:
        if row is None:
            return None
        running: Sequence[Any] = ()
        if row.running_number is not None:
            # Not joined to the row: where a join is locked, the attempts would be too.
            facts = connection.execute(self._sql.facts(), {'of_key': row.key, 'of_number': row.running_number}).one()
            proven = False
            if row.silent_for > self._clock.silence:
                moment = connection.execute(self._sql.proven()).scalar()
                proven = moment is not None and row.running_at <= moment
            running = (row.silent_for, proven, *facts)
        return Held(record(row[:len(RECORD_COLUMNS) + 1], running, self._clock), bool(row.clearing))


def _arrived(remark: str | None) -> dict[str, object]:
    return {'state': State.SUCCEEDED.value, 'code': None, 'message': fit(attempts.c.message, remark)}


def _attempt_row(key: int, number: int, new: NewAttempt) -> dict[str, object]:
    return {'image_key': key, 'number': number, 'kind': new.kind.value, 'guarded': new.guarded,
            'request_id': fit(attempts.c.request_id, new.request_id), 'user_id': fit(attempts.c.user_id, new.user_id),
            'project_id': fit(attempts.c.project_id, new.project_id), 'host': fit(attempts.c.host, new.host),
            'worker': fit(attempts.c.worker, new.worker), 'bytes_expected': new.bytes_expected,
            'handed_on': new.handed_on}
