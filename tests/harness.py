"""What tests share beside fixtures: the Glance of this process, and what a machine may lack."""

import atexit
import itertools
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from cheroot import wsgi
from sqlalchemy import create_engine

from demo.private_glance import Options, PrivateGlance, write_paste_file
from demo.server import HOST
from tests.identity import Identity

#: Whether the tests with Glance in this process run through the reverse proxy, with a server of that Glance behind it.
THROUGH_PROXY = os.environ.get('IMGGUARD_THROUGH', '') == 'proxy'

IDENTITY = 'tests.identity:filter_factory'
#: Databases of this machine, by accounts that may create databases.
SERVERS = {
    'postgresql': os.environ.get('IMGGUARD_TEST_POSTGRESQL', 'postgresql+psycopg://postgres@127.0.0.1:5432/test'),
    'mariadb': os.environ.get('IMGGUARD_TEST_MARIADB', 'mariadb+pymysql://root@127.0.0.1:3306/test'),
}


def administer(server: str, statement: str) -> None:
    """Run a statement as an account that may create databases.

    :param server: of :data:`SERVERS`, or the URL of a database of another
    """
    engine = create_engine(SERVERS.get(server, server), isolation_level='AUTOCOMMIT')
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def skip_or_fail(name: str, reason: str) -> NoReturn:
    """Skip the test for want of ``name``, or fail it where this machine was said to have it.

    ``IMGGUARD_REQUIRE`` names those, with commas between them (``postgresql,mariadb,rabbitmq``).
    """
    required = [each.strip() for each in os.environ.get('IMGGUARD_REQUIRE', '').split(',')]
    if name in required:
        pytest.fail(f'{name} is required by IMGGUARD_REQUIRE: {reason}', pytrace=False)
    pytest.skip(f'{name}: {reason}')


def _closing(application: WSGIApplication) -> WSGIApplication:
    """One request a connection: Glance closes the body of a request, and with it what cheroot reads the next from."""
    def closing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Callable[[bytes], object]:
            return start_response(status, [*headers, ('Connection', 'close')], *more)
        return application(environ, start)
    return closing


def in_process_only(reason: str) -> pytest.MarkDecorator:
    """Mark a test of something that only a guard in Glance's own process can do."""
    return pytest.mark.skipif(THROUGH_PROXY, reason=f'in Glance\'s own process only: {reason}')


class InProcessGlance:
    """Glance in this process, as ``glance.wsgi.api`` would start it.

    Glance's configuration, stores and database belong to the process, so there is one for the whole
    test session; many pipelines with or without the guard can be loaded side by side upon it.
    """

    def __init__(self, glance: PrivateGlance) -> None:
        self.glance = glance
        self._numbers = itertools.count()
        self._server: wsgi.Server | None = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('OS_GLANCE_CONFIG_DIR', str(glance.configuration))
            # Importing Glance registers its options; it must not happen in runs that need no Glance.
            from glance.common import wsgi_app
            wsgi_app.init_app()
        self._drain_workers = wsgi_app.drain_workers
        # Glance lets its threads end when Python exits; where none was started it fails to, loudly.
        atexit.unregister(self._drain_workers)

    @property
    def database_url(self) -> str:
        """Where Glance's own database is."""
        from oslo_config import cfg
        url: str = cfg.CONF.database.connection
        return url

    def close(self) -> None:
        """Wait for the threads Glance has started, such as those of imports."""
        if self._server is not None:
            self._server.stop()
        self._drain_workers()

    def load(self, guard: Options | None, flavor: str = 'keystone') -> WSGIApplication:
        """Load the paste file again, with these options of the guard, or ``None`` for the bare Glance."""
        from glance.common import config
        from oslo_config import cfg

        if guard is not None and THROUGH_PROXY:
            return self._proxied(guard)
        path = self._paste_file(guard)
        # The composite in the paste file asks Glance's configuration for the flavor, whatever is loaded.
        cfg.CONF.set_override('flavor', flavor, group='paste_deploy')
        try:
            application: WSGIApplication = config.load_paste_app('glance-api', flavor, str(path))
        finally:
            cfg.CONF.clear_override('flavor', group='paste_deploy')
        return application

    def _proxied(self, guard: Options) -> WSGIApplication:
        """The guard as a reverse proxy, with a server of the bare Glance behind it."""
        from imgguard.factory import proxy_factory
        if self._server is None:
            server = self._server = wsgi.Server((HOST, 0), _closing(self.load(None)), numthreads=8)
            server.prepare()
            threading.Thread(target=server.serve, name='bare Glance', daemon=True).start()
        host, port = self._server.bind_addr
        return Identity(proxy_factory({}, backend_url=f'http://{host}:{port}', **guard))

    def _paste_file(self, guard: Options | None) -> Path:
        path = self.glance.folder / f'paste-{next(self._numbers)}.ini'
        write_paste_file(path, self.glance, guard=guard, identity=IDENTITY)
        return path
