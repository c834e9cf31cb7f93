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
    :param fetches: whether Glance is to fetch the data itself: what it refuses, it refuses before it touches any
    :param answered: ``False`` where a proxy gave the answer, because Glance gave none
    :param version: of the API
    :param understood: ``False`` where the document of the request is not of the form that Glance expects
    """

    status: int
    explanation: str = ''
    reason: str = ''
    received: int = 0
    expected: int | None = None
    broken: Broken | None = None
    broken_reason: str = ''
    refusal: Failure | None = None
    fetches: bool = False
    version: int = 2
    understood: bool = True
    answered: bool = True


SUCCEEDED: Final = Outcome(Verdict.SUCCEEDED)
SAYS_NOTHING: Final = Outcome(Verdict.SAYS_NOTHING)

_AT_THE_DOOR: Final = frozenset({401, 403, 404, 405, 409})
# 410 is v2's, 412 v1's word for an image that was deleted on the way.
_AMBIGUOUS: Final = (410, 412)
_DEAD: Final = frozenset({'saving', 'uploading', 'killed'})
_IN_THE_WAY: Final = Failure(
    codes.BACKEND_ERROR, 'A file of an earlier attempt is where Glance would store the data of this image: it bears '
                         'the name of the image, and an operator has to remove it.')

_NOT_UNDERSTOOD: Final = Failure(codes.BAD_REQUEST, 'The request does not name an import method as it should: '
                                                    '{"method": {"name": NAME}}.')

# (status, words of Glance's explanation, code); the first row that fits decides.
_BY_EXPLANATION: Final = (
    (400, 'Signature verification failed', codes.SIGNATURE_REJECTED),
    # The API v1 (glance 15, glance/api/v1/images.py and upload_utils.py).
    (400, 'Supplied size', codes.SIZE_MISMATCH),
    (400, 'Supplied checksum', codes.DIGEST_MISMATCH),
    (400, 'Client disconnected before', codes.CLIENT_DISCONNECTED),
    (400, 'upload image larger than', codes.SIZE_LIMIT_EXCEEDED),
    (413, 'upload image larger than', codes.SIZE_LIMIT_EXCEEDED),
    (400, 'Content-Type must be application/octet-stream', codes.BAD_REQUEST),
    (400, 'format is not specified', codes.BAD_REQUEST),
    (400, 'multiple image sources', codes.BAD_REQUEST),
    (404, 'could not find image at URI', codes.SOURCE_UNREACHABLE),
    (400, ' status code. The response body', codes.SOURCE_UNREACHABLE),
    (400, 'The HTTP URL is invalid', codes.SOURCE_UNREACHABLE),
    (409, 'Image operation conflicts', codes.BACKEND_ERROR),
    (400, 'Size mismatch', codes.SIZE_MISMATCH),
    (400, 'Size exceeds', codes.SIZE_MISMATCH),
    (400, 'must be set prior to saving data', codes.BAD_REQUEST),
    (400, 'Store for identifier', codes.BAD_REQUEST),
    (400, 'image size in request headers', codes.BAD_REQUEST),
    # What an earlier stage has left; the image has been uploading for a moment.
    (409, 'has data on staging', codes.BACKEND_ERROR),
    # Of a staged image Glance lets nobody set them any more (glance/domain/__init__.py, Image).
    (409, 'needs to be set before import', codes.BAD_REQUEST),
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
    if not answer.answered:
        return Outcome(Verdict.FAILED, _unanswered(answer))
    if answer.status < 400:
        return SAYS_NOTHING
    for status, words, code in _BY_EXPLANATION:
        if answer.status == status and words in answer.explanation:
            return Outcome(Verdict.FAILED, _explained(answer, code))
    if answer.status == 409 and 'already exists' in answer.explanation:
        return Outcome(Verdict.FAILED, _IN_THE_WAY)
    if answer.status in (*_AT_THE_DOOR, *_AMBIGUOUS):
        return _at_the_door(answer)
    if answer.status == 400 and answer.version == 2 and not answer.fetches:
        # A ValueError of the store, for what Glance itself has against a request stands above.
        return Outcome(Verdict.FAILED, unexplained(answer))
    if answer.status < 500:
        return Outcome(Verdict.FAILED, _explained(answer, codes.BAD_REQUEST))
    if not answer.understood:
        # Glance stumbles over a document that is no object, or whose method is none.
        return Outcome(Verdict.FAILED, _NOT_UNDERSTOOD)
    return Outcome(Verdict.FAILED, unexplained(answer))


def looked(answer: Answer, failure: Failure, status: str | None) -> Outcome:
    """Decide what an answer that leaves a doubt says, now that Glance has been asked.

    :param failure: of the verdict ``LOOK``
    :param status: of the image after the answer; ``None`` when it is gone
    """
    if status == 'queued' and answer.version == 1 and answer.status in _AT_THE_DOOR:
        # What v1 refuses after it has begun to take data it kills (glance 15, api/v1/upload_utils.py), and a proxy
        # may have read data that Glance has not.
        failed = False
    elif status == 'queued':
        failed = answer.status in _AMBIGUOUS or answer.received > 0
    else:
        # Who lost against another upload was told so before a byte was read, and the other one may still be running.
        failed = status in _DEAD and (answer.status == 401 or answer.received > 0)
    return Outcome(Verdict.FAILED, failure) if failed else SAYS_NOTHING


def _at_the_door(answer: Answer) -> Outcome:
    if answer.status == 401:
        # glance/api/v2/image_data.py, upload: a store may not even have begun, and the image hangs.
        failure = _explained(answer, codes.CREDENTIALS_EXPIRED)
        return Outcome(Verdict.FAILED if answer.received else Verdict.LOOK, failure)
    if answer.status in _AMBIGUOUS or answer.received:
        return Outcome(Verdict.LOOK, _explained(answer, codes.BACKEND_ERROR))
    return SAYS_NOTHING


def interrupted(answer: Answer) -> Failure:
    """The failure of an attempt whose worker was told to stop before Glance had answered."""
    return Failure(codes.WORKER_LOST, f'The process that ran the upload was stopped: {_how_far(answer)}.')


def unexplained(answer: Answer) -> Failure:
    """The failure behind a 500, which never tells its cause, or behind a 400 that is not the client's."""
    code = next((code for words, code in _BY_REASON if words in answer.reason), codes.BACKEND_ERROR)
    said = f' Glance logged: {answer.reason}' if answer.reason else ''
    if answer.status == 400 and answer.explanation:
        said = f' Glance answered: {answer.explanation}'
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


def _unanswered(answer: Answer) -> Failure:
    said = f' {answer.explanation}' if answer.explanation else ''
    return Failure(codes.BACKEND_ERROR, f'Glance gave no answer: {_how_far(answer)}.{said}')


def _how_far(answer: Answer) -> str:
    if answer.expected is None:
        return f'{answer.received} bytes had arrived'
    return f'{answer.received} of {answer.expected} bytes had arrived'
