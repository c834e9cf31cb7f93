"""Time as the database has it, in one SQL expression."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Double, ScalarSelect, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from imgguard.store.models import images, workers

Source = Callable[[], ColumnElement[float]]
Statement = TypeVar('Statement')


class utc_now(FunctionElement[float]):
    """The database's present time: seconds since the epoch as a double, finer than a second.

    It is the moment the statement runs, not the moment the transaction began, so that waiting for
    a lock does not make an attempt look older than it is.
    """

    type = Double()
    # Else every statement with the time in it is compiled at each call, which takes longer than to run it.
    inherit_cache = True


@compiles(utc_now, 'sqlite')
def _sqlite(element: utc_now, compiler: SQLCompiler, **options: Any) -> str:
    # 2440587.5 is the Julian day of 1970-01-01T00:00Z (https://sqlite.org/lang_datefunc.html).
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(utc_now, 'postgresql')
def _postgresql(element: utc_now, compiler: SQLCompiler, **options: Any) -> str:
    return 'CAST(extract(epoch FROM clock_timestamp()) AS double precision)'


@compiles(utc_now, 'mysql')
@compiles(utc_now, 'mariadb')
def _mariadb(element: utc_now, compiler: SQLCompiler, **options: Any) -> str:
    # now(), not sysdate(): statement based replication repeats only the former alike. The session
    # runs in UTC (engine.py), for a local time is ambiguous in the hour when summer ends.
    return '(unix_timestamp(now(6)) + 0e0)'


class Clock:
    """The time that all statements of one store share, and how long silence may last.

    :param source: gives the SQL expression of the present time; ``None`` for the database's own
    :param lease: seconds; every worker gives a sign of life each third of it
    :param skew: seconds that a sign of life may be late
    :param stall: seconds of silence after which an import has failed that is done elsewhere
    """

    def __init__(self, source: Source | None, lease: float, skew: float, stall: float) -> None:
        self._source = source
        self.stall: Final = stall
        #: Seconds without a sign of life after which an attempt may be lost.
        self.silence: Final = lease + skew
        #: For how many seconds a worker must have reached the store without a gap that hides an outage, to prove
        #: that every other living worker could have done so too.
        self.proof: Final = lease / 3 + skew

    def now(self) -> ColumnElement[float]:
        """The present time in SQL, seconds since the epoch."""
        return utc_now() if self._source is None else self._source()

    def fixed_now(self) -> ColumnElement[float]:
        """The same, read once in a statement: PostgreSQL goes by an index only to a value that stays."""
        return select(self.now()).scalar_subquery()

    def overdue(self) -> ColumnElement[bool]:
        """Whether the deadline of a row of ``images`` has passed; NULL where it has none."""
        overdue: ColumnElement[bool] = images.c.give_up_at <= self.now()
        return overdue.label('overdue')

    def silent_for(self) -> ColumnElement[float]:
        """Seconds since the last sign of life of the running attempt of a row of ``images``; NULL where none runs."""
        silent_for: ColumnElement[float] = self.now() - images.c.running_at
        return silent_for.label('silent_for')

    def clearing(self) -> ColumnElement[bool]:
        """Whether somebody has the right to clear the remains of a row of ``images``; may be NULL."""
        clearing: ColumnElement[bool] = images.c.clearing_at >= self.now() - self.silence
        return clearing.label('clearing')

    def proven(self) -> ScalarSelect[float]:
        """An attempt whose last sign of life is at most this moment had its chance to give another one.

        It is the newest sign of life, less :attr:`proof`, of a worker that had reached the store that long. After an
        outage of the store every worker begins anew, and so nobody is taken for dead who could not write. NULL when
        no worker is known that did.
        """
        return select(workers.c.seen_at - self.proof).where(
            workers.c.seen_at - workers.c.since >= self.proof).order_by(workers.c.seen_at.desc()).limit(
            1).scalar_subquery()

    def prepared(self, build: Callable[[], Statement]) -> Callable[[], Statement]:
        """Give a function that gives what ``build`` builds: built once, unless the clock was handed in.

        Building a statement costs as much as a look-up in SQLite, and a clock handed in may tell
        another time at each call.
        """
        if self._source is not None:
            return build
        statement = build()
        return lambda: statement
