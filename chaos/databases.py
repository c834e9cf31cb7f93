"""PostgreSQL servers of this run alone, that can be stopped and started."""

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from demo.server import HOST, free_port

_OPTIONS = {
    'listen_addresses': HOST,
    'max_connections': '200',
    # The processes crash, not the machine.
    'fsync': 'off',
}


class Missing(Exception):
    """This machine has no PostgreSQL that could be started."""


class Database:
    """One server, in a folder; it runs within the block.

    :raises Missing: its programs are not installed, or nobody may run them
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        #: Of a database of it, by an account that may create others.
        self.url = f'postgresql+psycopg://postgres@{HOST}:{self._port}/postgres'
        folder.mkdir()
        if os.geteuid() == 0:
            # It refuses to run as root.
            try:
                shutil.chown(folder, 'postgres', 'postgres')
            except LookupError as error:
                raise Missing(f'root cannot run PostgreSQL without the user postgres ({error})') from error
        self._run('initdb', '--auth=trust', '--username=postgres', '--encoding=UTF8', '--no-sync',
                  f'--pgdata={folder}/data')

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ' '.join(f'-c {name}={value}' for name, value in {
            **_OPTIONS, 'port': str(self._port), 'unix_socket_directories': str(self._folder)}.items())
        self._run('pg_ctl', 'start', '-w', f'--pgdata={self._folder}/data', f'--log={self._folder}/log',
                  f'--options={options}')

    def stop(self, mode: str) -> None:
        """Stop it.

        :param mode: ``fast`` hangs up on everybody; ``immediate`` is a crash
        """
        self._run('pg_ctl', 'stop', '-w', f'--mode={mode}', f'--pgdata={self._folder}/data')

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self.stop('immediate')

    def _run(self, program: str, *arguments: str) -> None:
        user = ['runuser', '-u', 'postgres', '--'] if os.geteuid() == 0 else []
        # To no pipe: the server would keep it open.
        subprocess.run([*user, _program(program), *arguments], check=True, cwd=self._folder, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, 'LC_ALL': 'C'})


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is not None:
        return found
    # Debian keeps them out of the way, by version.
    for path in sorted(Path('/usr/lib/postgresql').glob(f'*/bin/{name}'), reverse=True):
        return str(path)
    raise Missing(f'{name} of PostgreSQL is not installed')
