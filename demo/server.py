"""Start and stop real WSGI servers for a private Glance, on a free port of 127.0.0.1.

:func:`start` returns a :class:`Server` that answers; use it as a context manager, so that nothing
stays behind. uWSGI is configured as Glance's own sample ``httpd/glance-api-uwsgi.ini`` does it.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType

from demo.private_glance import PrivateGlance, PrivateGlanceError, last_lines, script

HOST = '127.0.0.1'
#: A cold start imports all of Glance, on a slow machine in several processes at once.
START_SECONDS = 120.0
#: A busy uWSGI gives its requests about a second; then nothing is asked for any more.
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.1
_START_TRIES = 3
#: How many lines of Glance's log are worth showing when it does not come up.
_CAUSES = 5


class Kind(StrEnum):
    """The servers Glance is tried with."""

    UWSGI_HTTP = 'uwsgi --http'
    UWSGI_HTTP_SOCKET = 'uwsgi --http-socket'
    #: The application is loaded once, by the master, and its workers are forked from it.
    UWSGI_FORKED = 'uwsgi --http-socket, forked'
    CHEROOT = 'cheroot'
    GUNICORN_SYNC = 'gunicorn sync'
    GUNICORN_GTHREAD = 'gunicorn gthread'


@dataclass(frozen=True, slots=True)
class Size:
    """How many processes serve (cheroot always has one), and how many threads each has."""

    processes: int = 2
    threads: int = 1


class Server:
    """A server that was started; :attr:`url` has no slash at its end."""

    def __init__(
        self, glance: PrivateGlance, kind: Kind, size: Size, arguments: Sequence[str] = (), port: int | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.glance = glance
        self.port = port or free_port()
        self.url = f'http://{HOST}:{self.port}'
        self._ended = False
        # Where this run's lines begin, when the private Glance ran before.
        self._offsets = {path: _bytes_of(path) for path in (glance.server_log, glance.glance_log)}
        command = [*prefix, *_COMMANDS[kind](f'{HOST}:{self.port}', size), *arguments]
        with glance.server_log.open('ab') as log:
            # A session of its own makes a process group that can be ended as a whole, and keeps the
            # terminal's Ctrl-C away: who started the server decides when it stops.
            self.process = subprocess.Popen(
                command, cwd=glance.folder, env=glance.environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> 'Server':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def connect(self, timeout: float = 60.0) -> http.client.HTTPConnection:
        """Return a new connection; ``timeout`` in seconds for each of its operations."""
        return http.client.HTTPConnection(HOST, self.port, timeout=timeout)

    def stop(self) -> None:
        """End the server and everything it started; politely first, by force after some seconds."""
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        self.kill()

    def signal(self, what: signal.Signals) -> None:
        """Send a signal to all its processes."""
        os.killpg(self.process.pid, what)

    def kill(self) -> None:
        """Kill the server and everything it started at once, as a crash of the machine would."""
        if self._ended:
            return  # the number of its process group may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._ended = True

    def wait_until_ready(self) -> None:
        """Wait until Glance answers.

        :raises PrivateGlanceError: the server ended, or does not answer in time; with the end of its log
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None:
                raise PrivateGlanceError(f'{self.kind} ended with {self.process.returncode}:\n{self._log()}')
            if time.monotonic() > deadline:
                raise PrivateGlanceError(f'{self.kind} did not answer within {START_SECONDS:.0f} s:\n{self._log()}')
            time.sleep(_POLL_SECONDS)

    def _answers(self) -> bool:
        connection = self.connect(timeout=START_SECONDS)
        try:
            connection.request('GET', '/healthcheck')
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def log_text(self) -> str:
        """Return what Glance has logged since this server was started."""
        return self._text_since(self.glance.glance_log)

    def _log(self) -> str:
        # Why Glance refused to load stands in its own log only, as one line of level CRITICAL.
        causes = [line for line in self.log_text().splitlines() if ' CRITICAL ' in line]
        return '\n'.join([*causes[:_CAUSES], last_lines(self._text_since(self.glance.server_log))])

    def _text_since(self, path: Path) -> str:
        if not path.exists():
            return ''
        with path.open('rb') as log:
            log.seek(self._offsets[path])
            return log.read().decode('utf-8', 'replace')


def start(
    glance: PrivateGlance, kind: Kind = Kind.UWSGI_HTTP, size: Size | None = None, arguments: Sequence[str] = (),
    port: int | None = None, prefix: Sequence[str] = (),
) -> Server:
    """Start a server for this Glance and wait until it answers.

    :param arguments: more of the server's own command line
    :param port: where Glance itself must know its address; without one, any that is free
    :param prefix: a command that runs the server's, in place of its own process
    :raises PrivateGlanceError: it is not installed or does not come up; with the end of its log
    """
    for attempt in range(1, _START_TRIES + 1):
        server = Server(glance, kind, size or Size(), arguments, port, prefix)
        try:
            server.wait_until_ready()
            return server
        except PrivateGlanceError as error:
            server.kill()
            # Between finding a free port and using it another program may have taken it.
            if attempt == _START_TRIES or 'ddress already in use' not in str(error):
                raise
        except BaseException:
            server.kill()
            raise
    raise AssertionError('unreachable')


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _uwsgi(address: str, size: Size, *options: str) -> list[str]:
    return [
        script('uwsgi'), *options, address,
        '--http-chunked-input', '--http-raw-body', '--http-auto-chunked', '--socket-timeout=30', '--buffer-size=65535',
        '--module=glance.wsgi.api:application', '--virtualenv', sys.prefix,
        '--need-app', '--master', '--die-on-term', '--exit-on-reload', '--enable-threads',
        '--thunder-lock', '--add-header=Connection: close',
        f'--processes={size.processes}', f'--threads={size.threads}',
    ]


def _uwsgi_http(address: str, size: Size) -> list[str]:
    return _uwsgi(address, size, '--lazy-apps', '--http')


def _uwsgi_http_socket(address: str, size: Size) -> list[str]:
    return _uwsgi(address, size, '--lazy-apps', '--http-socket')


def _uwsgi_forked(address: str, size: Size) -> list[str]:
    return _uwsgi(address, size, '--http-socket')


def _cheroot(address: str, size: Size) -> list[str]:
    return [sys.executable, '-m', 'demo.cheroot_server', address, str(max(size.threads, 4))]


def _gunicorn(address: str, size: Size, worker: str) -> list[str]:
    return [
        sys.executable, '-m', 'gunicorn', f'--bind={address}', f'--workers={size.processes}',
        f'--worker-class={worker}', f'--threads={size.threads}', 'glance.wsgi.api:application',
    ]


def _gunicorn_sync(address: str, size: Size) -> list[str]:
    return _gunicorn(address, Size(size.processes, 1), 'sync')


def _gunicorn_gthread(address: str, size: Size) -> list[str]:
    return _gunicorn(address, Size(size.processes, max(size.threads, 2)), 'gthread')


_COMMANDS: dict[Kind, Callable[[str, Size], list[str]]] = {
    Kind.UWSGI_HTTP: _uwsgi_http,
    Kind.UWSGI_HTTP_SOCKET: _uwsgi_http_socket,
    Kind.UWSGI_FORKED: _uwsgi_forked,
    Kind.CHEROOT: _cheroot,
    Kind.GUNICORN_SYNC: _gunicorn_sync,
    Kind.GUNICORN_GTHREAD: _gunicorn_gthread,
}
