"""What an error of the database means: try again, or tell the caller, without any secret."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from imgguard.errors import ImgguardError, StoreUnavailable

REMEDY: Final = 'run `imgguard-manage db upgrade`'

# https://www.postgresql.org/docs/current/errcodes-appendix.html: serialization failure, deadlock,
# lock not available (the session waits for a lock only so long, see engine.py).
_REPEAT_STATES: Final = frozenset({'40001', '40P01', '55P03'})
# https://mariadb.com/kb/en/mariadb-error-codes/: lock wait timeout, deadlock (also what Galera
# answers when it cannot certify), record changed since last read (MariaDB >= 11.6), and the table
# was being changed. By number, because PyMySQL before 1.2 tells no state.
_REPEAT_NUMBERS: Final = frozenset({1205, 1213, 1020, 1412, 1684})

# Of these, those that did not wait in vain.
_COLLISION_STATES: Final = frozenset({'40001', '40P01'})
_COLLISION_NUMBERS: Final = _REPEAT_NUMBERS - {1205}
#: A node of Galera that has lost the cluster, or is not yet in it, refuses everything.
NOT_IN_CLUSTER: Final = 1047
# Table, column or index is there already, a row with this key too.
_MADE_NUMBERS: Final = frozenset({1050, 1060, 1061, 1062})

_NO_TABLE_STATE: Final = '42P01'
_NO_TABLE_NUMBER: Final = 1146
# Numbers whose messages speak of the server and the account, never of values: no access, no such
# database, too many connections, denied, read-only, outside the cluster, and the client's own (2000 and up).
_TELLING_NUMBERS: Final = frozenset({
    1040, 1044, 1045, NOT_IN_CLUSTER, 1049, 1130, 1142, 1203, 1205, 1213, 1290, 1792, 1836})


class OutcomeUnknown(StoreUnavailable):
    """The connection broke while the commit was under way: it may have happened or not."""


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose database it is: the guard's own, or Glance's.

    :param name: how texts call it
    :param without_tables: what they say of one without tables
    :param unavailable: is raised when it cannot be used
    :param unknown: is raised when nobody knows whether a change was made
    """

    name: str
    without_tables: str
    unavailable: type[ImgguardError]
    unknown: type[ImgguardError]


OURS: Final = Whose('the store of imgguard', f'has not got its tables: {REMEDY}', StoreUnavailable, OutcomeUnknown)


def may_repeat(error: SQLAlchemyError) -> bool:
    """Whether a transaction that failed so did nothing and is worth another try."""
    if not isinstance(error, DBAPIError):
        return False
    return error.connection_invalidated or _state(error) in _REPEAT_STATES or _number(error) in _REPEAT_NUMBERS


def made_meanwhile(error: SQLAlchemyError) -> bool:
    """Whether MariaDB refused a change of the tables, or a row, because somebody else was quicker with it."""
    return isinstance(error, DBAPIError) and _number(error) in _MADE_NUMBERS | _REPEAT_NUMBERS


def collided(error: SQLAlchemyError) -> bool:
    """Whether a transaction gave way to another one, at once, and the other went on."""
    return isinstance(error, DBAPIError) and (
        _state(error) in _COLLISION_STATES or _number(error) in _COLLISION_NUMBERS)


@contextmanager
def translated(place: str, whose: Whose = OURS) -> Iterator[None]:
    """Turn every database error that leaves the block into one of our own.

    :param place: where the database is, from :func:`imgguard.store.address.place`
    :raises StoreUnavailable: or what ``whose`` says; its text tells neither a password nor a value
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise whose.unavailable(described(place, error, whose)) from error


def described(place: str, error: SQLAlchemyError | OSError, whose: Whose = OURS) -> str:
    """One line on what is wrong with the database and, where it is known, what to do."""
    if isinstance(error, DBAPIError) and _lacks_table(error):
        return f'{whose.name} ({place}) {whose.without_tables}'
    return f'{whose.name} ({place}) failed: {_reason(error)}'


def _lacks_table(error: DBAPIError) -> bool:
    return (_state(error) == _NO_TABLE_STATE or _number(error) == _NO_TABLE_NUMBER
            or str(error.orig).startswith('no such table'))


def _reason(error: SQLAlchemyError | OSError) -> str:
    """The driver's own words where they cannot hold a value of a row, else the kind of error only."""
    if isinstance(error, OSError):
        return str(error)
    if not isinstance(error, DBAPIError) or error.orig is None:
        return type(error).__name__
    cause, number, state = error.orig, _number(error), _state(error)
    kind = type(cause).__name__
    if number is not None:
        telling = number in _TELLING_NUMBERS or number >= 2000
        return f'{kind} {number}: {_line(cause.args[-1])}' if telling else f'{kind} {number}'
    if state is not None:
        # Without a state the error is of the connection; classes 22 and 23 speak of values.
        return kind if state[:2] in ('22', '23') else f'{kind}: {_line(cause)}'
    return f'{kind}: {_line(cause)}'


def _line(text: object) -> str:
    lines = str(text).splitlines()
    return lines[0] if lines else ''


def _state(error: DBAPIError) -> str | None:
    state = getattr(error.orig, 'sqlstate', None)
    return state if isinstance(state, str) else None


def _number(error: DBAPIError) -> int | None:
    arguments = error.orig.args if error.orig is not None else ()
    return arguments[0] if len(arguments) > 1 and isinstance(arguments[0], int) else None
