"""Time as the database has it, in one SQL expression."""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from imgguard.store.models import images

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
    :param silence: seconds without a sign of life after which an attempt is no longer alive
    """

    def __init__(self, source: Source | None, silence: float) -> None:
        self._source = source
        self._silence = silence

    def now(self) -> ColumnElement[float]:
        """The present time in SQL, seconds since the epoch."""
        return utc_now() if self._source is None else self._source()

    def judged(self) -> tuple[ColumnElement[bool], ...]:
        """What the time says of a row of ``images``, NULL where there is nothing to judge.

        ``alive``: whether its running attempt is; ``overdue``: whether its deadline has passed.
        """
        alive: ColumnElement[bool] = images.c.running_at >= self.now() - self._silence
        overdue: ColumnElement[bool] = images.c.give_up_at <= self.now()
        return alive.label('alive'), overdue.label('overdue')

    def prepared(self, build: Callable[[], Statement]) -> Callable[[], Statement]:
        """Give a function that gives what ``build`` builds: built once, unless the clock was handed in.

        Building a statement costs as much as a look-up in SQLite, and a clock handed in may tell
        another time at each call.
        """
        if self._source is not None:
            return build
        statement = build()
        return lambda: statement
