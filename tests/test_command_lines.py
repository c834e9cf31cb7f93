"""The real command lines, as processes, against a real server: they clean up, or leave behind, what has failed."""

import json
import os
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.client import Client
from demo.server import Kind, Server
from tests.conftest import StartServer
from tests.harness import skip_or_fail
from tests.identity import token

LARGEST = 100_000
ALICE = token('alice', 'red')
KEEP = 'imgguard_keep_on_failure=true'
ABSORBED = 'the delete that follows its failure is absorbed'


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    output: str
    errors: str


class CommandLines:
    """Both command lines with the token of one user."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.client = Client(server.port, {'X-Auth-Token': ALICE})
        self.address = f'http://127.0.0.1:{server.port}'
        self._home = folder
        self.small, self.large = folder / 'small', folder / 'large'
        self.small.write_bytes(b'x' * (LARGEST - 1))
        self.large.write_bytes(b'x' * (LARGEST + 1))

    def openstack(self, *arguments: str) -> Done:
        """Run ``openstack``, which finds no Keystone."""
        return self._run('openstack', '--os-auth-type', 'admin_token', '--os-token', ALICE, '--os-endpoint',
                         f'{self.address}/v2', *arguments)

    def glance(self, *arguments: str) -> Done:
        """Run ``glance``."""
        return self._run('glance', '--os-auth-token', ALICE, '--os-image-url', self.address, *arguments)

    def image(self, name: str) -> Mapping[str, str] | None:
        """The one image of that name, as the API shows it."""
        found: list[Mapping[str, str]] = self.client.request('GET', f'/v2/images?name={name}').json['images']
        return found[0] if found else None

    def _run(self, name: str, *arguments: str) -> Done:
        script = Path(sysconfig.get_path('scripts')) / name
        if not script.exists():
            skip_or_fail(name, 'it is not installed beside this Python; install the extra "test"')
        environment = {'PATH': os.environ['PATH'], 'HOME': str(self._home), 'PYTHONWARNINGS': 'ignore'}
        done = subprocess.run([str(script), *arguments], env=environment, stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, check=False, timeout=120)
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope='module')
def command_lines(
    start_module_server: StartServer, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[CommandLines]:
    server = start_module_server(Kind.UWSGI_HTTP, {}, settings={'DEFAULT': {'image_size_cap': str(LARGEST)}})
    yield CommandLines(server, tmp_path_factory.mktemp('home'))


FORMATS = ('--disk-format', 'raw', '--container-format', 'bare')


def test_openstack_deletes_what_has_failed_and_it_is_kept(command_lines: CommandLines) -> None:
    done = command_lines.openstack('image', 'create', 'kept', *FORMATS, '--property', KEEP,
                                   '--file', str(command_lines.large))
    assert done.status != 0 and 'HttpException: 413' in done.errors
    image = command_lines.image('kept')
    assert image is not None
    assert (image['status'], image['os_glance_image_error_code']) == ('error', 'size_limit_exceeded')
    assert ABSORBED in command_lines.server.glance.glance_log.read_text()
    shown = json.loads(command_lines.openstack('image', 'show', image['id'], '-f', 'json').output)
    assert shown['status'] == 'error'
    assert 'too large' in shown['properties']['os_glance_image_error']


def test_openstack_deletes_what_nobody_asked_to_keep(command_lines: CommandLines) -> None:
    done = command_lines.openstack('image', 'create', 'unkept', *FORMATS, '--file', str(command_lines.large))
    assert done.status != 0 and 'HttpException: 413' in done.errors
    assert command_lines.image('unkept') is None


def test_openstack_takes_an_error_back(command_lines: CommandLines) -> None:
    command_lines.openstack('image', 'create', 'again', *FORMATS, '--property', KEEP,
                            '--file', str(command_lines.large))
    image = command_lines.image('again')
    assert image is not None
    done = command_lines.openstack('image', 'set', '--property', 'colour=red', image['id'])
    assert done.status == 0, done.errors
    done = command_lines.openstack('image', 'unset', '--property', 'os_glance_image_error', image['id'])
    assert done.status == 0, done.errors
    waiting = command_lines.image('again')
    assert waiting is not None
    assert (waiting['status'], waiting['colour'], waiting.get('os_glance_image_error')) == ('queued', 'red', None)


def test_glance_leaves_what_has_failed_and_can_try_again(command_lines: CommandLines) -> None:
    done = command_lines.glance('image-create', '--name', 'left', *FORMATS, '--property', KEEP,
                                '--file', str(command_lines.large))
    assert done.status != 0 and 'too large' in done.errors + done.output
    image = command_lines.image('left')
    assert image is not None and image['status'] == 'error'
    done = command_lines.glance('image-update', image['id'], '--property', 'colour=red')
    assert done.status == 0, done.errors
    done = command_lines.glance('image-update', image['id'], '--remove-property', 'os_glance_image_error')
    assert done.status == 0, done.errors
    waiting = command_lines.image('left')
    assert waiting is not None and waiting['status'] == 'queued'
    done = command_lines.glance('image-upload', '--file', str(command_lines.small), image['id'])
    assert done.status == 0, done.errors
    active = command_lines.image('left')
    assert active is not None and (active['status'], active['colour']) == ('active', 'red')
