"""What each command of ``imgguard-manage`` does. How it is said is told in :mod:`imgguard.cli`."""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imgguard import codes
from imgguard.api import history, v2
from imgguard.attempts import Busy, ErrorState, ImageRecord
from imgguard.errors import ImgguardError
from imgguard.fence import Fence, NotYet
from imgguard.outside import Outside
from imgguard.recovery import BeingCleared, keeps_staged
from imgguard.settings import Settings
from imgguard.store import AttemptRow, Store
from imgguard.tasks import DATA, GONE
from imgguard.workers import Workers

PAGE: Final = 500
_MOST_ATTEMPTS: Final = 100
_DAY: Final = 86400

#: Where commands without Glance's database leave it to.
INSIDE: Final = "is cleared away in Glance's process at the next look at the image (show, list) or retry"
#: What they say where they put images back.
FILES: Final = ("data they may have left in Glance's stores and in staging cannot be deleted from here: a guard in "
                "Glance's process does it at the next look at the image or retry; where there is none, a retry that "
                'meets such a file fails again until an operator has removed it')


@dataclass(frozen=True, slots=True)
class Job:
    """What a command works with.

    :param outside: Glance as its database shows it; ``None`` without ``glance_connection``
    :param note: says something that was not asked for
    """

    settings: Settings
    store: Store
    outside: Outside | None
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
        rows += _failures(job, [record for record in page if not (record.running and record.running.holds)])
        after = page[-1].key
        page = job.store.failures(PAGE, after) if len(page) == PAGE else []
    yield Listing(('image_id', 'code', 'at', 'attempts', 'retryable', 'owner', 'message'), rows)


def failure(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``failures show IMAGE``."""
    record = _known(job, arguments.image)
    if record.deleted:
        raise CommandFailed(f'image {arguments.image} is deleted; attempts list shows its history')
    if record.running is not None and record.running.holds:
        raise CommandFailed(f'image {arguments.image} is not in error: attempt {record.running.number} is running')
    shown = _failures(job, [record])
    if not shown:
        raise CommandFailed(f'image {arguments.image} is not in error')
    yield from shown


def attempts(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``attempts list IMAGE``, the newest first; of an id used again, those of the image created last."""
    known = job.store.attempts(_known(job, arguments.image).key, _MOST_ATTEMPTS)
    yield Listing(('number', 'kind', 'state', 'code', 'started_at', 'finished_at', 'bytes_received', 'bytes_expected',
                   'host', 'request_id', 'message'), history.document(known, details=True, host=True)['attempts'])


def purge(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``purge``."""
    days = job.settings.retention_days
    yield {'forgotten': job.store.purge(days * _DAY), 'retention_days': days}


def requeue(job: Job, arguments: argparse.Namespace) -> Iterator[Answer]:
    """``requeue IMAGE [--worker-is-dead]``: put the image back, or see that nothing keeps Glance's process from it."""
    record = _known(job, arguments.image)
    status = None
    if job.outside is not None and not record.deleted:
        status = job.outside.status(record)
        if status is None:
            raise CommandFailed(f"Glance's database does not know image {arguments.image}: see glance_connection")
    if record.deleted or (status is not None and status in GONE):
        raise CommandFailed(f'image {arguments.image} is deleted')
    if job.settings.requeue == 'off':
        raise CommandFailed('the guard is set not to clear anything away (requeue = off); with requeue = auto it does')
    declared = 0
    if job.outside is not None and status is not None:
        job.outside.settle(record, status)
        record = _known(job, arguments.image)
    if arguments.worker_is_dead:
        outcome = job.store.declare_dead(record.key)
        if isinstance(outcome, Busy):
            raise _alive(job, arguments.image, outcome)
        declared = outcome
    elif record.running is not None and not record.running.holds:
        job.store.lose(record.key, record.running.number)
    record = _known(job, arguments.image)
    if record.running is not None:
        raise _alive(job, arguments.image, Busy(record.running))
    yield {'image_id': record.image_id, 'declared_dead': declared, 'next': _next(job, record, status)}


def _known(job: Job, image_id: str) -> ImageRecord:
    found = job.store.find(image_id)
    if not found:
        raise CommandFailed(f'no image {image_id} is known to the guard')
    return found[-1]


def _failures(job: Job, page: Sequence[ImageRecord]) -> list[Record]:
    attempts = job.store.verdicts(page)
    return [_failure(record, record.error, attempts[record.key]) for record in page
            if record.error is not None and record.key in attempts]


def _failure(record: ImageRecord, error: ErrorState, attempt: AttemptRow) -> Record:
    code = codes.CODES.get(error.code)
    return {'image_id': record.image_id, 'created_at': record.created_at, 'owner': record.owner, 'code': error.code,
            'message': error.text, 'retryable': None if code is None else code.retryable,
            'at': v2.timestamp(error.at), 'request_id': error.request_id, 'attempts': record.attempts,
            'number': error.number, 'kind': attempt.kind.value, 'bytes_received': error.bytes_received,
            'host': attempt.host, 'cleared': record.cleared_number >= record.last_number}


def _alive(job: Job, image_id: str, busy: Busy) -> CommandFailed:
    running = busy.running
    if running is None:
        return CommandFailed(f'image {image_id} is being cleared')
    text = f'attempt {running.number} of image {image_id} is running on {running.host}'
    lost_in = job.settings.lease_seconds + 5 - running.silent_for
    if lost_in > 0:
        return CommandFailed(f'{text}: its last sign of life was {running.silent_for:.0f} seconds ago; if its worker '
                             f'is dead, try again in {lost_in:.0f} seconds')
    if running.goes_on:
        return CommandFailed(f'{text}, and is silent, but Glance may still be working on it; if it does not, say so '
                             'with --worker-is-dead')
    return CommandFailed(f'{text}, as far as can be told: it is silent, and so is everybody else; if its worker is '
                         'dead, say so with --worker-is-dead')


def _next(job: Job, record: ImageRecord, status: str | None) -> str:
    """What was done, or happens now, to an image that no attempt holds.

    :param status: what Glance says of it; ``None`` where that is not known
    :raises CommandFailed: what is left of it may not be cleared away yet
    """
    if status in DATA:
        return f'nothing: the image is {status}'
    if record.error is None:
        return 'nothing: the image is not in error'
    if not record.remains:
        return 'nothing is left to be cleared away: its data can be sent again'
    if keeps_staged(job.store, record, status):
        return 'nothing: its staged data waits for an import, which can be asked for again'
    try:
        if job.outside is None:
            Fence(job.store, Workers(), job.settings.fence_seconds).passed(record, status)
            return f'what is left of it {INSIDE}'
        done = job.outside.recovery.clear(record, status, asked=True)
    except BeingCleared:
        raise CommandFailed(f'image {record.image_id} is being cleared by somebody else') from None
    except NotYet as error:
        raise CommandFailed(
            f'a lost attempt of image {record.image_id} may only be paused: what it left is not cleared away before '
            f'{v2.timestamp(time.time() + error.seconds)}; if its worker is dead, say so with --worker-is-dead'
        ) from None
    job.note(FILES[0].upper() + FILES[1:])
    was = 'was put back to queued' if done else 'is queued'
    return f'nothing: the image {was} in Glance, its data can be sent again'
