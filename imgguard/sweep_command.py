"""What the command ``sweep`` does: once, or until it is stopped by a signal."""

import argparse
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

from imgguard.api import v2
from imgguard.commands import FILES, INSIDE, Answer, CommandFailed, Event, Job
from imgguard.errors import GlanceUnavailable, StoreUnavailable
from imgguard.notify import Publisher
from imgguard.sweep import Sweep

_NOT_SET: Final = ('glance_connection is not set: only leases and deadlines are settled, and an import whose worker '
                   'was lost is worker_lost, however Glance ended it. What failed attempts left in Glance '
                   f'{INSIDE}.')
_OFF: Final = 'requeue = off: nothing is changed in Glance'
_UNSETTLED: Final = '{}; leases and deadlines were settled without it, imports were not'
_UNPROVEN: Final = ('{} silent attempts are left alone: nobody has been in touch with the store for long enough to '
                    'tell a dead worker from an outage of the store. A running Glance or a sweep without --once is.')


def sweep(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``sweep [--once]``."""
    outside = job.outside
    if outside is None:
        job.note(_NOT_SET)
    elif job.settings.requeue == 'off':
        job.note(_OFF)
    with _stopped_by_signals() as stop:
        sweeper = Sweep(job.store, job.settings, time.monotonic, stop, None if outside is None else outside.settling,
                        _publish(job))
        if not arguments.once:
            yield from _told(job, sweeper)
            return
        counts = sweeper.run_once()
        yield asdict(counts)
        if counts.unproven:
            job.note(_UNPROVEN.format(counts.unproven))
        if counts.requeued:
            job.note(f'{counts.requeued} images were put back to queued; {FILES}')
        if sweeper.outage is not None:
            raise CommandFailed(_UNSETTLED.format(sweeper.outage)) from sweeper.outage


def _publish(job: Job) -> Callable[[], int]:
    """What the sweep publishes with.

    :raises ConfigurationError: notifications are set up and cannot be published
    """
    if job.settings.notifications is None:
        return lambda: 0
    return Publisher(job.store.outbox, job.settings.notifications).publish


def _told(job: Job, sweeper: Sweep) -> Iterator[Answer]:
    """The first run, and every one that changed anything; an outage when it begins and when it is over."""
    first, told = True, False
    store, glance = _Outage(job), _Outage(job)
    for result in sweeper.run():
        if isinstance(result, StoreUnavailable):
            store.tell('', result)
            continue
        store.tell('the store can be used again', None)
        glance.tell("Glance's database can be used again", sweeper.outage)
        if first or result.changed:
            yield Event({'at': v2.timestamp(time.time()), **asdict(result)})
        if result.requeued and not told:
            job.note(f'images were put back to queued; {FILES}')
            told = True
        first = False


class _Outage:
    """Tells when an outage begins and when it is over."""

    def __init__(self, job: Job) -> None:
        self._note = job.note
        self._lasts = False

    def tell(self, over: str, error: StoreUnavailable | GlanceUnavailable | None) -> None:
        """Say what is new.

        :param over: what is said when the outage is over
        """
        if error is not None and not self._lasts:
            self._note(f'{error}; trying again')
        elif error is None and self._lasts:
            self._note(over)
        self._lasts = error is not None


class _Signalled:
    """Set by a signal. Not an event of :mod:`threading`, whose lock the thread that is interrupted may hold."""

    def __init__(self, reading: int) -> None:
        self._reading = reading

    def is_set(self) -> bool:
        return self.wait(0)

    def wait(self, timeout: float) -> bool:
        return bool(select.select([self._reading], [], [], timeout)[0])


@contextmanager
def _stopped_by_signals() -> Iterator[_Signalled]:
    reading, writing = os.pipe()
    before = {each: signal.signal(each, lambda *_: os.write(writing, b'.') and None)
              for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield _Signalled(reading)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        os.close(reading)
        os.close(writing)
