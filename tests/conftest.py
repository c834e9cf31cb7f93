"""Fixtures: a real Glance 33.0.0 in this process, and under real servers.

In process, the quick way (one Glance, one database for the session; make images of your own)::

    def test_it(load_client):
        guarded = load_client({'keep_default': 'always'})   # options of [filter:imgguard]
        bare = load_client(None)                            # the same Glance without the guard
        guarded.get('/v2/images', headers={'X-Auth-Token': token('user', 'project')})

Under a real server (own folder, own database, stopped at the end of the test)::

    def test_it(start_server):
        server = start_server(Kind.CHEROOT, {'keep_default': 'always'})
        Client(server.port, {'X-Auth-Token': token('user', 'project')}).create()

``start_module_server`` is the same for the tests of one module. Several hosts that share their databases
and their store: :mod:`tests.hosts`. Tokens are in :mod:`tests.identity`,
a client over sockets in :mod:`demo.client`, ``skip_or_fail`` in :mod:`tests.harness`.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from wsgiref.types import WSGIApplication

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from webtest import TestApp

from demo.private_glance import Options, PrivateGlance, Sections, lay_out
from demo.server import Kind, Server, Size, start
from tests.harness import IDENTITY, SERVERS, THROUGH_PROXY, InProcessGlance, administer, skip_or_fail
from tests.hosts import Host, Shared, best_backend, can_be_apart, can_have_a_clock


class LoadApplication(Protocol):
    """See :func:`load_application`."""

    def __call__(self, guard: Options | None, flavor: str = 'keystone') -> WSGIApplication: ...


class LoadClient(Protocol):
    """See :func:`load_client`."""

    def __call__(self, guard: Options | None, flavor: str = 'keystone') -> TestApp: ...


class OverrideGlance(Protocol):
    """See :func:`override_glance`."""

    def __call__(self, name: str, value: Any, group: str | None = None) -> None: ...


class NewGlanceDatabase(Protocol):
    """See :func:`new_glance_database`."""

    def __call__(self) -> Sections: ...


class StartHost(Protocol):
    """See :func:`start_host`."""

    def __call__(
        self,
        guard: Options | None,
        *,
        kind: Kind = Kind.CHEROOT,
        settings: Sections | None = None,
        size: Size | None = None,
        again: Host | None = None,
        apart: bool = False,
        clock: int = 0,
    ) -> Host: ...


class StartServer(Protocol):
    """See :func:`start_server`."""

    def __call__(
        self,
        kind: Kind,
        guard: Options | None,
        *,
        settings: Sections | None = None,
        size: Size | None = None,
        again: PrivateGlance | None = None,
    ) -> Server: ...


@pytest.fixture(scope='session')
def glance_template(tmp_path_factory: pytest.TempPathFactory) -> PrivateGlance:
    """A private Glance whose database is ready to be copied; nothing ever runs on it."""
    return lay_out(tmp_path_factory.mktemp('glance-template') / 'glance', guard=None)


@pytest.fixture(scope='session')
def new_glance_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewGlanceDatabase]:
    """``new_glance_database()``: settings of a Glance with a database of its own on PostgreSQL.

    For tests of several processes: Glance on SQLite may refuse one writer of several, and then loses a task
    without a word. On a machine without PostgreSQL the settings are empty, and SQLite has to do.
    """
    names = (f'imgguard_glance_{os.getpid()}_{number}' for number in itertools.count())
    made: list[str] = []

    def settings(name: str) -> Sections:
        url = make_url(SERVERS['postgresql']).set(database=name).render_as_string(hide_password=False)
        return {'database': {'connection': url}}

    def make() -> Sections:
        name = next(names)
        try:
            administer('postgresql', f'CREATE DATABASE {name}' + (f' TEMPLATE {made[0]}' if made else ''))
        except SQLAlchemyError:
            if 'postgresql' in os.environ.get('IMGGUARD_REQUIRE', '').split(','):
                raise
            return {}
        made.append(name)
        if len(made) > 1:
            return settings(name)
        # The first one is the template of the others; nothing runs on it.
        lay_out(tmp_path_factory.mktemp('glance-template') / 'glance', guard=None, settings=settings(name))
        return make()

    yield make
    for name in made:
        administer('postgresql', f'DROP DATABASE {name} WITH (FORCE)')


@pytest.fixture(scope='session')
def in_process_glance(
    glance_template: PrivateGlance, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest,
) -> Iterator[InProcessGlance]:
    """The one Glance of this process; its ``glance`` tells the places of its files and database."""
    folder = tmp_path_factory.mktemp('glance-in-process') / 'glance'
    # Behind the proxy it has threads of its own, and SQLite would refuse one writer of several.
    settings: Sections = request.getfixturevalue('new_glance_database')() if THROUGH_PROXY else {}
    glance = InProcessGlance(lay_out(folder, guard=None, identity=IDENTITY, settings=settings,
                                     database=None if settings else glance_template.database))
    yield glance
    glance.close()


@pytest.fixture
def load_application(in_process_glance: InProcessGlance, tmp_path: Path) -> LoadApplication:
    """``load_application(guard, flavor='keystone')``: Glance's application with or without the guard.

    The guard's store is a SQLite file of this test, the same for all pipelines it loads, unless the
    options say otherwise.
    """
    def load(guard: Options | None, flavor: str = 'keystone') -> WSGIApplication:
        if guard is not None and 'oslo_config_file' not in guard:
            guard = {'connection': f'sqlite:///{tmp_path}/imgguard.db', **guard}
        return in_process_glance.load(guard, flavor)

    return load


@pytest.fixture
def load_client(load_application: LoadApplication) -> LoadClient:
    """``load_client(guard, flavor='keystone')``: the same as a webtest client that checks WSGI manners."""
    def load(guard: Options | None, flavor: str = 'keystone') -> TestApp:
        return TestApp(load_application(guard, flavor), lint=True)

    return load


@pytest.fixture
def override_glance(in_process_glance: InProcessGlance) -> Iterator[OverrideGlance]:
    """``override_glance(name, value, group=None)``: set an option of the Glance in this process for this test."""
    from oslo_config import cfg

    with contextlib.ExitStack() as undo:
        def override(name: str, value: Any, group: str | None = None) -> None:
            cfg.CONF.set_override(name, value, group)
            undo.callback(cfg.CONF.clear_override, name, group)

        yield override


@pytest.fixture
def start_server(glance_template: PrivateGlance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """``start_server(kind, guard, settings=, size=, again=)``: a real server, stopped after the test.

    ``guard`` and ``settings`` (of glance-api.conf) are those of :func:`demo.private_glance.lay_out`;
    ``again`` starts on the private Glance of an earlier server and takes it as it is.
    """
    with _starter(glance_template, tmp_path_factory) as starter:
        yield starter


@pytest.fixture(scope='module')
def start_module_server(
    glance_template: PrivateGlance, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[StartServer]:
    """The same as :func:`start_server`, for servers that the tests of a module share."""
    with _starter(glance_template, tmp_path_factory) as starter:
        yield starter


@pytest.fixture(scope='module')
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """What the hosts of a module share: PostgreSQL or MariaDB where one is there, else SQLite, and a store's folder.

    A module that means one database overrides this fixture.
    """
    with Shared(tmp_path_factory.mktemp('hosts'), best_backend()) as places:
        yield places


@pytest.fixture
def start_host(shared: Shared) -> Iterator[StartHost]:
    """``start_host(guard, kind=, settings=, size=, again=, apart=, clock=)``: one more host, stopped after the test."""
    with contextlib.ExitStack() as running:
        yield _host_starter(shared, running)


@pytest.fixture(scope='module')
def start_module_host(shared: Shared) -> Iterator[StartHost]:
    """The same as :func:`start_host`, for hosts that the tests of a module share."""
    with contextlib.ExitStack() as running:
        yield _host_starter(shared, running)


def _host_starter(shared: Shared, running: contextlib.ExitStack) -> StartHost:
    def run(
        guard: Options | None,
        *,
        kind: Kind = Kind.CHEROOT,
        settings: Sections | None = None,
        size: Size | None = None,
        again: Host | None = None,
        apart: bool = False,
        clock: int = 0,
    ) -> Host:
        if apart and not can_be_apart():
            skip_or_fail('unshare', 'a host cannot have a name of its own on this machine')
        if clock and not can_have_a_clock():
            skip_or_fail('cc', 'a host cannot have a clock of its own without a C compiler')
        return running.enter_context(shared.start(guard, kind, settings, size, again, apart, clock))

    return run


@contextlib.contextmanager
def _starter(template: PrivateGlance, factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    with contextlib.ExitStack() as running:
        def run(
            kind: Kind,
            guard: Options | None,
            *,
            settings: Sections | None = None,
            size: Size | None = None,
            again: PrivateGlance | None = None,
        ) -> Server:
            glance = again or lay_out(
                factory.mktemp('glance') / 'glance',
                guard=guard, identity=IDENTITY, settings=settings, database=template.database,
            )
            return running.enter_context(start(glance, kind, size))

        yield run
