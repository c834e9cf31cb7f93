"""Requests by which Glance fetches data itself: imports, locations, and copies from an address (v1).

Glance answers at once and goes on alone; the attempt lives until :mod:`imgguard.watch` has seen its end. A
refusal at once is judged here. The order is that of :mod:`imgguard.uploads`.

Data that was staged on another host is imported there: Glance hands the request on, with the caller's
token and the document, and none of the other headers. So the claim is made here, where it is known what
was asked for, and the guard there takes it over (:mod:`imgguard.admission`): the attempt is that
host's then. Where the host has no guard, or does not answer, claim and verdict stay here.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from imgguard import asking, codes, glance_log, names, outcome, text
from imgguard.about import claimed
from imgguard.admission import Admission, Admitted
from imgguard.attempts import Claim, Failure, Kind
from imgguard.border import Border
from imgguard.errors import GlanceUnavailable, StoreUnavailable
from imgguard.guard import Guard
from imgguard.images import Caller, Image, Images
from imgguard.leases import Heartbeat
from imgguard.operations import Action, Operation
from imgguard.store import Store
from imgguard.tasks import Tasks
from imgguard.watch import Import, Watch
from imgguard.wsgi import Application, Captured, Environ, StartResponse, is_answered

LOG: Final = logging.getLogger(__name__)

# By method, the one status in which Glance takes it (glance/api/v2/images.py, import_image).
_TAKEN_IN: Final = {'glance-direct': 'uploading', 'copy-image': 'active', 'web-download': 'queued',
                    'glance-download': 'queued'}
# v1 has 200 for a copy (glance/api/v1/images.py, update).
_ACCEPTED: Final = (200, 202)
_QUEUED: Final = frozenset({'queued'})
_WAITING: Final = frozenset({'queued', 'uploading'})

# Glance 33 does not expect what keystoneauth raises, and answers 500 (keystoneauth1/session.py, _send_request;
# keystoneauth1/exceptions/http.py, HttpError). What it does expect it answers with 502 or 504 (_proxy_request_to_host).
_UNREACHED: Final = (
    'Unable to establish connection', ' timed out', 'SSL exception connecting', 'Unexpected exception for')
_REFUSED: Final = re.compile(r'\(HTTP (?P<status>\d{3})\)')
_AWAY: Final = ('The host that has the staged data of this image does not answer. The data is still there: import it '
                'again when the host is back, or send the data again.')


class Imports:
    """Handles imports and locations for one filter."""

    def __init__(self, application: Application, admission: Admission, store: Store, guard: Guard,
                 heartbeat: Heartbeat, images: Images, tasks: Tasks, watch: Watch,
                 after_failure: Callable[[str, str], None]) -> None:
        self._application = application
        self._admission = admission
        self._store = store
        self._guard = guard
        self._heartbeat = heartbeat
        self._images = images
        self._tasks = tasks
        self._watch = watch
        self._after_failure = after_failure

    def __call__(self, environ: Environ, start_response: StartResponse, operation: Operation,
                 by: Caller) -> Iterable[bytes]:
        kind, statuses, understood = Kind.LOCATION, _QUEUED, True
        if operation.version == 1:
            kind = Kind.IMPORT
        elif operation.action is Action.IMPORT:
            environ, body = asking.document(environ)
            method = _method(body)
            understood = body is None or method is not None
            kind = Kind.COPY if method == 'copy-image' else Kind.IMPORT
            statuses = frozenset({_TAKEN_IN[method]}) if method in _TAKEN_IN else _WAITING
        admitted = self._admission.admit(environ, start_response, operation.image_id, by, kind,
                                         lambda by, image_id: self._images.for_import(by, image_id, kind))
        if not isinstance(admitted, Admitted):
            return admitted
        if admitted.image.status not in statuses:
            # Glance refuses it for its status and leaves the image alone.
            return self._application(environ, start_response)
        if kind is Kind.IMPORT and admitted.image.status == 'uploading':
            admitted = replace(admitted, handed_on=admitted.image.elsewhere)
        claim = self._admission.claim(environ, start_response, admitted, by, kind)
        if not isinstance(claim, Claim):
            return claim
        return self._run(environ, start_response, by, kind, admitted, claim, understood)

    def _run(self, environ: Environ, start_response: StartResponse, by: Caller, kind: Kind, admitted: Admitted,
             claim: Claim, understood: bool) -> Iterable[bytes]:
        self._heartbeat.add(claim, int)
        try:
            with glance_log.reasons() as logged:
                answer = Captured(self._application, environ)
                explanation = answer.body()
        except BaseException as error:
            self._fail(admitted, claim, kind, _raised(error), None)
            raise
        finally:
            self._heartbeat.remove(claim)
        said = text.explanation(explanation, answer.header('Content-Type') or '') if answer.status >= 400 else ''
        kept: str | None = names.KEPT_UNAVAILABLE
        # Whatever goes wrong in the book-keeping, the client gets Glance's answer.
        with Border(claimed(LOG, claim), 'could not be followed'):
            kept = self._judge(by, kind, admitted, claim, outcome.Answer(
                answer.status, said, str(logged), fetches=True, understood=understood,
                answered=is_answered(environ, answer)))
        if admitted.guarded and kept is not None:
            answer.headers.append((names.KEPT_HEADER, kept))
        return answer.send(start_response)

    def _judge(self, by: Caller, kind: Kind, admitted: Admitted, claim: Claim, answer: outcome.Answer) -> str | None:
        if admitted.handed_on and self._is_taken_over(claim):
            return self._found(admitted.image, answer.status)
        # The answer of the other host may have been lost on the way.
        lost = not answer.answered or (admitted.handed_on and answer.status >= 500)
        task_id = None
        if lost:
            with Border(claimed(LOG, claim), 'it is not known whether it began', GlanceUnavailable):
                task_id = self._tasks.holder(admitted.image.image_id)
        if answer.status in _ACCEPTED or task_id is not None:
            return self._accepted(by, kind, admitted, claim, task_id)
        return self._refused(admitted, claim, kind, answer)

    def _is_taken_over(self, claim: Claim) -> bool:
        try:
            return self._store.attempt(claim.key, claim.number) is None
        except StoreUnavailable as error:
            # If it is, nothing of what is done here counts.
            claimed(LOG, claim).error('it is not known whether it was taken over: %s', error)
            return False

    def _found(self, image: Image, status: int) -> str | None:
        """What to tell of an image whose import is the other host's."""
        record = self._store.records([image.image_id]).get((image.image_id, image.created_at))
        if status in _ACCEPTED or (record is not None and record.running is not None):
            return names.KEPT_GUARDED
        return names.KEPT_ERROR if record is not None and record.error is not None else None

    def _accepted(self, by: Caller, kind: Kind, admitted: Admitted, claim: Claim, task_id: str | None) -> str | None:
        # Glance takes over the id that a request it has handed on got there.
        request_ids = {by.request_id, by.context.request_id}
        started = Import(kind, admitted.image, claim, admitted.guarded, None, request_ids, by)
        # The watch asks again, and so does whoever settles the attempt after this process.
        with Border(claimed(LOG, claim), 'its task is not noted'):
            started.task_id = task_id or self._tasks.find(admitted.image.image_id, request_ids)
            if started.task_id is None and kind is Kind.COPY:
                # glance/api/v2/images.py, import_image: all stores have it already.
                return self._stored(claim, lambda: self._guard.succeeded(claim, 202, 0), names.KEPT_GUARDED)
            if started.task_id is not None:
                self._store.set_task(claim, started.task_id)
        self._watch.add(started)
        return names.KEPT_GUARDED

    def _refused(self, admitted: Admitted, claim: Claim, kind: Kind, answer: outcome.Answer) -> str | None:
        said = _by_the_other_host(answer) if admitted.handed_on else answer
        if said is None:
            return self._fail(admitted, claim, kind, Failure(codes.STORAGE_UNAVAILABLE, _AWAY), answer.status)
        result = outcome.classify(said)
        # Glance says 409 of an image in queued, too, whose properties can still be set.
        counts = said.status != 409 or admitted.image.status == 'uploading'
        if result.verdict is outcome.Verdict.FAILED and result.failure is not None and counts:
            broke = said.status >= 500 and said.understood
            failure = _broke(said, result.failure.code) if broke else result.failure
            kept = self._fail(admitted, claim, kind, failure, answer.status if answer.answered else None)
            if said.status == 409 and kept == names.KEPT_ERROR:
                self._after_failure(admitted.image.image_id, admitted.image.created_at)
            return kept
        return self._stored(claim, lambda: self._guard.withdraw(claim), names.KEPT_ERROR if claim.error else None)

    def _fail(self, admitted: Admitted, claim: Claim, kind: Kind, failure: Failure, status: int | None) -> str | None:
        shown = admitted.guarded and kind is not Kind.COPY
        return self._stored(claim, lambda: self._guard.failed(admitted.image, claim, failure, status, 0, shown),
                            names.KEPT_ERROR if shown else None)

    def _stored(self, claim: Claim, change: Callable[[], object], kept: str | None) -> str | None:
        try:
            change()
        except StoreUnavailable as error:
            claimed(LOG, claim).error('its end could not be stored: %s', error)
            return names.KEPT_UNAVAILABLE
        return kept


def _method(body: bytes | None) -> str | None:
    try:
        document = json.loads(body or b'')
    except (ValueError, RecursionError):
        return None
    method = document.get('method') if isinstance(document, dict) else None
    name = method.get('name') if isinstance(method, dict) else None
    return name if isinstance(name, str) else None


def _by_the_other_host(answer: outcome.Answer) -> outcome.Answer | None:
    """The answer of the host that was handed the request, as far as Glance tells; ``None`` when there was none."""
    if answer.status in (502, 504) or any(words in answer.reason for words in _UNREACHED):
        return None
    refused = _REFUSED.search(answer.reason) if answer.status == 500 else None
    return outcome.Answer(int(refused['status']), fetches=True) if refused else answer


def _raised(error: BaseException) -> Failure:
    if not isinstance(error, Exception):
        return Failure(codes.WORKER_LOST, 'The process was stopped before the import began.')
    answer = outcome.Answer(500, '', text.reason(str(error)))
    return _broke(answer, outcome.unexplained(answer).code)


def _broke(answer: outcome.Answer, code: str) -> Failure:
    said = f' Glance logged: {answer.reason}' if answer.reason else ''
    return Failure(code, text.one_line(f'Glance failed with status {answer.status} before the import began.{said}'))
