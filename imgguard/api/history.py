"""How the history of an image is spelled: the document of ``GET /v2/images/{id}/attempts``. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from webob import Request

from imgguard import codes
from imgguard.api import v2
from imgguard.store import AttemptRow

Json = dict[str, Any]

_MOST: Final = 100
"""As many attempts as are kept of one image."""

_MAX_NUMBER: Final = 2**31 - 1


class BadPage(ValueError):
    """The page that was asked for cannot be understood; the text says why."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a history is asked for.

    :param marker: a number; only older attempts are shown
    """

    limit: int = _MOST
    marker: int | None = None


def page(query: str) -> Page:
    """Read ``limit`` and ``marker``, of which the last one given counts, as with Glance.

    :raises BadPage: one of them is no number
    """
    try:
        parameters = Request({'QUERY_STRING': query}).GET
        limit, marker = parameters.get('limit'), parameters.get('marker')
    except UnicodeError:
        raise BadPage('The query is not UTF-8.') from None
    return Page(_MOST if limit is None else min(_number('limit', limit), _MOST),
                None if marker is None else _number('marker', marker))


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= _MAX_NUMBER):
        raise BadPage(f'The parameter {name} must be a number, 0 or more.')
    return int(value)


def document(attempts: Sequence[AttemptRow], details: bool, host: bool) -> Json:
    """The document.

    :param details: whether the caller is of the owner's project or an admin; others see what, how it ended and when
    :param host: whether the caller is an admin, who sees where it ran
    """
    return {'attempts': [_attempt(attempt, details, host) for attempt in attempts]}


def _attempt(attempt: AttemptRow, details: bool, host: bool) -> Json:
    shown: Json = {'number': attempt.number, 'kind': attempt.kind.value, 'state': attempt.state.value,
                   'code': attempt.code}
    times: Json = {'started_at': v2.timestamp(attempt.started_at), 'updated_at': v2.timestamp(attempt.updated_at),
                   'finished_at': None if attempt.finished_at is None else v2.timestamp(attempt.finished_at)}
    if not details:
        return shown | times
    # A newer imgguard on another host may know more codes.
    code = codes.CODES.get(attempt.code or '')
    shown |= {'message': attempt.message, 'retryable': None if code is None else code.retryable,
              'http_status': attempt.http_status, 'request_id': attempt.request_id, **times,
              'bytes_received': attempt.bytes_received, 'bytes_expected': attempt.bytes_expected,
              'user_id': attempt.user_id, 'project_id': attempt.project_id}
    return {**shown, 'host': attempt.host} if host else shown
