"""What is counted, in the files of prometheus_client's multiprocess mode, and its exposition.

Each process has files of its own, to which it writes through memory: a process that is killed loses nothing it has
counted. The library itself names the files by process id and finds their directory in the process environment when it
is first imported, by whomever. Here they are named by a number whose lock (flock(2)) the process holds, and
the directory is an option: so no more files come to be than processes ran at once, whoever takes a number over goes on
counting where the dead one stopped, and metrics of others in the same process stay theirs.

This module is imported by the metrics application only, as the one that needs the extra ``metrics``.
"""

import fcntl
import itertools
import logging
import os
import threading
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from imgguard.attempts import End, Kind, State
from imgguard.codes import CODES
from imgguard.errors import StoreUnavailable
from imgguard.store import Store
from imgguard.wsgi import Application

LOG: Final = logging.getLogger(__name__)

MOST_IN_ERROR: Final = 10000
"""Up to so many images in error are counted at a scrape."""

BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, float('inf'))
"""Upper bounds, seconds."""

# More than all series take: a file that had to grow on a full disk would end its process (SIGBUS).
_FILE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Family:
    """One metric; the names of its labels are those of closed sets."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    def key(self, suffix: str, *values: str, le: float | None = None) -> str:
        """The key of one of its series in a file."""
        bound = {} if le is None else {'le': floatToGoString(le)}  # type: ignore[no-untyped-call]
        key: str = mmap_key(self.name, self.name + suffix, [*self.labels, *bound], [*values, *bound.values()],
                            self.help)
        return key


_ATTEMPTS: Final = _Family('imgguard_attempts', 'Attempts to bring data into an image, and declarations, by how they '
                           'ended.', ('kind', 'outcome'))
_FAILURES: Final = _Family('imgguard_failures', 'Ends that were no success, by failure code.', ('code',))
_LOST: Final = _Family('imgguard_lost_leases', 'Attempts given up because their worker gave no sign of life.')
_RECEIVED: Final = _Family('imgguard_received_bytes', 'Bytes that ended attempts had received.', ('kind',))
_STORE: Final = _Family('imgguard_store_errors', "Times the guard's store could not be read or written.")
_ADDED: Final = _Family('imgguard_added_seconds', "Time that the guard itself added to a request, without Glance's.",
                        ('action',))

_ENDS: Final = tuple(state for state in State if state is not State.RUNNING)


def _counters() -> Iterator[str]:
    yield from (_ATTEMPTS.key('_total', kind, state) for kind in Kind for state in _ENDS)
    yield from (_FAILURES.key('_total', code) for code in CODES)
    yield from (_RECEIVED.key('_total', kind) for kind in Kind if kind is not Kind.DECLARE)
    yield from (_LOST.key('_total'), _STORE.key('_total'))


@dataclass(slots=True)
class _Files:
    """The files of one process, and the lock that makes them its own."""

    lock: int
    counters: Any
    times: Any
    busy: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        """Close them; a process that was forked from their owner thereby lets go of what it inherited."""
        self.counters.close()
        self.times.close()
        os.close(self.lock)


class FileRecorder:
    """Writes down what happens in this process and in those forked from it.

    :param directory: for all processes of one host that are exposed together
    """

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self._processes: dict[int, _Files] = {}
        self._failing = False
        # Not at exit: other threads may still count, and the kernel closes better.
        weakref.finalize(self, _close, self._processes).atexit = False

    def ended(self, end: End) -> None:
        """Count an attempt or a declaration."""
        amounts: dict[str, float] = {_ATTEMPTS.key('_total', end.kind, end.state): 1}
        if end.code is not None and end.code in CODES:
            amounts[_FAILURES.key('_total', end.code)] = 1
        if end.state is State.LOST:
            amounts[_LOST.key('_total')] = 1
        if end.bytes_received:
            amounts[_RECEIVED.key('_total', end.kind)] = end.bytes_received
        self._add(amounts, {})

    def store_failed(self) -> None:
        """Count an error of the store."""
        self._add({_STORE.key('_total'): 1}, {})

    def took(self, action: str, seconds: float) -> None:
        """Count the guard's own time of a request."""
        seconds = max(0.0, seconds)
        bound = BUCKETS[bisect_left(BUCKETS, seconds)]
        self._add({}, {_ADDED.key('_sum', action): seconds, _ADDED.key('_bucket', action, le=bound): 1})

    def begin(self) -> None:
        """Have all counters there, so that the first event of each is seen as an increase."""
        self._add({}, {})

    def _add(self, counters: dict[str, float], times: dict[str, float]) -> None:
        try:
            mine = self._mine()
            with mine.busy:
                _increase(mine.counters, counters)
                _increase(mine.times, times)
        except Exception:
            # A full disk, a directory that was taken away: what is counted must not disturb what is done.
            if not self._failing:
                LOG.exception('metrics cannot be written to %s', self.directory)
            self._failing = True
        else:
            self._failing = False

    def _mine(self) -> _Files:
        process = os.getpid()
        mine = self._processes.get(process)
        if mine is None:
            made = _opened(self.directory)
            # No lock of a thread: another one may have held it while the process forked.
            mine = self._processes.setdefault(process, made)
            if mine is not made:
                made.close()
            for other in [other for other in self._processes if other != process]:
                inherited = self._processes.pop(other, None)
                if inherited is not None:
                    inherited.close()
        return mine


def exposition(store: Store, recorder: FileRecorder) -> Application:
    """The application that tells what all processes have counted, and what the store says now."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(recorder.directory))  # type: ignore[no-untyped-call]
    registry.register(_Asked(store))
    tell: Application = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        recorder.begin()
        return tell(environ, start_response)

    return application


class _Asked:
    """What is not counted but asked at each scrape: one bounded query."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Ask the store."""
        try:
            found: int | None = self._store.in_error(MOST_IN_ERROR)
        except StoreUnavailable:
            # It is counted, and logged by those who needed it for more.
            found = None
        yield GaugeMetricFamily('imgguard_store_up', "Whether the guard's store could be read just now.",
                                value=float(found is not None))
        if found is not None:
            yield GaugeMetricFamily('imgguard_images_in_error', f'Images in error; {MOST_IN_ERROR} stands for that '
                                    'many or more.', value=found)


def _close(processes: dict[int, _Files]) -> None:
    for files in processes.values():
        files.close()


def _increase(file: Any, amounts: dict[str, float]) -> None:
    for key, amount in amounts.items():
        value, _ = file.read_value(key)
        file.write_value(key, value + amount, 0.0)


def _opened(directory: Path) -> _Files:
    lock, number = _own_number(directory)
    try:
        counters = _file(directory / f'counter_{number}.db')
        for key in _counters():
            counters.read_value(key)
        return _Files(lock, counters, _file(directory / f'histogram_{number}.db'))
    except BaseException:
        os.close(lock)
        raise


def _own_number(directory: Path) -> tuple[int, int]:
    """The lowest number that no living process has, and the file that holds its lock."""
    for number in itertools.count():
        lock = os.open(directory / f'{number}.lock', os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock, number
        except BlockingIOError:
            os.close(lock)
        except BaseException:
            os.close(lock)
            raise
    raise AssertionError('unreachable')


def _file(path: Path) -> Any:
    # There at once and whole: whoever is asked reads the files of all, and the library breaks off at an empty one.
    made = path if path.exists() else path.with_suffix('.new')
    with made.open('a+b') as file:
        if os.fstat(file.fileno()).st_size < _FILE_BYTES:
            os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
    made.rename(path)
    return MmapedDict(str(path))  # type: ignore[no-untyped-call]
