"""``DELETE`` of an image: the clean-up after a failure is told from the wish to delete.

nova, openstacksdk and others delete an image when its upload has failed, and the reason with it. Such
a DELETE is absorbed: answered 204, and the image stays in error. What is not surely a clean-up is
Glance's, so that no image becomes undeletable.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import webob.exc
from webob import Response

from imgguard import asking, codes, names
from imgguard.about import About
from imgguard.api import v1, v2
from imgguard.attempts import Busy, ErrorState, Failure, ImageRecord, Running, State
from imgguard.errors import GlanceUnavailable, ImgguardError, StoreUnavailable
from imgguard.guard import Guard
from imgguard.images import Caller, Image, Images, granted
from imgguard.operations import Operation, spellings
from imgguard.presenter import Presenter
from imgguard.settings import Settings
from imgguard.store import AttemptRow, Store
from imgguard.wsgi import Application, Captured, Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.1
_LOOKS: Final = 50
"""How often a running attempt is looked at before it is decided without its end: 5 seconds."""

_NOT_STORED: Final = ('This image cannot be kept now, for that cannot be stored. It was not deleted; try again later, '
                      f'or delete it with {names.KEEP_HEADER}: false.')


@dataclass(frozen=True, slots=True)
class _Request:
    """A DELETE of an image that the caller may delete and that was never active.

    :param asked: what the header says of this image, ``None`` where it is absent
    :param version: of the API
    """

    by: Caller
    image: Image
    asked: bool | None
    version: int


class Deletes:
    """Handles deletes for one filter.

    :param is_gone: whether the process with that host and name has ended; ``None`` where that cannot be told
    :param pause: waits that many seconds
    """

    def __init__(self, application: Application, settings: Settings, store: Store, guard: Guard,
                 presenter: Presenter, images: Images,
                 is_gone: Callable[[str, str], bool | None], pause: Callable[[float], None] = time.sleep) -> None:
        self._application = application
        self._settings = settings
        self._store = store
        self._guard = guard
        self._presenter = presenter
        self._images = images
        self._is_gone = is_gone
        self._pause = pause

    def __call__(self, environ: Environ, start_response: StartResponse, operation: Operation,
                 by: Caller) -> Iterable[bytes]:
        known, outage = False, None
        try:
            known = bool(self._store.records(spellings(operation.image_id)))
        except StoreUnavailable as error:
            About(LOG, operation.image_id).error('a delete is not looked at for what it cleans up: %s', error)
            outage = error
        if not known and names.KEEP_ENVIRON not in environ and self._settings.keep_default != 'always':
            return self._application(environ, start_response)
        image = None if _has_body(environ) else granted(self._images.for_delete, by, operation.image_id)
        if image is None:
            # Glance refuses it, before it touches the image.
            return self._application(environ, start_response)
        try:
            waits = image.status in v2.ERROR_STATUSES and not image.protected
            asked = asking.keep(environ) if waits else False
        except asking.BadRequest as error:
            return webob.exc.HTTPBadRequest(explanation=str(error))(environ, start_response)
        return self._decide(environ, start_response, _Request(by, image, asked, operation.version), outage)

    def _decide(self, environ: Environ, start_response: StartResponse, request: _Request,
                outage: ImgguardError | None) -> Iterable[bytes]:
        absorbed = False
        if outage is None:
            try:
                # Glance deletes only the data it knows a place of: what a dead attempt has left is cleared away first.
                self._record(request.image)
                absorbed = request.asked is not False and self._absorbs(request)
                if not absorbed and request.image.elsewhere:
                    # Glance hands the request on without its headers, to a guard that must not judge it anew.
                    self._store.unwanted(request.image.image_id, request.image.created_at)
            except (StoreUnavailable, GlanceUnavailable) as error:
                About(LOG, request.image.image_id).error('a delete cannot be judged: %s', error)
                outage = error
        if absorbed:
            About(LOG, request.image.image_id).warning('the delete that follows its failure is absorbed')
            return _done(request.version)(environ, start_response)
        unkept = outage is not None and (
            request.asked or (request.asked is None and self._settings.keep_default == 'always'))
        if unkept and self._settings.on_store_failure == 'refuse':
            return webob.exc.HTTPInternalServerError(explanation=_NOT_STORED)(environ, start_response)
        answer = Captured(self._application, environ)
        if answer.status in (200, 204) and outage is None:
            self._deleted(request.image)
        if answer.status == 403 and not request.image.protected:
            # Only a proxy meets this: no request but a DELETE asks Glance for delete_image.
            About(LOG, request.image.image_id).warning(
                'Glance refuses the delete of one whom it lets modify the image; where that is meant, set '
                'cleanup_window = 0, so that no delete is answered before Glance is asked')
        if unkept:
            answer.headers.append((names.KEPT_HEADER, names.KEPT_UNAVAILABLE))
        return answer.send(start_response)

    def _absorbs(self, request: _Request) -> bool:
        record = self._after_the_attempt(request)
        if record is None:
            return self._abandons(request, None)
        if record.running is not None:
            return self._died(request, record, record.running)
        if record.error is not None and self._cleans_up(request, record, record.error):
            return self._still_waits(request)
        return self._abandons(request, record)

    def _after_the_attempt(self, request: _Request) -> ImageRecord | None:
        """The record of the image, once the caller's own attempt has ended or was waited for in vain."""
        record = self._record(request.image)
        for _ in range(_LOOKS):
            running = record.running if record is not None else None
            if record is None or running is None or not running.alive or not running.guarded:
                break
            if not _may_clean_up(self._store.attempt(record.key, running.number), request.by):
                break
            if self._is_gone(running.host, running.worker):
                break
            self._pause(_LOOK_SECONDS)
            record = self._record(request.image)
        return record

    def _died(self, request: _Request, record: ImageRecord, running: Running) -> bool:
        """Whether the caller's attempt died with its process, which will be its verdict when its lease has run out."""
        # Where it cannot be told, the attempt may still be bringing its data.
        seen_dead_for = running.silent_for - self._settings.lease_seconds / 3
        return (running.guarded and seen_dead_for <= self._settings.cleanup_window
                and bool(self._is_gone(running.host, running.worker))
                and _may_clean_up(self._store.attempt(record.key, running.number), request.by))

    def _record(self, image: Image) -> ImageRecord | None:
        known = {'id': image.image_id, 'created_at': image.created_at, 'status': image.status}
        return self._presenter.records([known]).get((image.image_id, image.created_at))

    def _cleans_up(self, request: _Request, record: ImageRecord, error: ErrorState) -> bool:
        shown = self._store.attempt(record.key, error.number)
        if shown is None:
            return False
        # A retry that was refused for being empty is not shown, yet it is what this client saw last.
        newest = self._store.attempts(record.key, 1)
        return any(_may_clean_up(attempt, request.by) and self._failed_within_window(attempt)
                   for attempt in (shown, *newest))

    def _failed_within_window(self, attempt: AttemptRow) -> bool:
        if not attempt.guarded or attempt.code in (None, codes.NEVER_ARRIVED):
            return False
        failed_at = attempt.updated_at if attempt.finished_at is None else attempt.finished_at
        if attempt.state is State.LOST:
            # Not when somebody came to look, which may be days later, but when its silence became a failure.
            failed_at = attempt.updated_at + self._settings.lease_seconds
        return attempt.updated_at + attempt.silent_for - failed_at <= self._settings.cleanup_window

    def _abandons(self, request: _Request, record: ImageRecord | None) -> bool:
        """Give up an image that nobody tried to bring data into, if that was asked for; once."""
        if request.image.status != 'queued' or request.image.has_data:
            return False
        if record is not None and (record.attempts or (record.error and record.error.code == codes.ABANDONED)):
            return False
        policy = self._settings.keep_default == 'always' and (record is None or record.keep is not False)
        if not (policy if request.asked is None else request.asked):
            return False
        declared = record.error if record is not None and record.error else None
        said = declared.text if declared and declared.code == codes.DECLARED else ''
        failure = Failure(codes.ABANDONED, said or codes.default_text(codes.ABANDONED))
        return not isinstance(self._guard.declare(request.image, request.by, failure, guarded=True), Busy)

    def _still_waits(self, request: _Request) -> bool:
        # The attempt that was waited for may have brought the data after all.
        now = granted(self._images.for_delete, request.by, request.image.image_id)
        return now is not None and now.status in v2.ERROR_STATUSES and not now.protected

    def _deleted(self, image: Image) -> None:
        try:
            self._store.deleted(image.image_id, image.created_at)
        except StoreUnavailable as error:
            About(LOG, image.image_id).error('that it was deleted could not be stored: %s', error)


def _done(version: int) -> Response:
    if version == 1:
        answer = v1.deleted()
    else:
        # Made in the steps of glance/api/v2/images.py, ResponseSerializer.delete, so that it has the same headers.
        answer = Response()
        answer.status_int = 204
    answer.headers[names.KEPT_HEADER] = names.KEPT_ERROR
    return answer


def _has_body(environ: Environ) -> bool:
    """Whether Glance may refuse the request for having one (``glance/common/wsgi.py``, ``has_body``)."""
    return bool(environ.get('HTTP_TRANSFER_ENCODING')) or environ.get('CONTENT_LENGTH') not in (None, '', '0')


def _may_clean_up(attempt: AttemptRow | None, by: Caller) -> bool:
    return attempt is not None and not attempt.unwanted and by.identified and (
        (attempt.user_id, attempt.project_id) == (by.user_id, by.project_id))
