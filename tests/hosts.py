"""Several hosts that run Glance, as an operator would set them up: one database, one store, one store of the guard.

Each host has processes, a port, a log and a staging folder of its own, and knows the address at which
the others reach it (``worker_self_reference_url``): an import is handed on by Glance to the host that has
the staged data. The fixtures are in :mod:`tests.conftest`::

    def test_it(start_host):
        first, second = start_host({'lease_seconds': '5'}), start_host(None)    # the second without the guard
        image_id = first.client(ALICE).create(KEEP).json['id']
        second.client(ALICE).request('DELETE', f'/v2/images/{image_id}')
        first.kill()                                                            # a crash of the host
        first = start_host(None, again=first)                                   # back at its place and port

``shared`` tells what they have in common, and reads the guard's store past them.

They share the name of this machine and its lock files, so that each can prove the death of the others' processes,
as processes of one host can. One that is laid out ``apart`` is a host like a real one: it has a name and temporary
files of its own, and of its death nobody knows but by its silence.
"""

import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from demo.client import Client
from demo.private_glance import SQLITE_TIMEOUT_SECONDS, Options, PrivateGlance, Sections, lay_out
from demo.server import HOST, Kind, Server, Size, free_port, start
from imgguard.store import Store
from tests.harness import SERVERS, administer
from tests.sockets import GuardsStore

IDENTITY = 'tests.identity:factory_with_session'
#: Glance wants to know it before it hands a request on, and then does not ask it: the token is the caller's.
_KEYSTONE = 'http://127.0.0.1:1'

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Host:
    """A host that runs, and can be started again after it was stopped or killed."""

    server: Server
    prefix: Sequence[str] = ()

    @property
    def glance(self) -> PrivateGlance:
        """Its own places; of those it shares with others :class:`Shared` tells."""
        return self.server.glance

    @property
    def url(self) -> str:
        """Its address, by which the others know it."""
        return self.server.url

    def client(self, token: str) -> Client:
        """A caller of this host."""
        return Client(self.server.port, {'X-Auth-Token': token})

    def staged(self) -> dict[str, int]:
        """The files in its staging folder, and their sizes."""
        return {path.name: path.stat().st_size for path in self.glance.staging.iterdir()}

    def kill(self) -> None:
        """End all its processes at once, as a crash does."""
        self.server.kill()

    def pause(self) -> None:
        """Stop all its processes where they are, until they are told to go on."""
        self.server.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let its processes go on."""
        self.server.signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self.server.stop()


class Shared:
    """What hosts share, made in a folder and removed with ``with``.

    :param backend: ``sqlite``, ``postgresql`` or ``mariadb``; of the servers two new databases are made
    :param servers: URLs of other servers than those of the machine, of ``glance`` and of ``imgguard``
    :param images: the folder of the store ``fs``, if it is not to be in ``folder``
    """

    def __init__(self, folder: Path, backend: str, servers: Mapping[str, str] | None = None,
                 images: Path | None = None) -> None:
        self.backend = backend
        self._servers = servers or {}
        #: The folder of the store ``fs``.
        self.store = images or folder / 'images'
        self.store.mkdir(exist_ok=True)
        self._folder = folder
        self._made: list[tuple[str, str]] = []
        self._glance_is_made = False
        self.glance_url = self._database('glance')
        #: The option ``connection`` of the guards.
        self.guard_url = self._database('imgguard')
        store = Store(self.guard_url, lease_seconds=60)
        store.upgrade()
        store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        for server, name in self._made:
            administer(server, f'DROP DATABASE {name}' + (' WITH (FORCE)' * (self.backend == 'postgresql')))

    def guards_store(self, lease_seconds: float = 60) -> GuardsStore:
        """What the guards have stored."""
        return GuardsStore(self.guard_url, lease_seconds)

    def start(
        self,
        guard: Options | None,
        kind: Kind = Kind.CHEROOT,
        settings: Sections | None = None,
        size: Size | None = None,
        again: Host | None = None,
        apart: bool = False,
        clock: int = 0,
    ) -> Host:
        """Start a host.

        :param guard: options of its guard; ``None`` for a host without
        :param settings: more of its glance-api.conf
        :param again: one that was stopped, which comes back as it was laid out
        :param apart: with a name and temporary files of its own
        :param clock: by how many seconds its clock is off
        """
        if again is not None:
            return Host(start(again.glance, kind, size, port=again.server.port, prefix=again.prefix), again.prefix)
        port = free_port()
        options = None if guard is None else {'connection': self.guard_url, **guard}
        glance = self._laid_out(options, self._settings(port, settings or {}))
        prefix = [*(_apart(glance.folder) if apart else []), *(_with_clock(clock, glance.folder) if clock else [])]
        return Host(start(glance, kind, size, port=port, prefix=prefix), prefix)

    def _laid_out(self, guard: Options | None, settings: Sections) -> PrivateGlance:
        # The database is made with the first host; a host's own file for one is not used.
        made = Path(os.devnull) if self._glance_is_made else None
        place = self._folder / f'host-{next(_numbers)}'
        glance = lay_out(place, guard=guard, identity=IDENTITY, settings=settings, database=made)
        if made is None and self.backend == 'sqlite':
            connection = sqlite3.connect(self._folder / 'glance.db')
            connection.execute('PRAGMA journal_mode=WAL')
            connection.close()
        self._glance_is_made = True
        return glance

    def _settings(self, port: int, more: Sections) -> Sections:
        ours: Sections = {
            'DEFAULT': {'worker_self_reference_url': f'http://{HOST}:{port}'},
            'database': {'connection': self.glance_url},
            'fs': {'filesystem_store_datadir': str(self.store)},
            'keystone_authtoken': {'auth_url': _KEYSTONE},
            # Glance does not import from loopback unless it is told to.
            'import_filtering_opts': {'allowed_hosts': f'[{HOST}]', 'allowed_ports': '[]'},
        }
        return {name: {**ours.get(name, {}), **more.get(name, {})} for name in {**ours, **more}}

    def _database(self, what: str) -> str:
        if self.backend == 'sqlite':
            options = f'?timeout={SQLITE_TIMEOUT_SECONDS}' if what == 'glance' else ''
            return f'sqlite:///{self._folder}/{what}.db{options}'
        name = f'imgguard_hosts_{os.getpid()}_{next(_numbers)}_{what}'
        server = self._servers.get(what, SERVERS[self.backend])
        administer(server, f'CREATE DATABASE {name}')
        self._made.append((server, name))
        return make_url(server).set(database=name).render_as_string(hide_password=False)


@cache
def can_be_apart() -> bool:
    """Whether this machine lets us give names to hosts."""
    tried = subprocess.run(['unshare', '--uts', 'hostname', 'apart'], capture_output=True, check=False) if (
        shutil.which('unshare')) else None
    return tried is not None and tried.returncode == 0


def can_have_a_clock() -> bool:
    """Whether this machine can show processes another time than its own: it needs a C compiler."""
    return shutil.which('cc') is not None


def _apart(folder: Path) -> list[str]:
    temporary = folder / 'tmp'
    temporary.mkdir()
    return ['unshare', '--uts', 'env', f'TMPDIR={temporary}', 'sh', '-c', 'hostname "$0" && exec "$@"', folder.name]


def _with_clock(seconds: int, folder: Path) -> list[str]:
    made = folder / 'clock.so'
    subprocess.run(['cc', '-shared', '-fPIC', '-o', str(made), str(Path(__file__).with_name('clock.c'))], check=True)
    return ['env', f'LD_PRELOAD={made}', f'CLOCK_OFF={seconds}']


def best_backend() -> str:
    """A database for several hosts; Glance on SQLite may refuse one writer of several."""
    for name in ('postgresql', 'mariadb'):
        try:
            administer(name, 'SELECT 1')
            return name
        except SQLAlchemyError:
            continue
    return 'sqlite'
