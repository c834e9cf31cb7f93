"""What became of an import: one pure table over Glance's image, its task and what its log tells.

Glance answers an import with 202 and does the work in a task of its own. The task's message is the
same whatever happened, and its end and the image's status are written one after the other; only
both together say that Glance has given up (``glance/async_/flows/api_image_import.py``,
``location_import.py``, ``glance/async_/taskflow_executor.py``). No I/O here.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

from imgguard import codes, text
from imgguard.attempts import Failure, Kind
from imgguard.errors import GlanceUnavailable
from imgguard.glance_log import Cause
from imgguard.outcome import SUCCEEDED, Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Task:
    """A task of Glance.

    :param status: ``pending``, ``processing``, ``success`` or ``failure``
    :param stores: the stores the data is to go to
    """

    task_id: str
    status: str
    message: str
    stores: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether Glance works on it no longer."""
        return self.status in ('success', 'failure')

    @classmethod
    def of(cls, task_id: str, status: str, message: str | None, given: object) -> Self:
        """The task as Glance has it.

        :param given: its input: what its import was asked
        """
        stores = given.get('backend') if isinstance(given, Mapping) else None
        # None stands for the one store of a Glance that has no names for its stores.
        named = tuple(str(store) for store in stores if store) if isinstance(stores, list) else ()
        return cls(task_id, status, message or '', named)


@dataclass(frozen=True, slots=True)
class Seen:
    """An image that is being imported, as Glance has it at one moment.

    :param status: ``None`` when the image is gone
    :param failed_stores: by ``os_glance_failed_import``
    :param size: of the image, bytes; 0 while unknown
    :param staged: size of its staged file on this host, bytes; ``None`` when there is none
    :param task: ``None`` when it is not known
    :param changed: differs from an earlier look when anything moved in between
    """

    status: str | None
    failed_stores: tuple[str, ...] = ()
    size: int = 0
    staged: int | None = None
    task: Task | None = None
    changed: object = None


class Tasks(Protocol):
    """How Glance's tasks and their images are looked at: in its process, in its database, or by requests."""

    def holder(self, image_id: str) -> str | None:
        """The id of the task that has the import lock of this image; ``None`` when nobody has, or it is gone."""

    def find(self, image_id: str, request_ids: Collection[str | None]) -> str | None:
        """The id of the newest task that one of these requests made for this image; ``None`` when there is none."""

    def look(self, image_id: str, created_at: str, task_id: str | None, stores_too: bool = False) -> Seen:
        """The image and the task that works on it, as they are now.

        :param created_at: as Glance's API shows it; an image of another time has only the same id
        :param stores_too: whether growing files in Glance's stores count as a change
        :raises CannotLook: nor will it be possible later
        """


class CannotLook(GlanceUnavailable):
    """Nobody can be asked any more how a task goes on."""


TYPES: Final = frozenset({'api_image_import', 'location_import'})
"""The types of the tasks that bring data into an image."""

DATA: Final = frozenset({'active', 'deactivated'})
GONE: Final = frozenset({None, 'deleted', 'pending_delete'})
KILLED: Final = 'killed'
"""The status in which Glance's API v1 leaves an image that it has given up."""

AWAITED: Final = frozenset({'queued', 'uploading', KILLED})
"""The statuses of an image that waits for its data while Glance does nothing about it."""

LAST_WORD_SECONDS: Final = 2.0
"""How long Glance may still delete the data of an image that it has killed, and kill it once more, by its name: a retry
must not begin before (glance 15, ``glance/api/v1/upload_utils.py``, ``_kill_mismatched`` and what catches its 400)."""
_NO_CAUSE: Final = 'Task failed due to Internal Error'
_DELETED: Final = 'The image was deleted while its data was on the way.'
_STAGED_LOST: Final = 'The staged data was lost before it could be imported. Stage it again.'
_GIVEN_UP: Final = 'Glance has given the image up (killed); why, only its log tells.'
_SILENT: Final = 'The import made no progress for {seconds} seconds.'

_SOURCE: Final = 'The source of the data could not be read'

# (words of the cause, code); the first row that fits decides. What Glance and glance_store raise has fixed words.
_BY_WORDS: Final = (
    ('Size mismatch: expected', codes.SOURCE_UNREACHABLE),
    ('downloaded data size', codes.SOURCE_UNREACHABLE),
    ('Source image status', codes.SOURCE_UNREACHABLE),
    ('Size attribute of remote image', codes.SOURCE_UNREACHABLE),
    ('Exhausted allowed addresses', codes.SOURCE_UNREACHABLE),
    ('Hash calculation failed', codes.SOURCE_UNREACHABLE),
    ('Invalid location', codes.SOURCE_UNREACHABLE),
    ('Image size mismatch', codes.SIZE_MISMATCH),
    ('os_hash_value', codes.DIGEST_MISMATCH),
    ('of uploaded data is different', codes.DIGEST_MISMATCH),
    ('Signature verification failed', codes.SIGNATURE_REJECTED),
    ('Read-only file system', codes.STORAGE_UNAVAILABLE),
    ('No such file or directory', codes.STORAGE_UNAVAILABLE),
    ('No space left', codes.STORAGE_FULL),
)
# The same by the class of the exception.
_BY_KIND: Final = {
    codes.SOURCE_UNREACHABLE: {
        'HTTPError', 'URLError', 'IncompleteRead', 'BadStatusLine', 'RemoteDisconnected', 'LineTooLong',
        'UnknownProtocol', 'ConnectionRefusedError', 'ConnectionResetError', 'ConnectionAbortedError',
        'ConnectionError', 'ConnectTimeout', 'ReadTimeout', 'ChunkedEncodingError', 'ProtocolError', 'BrokenPipeError',
        'gaierror', 'TimeoutError', 'SSLError', 'SSLCertVerificationError', 'InvalidRedirect',
        'RemoteServiceUnavailable', 'GlanceEndpointNotFound'},
    codes.FORMAT_REJECTED: {'InvalidImageData', 'ImageFormatError', 'SafetyCheckFailed', 'UnsupportedMediaType'},
    codes.SIZE_LIMIT_EXCEEDED: {'ImageSizeLimitExceeded'},
    codes.QUOTA_EXCEEDED: {'StorageQuotaFull', 'LimitExceeded'},
    codes.STORAGE_FULL: {'StorageFull'},
    codes.STORAGE_UNAVAILABLE: {
        'StorageWriteDenied', 'StoreAddDisabled', 'StoreAddNotSupported', 'BackendException', 'PermissionError',
        'RemoteConnectionFailure'},
    codes.SIGNATURE_REJECTED: {'SignatureVerificationError'},
}


def judge(kind: Kind, seen: Seen, causes: Sequence[Cause], idle: float, stall: float) -> Outcome | None:
    """Say how an import ended; ``None`` while Glance still works on it.

    A failure whose code is empty comes with success: it says what went wrong all the same.

    :param causes: what Glance logged of the task, first things first
    :param idle: seconds since anything of it moved
    :param stall: seconds after which an import that does not move has failed
    """
    if seen.status in GONE:
        return _failed(codes.IMPORT_FAILED, _DELETED)
    if seen.status == KILLED:
        return _failed(codes.IMPORT_FAILED, _GIVEN_UP) if idle >= LAST_WORD_SECONDS else None
    task = seen.task
    if task is None or not task.ended:
        if seen.status in DATA and kind is not Kind.COPY and (task is None or idle >= stall):
            return SUCCEEDED
        if idle >= stall:
            return _failed(codes.IMPORT_FAILED, _SILENT.format(seconds=int(stall)))
        return None
    failed = tuple(store for store in seen.failed_stores if store in task.stores)
    if kind is Kind.COPY:
        succeeded = task.status == 'success' and set(failed) != set(task.stores)
    else:
        succeeded = seen.status in DATA
    failure = _failure(seen, task, failed, causes)
    if not succeeded:
        return Outcome(Verdict.FAILED, failure)
    if failed or task.status == 'failure':
        return Outcome(Verdict.SUCCEEDED, Failure('', failure.text))
    return SUCCEEDED


def _failure(seen: Seen, task: Task, stores: Sequence[str], causes: Sequence[Cause]) -> Failure:
    cause = next(iter(causes), None)
    if cause is None:
        said = text.reason(task.message)
        if not said or said == _NO_CAUSE or said.startswith('Copied '):
            return Failure(codes.IMPORT_FAILED, _where(stores, codes.default_text(codes.IMPORT_FAILED)))
        cause = Cause('', said)
    code = _code(cause)
    if cause.kind == 'FileNotFoundError' and seen.status == 'importing' and seen.staged is None:
        return Failure(codes.IMPORT_FAILED, _STAGED_LOST)
    if code == codes.SOURCE_UNREACHABLE:
        return Failure(code, text.one_line(f'{_SOURCE}: {cause.text}'))
    return Failure(code, _where(stores, cause.text))


def _code(cause: Cause) -> str:
    code = next((code for words, code in _BY_WORDS if words in cause.text), None) or next(
        (code for code, kinds in _BY_KIND.items() if cause.kind in kinds), codes.IMPORT_FAILED)
    if cause.storing and code == codes.SOURCE_UNREACHABLE:
        # What cannot be reached then is the store, for the data lies in staging.
        return codes.STORAGE_UNAVAILABLE
    return code


def _where(stores: Sequence[str], said: str) -> str:
    if not stores:
        return text.one_line(said)
    named = f'the store {stores[0]}' if len(stores) == 1 else f'the stores {", ".join(stores)}'
    return text.one_line(f'The data could not be stored in {named}: {said}')


def _failed(code: str, words: str) -> Outcome:
    return Outcome(Verdict.FAILED, Failure(code, words))
