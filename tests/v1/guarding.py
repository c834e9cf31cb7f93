"""A real server with the proxy and the guard in it, in front of a Glance 15.0.2."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cheroot import wsgi
from paste.deploy import loadapp  # type: ignore[import-untyped]

from demo.server import HOST
from tests.harness import IDENTITY
from tests.old_glance import OldGlance

_PASTE = '''
[pipeline:main]
pipeline = identity guard
[filter:identity]
paste.filter_factory = {identity}
[app:guard]
use = egg:imgguard#proxy
'''


@contextmanager
def guarding(glance: OldGlance, folder: Path, by_database: bool = True, **options: str) -> Iterator[int]:
    """The port of a server in front of that Glance, whose store is in that folder.

    :param by_database: whether it is told where Glance's database is
    """
    options = {'backend_url': glance.url, 'connection': f'sqlite:///{folder}/imgguard.db', **options}
    if by_database:
        options['glance_connection'] = f'sqlite:///{glance.database}'
    paste = folder / 'proxy.ini'
    paste.write_text(_PASTE.format(identity=IDENTITY) + '\n'.join(
        f'{name} = {value}' for name, value in options.items()) + '\n')
    server = wsgi.Server((HOST, 0), loadapp(f'config:{paste}'), numthreads=8)
    server.prepare()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server.bind_addr[1]
    finally:
        server.stop()
        thread.join()
