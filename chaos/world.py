"""Two hosts, a database server for Glance and one for the guard, a broker, and a store on a disk that can be full."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos.broker import Broker
from chaos.databases import Database, Missing
from chaos.ledger import Ledger
from chaos.source import Source
from demo.private_glance import Sections
from demo.server import Kind, Size
from imgguard.settings import FILE_OPTION
from tests.hosts import Host, Shared, can_be_apart

LEASE_SECONDS = 5
#: With it an attempt is lost.
SILENCE_SECONDS = LEASE_SECONDS + 5
FENCE_SECONDS = 15
#: More than a host stands still, and a source is silent.
STALL_SECONDS = 25
GUARD = {'lease_seconds': str(LEASE_SECONDS), 'fence_seconds': str(FENCE_SECONDS), 'cleanup_window': '5',
         'import_stall_seconds': str(STALL_SECONDS)}
# A host that starts while its database is away tries again sooner than after ten seconds.
SETTINGS: Sections = {'database': {'retry_interval': '1'}}
SERVERS = ((Kind.UWSGI_HTTP, Size(2, 3)), (Kind.CHEROOT, Size(1, 8)))
DISK_BYTES = 128 * 1024**2
#: What a full disk still takes.
LEFT_BYTES = 40_000


@dataclass(frozen=True, slots=True)
class Disk:
    """A small disk that holds the store; ``is_small`` is false where this machine lets us make none."""

    folder: Path
    is_small: bool

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Within the block there is hardly any room left."""
        ballast = self.folder / 'ballast'
        try:
            with ballast.open('wb') as file:
                while not self._filled(file.fileno()):
                    continue
            yield
        finally:
            ballast.unlink()

    def _filled(self, file: int) -> bool:
        room = os.statvfs(self.folder)
        try:
            os.posix_fallocate(file, 0, max(1, room.f_bavail * room.f_frsize - LEFT_BYTES))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # Somebody was quicker.
            return False
        return True


@dataclass(slots=True)
class World:
    """All that there is; ``hosts`` are replaced when they are started again.

    :param broker: where their events go; ``None`` where this machine has none that could be started
    """

    shared: Shared
    hosts: list[Host]
    glances_database: Database
    guards_database: Database
    disk: Disk
    broker: Broker | None
    source: Source
    ledger: Ledger

    @property
    def ports(self) -> list[int]:
        """Of the hosts; they never change."""
        return [host.server.port for host in self.hosts]

    def stop(self) -> None:
        """Stop all hosts."""
        for host in self.hosts:
            host.server.stop()

    def start_again(self, number: int) -> None:
        """Start a host again that has ended."""
        kind, size = SERVERS[number]
        self.hosts[number] = self.shared.start(None, kind, size=size, again=self.hosts[number])


@contextlib.contextmanager
def made(folder: Path) -> Iterator[World]:
    """The world, within the block, in an empty folder.

    :raises chaos.databases.Missing: this machine lacks something
    """
    # PostgreSQL runs as a user of its own.
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        glances, guards = (stack.enter_context(Database(folder / name)) for name in ('glances', 'guards'))
        disk = stack.enter_context(_disk(folder / 'disk'))
        broker = _broker(folder / 'broker')
        if broker is not None:
            stack.enter_context(broker)
        shared = stack.enter_context(Shared(
            folder, 'postgresql', {'glance': glances.url, 'imgguard': guards.url}, disk.folder / 'images'))
        world = World(shared, [], glances, guards, disk, broker, stack.enter_context(Source()), Ledger())
        stack.callback(world.stop)
        guard = GUARD if broker is None else {
            **GUARD, FILE_OPTION: broker.configure(folder / 'imgguard.conf', shared.guard_url)}
        for kind, size in SERVERS:
            world.hosts.append(shared.start(guard, kind, SETTINGS, size, apart=can_be_apart()))
        if broker is not None:
            broker.wait()
        yield world


def _broker(folder: Path) -> Broker | None:
    try:
        return Broker(folder)
    except Missing:
        return None


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[Disk]:
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={DISK_BYTES}', 'imgguard-chaos', str(folder)]
    is_small = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(folder, is_small)
    finally:
        if is_small:
            subprocess.run(['umount', '--lazy', str(folder)], check=True)
