"""``PUT /v2/images/{id}/file`` and ``…/stage``: authority, claim, the wrapped body, Glance, the verdict, the answer.

The order matters. Nothing is claimed or told before Glance's own policy let the caller upload; the
claim is committed before Glance is called and the verdict before its answer is sent, and no
transaction is open in between.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import webob.exc

from imgguard import codes, dead_states, glance_log, names, outcome, servers, text
from imgguard.about import claimed
from imgguard.admission import Admission, Admitted
from imgguard.api import v1
from imgguard.attempts import Claim, ErrorState, Failure, Kind
from imgguard.body import BodyReader, Framing, Refused, TakenAway, announced_size, framing
from imgguard.border import Border
from imgguard.digests import BadDigest, Digests
from imgguard.errors import GlanceUnavailable, StoreUnavailable
from imgguard.guard import Guard
from imgguard.images import Caller, Image, Images
from imgguard.leases import Heartbeat
from imgguard.operations import Action, Operation
from imgguard.recovery import Recovery
from imgguard.tasks import DATA, KILLED, LAST_WORD_SECONDS
from imgguard.wsgi import Application, Captured, Environ, StartResponse, is_answered

LOG: Final = logging.getLogger(__name__)

# How long it is waited for Glance to put an image back whose upload it has not answered, and how often it is asked.
_LOOKS: Final = 50
_LOOK_SECONDS: Final = 0.1

_EMPTY_RETRY: Final = ('The body is empty, although an earlier attempt to upload this image had data: the client '
                       'repeated a body it had used up. Send the data from its beginning.')
_TAKEN_AWAY: Final = ('This attempt was silent for so long that it was given up; its data was not used. The image can '
                      'be uploaded again.')


class Uploads:
    """Handles uploads for one filter."""

    def __init__(self, application: Application, admission: Admission, guard: Guard, heartbeat: Heartbeat,
                 images: Images, recovery: Recovery) -> None:
        self._application = application
        self._admission = admission
        self._guard = guard
        self._heartbeat = heartbeat
        self._images = images
        self._recovery = recovery

    def __call__(self, environ: Environ, start_response: StartResponse, operation: Operation,
                 by: Caller) -> Iterable[bytes]:
        kind, allowed = Kind.UPLOAD, self._images.for_upload
        if operation.action is Action.STAGE:
            # glance/api/v2/image_data.py, stage, asks for no policy of its own.
            kind, allowed = Kind.STAGE, self._images.for_update
        # Glance would put the image of a running upload back to queued before it answers a caller who may not.
        admitted = self._admission.admit(
            environ, start_response, operation.image_id, by, kind, allowed,
            lambda: not self._images.refuses_before_policy(environ))
        if not isinstance(admitted, Admitted):
            return admitted
        if admitted.image.status != 'queued':
            # Glance refuses it for its status and leaves the image alone.
            return self._application(environ, start_response)
        claim = self._admission.claim(environ, start_response, admitted, by, kind, _expected(environ))
        if not isinstance(claim, Claim):
            return claim
        if kind is Kind.STAGE and admitted.guarded:
            self._recovery.make_room_for_stage(admitted.image.image_id, lambda: self._is_queued(by, operation))
        upload = _Upload(self._guard, self._heartbeat, self._images, self._recovery, by, admitted, claim,
                         operation.version)
        return upload.run(self._application, environ, start_response)

    def _is_queued(self, by: Caller, operation: Operation) -> bool:
        image = self._images.look(by, operation.image_id)
        return image is not None and image.status == 'queued'


class _Upload:
    """One claimed upload."""

    def __init__(self, guard: Guard, heartbeat: Heartbeat, images: Images, recovery: Recovery, by: Caller,
                 admitted: Admitted, claim: Claim, version: int) -> None:
        self._guard = guard
        self._heartbeat = heartbeat
        self._images = images
        self._recovery = recovery
        self._by = by
        self._image = admitted.image
        self._claim = claim
        self._guarded = admitted.guarded
        self._version = version

    def run(self, application: Application, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Let Glance take the body, and answer when the outcome is stored."""
        reader: BodyReader | None = None
        try:
            body = framing(environ)
            reader = self._reader(environ, body)
        except (Refused, BadDigest) as refused:
            if self._guarded:
                return self._refuse(refused, environ, start_response)
            return self._judge(application, environ, None, start_response)
        return self._judge(application, servers.with_body(environ, reader, body), reader, start_response)

    def _reader(self, environ: Environ, body: Framing) -> BodyReader:
        source = servers.source(environ, body)
        if not self._guarded:
            return BodyReader(source, body, None, Digests({}), lambda: None)
        error = self._claim.error
        refuse_empty = _EMPTY_RETRY if body.chunked and error is not None and _had_data(error) else None
        return BodyReader(source, body, announced_size(environ), Digests(environ), self._confirm, refuse_empty)

    def _confirm(self) -> None:
        if not self._heartbeat.holds(self._claim):
            raise TakenAway

    def _refuse(self, refused: Refused | BadDigest, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        failure = refused.failure if isinstance(refused, Refused) else Failure(codes.BAD_REQUEST, str(refused))
        return _refusal(failure, self._store_failure(failure, 400, 0))(environ, start_response)

    def _judge(self, application: Application, environ: Environ, reader: BodyReader | None,
               start_response: StartResponse) -> Iterable[bytes]:
        self._heartbeat.add(self._claim, lambda: reader.received if reader is not None else 0)
        try:
            with glance_log.reasons() as logged:
                answer = Captured(application, environ)
                explanation = answer.body()
        except TakenAway:
            self._store_failure(Failure(codes.WORKER_LOST, _TAKEN_AWAY), 409, _received(reader))
            return webob.exc.HTTPConflict(explanation=_TAKEN_AWAY)(environ, start_response)
        except BaseException as error:
            self._store_failure(_raised(error, reader), None, _received(reader))
            raise
        finally:
            self._heartbeat.remove(self._claim)
        refusal = reader.refusal if reader is not None and answer.status >= 400 else None
        # glance/api/v2/image_data.py, stage: whatever is raised while data is staged is an internal error to it.
        status = answer.status if refusal is None else 400
        answered = is_answered(environ, answer)
        said = text.explanation(explanation, answer.header('Content-Type') or '') if answer.status >= 400 else ''
        kept: str | None = names.KEPT_UNAVAILABLE
        # Whatever goes wrong in the book-keeping, the client gets Glance's answer.
        with Border(claimed(LOG, self._claim), 'its end could not be settled'):
            kept = self._settle(_answer(status, said, str(logged), reader, answered, self._version))
        if refusal is not None and (answer.status != status or refusal.text not in said):
            return _refusal(refusal, kept)(environ, start_response)
        if self._guarded and kept is not None:
            answer.headers.append((names.KEPT_HEADER, kept))
        return answer.send(start_response)

    def _settle(self, answer: outcome.Answer) -> str | None:
        result = outcome.classify(answer)
        if not answer.answered and result.failure is not None:
            return self._settle_unanswered(answer, result.failure)
        if result.verdict is outcome.Verdict.LOOK and result.failure is not None:
            now = self._images.look(self._by, self._image.image_id)
            result = outcome.looked(answer, result.failure, None if now is None else now.status)
        if result.verdict is outcome.Verdict.FAILED and result.failure is not None:
            return self._store_failure(result.failure, answer.status, answer.received)
        if result.verdict is outcome.Verdict.SUCCEEDED:
            return self._stored(lambda: self._guard.succeeded(self._claim, answer.status, answer.received),
                                names.KEPT_GUARDED)
        return self._stored(lambda: self._guard.withdraw(self._claim),
                            names.KEPT_ERROR if self._claim.error else None)

    def _settle_unanswered(self, answer: outcome.Answer, failure: Failure) -> str | None:
        """Look how the upload ended in Glance; as long as that is not known the failure is stored without a status."""
        now = self._image_after(answer.received)
        arrived = now is not None and (now.status in DATA or self._is_staged(now, answer.received))
        if arrived and (answer.refusal or answer.broken):
            claimed(LOG, self._claim).error('Glance took its data, although it did not come whole: delete the image')
        elif arrived:
            return self._stored(lambda: self._guard.succeeded(self._claim, answer.status, answer.received),
                                names.KEPT_GUARDED)
        # Glance need not have begun yet: a server before it may hold what it got, and a backlog too.
        untouched = now is not None and now.status == 'queued' and now.updated_at is not None and (
            now.updated_at == self._image.updated_at)
        ended = now is not None and not untouched and (arrived or now.status not in dead_states.HANGING)
        return self._store_failure(failure, answer.status if ended else None, answer.received)

    def _is_staged(self, now: Image, received: int) -> bool:
        """Whether a stage has ended well: Glance then writes the size (``glance/api/v2/image_data.py``, ``stage``)."""
        return self._claim.kind is Kind.STAGE and now.status == 'uploading' and now.size == received

    def _image_after(self, received: int) -> Image | None:
        """The image once Glance has ended the upload, or after a while; ``None`` when Glance cannot be asked."""
        seen = None
        # Who looks at the image later meets it again.
        with Border(claimed(LOG, self._claim), 'Glance cannot be asked how it ended', GlanceUnavailable):
            for _ in range(_LOOKS):
                # Before the first look, too: Glance may only be about to begin.
                time.sleep(_LOOK_SECONDS)
                now = self._images.look(self._by, self._image.image_id)
                seen = replace(self._image, status='deleted') if now is None else now
                if seen.status not in dead_states.HANGING or self._is_staged(seen, received):
                    if seen.status == KILLED:
                        time.sleep(LAST_WORD_SECONDS)
                    break
        return seen

    def _store_failure(self, failure: Failure, status: int | None, received: int) -> str:
        shown = self._guarded and (failure.code != codes.EMPTY_RETRY)
        kept = self._stored(lambda: self._guard.failed(self._image, self._claim, failure, status, received, shown),
                            names.KEPT_ERROR)
        if shown and kept == names.KEPT_ERROR:
            self._recovery.after_failure(self._image.image_id, self._image.created_at)
        return kept or names.KEPT_ERROR

    def _stored(self, change: Callable[[], object], kept: str | None) -> str | None:
        try:
            change()
        except StoreUnavailable as error:
            claimed(LOG, self._claim).error('its end could not be stored: %s', error)
            return names.KEPT_UNAVAILABLE
        return kept


def _refusal(failure: Failure, kept: str | None) -> webob.exc.HTTPBadRequest:
    answer = webob.exc.HTTPBadRequest(explanation=failure.text)
    if kept is not None:
        answer.headers[names.KEPT_HEADER] = kept
    return answer


def _had_data(error: ErrorState) -> bool:
    # Of a read that breaks off some servers say nothing of the bytes they had (uWSGI: up to all it was asked for), and
    # a worker that was killed does not tell either.
    return error.bytes_received > 0 or error.code in (codes.CLIENT_DISCONNECTED, codes.WORKER_LOST)


def _expected(environ: Mapping[str, object]) -> int | None:
    try:
        return framing(environ).length or announced_size(environ) or v1.announced_size(dict(environ))
    except Refused:
        return None


def _raised(error: BaseException, reader: BodyReader | None) -> Failure:
    if not isinstance(error, Exception):
        # A server stops a worker this way; Glance does not put the image back then.
        return outcome.interrupted(_answer(0, '', '', reader))
    return outcome.unexplained(_answer(500, '', text.reason(str(error)), reader))


def _received(reader: BodyReader | None) -> int:
    return reader.received if reader is not None else 0


def _answer(status: int, explanation: str, reason: str, reader: BodyReader | None,
            answered: bool = True, version: int = 2) -> outcome.Answer:
    if reader is None:
        return outcome.Answer(status, explanation, reason, answered=answered, version=version)
    return outcome.Answer(status, explanation, reason, reader.received, reader.expected, reader.broken,
                          reader.broken_reason, reader.refusal, answered=answered, version=version)
