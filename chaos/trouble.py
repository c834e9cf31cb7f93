"""What breaks: hosts and their processes in one thread, what they stand on in another, the message broker in a third.

Each thread draws its troubles from a shuffled bag, so that in a short run each kind comes about as often as any.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from chaos.broker import Broker
from chaos.databases import Database
from chaos.ledger import Ledger
from chaos.world import World

#: How long a host stands still: beyond lease and fence, now and then.
_LONGEST_PAUSE_SECONDS = 22.0
_LONGEST_OUTAGE_SECONDS = 5.0

Strike = Callable[[Random], None]


class Director(threading.Thread):
    """Breaks one thing after the other, and mends it, until it is told to stop.

    :param pauses: seconds between two, at least and at most
    """

    def __init__(self, strikes: list[Strike], random: Random, pauses: tuple[float, float],
                 stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._strikes = strikes
        self._random = random
        self._pauses = pauses
        self._stop_it = stop
        #: What ended this thread, if it was not told to.
        self.error: Exception | None = None

    def run(self) -> None:
        """See the class."""
        try:
            for strike in self._bag():
                if self._stop_it.wait(self._random.uniform(*self._pauses)):
                    return
                strike(self._random)
        except Exception as error:
            # The run cannot go on, and says why.
            self.error = error
            self._stop_it.set()

    def _bag(self) -> Iterator[Strike]:
        while True:
            yield from self._random.sample(self._strikes, len(self._strikes))


class Hosts:
    """What happens to hosts."""

    def __init__(self, world: World, stop: threading.Event) -> None:
        self._world = world
        self._stop = stop

    def strikes(self) -> list[Strike]:
        """All of it."""
        return [self.kill_process, self.end_process, self.kill_host, self.end_host, self.pause_host]

    def kill_process(self, random: Random) -> None:
        """``kill -9`` of a process of uWSGI, which starts another."""
        self._strike_process(random, signal.SIGKILL, 'process killed')

    def end_process(self, random: Random) -> None:
        """SIGTERM to one."""
        self._strike_process(random, signal.SIGTERM, 'process ended (SIGTERM)')

    def kill_host(self, random: Random) -> None:
        """``kill -9`` of all processes of a host."""
        number = random.randrange(len(self._world.hosts))
        with self._world.ledger.trouble('host killed'):
            self._world.hosts[number].kill()
            self._stop.wait(random.uniform(0, _LONGEST_OUTAGE_SECONDS))
            self._world.start_again(number)

    def end_host(self, random: Random) -> None:
        """A host is asked to end, as for an update."""
        number = random.randrange(len(self._world.hosts))
        with self._world.ledger.trouble('host ended (SIGTERM)'):
            self._world.hosts[number].server.stop()
            self._world.start_again(number)

    def pause_host(self, random: Random) -> None:
        """A host stands still for a while."""
        host = random.choice(self._world.hosts)
        with self._world.ledger.trouble('host stopped and continued'):
            host.pause()
            self._stop.wait(random.uniform(0.5, _LONGEST_PAUSE_SECONDS))
            host.go_on()

    def _strike_process(self, random: Random, what: signal.Signals, name: str) -> None:
        # The first host is uWSGI's; the other has one process.
        children = _children(self._world.hosts[0].server.process.pid)
        if children:
            with self._world.ledger.trouble(name), contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(children), what)


class Grounds:
    """What happens to the databases and the disk."""

    def __init__(self, world: World, stop: threading.Event) -> None:
        self._world = world
        self._stop = stop

    def strikes(self) -> list[Strike]:
        """All of it that this machine can do."""
        found: list[Strike] = [self.restart_glances_database, self.restart_guards_database]
        if self._world.disk.is_small:
            found.append(self.fill_disk)
        return found

    def restart_glances_database(self, random: Random) -> None:
        """Glance's database goes away, and comes back."""
        self._restart(self._world.glances_database, "Glance's database", random)

    def restart_guards_database(self, random: Random) -> None:
        """The guard's."""
        self._restart(self._world.guards_database, "guard's database", random)

    def fill_disk(self, random: Random) -> None:
        """The store has no room for a while."""
        with self._world.ledger.trouble('disk full'), self._world.disk.full():
            self._stop.wait(random.uniform(1, _LONGEST_OUTAGE_SECONDS))

    def _restart(self, database: Database, name: str, random: Random) -> None:
        mode = random.choice(('fast', 'immediate'))
        with self._world.ledger.trouble(f'{name} restarted ({mode})'):
            database.stop(mode)
            self._stop.wait(random.uniform(0, _LONGEST_OUTAGE_SECONDS))
            database.start()


class Messages:
    """What happens to the message broker."""

    def __init__(self, broker: Broker, ledger: Ledger, stop: threading.Event) -> None:
        self._broker = broker
        self._ledger = ledger
        self._stop = stop

    def strikes(self) -> list[Strike]:
        """All of it."""
        return [self.kill, self.end]

    def kill(self, random: Random) -> None:
        """It crashes, and comes back."""
        self._restart(signal.SIGKILL, 'broker killed', random)

    def end(self, random: Random) -> None:
        """It is asked to end, and comes back."""
        self._restart(signal.SIGTERM, 'broker ended (SIGTERM)', random)

    def _restart(self, what: signal.Signals, name: str, random: Random) -> None:
        with self._ledger.trouble(name):
            self._broker.stop(what)
            self._stop.wait(random.uniform(0, _LONGEST_OUTAGE_SECONDS))
            self._broker.start()
            self._broker.wait()


def directors(world: World, seed: str, stop: threading.Event) -> list[Director]:
    """Those of this world."""
    found = [Director(Hosts(world, stop).strikes(), Random(f'{seed}/hosts'), (1, 4), stop),
             Director(Grounds(world, stop).strikes(), Random(f'{seed}/grounds'), (3, 8), stop)]
    if world.broker is not None:
        messages = Messages(world.broker, world.ledger, stop)
        found.append(Director(messages.strikes(), Random(f'{seed}/messages'), (2, 8), stop))
    return found


def _children(process: int) -> list[int]:
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(')')[2].split()[1]) == process:
                found.append(int(path.parent.name))
    return sorted(found)
