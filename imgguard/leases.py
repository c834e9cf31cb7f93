"""The signs of life of this worker process, and the ends of its attempts that could not be stored at once.

One thread does both; what else a worker does beside its requests has a thread each. They are started by the first
request of a process, so after any fork, and an attempt is only guarded once the thread was seen to run: uWSGI,
for one, does not run threads unless told to. The store counts on signs of life of workers that have nothing to do,
too: they tell an outage of the store from the death of a worker.
"""

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Final

from imgguard import servers
from imgguard.about import claimed
from imgguard.attempts import Claim
from imgguard.errors import StoreUnavailable
from imgguard.store import Store
from imgguard.workers import HOST, Workers

LOG: Final = logging.getLogger(__name__)

MOST_PENDING: Final = 1000
"""How many ends wait for the store at most; of more the oldest are dropped."""

_START_SECONDS: Final = 5.0
# How soon the store is tried again after an outage: all workers must be back before one may prove another's death.
_AGAIN_SECONDS: Final = 2.0
# How old the progress of a running attempt may look.
_PROGRESS_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """An end of an attempt that waits for the store."""

    claim: Claim
    end: Callable[[], object]


@dataclass(slots=True)
class _Process:
    """What belongs to one process and is not carried over a fork."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    seen: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)
    claims: dict[tuple[int, int], Callable[[], int]] = field(default_factory=dict)
    renewed: dict[tuple[int, int], float] = field(default_factory=dict)
    pending: deque[_Pending] = field(default_factory=deque)
    failing: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    others: dict[str, threading.Event] = field(default_factory=dict)

    def end(self) -> None:
        """End the threads."""
        self.ended.set()
        self.wake.set()
        for wake in self.others.values():
            wake.set()


@dataclass(frozen=True, slots=True)
class _Other:
    """What a process does beside its requests; the parameters are those of :meth:`Heartbeat.accompany`."""

    name: str
    work: Callable[[], object]
    pause: float

    def run(self, heartbeat: Callable[[], object], mine: _Process) -> None:
        """Work until it ends."""
        wake = mine.others[self.name]
        while True:
            wake.wait(self.pause * SystemRandom().uniform(0.9, 1.1))
            wake.clear()
            if mine.ended.is_set():
                return
            # What is served must not be taken away in the middle of it.
            served = heartbeat()
            if served is None:
                return
            self.work()
            del served


class Heartbeat:
    """Renews the claims of this process, and its own sign of life, every third of a lease.

    :param lease_seconds: how long a claim lives without a renewal
    :param workers: tells the name of this process
    """

    def __init__(self, store: Store, lease_seconds: float, workers: Workers) -> None:
        self._store: Final = store
        self._lease: Final = lease_seconds
        self._workers: Final = workers
        self._processes: dict[int, _Process] = {}
        self._others: list[_Other] = []

    def accompany(self, name: str, work: Callable[[], object], pause: float) -> Callable[[], None]:
        """Do this again and again in every process that gives signs of life, in a thread of its own.

        To be called before the first request. The thread ends with this object.

        :param name: of the thread
        :param work: must not raise
        :param pause: seconds before the first time and between two; a tenth more or less, so that workers spread
        :returns: has it done at once in the process that calls it
        """
        self._others.append(_Other(name, work, pause))

        def wake() -> None:
            mine = self._processes.get(os.getpid())
            if mine is not None and name in mine.others:
                mine.others[name].set()

        return wake

    @property
    def worker(self) -> str:
        """The name of this process."""
        return self._workers.name()

    def start(self) -> None:
        """Start the thread if this process has none yet; to be called in every process: a server may have forked."""
        if os.getpid() not in self._processes and servers.threads_run():
            self._mine()

    def runs(self) -> bool:
        """Start the thread if this process has none yet, and say whether it was seen to run."""
        if not servers.threads_run():
            return False
        return self._mine().seen.wait(_START_SECONDS)

    def add(self, claim: Claim, received: Callable[[], int]) -> None:
        """Renew this claim from now on.

        :param received: tells how many bytes have been received
        """
        mine = self._mine()
        with mine.lock:
            mine.claims[claim.key, claim.number] = received
            mine.renewed[claim.key, claim.number] = time.monotonic()

    def remove(self, claim: Claim) -> None:
        """Renew this claim no longer."""
        mine = self._mine()
        with mine.lock:
            mine.claims.pop((claim.key, claim.number), None)
            mine.renewed.pop((claim.key, claim.number), None)

    def holds(self, claim: Claim) -> bool:
        """Whether the claim is still this process's own.

        Asks the store only when the last renewal is older than half a lease: nobody may take a
        younger one. An outage of the store takes no claim away.
        """
        mine, name = self._mine(), (claim.key, claim.number)
        with mine.lock:
            renewed, received = mine.renewed.get(name), mine.claims.get(name)
        if renewed is not None and time.monotonic() - renewed < self._lease / 2:
            return True
        try:
            return name in self._store.renew(self._workers.name(), HOST, {name: received() if received else 0})
        except StoreUnavailable:
            return True

    def finish_later(self, claim: Claim, end: Callable[[], object]) -> None:
        """Store the end of an attempt as soon as the store is back; it could not be stored now.

        An end of the same attempt that waits already is replaced.

        :param end: stores it; raises StoreUnavailable while that cannot be done, and does no harm when it is
            repeated after it was stored
        """
        mine = self._mine()
        with mine.lock:
            same = [pending for pending in mine.pending if pending.claim == claim]
            for pending in same:
                mine.pending.remove(pending)
            if len(mine.pending) >= MOST_PENDING:
                oldest = mine.pending.popleft()
                claimed(LOG, oldest.claim).error('its end is never stored: too much waits for the store')
            mine.pending.append(_Pending(claim, end))
        mine.wake.set()

    def beat(self) -> None:
        """Give a sign of life of all claims of this process and of itself, then store the ends that wait.

        :raises StoreUnavailable: when something could not be stored; ends that wait go on waiting
        """
        mine = self._mine()
        self._workers.touch()
        with mine.lock:
            claims = {name: received() for name, received in mine.claims.items()}
        before = time.monotonic()
        held = self._store.renew(self._workers.name(), HOST, claims)
        with mine.lock:
            for name in held & mine.renewed.keys():
                mine.renewed[name] = before
        _store_pending(mine)

    def _mine(self) -> _Process:
        process = os.getpid()
        mine = self._processes.get(process)
        if mine is None:
            made = _Process()
            # No lock of a thread: another one may have held it while the process forked.
            mine = self._processes.setdefault(process, made)
            if mine is made and servers.threads_run():
                # The threads end with the filter they serve.
                weakref.finalize(self, made.end).atexit = False
                threading.Thread(target=_run, args=(weakref.ref(self), made, self._lease / 3),
                                 name='imgguard-heartbeat', daemon=True).start()
                for other in self._others:
                    made.others[other.name] = threading.Event()
                    threading.Thread(target=other.run, args=(weakref.ref(self), made), name=other.name,
                                     daemon=True).start()
        return mine

    def try_to_beat(self) -> None:
        """As :meth:`beat`, with trouble logged: once when it begins, and once when it is over."""
        mine = self._mine()
        try:
            self.beat()
        except Exception as error:
            if not mine.failing:
                LOG.error('cannot store the signs of life of this process: %s', error,
                          exc_info=not isinstance(error, StoreUnavailable))
            mine.failing = True
        else:
            if mine.failing:
                LOG.warning('the signs of life of this process are stored again')
            mine.failing = False


def _store_pending(mine: _Process) -> None:
    with mine.lock:
        waiting = list(mine.pending)
    for pending in waiting:
        try:
            pending.end()
            claimed(LOG, pending.claim).info('its end is stored now')
        except StoreUnavailable:
            with mine.lock:
                # Behind the others, for it may be the one that can never be stored.
                if pending in mine.pending:
                    mine.pending.remove(pending)
                    mine.pending.append(pending)
            raise
        except Exception:
            claimed(LOG, pending.claim).exception('its end cannot be stored')
        with mine.lock:
            if pending in mine.pending:
                mine.pending.remove(pending)


def _run(heartbeat: Callable[[], Heartbeat | None], mine: _Process, pause: float) -> None:
    mine.seen.set()
    while (served := heartbeat()) is not None:
        served.try_to_beat()
        del served
        if mine.failing:
            time.sleep(min(pause, _AGAIN_SECONDS))
        else:
            _rest(mine, pause)


def _rest(mine: _Process, pause: float) -> None:
    until = time.monotonic() + pause
    while (left := until - time.monotonic()) > 0:
        woken = mine.wake.wait(min(left, _PROGRESS_SECONDS))
        mine.wake.clear()
        if woken or mine.claims:
            return
