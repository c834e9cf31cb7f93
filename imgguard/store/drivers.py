"""A query given to the driver itself, past SQLAlchemy's execution, which takes longer than the query of SQLite."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Dialect, PoolProxiedConnection, Select
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.sql.compiler import SQLCompiler

Rows = Sequence[Sequence[Any]]
Ask = Callable[[PoolProxiedConnection, Select[Any], Mapping[str, Any]], Rows]

_PREPARED: Final = 'imgguard_prepared'
# Nothing is imported of the driver of this name: it is the dialect that numbers parameters as PostgreSQL does.
_NUMBERED: Final[Dialect] = asyncpg.dialect()  # type: ignore[no-untyped-call]
# https://www.postgresql.org/docs/current/libpq-exec.html, PQresultStatus
_COMMAND_OK: Final = 1
_TUPLES_OK: Final = 2
# PG_DIAG_SQLSTATE, and https://www.postgresql.org/docs/current/errcodes-appendix.html. With a ROLLBACK psycopg has the
# server forget all that is prepared (psycopg/_preparing.py, PrepareManager).
_SQLSTATE: Final = ord('C')
_NOT_PREPARED: Final = b'26000'


class _Prepared(NamedTuple):
    """What a connection knows: its encoding, and the names of queries by their texts."""

    encoding: str
    names: dict[str, bytes]


def asking(dialect: Dialect) -> Ask:
    """What asks connections of this dialect and gives the rows as its driver does.

    On PostgreSQL each value is text. Whatever is raised, the connection may have an answer that is half read.
    """
    def by_cursor(connection: PoolProxiedConnection, query: Select[Any], parameters: Mapping[str, Any]) -> Rows:
        text, defaults, order = _compiled(query, dialect)
        given = {**defaults, **parameters}
        cursor = connection.cursor()
        cursor.execute(text, given if order is None else [given[name] for name in order])
        rows: Rows = cursor.fetchall()
        cursor.close()
        return rows

    # Half of the time that a look takes is that of psycopg's cursor. Its way to libpq is public
    # (https://www.psycopg.org/psycopg3/docs/api/pq.html); it waits in C, where no handler of a signal runs.
    def by_libpq(connection: PoolProxiedConnection, query: Select[Any], parameters: Mapping[str, Any]) -> Rows:
        text, defaults, order = _compiled(query, _NUMBERED)
        given = {**defaults, **parameters}
        values = [None if given[name] is None else str(given[name]) for name in order or ()]
        if any(value is not None and '\0' in value for value in values):
            # To libpq a text ends there.
            return by_cursor(connection, query, parameters)
        driven: Any = connection.driver_connection
        prepared: _Prepared | None = connection.info.get(_PREPARED)
        if prepared is None:
            prepared = connection.info[_PREPARED] = _Prepared(driven.info.encoding, {})
        encoding, names = prepared
        encoded = [None if value is None else value.encode(encoding) for value in values]
        answer = driven.pgconn.exec_prepared(names[text], encoded) if text in names else None
        if answer is None or answer.error_field(_SQLSTATE) == _NOT_PREPARED:
            # By its text: a server between that mixes up its clients must not answer another question.
            names[text] = f'imgguard_{hashlib.sha256(text.encode()).hexdigest()[:32]}'.encode()
            _expect(_COMMAND_OK, driven.pgconn.prepare(names[text], text.encode(encoding)), dialect)
            answer = driven.pgconn.exec_prepared(names[text], encoded)
        _expect(_TUPLES_OK, answer, dialect)
        found = [[answer.get_value(row, column) for column in range(answer.nfields)] for row in range(answer.ntuples)]
        return [[None if value is None else value.decode(encoding) for value in row] for row in found]

    return by_libpq if dialect.name == 'postgresql' else by_cursor


def _expect(status: int, answer: Any, dialect: Dialect) -> None:
    if answer.status != status:
        raise dialect.loaded_dbapi.DatabaseError(answer.error_message.decode(errors='replace'))


@lru_cache(maxsize=16)
def _compiled(query: Select[Any], dialect: Dialect) -> tuple[str, dict[str, Any], Sequence[str] | None]:
    """The text of a query, the values that stand in it, and the order of all; ``None`` where they go by name."""
    compiled = query.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    return compiled.string, dict(compiled.construct_params(_check=False)), compiled.positiontup
