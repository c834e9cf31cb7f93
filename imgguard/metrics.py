"""The metrics application (``paste.app_factory = imgguard.metrics:app_factory``, ``egg:imgguard#metrics``).

It exposes for Prometheus what the filters of its paste file count that name the same store; only with it do they
count at all. What needs the extra ``metrics`` is imported once it is known to be wanted.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import webob.exc

from imgguard import counts
from imgguard.errors import ConfigurationError
from imgguard.settings import FILE_OPTION, refuse_defaults, refuse_unknown, resolve
from imgguard.store import Store
from imgguard.store.address import identity
from imgguard.wsgi import Application, Environ, StartResponse

_DIRECTORY: Final = 'multiprocess_directory'
_PORT: Final = 'port'
_OF_THE_FILTER: Final = ('connection', FILE_OPTION)


def app_factory(global_conf: dict[str, str], **local_conf: str) -> Application:
    """The paste application factory.

    :param local_conf: ``multiprocess_directory``, ``port``, and, as for the filter, ``connection`` or the file that
        tells it
    :raises ConfigurationError: for an unknown option, a bad value or a missing extra, which stops the load
    """
    where = f"the section of imgguard's metrics in {global_conf.get('__file__', 'the paste file')}"
    refuse_defaults(global_conf, where, (*_OF_THE_FILTER, _DIRECTORY, _PORT))
    refuse_unknown(local_conf, (_DIRECTORY, _PORT, *_OF_THE_FILTER), where)
    settings = resolve({name: local_conf[name] for name in _OF_THE_FILTER if name in local_conf}, where)
    directory, port = _directory(local_conf.get(_DIRECTORY), where), _port(local_conf.get(_PORT), where)
    try:
        from imgguard import prometheus
    except ImportError as error:
        raise ConfigurationError(f'imgguard: {where} needs the extra "metrics" ({error}); install it with '
                                 "pip install 'imgguard[metrics]'") from error
    counted = counts.of(identity(settings.connection))
    recorder = prometheus.FileRecorder(directory)
    counted.record_with(recorder)
    store = Store(settings.connection, settings.lease_seconds, observer=counted)
    exposed = prometheus.exposition(store, recorder)
    return exposed if port is None else _at_port(exposed, port)


def _at_port(application: Application, port: int) -> Application:
    def answered(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # The server's own word, not the client's: the Host header may name any.
        if environ.get('SERVER_PORT') != str(port):
            return webob.exc.HTTPNotFound()(environ, start_response)
        return application(environ, start_response)

    return answered


def _directory(value: str | None, where: str) -> Path:
    """The directory of that option, made if it is not there."""
    if value is None:
        raise ConfigurationError(f'imgguard: {where} lacks the option {_DIRECTORY!r}: name a directory that the '
                                 "workers of this host share, such as '/var/lib/glance/imgguard-metrics'")
    directory = Path(value)
    about = f'imgguard: option {_DIRECTORY!r} in {where}: '
    if not directory.is_absolute():
        raise ConfigurationError(f'{about}{value!r} is not allowed; give an absolute path')
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / '0.lock').open('a').close()
    except OSError as error:
        raise ConfigurationError(f'{about}{value} cannot be used: {error.strerror}') from error
    return directory


def _port(value: str | None, where: str) -> int | None:
    if value is None:
        return None
    if value.isascii() and value.isdigit() and 1 <= int(value) <= 65535:
        return int(value)
    raise ConfigurationError(f'imgguard: option {_PORT!r} in {where}: {value!r} is not allowed; give a whole number '
                             'from 1 to 65535')
