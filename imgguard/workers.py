"""The names of worker processes, and the proof that one of them is gone.

Each worker holds a lock on a file of its own (flock(2)) for as long as it lives; the kernel gives the
lock back when the process ends, however it ends. Who can take the lock knows that the process is dead. A name is used
once: it is new after every fork and every start.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import socket
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOG: Final = logging.getLogger(__name__)

HOST: Final = socket.gethostname()[:200]
"""The name of this host, as it stands in the names of its workers."""

_SUFFIX: Final = '.lock'
_OLD_SECONDS: Final = 7 * 86400
_OPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process of ours.

    :param lock: the open file; ``None`` where its death cannot be proven
    """

    name: str
    lock: int | None


class Workers:
    """The worker that this process is, and what can be known of others.

    :param directory: where the lock files are, for the processes of one user on one host; ``None`` for a
        directory of this user's own in the one for temporary files
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory: Final = directory or Path(tempfile.gettempdir()) / f'imgguard-{os.geteuid()}'
        self._of_process: dict[int, _Worker] = {}

    def name(self) -> str:
        """The name of this process, unique over hosts, restarts and forks; its file is locked before it is told."""
        process = os.getpid()
        worker = self._of_process.get(process)
        if worker is None:
            made = self._made(process)
            # No lock of a thread: another one may have held it while the process forked.
            worker = self._of_process.setdefault(process, made)
            if worker is not made:
                _close(made.lock)
            for other in [other for other in self._of_process if other != process]:
                # Inherited by a fork: as long as it is open here its owner looks alive.
                inherited = self._of_process.pop(other, None)
                _close(inherited.lock if inherited is not None else None)
        return worker.name

    def touch(self) -> None:
        """Keep the file of this process from looking forgotten to whatever cleans the directory up."""
        worker = self._of_process.get(os.getpid())
        if worker is not None and worker.lock is not None:
            os.utime(worker.lock)

    def is_gone(self, host: str, worker: str) -> bool | None:
        """Whether that process has ended.

        :param host: of the worker, as it is noted with its attempts
        :returns: ``None`` when that cannot be told: it ran on another host, or its file is not there
        """
        if host != HOST or not worker or '/' in worker or not self._is_safe():
            return None
        try:
            lock = os.open(self._path(worker), _OPEN)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        finally:
            os.close(lock)
        return True

    def _made(self, process: int) -> _Worker:
        name = f'{HOST}:{process}:{secrets.token_hex(4)}'
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            if not self._is_safe():
                raise PermissionError(f'{self._directory} is not a directory of this user alone')
            lock = os.open(self._path(name), _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            LOG.warning('the death of this process could not be proven, so that what it leaves is cleared away later '
                        'than need be: %s', error)
            return _Worker(name, None)
        self._remove_old()
        return _Worker(name, lock)

    def _path(self, worker: str) -> Path:
        return self._directory / (worker + _SUFFIX)

    def _is_safe(self) -> bool:
        # In a directory that others may write to, anybody could lock or replace the files.
        try:
            found = self._directory.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077

    def _remove_old(self) -> None:
        for path in self._directory.glob('*' + _SUFFIX):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _OLD_SECONDS and self.is_gone(HOST, path.stem):
                    path.unlink()


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
