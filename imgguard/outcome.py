"""What an answer of Glance says about an attempt: one pure table, no I/O.

The texts it looks for are Glance's own (``glance/api/v2/image_data.py``); Glance 33 ships no
translations of them.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from imgguard import codes
from imgguard.attempts import Failure
from imgguard.body import Broken


class Verdict(Enum):
    """What the answer means for the image."""

    SUCCEEDED = 'succeeded'
    FAILED = 'failed'
    SAYS_NOTHING = 'says nothing'
    LOOK = 'look at the image'


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict, and the failure where there is one or, for ``LOOK``, would be one."""

    verdict: Verdict
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known when Glance has answered a data request.

    :param status: HTTP status code
    :param explanation: of Glance's error answer, one line; empty when there is none
    :param reason: what Glance logged as the cause, fit to be shown; empty when it logged none
    :param received: bytes received from the client
    :param expected: bytes announced by the client, if it did
    :param broken: how reading from the client failed, if it did
    :param broken_reason: what the server said of that
    :param refusal: why the guard itself refused the body, if it did
    """

    status: int
    explanation: str = ''
    reason: str = ''
    received: int = 0
    expected: int | None = None
    broken: Broken | None = None
    broken_reason: str = ''
    refusal: Failure | None = None


SUCCEEDED: Final = Outcome(Verdict.SUCCEEDED)
SAYS_NOTHING: Final = Outcome(Verdict.SAYS_NOTHING)

_AT_THE_DOOR: Final = frozenset({401, 403, 404, 405, 409})

# (status, words of Glance's explanation, code); the first row that fits decides.
_BY_EXPLANATION: Final = (
    (400, 'Signature verification failed', codes.SIGNATURE_REJECTED),
    (400, 'Size mismatch', codes.SIZE_MISMATCH),
    (400, 'Size exceeds', codes.SIZE_MISMATCH),
    (410, 'Adding images to store is disabled', codes.STORAGE_UNAVAILABLE),
    (413, 'media is full', codes.STORAGE_FULL),
    (413, 'too large', codes.SIZE_LIMIT_EXCEEDED),
    (413, '', codes.QUOTA_EXCEEDED),
    (415, 'Invalid content type', codes.BAD_REQUEST),
    (415, '', codes.FORMAT_REJECTED),
    (503, '', codes.STORAGE_UNAVAILABLE),
)

# What Glance logged as the cause of a 500 without a reason, and what it means.
_BY_REASON: Final = (
    ('checksum of uploaded data is different', codes.DIGEST_MISMATCH),
    ('Read-only file system', codes.STORAGE_UNAVAILABLE),
    ('No such file or directory', codes.STORAGE_UNAVAILABLE),
    ('Not a directory', codes.STORAGE_UNAVAILABLE),
    ('No space left', codes.STORAGE_FULL),
)


def classify(answer: Answer) -> Outcome:
    """Decide what Glance's answer to an upload says about the image."""
    if 200 <= answer.status < 300:
        return SUCCEEDED
    if answer.refusal is not None:
        return Outcome(Verdict.FAILED, answer.refusal)
    if answer.broken is not None:
        return Outcome(Verdict.FAILED, _broken(answer))
    if answer.status == 401 and answer.received:
        return Outcome(Verdict.FAILED, _explained(answer, codes.CREDENTIALS_EXPIRED))
    if answer.status < 400 or answer.status in _AT_THE_DOOR:
        return SAYS_NOTHING
    for status, words, code in _BY_EXPLANATION:
        if answer.status == status and words in answer.explanation:
            return Outcome(Verdict.FAILED, _explained(answer, code))
    if answer.status == 410:
        return Outcome(Verdict.LOOK, _explained(answer, codes.BACKEND_ERROR))
    if answer.status < 500:
        return Outcome(Verdict.FAILED, _explained(answer, codes.BAD_REQUEST))
    return Outcome(Verdict.FAILED, unexplained(answer))


def interrupted(answer: Answer) -> Failure:
    """The failure of an attempt whose worker was told to stop before Glance had answered."""
    return Failure(codes.WORKER_LOST, f'The process that ran the upload was stopped: {_how_far(answer)}.')


def unexplained(answer: Answer) -> Failure:
    """The failure behind a 500, which never tells its cause."""
    code = next((code for words, code in _BY_REASON if words in answer.reason), codes.BACKEND_ERROR)
    said = f' Glance logged: {answer.reason}' if answer.reason else ''
    return Failure(code, f'Glance failed with status {answer.status} during the upload: {_how_far(answer)}.{said}')


def _explained(answer: Answer, code: str) -> Failure:
    # WebOb begins a 415 with a sentence on the media type of the request, whatever the cause.
    explanation = answer.explanation.rpartition('is not supported by this server.')[2].strip()
    return Failure(code, explanation or codes.default_text(code))


def _broken(answer: Answer) -> Failure:
    if answer.broken is Broken.MALFORMED:
        said = f' ({answer.broken_reason})' if answer.broken_reason else ''
        return Failure(codes.BAD_REQUEST, f'The body of the upload was malformed: {_how_far(answer)}{said}.')
    return Failure(codes.CLIENT_DISCONNECTED,
                   f'The connection to the client was lost during the upload: {_how_far(answer)}.')


def _how_far(answer: Answer) -> str:
    if answer.expected is None:
        return f'{answer.received} bytes had arrived'
    return f'{answer.received} of {answer.expected} bytes had arrived'
