"""A real server with the proxy and the guard in it, in front of a Glance 15.0.2."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cheroot import wsgi
from paste.deploy import loadapp  # type: ignore[import-untyped]

from demo.server import HOST, free_port
from tests.harness import IDENTITY
from tests.old_glance import OldGlance
from tests.proxying import listens
from tests.sockets import eventually

_PASTE = '''
[pipeline:main]
pipeline = {pipeline}
[filter:identity]
paste.filter_factory = {identity}
[app:guard]
use = egg:imgguard#proxy
'''


@contextmanager
def guarding(glance: OldGlance, folder: Path, by_database: bool = True, identified: bool = True,
             **options: str) -> Iterator[int]:
    """The port of a server in front of that Glance, whose store is in that folder.

    :param by_database: whether it is told where Glance's database is
    :param identified: whether it is told who the callers are
    """
    server = _server(_paste(glance, folder, by_database, options, 'identity guard' if identified else 'guard'), 0)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server.bind_addr[1]
    finally:
        server.stop()
        thread.join()


@dataclass(frozen=True)
class Started:
    """The same in a process of its own, which can be killed."""

    process: subprocess.Popen[bytes]
    port: int


@contextmanager
def started(glance: OldGlance, folder: Path, by_database: bool = True, **options: str) -> Iterator[Started]:
    """As :func:`guarding`, in another process; several share the store of the folder."""
    paste, port = _paste(glance, folder, by_database, options), free_port()
    process = subprocess.Popen([sys.executable, '-m', __name__, str(paste), str(port)],
                               cwd=Path(__file__).resolve().parent.parent.parent)
    try:
        eventually(lambda: listens(port), 'the server')
        yield Started(process, port)
    finally:
        process.kill()
        process.wait()


def _paste(glance: OldGlance, folder: Path, by_database: bool, options: Mapping[str, str],
           pipeline: str = 'identity guard') -> Path:
    options = {'backend_url': glance.url, 'connection': f'sqlite:///{folder}/imgguard.db', **options}
    if by_database:
        options['glance_connection'] = f'sqlite:///{glance.database}'
    paste = folder / 'proxy.ini'
    paste.write_text(_PASTE.format(identity=IDENTITY, pipeline=pipeline) + '\n'.join(
        f'{name} = {value}' for name, value in options.items()) + '\n')
    return paste


def _server(paste: Path, port: int) -> wsgi.Server:
    server = wsgi.Server((HOST, port), loadapp(f'config:{paste}'), numthreads=8)
    server.prepare()
    return server


if __name__ == '__main__':
    _server(Path(sys.argv[1]), int(sys.argv[2])).serve()
