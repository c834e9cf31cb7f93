"""A RabbitMQ of this run alone, that can be stopped, killed and started.

Its queues and what is in them outlive it: a broker that forgets what it has confirmed breaks no promise of the guard's.
"""

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chaos.databases import Missing
from demo.server import HOST, free_port
from tests.broker import Heard, Listener, configuration

# Typed in part only.
amqp: Any = importlib.import_module('amqp')
kombu: Any = importlib.import_module('kombu')

_SERVER = Path('/usr/lib/rabbitmq/bin/rabbitmq-server')
_TOPIC = 'imgguard_chaos'
_DURABLE = '[oslo_messaging_rabbit]\namqp_durable_queues = true'
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.2


class Broker:
    """One broker, in a folder; within the block it is started, and comes up in the background.

    :raises chaos.databases.Missing: its programs are not installed
    """

    def __init__(self, folder: Path) -> None:
        self._program = _program()
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        for name in ('home', 'data', 'log'):
            (folder / name).mkdir()
        (folder / 'plugins').write_text('[].\n')
        (folder / 'rabbitmq.conf').write_text('')
        self._environment = self._settings(free_port())

    def configure(self, path: Path, connection: str) -> str:
        """Write an oslo.config file for a guard whose events go here, and return its path.

        :param connection: of the guard's store
        """
        path.write_text(configuration(_TOPIC, connection, f'rabbit://guest:guest@{HOST}:{self._port}/', _DURABLE))
        return str(path)

    def start(self) -> None:
        """Start it; :meth:`wait` waits until it answers."""
        with (self._folder / 'output').open('ab') as output:
            self._process = subprocess.Popen(
                [self._program], cwd=self._folder, env=self._environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        """Wait until it answers.

        :raises RuntimeError: it does not, or has ended
        """
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError, amqp.AMQPError), self._connection():
                return
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f'the broker does not come up, see {self._folder}/output')
            time.sleep(_POLL_SECONDS)

    def stop(self, what: signal.Signals) -> None:
        """End it: asked to (SIGTERM), or by a crash (SIGKILL)."""
        if self._process is None:
            return
        # Its shell and the Erlang machine are in one group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, what)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def heard(self) -> list[Heard]:
        """What it has been told since the last call, queue by queue."""
        with self._connection() as connection:
            return Listener(connection, _TOPIC, durable=True).heard()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self.stop(signal.SIGKILL)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        with kombu.Connection(f'amqp://guest:guest@{HOST}:{self._port}/', connect_timeout=5) as connection:
            connection.connect()
            yield connection

    def _settings(self, port: int) -> dict[str, str]:
        """The environment of the server (https://www.rabbitmq.com/docs/configure#supported-environment-variables).

        :param port: by which nodes of a cluster would find it
        """
        folder = self._folder
        ours = {'NODENAME': f'imgguard-chaos-{self._port}@localhost', 'NODE_IP_ADDRESS': HOST,
                'NODE_PORT': str(self._port), 'DIST_PORT': str(port), 'MNESIA_BASE': str(folder / 'data'),
                'LOG_BASE': str(folder / 'log'), 'PID_FILE': str(folder / 'pid'),
                'ENABLED_PLUGINS_FILE': str(folder / 'plugins'), 'CONFIG_FILE': str(folder / 'rabbitmq'),
                'CONF_ENV_FILE': os.devnull,
                'SERVER_ADDITIONAL_ERL_ARGS': '-kernel inet_dist_use_interface {127,0,0,1}'}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith('RABBITMQ_')}
        return {**inherited, 'HOME': str(folder / 'home'), **{f'RABBITMQ_{name}': ours[name] for name in ours}}


def _program() -> str:
    # Debian's command of that name knows the one server of the machine only.
    if _SERVER.exists():
        return str(_SERVER)
    found = shutil.which('rabbitmq-server')
    if found is None:
        raise Missing('rabbitmq-server is not installed')
    return found
