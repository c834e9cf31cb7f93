"""What each command of ``imgguard-manage`` does with the store. How it is said is told in :mod:`imgguard.cli`."""

import argparse
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from imgguard import codes
from imgguard.api import history, v2
from imgguard.attempts import Busy, ErrorState, ImageRecord, State
from imgguard.errors import ImgguardError, StoreUnavailable
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.sweep import Counts, Sweep
from imgguard.workers import Workers

PAGE: Final = 500
_MOST_ATTEMPTS: Final = 100
_DAY: Final = 86400

_OUTSIDE: Final = ("Clearing away what failed attempts left in Glance is done in Glance's process, at the next look at "
                   'the image or at a retry.')
_NOT_USED: Final = f'glance_connection is set, but this version does not use it yet. {_OUTSIDE}'
_NOT_SET: Final = f'glance_connection is not set: only leases and deadlines are settled. {_OUTSIDE}'
_UNPROVEN: Final = ('{} silent attempts are left alone: nobody has been in touch with the store for long enough to '
                    'tell a dead worker from an outage of the store. A running Glance or a sweep without --once is.')


@dataclass(frozen=True, slots=True)
class Job:
    """What a command works with.

    :param note: says something that was not asked for
    """

    settings: Settings
    store: Store
    note: Callable[[str], None]


Record = Mapping[str, str | int | None]
"""What a command answers: names and values, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Many of a kind.

    :param columns: what a table shows of them
    """

    columns: Sequence[str]
    rows: Sequence[Record]


@dataclass(frozen=True, slots=True)
class Event:
    """What happened while a command goes on; told in a line."""

    record: Record


Answer = Record | Listing | Event
Command = Callable[[Job, argparse.Namespace], Iterator[Answer]]


class CommandFailed(ImgguardError):
    """What was asked for cannot be done; the text says why, and what can be."""


def upgrade(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``db upgrade``."""
    before = job.store.version()
    job.store.upgrade()
    yield {'before': before, 'version': job.store.version()}


def version(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``db version``."""
    yield {'version': job.store.version()}


def failures(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``failures list``: images with a verdict on which no newer attempt is alive."""
    rows: list[Record] = []
    after, page = 0, job.store.failures(PAGE)
    while page:
        rows += [_failure(record, record.error) for record in page
                 if record.error is not None and not (record.running and record.running.alive)]
        after = page[-1].key
        page = job.store.failures(PAGE, after) if len(page) == PAGE else []
    yield Listing(('image_id', 'code', 'at', 'attempts', 'retryable', 'owner', 'message'), rows)


def failure(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``failures show IMAGE``."""
    record = _known(job, arguments.image)
    if record.deleted:
        raise CommandFailed(f'image {arguments.image} is deleted; attempts list shows its history')
    if record.running is not None and record.running.alive:
        raise CommandFailed(f'image {arguments.image} is not in error: attempt {record.running.number} is running')
    if record.error is None:
        raise CommandFailed(f'image {arguments.image} is not in error')
    yield _failure(record, record.error)


def attempts(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``attempts list IMAGE``, the newest first; of an id used again, those of the image created last."""
    known = job.store.attempts(_known(job, arguments.image).key, _MOST_ATTEMPTS)
    yield Listing(('number', 'kind', 'state', 'code', 'started_at', 'finished_at', 'bytes_received', 'bytes_expected',
                   'host', 'request_id', 'message'), history.document(known, details=True, host=True)['attempts'])


def purge(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``purge``."""
    days = job.settings.retention_days
    yield {'forgotten': job.store.purge(days * _DAY), 'retention_days': days}


def sweep(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``sweep [--once]``."""
    job.note(_NOT_USED if job.settings.glance_connection else _NOT_SET)
    with _stopped_by_signals() as stop:
        sweeper = Sweep(job.store, job.settings, time.monotonic, stop)
        if arguments.once:
            counts = sweeper.run_once()
            yield asdict(counts)
            if counts.unproven:
                job.note(_UNPROVEN.format(counts.unproven))
        else:
            yield from _told(job, sweeper)


def requeue(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``requeue IMAGE [--worker-is-dead]``: see that nothing keeps Glance's process from clearing the image."""
    if job.settings.glance_connection:
        job.note(_NOT_USED)
    record = _known(job, arguments.image)
    if record.deleted:
        raise CommandFailed(f'image {arguments.image} is deleted')
    if job.settings.requeue == 'off':
        raise CommandFailed('the guard is set not to clear anything away (requeue = off); with requeue = auto it does')
    declared = 0
    if arguments.worker_is_dead:
        outcome = job.store.declare_dead(record.key)
        if isinstance(outcome, Busy):
            raise _alive(job, arguments.image, outcome)
        declared = outcome
    elif record.running is not None and not record.running.alive:
        job.store.lose(record.key, record.running.number)
    record = _known(job, arguments.image)
    if record.running is not None:
        raise _alive(job, arguments.image, Busy(record.running))
    yield {'image_id': record.image_id, 'declared_dead': declared, 'next': _next(job, record)}


def _known(job: Job, image_id: str) -> ImageRecord:
    found = job.store.find(image_id)
    if not found:
        raise CommandFailed(f'no image {image_id} is known to the guard')
    return found[-1]


def _failure(record: ImageRecord, error: ErrorState) -> Record:
    code = codes.CODES.get(error.code)
    return {'image_id': record.image_id, 'created_at': record.created_at, 'owner': record.owner, 'code': error.code,
            'message': error.text, 'retryable': None if code is None else code.retryable,
            'at': v2.timestamp(error.at), 'request_id': error.request_id, 'attempts': record.attempts,
            'number': error.number, 'kind': error.kind.value, 'bytes_received': error.bytes_received,
            'host': error.host, 'cleared': record.cleared_number >= record.last_number}


def _alive(job: Job, image_id: str, busy: Busy) -> CommandFailed:
    running = busy.running
    if running is None:
        return CommandFailed(f'image {image_id} is being cleared')
    text = f'attempt {running.number} of image {image_id} is running on {running.host}'
    lost_in = job.settings.lease_seconds + 5 - running.silent_for
    if lost_in > 0:
        return CommandFailed(f'{text}: its last sign of life was {running.silent_for:.0f} seconds ago; if its worker '
                             f'is dead, try again in {lost_in:.0f} seconds')
    return CommandFailed(f'{text}, as far as can be told: it is silent, and so is everybody else; if its worker is '
                         'dead, say so with --worker-is-dead')


def _next(job: Job, record: ImageRecord) -> str:
    """What happens now to an image that no attempt holds.

    :raises CommandFailed: what is left of it may not be cleared away yet
    """
    if record.error is None:
        return 'nothing: the image is not in error'
    if record.last_number <= record.cleared_number:
        return 'nothing is left to be cleared away: its data can be sent again'
    until = _fenced_until(job, record, record.error)
    if until is not None:
        raise CommandFailed(
            f'a lost attempt of image {record.image_id} may only be paused: what it left is not cleared away before '
            f'{v2.timestamp(until)}; if its worker is dead, say so with --worker-is-dead')
    return "what is left of it is cleared away in Glance's process at the next look at the image (show, list) or retry"


def _fenced_until(job: Job, record: ImageRecord, error: ErrorState) -> float | None:
    """Until when :meth:`imgguard.recovery.Recovery.clear` refuses to; ``None`` when it does not."""
    shown = job.store.attempt(record.key, error.number)
    now = None if shown is None else shown.updated_at + error.silent_for
    workers, fence = Workers(), job.settings.fence_seconds
    ends = [attempt.updated_at + fence for attempt in job.store.attempts(record.key, _MOST_ATTEMPTS)
            if attempt.number > record.cleared_number and attempt.state is State.LOST
            and (attempt.handed_on or not workers.is_gone(attempt.host, attempt.worker))]
    return max((end for end in ends if now is not None and end > now), default=None)


def _told(job: Job, sweeper: Sweep) -> Iterator[Answer]:
    """The first run, and every one that changed anything; an outage when it begins and when it is over."""
    first, failing = True, False
    for result in sweeper.run():
        if isinstance(result, StoreUnavailable):
            if not failing:
                job.note(f'{result}; trying again')
            failing = True
            continue
        if failing:
            job.note('the store can be used again')
        if first or result != Counts(unproven=result.unproven):
            yield Event({'at': v2.timestamp(time.time()), **asdict(result)})
        first = failing = False


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
