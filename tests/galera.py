"""A Galera cluster of two nodes, of the tests alone, whose nodes can be killed and come back.

It needs ``mariadbd``, its programs, ``rsync`` and the provider ``libgalera_smm.so`` (Debian: galera-4)::

    with Cluster() as cluster:
        cluster.nodes[0].kill()
        cluster.nodes[0].start()
"""

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sqlalchemy.exc import SQLAlchemyError

from demo.server import HOST, free_port
from tests.harness import administer, skip_or_fail

_PROVIDERS: Final = ('/usr/lib/galera/libgalera_smm.so', '/usr/lib64/galera-4/libgalera_smm.so',
                     '/usr/lib64/galera/libgalera_smm.so')
_PROGRAMS: Final = ('mariadb', 'mariadbd', 'mariadb-install-db', 'rsync', 'wsrep_sst_rsync')
_START_SECONDS: Final = 90
_OPTIONS: Final = {
    'bind-address': HOST, 'skip-log-bin': '1', 'binlog-format': 'ROW', 'innodb-autoinc-lock-mode': '2',
    'innodb-flush-log-at-trx-commit': '0', 'innodb-log-file-size': '8M', 'innodb-buffer-pool-size': '32M',
    'performance-schema': 'OFF', 'wsrep-on': 'ON', 'wsrep-cluster-name': 'imgguard', 'wsrep-sst-method': 'rsync',
}
# A node that is gone is given up within a second or two.
_QUICK: Final = {
    'gcache.size': '16M', 'evs.keepalive_period': 'PT0.2S', 'evs.inactive_check_period': 'PT0.2S',
    'evs.suspect_timeout': 'PT1S', 'evs.inactive_timeout': 'PT3S',
}


class Node:
    """One server; it runs from :meth:`start` on.

    :param weight: of its vote: who has more than half of those that were there goes on without the others
    """

    def __init__(self, folder: Path, name: str, provider: str, weight: int) -> None:
        self._folder = folder
        self._name = name
        self._port, self.group_port, sst_port, ist_port = (free_port() for _ in range(4))
        self.url = f'mariadb+pymysql://root@{HOST}:{self._port}/mysql'
        options = {**_QUICK, 'gmcast.listen_addr': f'tcp://{HOST}:{self.group_port}', 'base_port': self.group_port,
                   'ist.recv_addr': f'{HOST}:{ist_port}', 'pc.weight': weight}
        self._options = {
            **_OPTIONS, 'datadir': folder / name, 'port': self._port, 'socket': folder / f'{name}.sock',
            'pid-file': folder / f'{name}.pid', 'log-error': folder / f'{name}.log', 'wsrep-provider': provider,
            'wsrep-node-name': name, 'wsrep-node-address': f'{HOST}:{self.group_port}',
            'wsrep-sst-receive-address': f'{HOST}:{sst_port}',
            'wsrep-provider-options': ';'.join(f'{name}={value}' for name, value in options.items())}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *others: 'Node') -> None:
        """Start it, and wait until it has what the others have.

        :param others: of which one must run; with none it begins a new cluster
        """
        members = ','.join(f'{HOST}:{other.group_port}' for other in others)
        arguments = [f'--{name}={value}' for name, value in self._options.items()]
        self._process = subprocess.Popen(
            ['mariadbd', '--no-defaults', *_as_user(), *arguments, f'--wsrep-cluster-address=gcomm://{members}'],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder)
        end = time.monotonic() + _START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > end:
                log = (self._folder / f'{self._name}.log').read_text('utf-8', 'replace')
                raise RuntimeError(f'{self._name} did not start:\n{log[-4000:]}')
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it is one of a cluster that has a majority."""
        try:
            administer(self.url, 'SELECT 1 FROM user')
        except SQLAlchemyError:
            return False
        return True

    def kill(self) -> None:
        """End it at once, as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def go_on_alone(self) -> None:
        """Let it be the cluster, whoever had the majority: an operator's word."""
        # By no driver, for those begin with a question, and it refuses all of them.
        subprocess.run(['mariadb', '--no-defaults', f'--host={HOST}', f'--port={self._port}', '--user=root',
                        "--execute=SET GLOBAL wsrep_provider_options = 'pc.bootstrap=1'"], check=True)

    def close(self) -> None:
        """End it, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


class Cluster:
    """Two nodes in a folder of their own, which is removed with ``with``; the first goes on without the second."""

    def __init__(self) -> None:
        provider = _provider()
        with ExitStack() as undo:
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix='imgguard-galera-')))
            if os.geteuid() == 0:
                # Its rsync hands files to nobody if it runs as root.
                shutil.chown(folder, 'mysql', 'mysql')
            first, second = Node(folder, 'first', provider, 2), Node(folder, 'second', provider, 1)
            self.nodes = first, second
            subprocess.run(
                ['mariadb-install-db', '--no-defaults', *_as_user(), f'--datadir={folder}/first', '--skip-test-db',
                 '--auth-root-authentication-method=normal'], check=True, stdin=subprocess.DEVNULL, capture_output=True)
            (folder / 'second').mkdir()
            if os.geteuid() == 0:
                shutil.chown(folder / 'second', 'mysql', 'mysql')
            for node in self.nodes:
                undo.callback(node.close)
            first.start()
            second.start(first)
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self._undo.close()


def _provider() -> str:
    for name in _PROGRAMS:
        if shutil.which(name) is None:
            skip_or_fail('galera', f'{name} is not installed')
    found = next((path for path in _PROVIDERS if os.path.exists(path)), None)
    return found or skip_or_fail('galera', 'libgalera_smm.so is not installed')


def _as_user() -> list[str]:
    return ['--user=mysql'] if os.geteuid() == 0 else []
