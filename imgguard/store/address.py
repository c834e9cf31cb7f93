"""The address of a database: what the options ``connection`` and ``glance_connection`` may say.

Nothing here connects, and no text repeats more of the address than its place, for it may hold a
password.
"""

import os.path
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from imgguard.errors import ConfigurationError

_EXAMPLES: Final = ('sqlite:////var/lib/glance/imgguard.db, postgresql+psycopg://user:password@host/imgguard '
                    'or mysql+pymysql://user:password@host/imgguard')
_DRIVERS: Final = {'sqlite': 'pysqlite', 'postgresql': 'psycopg', 'mysql': 'pymysql', 'mariadb': 'pymysql'}
_PORTS: Final = {'postgresql': 5432, 'mysql': 3306}
# Parameters of the URL that tell where the server is; all others tell how it is spoken to.
_PLACES: Final = ('host', 'port', 'unix_socket', 'service')
_EXTRAS: Final = {'postgresql': 'imgguard[postgresql]', 'mysql': 'imgguard[mysql]', 'mariadb': 'imgguard[mysql]'}


def parsed(text: str, option: str = 'connection') -> URL:
    """Read an option that names a database.

    :param text: an SQLAlchemy URL; a database without a driver gets the tested one
    :raises ConfigurationError: it cannot be read, names another database or driver, a SQLite path
        that is not absolute, or a driver that is not installed
    """
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError):
        # From None: the cause may repeat the address with its password.
        raise _refused(option, f'is not a database URL; give one like {_EXAMPLES}') from None
    backend = url.get_backend_name()
    driver = _DRIVERS.get(backend)
    if driver is None:
        raise _refused(option, f'names the database {backend!r}, which imgguard cannot use; give one like {_EXAMPLES}')
    if '+' not in url.drivername:
        url = url.set(drivername=f'{backend}+{driver}')
    elif url.drivername != f'{backend}+{driver}':
        raise _refused(option, f'names the driver {url.drivername!r}; imgguard works with '
                       f'{backend}+{driver}: write that')
    if backend == 'sqlite':
        _check_path(option, url.database)
    elif not url.database:
        raise _refused(option, f'names no database after the host; give one like {_EXAMPLES}')
    _check_driver(option, url, backend, driver)
    return url


def place(url: URL) -> str:
    """Where the store is, for texts: never the user, the password or a parameter of the URL."""
    if url.get_backend_name() == 'sqlite':
        return f'SQLite file {url.database}'
    port = f':{url.port}' if url.port else ''
    return f'{url.get_backend_name()} database {url.database} at {url.host or "localhost"}{port}'


def identity(text: str) -> str:
    """The same text for all ways to write one address: who asks, with which driver and how does not matter.

    Names are not looked up: ``localhost`` and ``127.0.0.1`` are two servers.

    :raises ConfigurationError: as :func:`parsed`
    """
    url = parsed(text)
    backend = url.get_backend_name()
    if backend == 'sqlite':
        return f'sqlite {os.path.normpath(url.database or "")}'
    server = 'mysql' if backend == 'mariadb' else backend
    places = [f'{name}={url.query[name]}' for name in _PLACES if name in url.query]
    host = (url.host or 'localhost').lower()
    return ' '.join([server, host, str(url.port or _PORTS[server]), url.database or '', *places])


def _check_path(option: str, path: str | None) -> None:
    if not path or not os.path.isabs(path):
        raise _refused(option, 'names a SQLite file by a relative path (or none), which each process would look for '
                       'elsewhere; give the absolute path, with four slashes: sqlite:////var/lib/glance/imgguard.db')


def _check_driver(option: str, url: URL, backend: str, driver: str) -> None:
    try:
        url.get_dialect().import_dbapi()
    except ImportError as error:
        raise _refused(option, f'needs the Python package {driver!r}, which cannot be imported ({error}); '
                       f"run: pip install '{_EXTRAS.get(backend, 'imgguard')}'") from error


def _refused(option: str, why: str) -> ConfigurationError:
    return ConfigurationError(f'imgguard: option {option} {why}')
