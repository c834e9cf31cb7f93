"""A real Glance 15.0.2 (Pike) with the APIs v1 and v2, on Python 2.7: API and registry, as operators ran them.

Its environment is that of :mod:`tests.v1.environment`. Callers are told by the tokens of :mod:`tests.identity`::

    with OldGlance(environment(), folder, {'DEFAULT': {'image_size_cap': '1000'}}) as glance:
        Client(glance.port, {'X-Auth-Token': token('alice', 'red')}).request('GET', '/v1/images/detail')
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from demo.private_glance import Sections, last_lines
from demo.server import HOST, START_SECONDS, free_port
from tests.identity import admin_token
from tests.v1.environment import OldGlanceError, empty_database, interpreter

#: Modules that the old Glance imports.
_MODULES: Final = Path(__file__).resolve().parent / 'v1' / 'python2'
_STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
_START_TRIES: Final = 3

# As Glance's own glance-api-paste.ini of that release, but for who says who the caller is.
_API_PASTE: Final = '''
[pipeline:glance-api-keystone]
pipeline = http_proxy_to_wsgi versionnegotiation osprofiler identity context rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v1: apiv1app
/v2: apiv2app
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv1app]
paste.app_factory = glance.api.v1.router:API.factory
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:identity]
paste.filter_factory = imgguard_identity:filter_factory
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
[filter:osprofiler]
paste.filter_factory = osprofiler.web:WsgiMiddleware.factory
[filter:http_proxy_to_wsgi]
paste.filter_factory = oslo_middleware:HTTPProxyToWSGI.factory
'''
_REGISTRY_PASTE: Final = '''
[pipeline:glance-registry-trusted-auth]
pipeline = osprofiler context registryapp
[app:registryapp]
paste.app_factory = glance.registry.api:API.factory
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
[filter:osprofiler]
paste.filter_factory = osprofiler.web:WsgiMiddleware.factory
'''
# What differs in Glance's own policy.json of that release from "everyone may".
_POLICY: Final = {'context_is_admin': 'role:admin', 'default': '', 'publicize_image': 'role:admin',
                  'manage_image_cache': 'role:admin'}


class OldGlance:
    """Registry and API on free ports of this machine, with their folder.

    :param environment: see :func:`environment`
    :param folder: holds everything; is made
    :param settings: sections of glance-api.conf that are added to ours or replace them
    :param policy: rules of policy.json beside our own
    """

    def __init__(self, environment: Path, folder: Path, settings: Sections | None = None,
                 policy: Mapping[str, str] | None = None) -> None:
        self._python = interpreter(environment)
        self.folder = folder
        self.database = folder / 'glance.db'
        self.store = folder / 'images'
        self.port = self.registry_port = 0
        self._settings = settings or {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.store.mkdir(parents=True)
        shutil.copy(empty_database(environment), self.database)
        (folder / 'policy.json').write_text(json.dumps({**_POLICY, **(policy or {})}))
        (folder / 'api-paste.ini').write_text(_API_PASTE)
        (folder / 'registry-paste.ini').write_text(_REGISTRY_PASTE)

    @property
    def url(self) -> str:
        """Where its API is; without a slash at its end."""
        return f'http://{HOST}:{self.port}'

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start what does not run, on the same ports as before, and wait until it answers.

        :raises OldGlanceError: it ended, or does not answer in time; with the end of its log
        """
        for attempt in range(1, _START_TRIES + 1):
            if not self.port:
                self.port, self.registry_port = free_port(), free_port()
            try:
                self.start_registry()
                self._start('api', self.port)
                return self._wait_until_ready()
            except OldGlanceError as error:
                self.kill()
                # Between finding a free port and using it another program may have taken it.
                if attempt == _START_TRIES or 'ddress already in use' not in str(error):
                    raise
                self.port = 0
            except BaseException:
                self.kill()
                raise

    def start_registry(self) -> None:
        """Start the registry alone, without waiting for it."""
        self._configure()
        self._start('registry', self.registry_port)

    def stop(self) -> None:
        """End everything; politely first, by force after some seconds."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill everything at once, as a crash of the machine would."""
        for name in list(self._running):
            self._kill(name)

    def kill_registry(self) -> None:
        """Kill the registry; v1 answers 500 then."""
        self._kill('registry')

    def kill_worker(self) -> None:
        """Kill the process of the API that serves; its master starts another at once."""
        for worker in _children(self._running['api'].pid):
            os.kill(worker, signal.SIGKILL)

    def log_text(self) -> str:
        """What API and registry have logged."""
        return '\n'.join((self.folder / f'{name}.log').read_text(errors='replace') for name in ('registry', 'api')
                         if (self.folder / f'{name}.log').exists())

    def _start(self, name: str, port: int) -> None:
        if name in self._running:
            return
        command = [str(self._python), '-m', f'glance.cmd.{name}', '--config-file', str(self.folder / f'{name}.conf')]
        environ = {**os.environ, 'PYTHONPATH': str(_MODULES), 'PYTHONDONTWRITEBYTECODE': '1'}
        environ.pop('OS_GLANCE_CONFIG_DIR', None)
        with (self.folder / f'{name}.log').open('ab') as log:
            # A session of its own makes a process group that can be ended as a whole.
            self._running[name] = subprocess.Popen(
                command, cwd=self.folder, env=environ, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT)

    def _kill(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        workers = _children(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # They listen on the same socket, and nobody waits for them any more.
        deadline = time.monotonic() + START_SECONDS
        while any(map(_lives, workers)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            ended = [name for name, process in self._running.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                what = f'{ended[0]} ended' if ended else f'no answer within {START_SECONDS:.0f} s'
                raise OldGlanceError(f'glance 15.0.2: {what}:\n{last_lines(self.log_text())}')
            time.sleep(_POLL_SECONDS)

    def _answers(self) -> bool:
        # v1 asks the registry for it, so that one answer speaks for both.
        connection = http.client.HTTPConnection(HOST, self.port, timeout=START_SECONDS)
        try:
            connection.request('GET', '/v1/images', headers={'X-Auth-Token': admin_token()})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _configure(self) -> None:
        common = {'bind_host': HOST, 'workers': '1', 'backlog': '128'}
        database = {'connection': f'sqlite:///{self.database}'}
        profiler = {'profiler': {'enabled': 'False'}}
        policy = {'oslo_policy': {'policy_file': str(self.folder / 'policy.json')}}
        self._write('registry', {
            'DEFAULT': {**common, 'bind_port': str(self.registry_port), 'enable_v1_registry': 'True'},
            'database': database, **profiler, **policy,
            'paste_deploy': {'flavor': 'trusted-auth', 'config_file': str(self.folder / 'registry-paste.ini')}})
        ours: dict[str, Mapping[str, str]] = {
            'DEFAULT': {**common, 'bind_port': str(self.port), 'enable_v1_api': 'True', 'registry_host': HOST,
                        'registry_port': str(self.registry_port), 'send_identity_headers': 'True'},
            'database': database, **profiler, **policy,
            'glance_store': {'stores': 'file,http', 'default_store': 'file',
                             'filesystem_store_datadir': str(self.store)},
            'paste_deploy': {'flavor': 'keystone', 'config_file': str(self.folder / 'api-paste.ini')}}
        for section, options in self._settings.items():
            ours[section] = {**ours.get(section, {}), **options}
        self._write('api', ours)

    def _write(self, name: str, sections: Sections) -> None:
        lines: list[str] = []
        for section, options in sections.items():
            lines += [f'[{section}]', *(f'{option} = {value}' for option, value in options.items())]
        (self.folder / f'{name}.conf').write_text('\n'.join([*lines, '']))


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f'/proc/{process}/task/{process}/children').read_text().split()]
    except OSError:
        return []


def _lives(process: int) -> bool:
    try:
        return Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False
