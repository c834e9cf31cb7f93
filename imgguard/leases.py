"""The sign of life of running attempts: one thread in each worker process renews them all.

The thread is started by the first guarded attempt of a process, so after any fork, and an attempt is
only guarded once the thread was seen to run: uWSGI, for one, does not run threads unless told to.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from imgguard import servers
from imgguard.attempts import Claim
from imgguard.errors import StoreUnavailable
from imgguard.store import Store

LOG: Final = logging.getLogger(__name__)

_START_SECONDS: Final = 5.0


class Heartbeat:
    """Renews the claims of this process every third of a lease.

    :param lease_seconds: how long a claim lives without a renewal
    """

    def __init__(self, store: Store, lease_seconds: float) -> None:
        self._store = store
        self._lease = lease_seconds
        self._lock = threading.Lock()
        self._process = 0
        self._seen = threading.Event()
        self._claims: dict[tuple[int, int], Callable[[], int]] = {}
        self._renewed: dict[tuple[int, int], float] = {}

    def runs(self) -> bool:
        """Start the thread if this process has none yet, and say whether it was seen to run."""
        if not servers.threads_run():
            return False
        with self._lock:
            if self._process != os.getpid():
                self._process = os.getpid()
                self._seen = threading.Event()
                self._claims, self._renewed = {}, {}
                threading.Thread(target=self._run, name='imgguard-heartbeat', daemon=True).start()
        return self._seen.wait(_START_SECONDS)

    def add(self, claim: Claim, received: Callable[[], int]) -> None:
        """Renew this claim from now on.

        :param received: tells how many bytes have been received
        """
        with self._lock:
            self._claims[claim.key, claim.number] = received
            self._renewed[claim.key, claim.number] = time.monotonic()

    def remove(self, claim: Claim) -> None:
        """Renew this claim no longer."""
        with self._lock:
            self._claims.pop((claim.key, claim.number), None)
            self._renewed.pop((claim.key, claim.number), None)

    def holds(self, claim: Claim) -> bool:
        """Whether the claim is still this process's own.

        Asks the store only when the last renewal is older than half a lease: nobody may take a
        younger one. An outage of the store takes no claim away.
        """
        name = claim.key, claim.number
        with self._lock:
            renewed = self._renewed.get(name)
        if renewed is not None and time.monotonic() - renewed < self._lease / 2:
            return True
        try:
            return name in self._store.renew({name: self._received(name)})
        except StoreUnavailable:
            return True

    def renew(self) -> None:
        """Renew all claims of this process once.

        :raises StoreUnavailable: when they could not be renewed
        """
        with self._lock:
            claims = {name: received() for name, received in self._claims.items()}
        if not claims:
            return
        before = time.monotonic()
        held = self._store.renew(claims)
        with self._lock:
            for name in held & self._renewed.keys():
                self._renewed[name] = before

    def _received(self, name: tuple[int, int]) -> int:
        with self._lock:
            received = self._claims.get(name)
        return received() if received is not None else 0

    def _run(self) -> None:
        seen, process = self._seen, self._process
        seen.set()
        pause = threading.Event()
        while process == os.getpid():
            pause.wait(self._lease / 3)
            try:
                self.renew()
            except StoreUnavailable as error:
                LOG.error('cannot renew the sign of life of running attempts: %s', error)
