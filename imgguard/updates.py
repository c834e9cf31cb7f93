"""``PATCH /v2/images/{id}``: the client's word that the data will never come, or that it may come after all.

Everything else in an update stays Glance's. Nothing is written or refused before Glance's own policy
has let the caller modify the image; who may not gets Glance's answer to the request as it came.
"""

import json
import logging
from collections.abc import Callable, Iterable
from typing import Final

import webob.exc

from imgguard import asking, codes, names
from imgguard.about import About
from imgguard.api import v2
from imgguard.api.updates import Declare, Drop, Malformed, Reset, Update, parse
from imgguard.attempts import Busy, Failure, ImageRecord
from imgguard.errors import GlanceUnavailable, StoreUnavailable
from imgguard.guard import Guard
from imgguard.images import Caller, Image, Images, granted
from imgguard.operations import Operation
from imgguard.presenter import Presenter
from imgguard.store import Store
from imgguard.wsgi import Application, Captured, Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

_HAS_DATA: Final = 'The image is {status}: only an image that was never active can be put in error or back to queued.'
_BUSY: Final = 'An upload or import of this image is under way. Wait until it has ended, or delete the image.'
_CLEARING: Final = 'What an earlier attempt left of this image is being cleared away. Try again in some seconds.'
_REMAINS: Final = ('A failed attempt has left remains that are not cleared away yet, so the image cannot wait for data '
                   'as if it had never been tried. Upload or import again, or try this again later.')
_NOT_STORED: Final = 'This cannot be stored now; try again later.'


class _Answered(Exception):
    """The update is answered by the guard itself."""

    def __init__(self, answer: webob.exc.HTTPException) -> None:
        super().__init__(str(answer))
        self.answer = answer


class Updates:
    """Handles updates for one filter."""

    def __init__(self, application: Application, store: Store, guard: Guard, presenter: Presenter,
                 images: Images) -> None:
        self._application = application
        self._store = store
        self._guard = guard
        self._presenter = presenter
        self._images = images

    def __call__(self, environ: Environ, start_response: StartResponse, operation: Operation,
                 by: Caller) -> Iterable[bytes]:
        try:
            give_up_after = asking.give_up_after(environ)
        except asking.BadRequest as error:
            return webob.exc.HTTPBadRequest(explanation=str(error))(environ, start_response)
        environ, body = asking.document(environ)
        update = None if body is None else parse(body, str(environ.get('CONTENT_TYPE') or ''))
        try:
            if body is not None and asking.mentions_property(body) and _is_patch(environ):
                _refuse_reserved(body, update)
            answer = self._answer(environ, operation.image_id, by, update)
        except asking.Reserved as error:
            return webob.exc.HTTPForbidden(explanation=str(error))(environ, start_response)
        except _Answered as answered:
            return answered.answer(environ, start_response)
        if answer.is_json():
            if give_up_after is not None:
                self._move_deadline(operation.image_id, by, give_up_after)
            self._presenter.present(answer, by)
        return answer.send(start_response)

    def _answer(self, environ: Environ, image_id: str, by: Caller, update: Update | None) -> Captured:
        image = granted(self._images.for_update, by, image_id) if update is not None else None
        if update is None or image is None:
            return Captured(self._application, environ)
        if isinstance(update.word, Malformed):
            raise _Answered(webob.exc.HTTPBadRequest(explanation=update.word.text))
        try:
            return self._obey(environ, update, image, by)
        except (StoreUnavailable, GlanceUnavailable) as error:
            About(LOG, image.image_id).error('an update cannot be obeyed: %s', error)
            if isinstance(update.word, Drop) or update.word == Reset(by_status=False):
                # As without the guard: Glance takes none of its reserved names.
                return Captured(self._application, environ)
            raise _Answered(webob.exc.HTTPInternalServerError(explanation=_NOT_STORED)) from error

    def _obey(self, environ: Environ, update: Update, image: Image, by: Caller) -> Captured:
        known = {'id': image.image_id, 'created_at': image.created_at, 'status': image.status}
        record = self._presenter.records([known]).get((image.image_id, image.created_at))
        word = update.word
        if isinstance(word, Declare):
            return self._declare(environ, update, word, image, record, by)
        if isinstance(word, Reset) and word.by_status:
            return self._reset(environ, update, self._images.for_update(by, image.image_id), record)
        if record is None:
            return Captured(self._application, environ)
        if isinstance(word, Reset) and record.error is not None and image.status in v2.ERROR_STATUSES:
            return self._reset(environ, update, self._images.for_update(by, image.image_id), record)
        return self._rest(environ, update)

    def _declare(self, environ: Environ, update: Update, word: Declare, image: Image, record: ImageRecord | None,
                 by: Caller) -> Captured:
        failure = Failure(codes.DECLARED, word.text or codes.default_text(codes.DECLARED))
        guarded = self._guard.keeps(None, record, image.image_type)
        _refuse_unless_it_waits(image, record)
        return self._after_the_rest(environ, update, lambda: self._guard.declare(image, by, failure, guarded))

    def _reset(self, environ: Environ, update: Update, image: Image, record: ImageRecord | None) -> Captured:
        _refuse_unless_it_waits(image, record)
        if record is None or record.error is None:
            return self._rest(environ, update)
        if record.attempts and (image.status != 'queued' or image.has_data):
            # Without the error everyone would see, and could download, what the attempt has left.
            raise _Answered(webob.exc.HTTPConflict(explanation=_REMAINS))
        return self._after_the_rest(environ, update, lambda: self._guard.reset(image))

    def _after_the_rest(self, environ: Environ, update: Update, change: Callable[[], object]) -> Captured:
        # Glance first: where it refuses the tags, nothing at all must have changed.
        answer = self._rest(environ, update)
        if answer.status != 200:
            return answer
        try:
            refused = change()
            if isinstance(refused, Busy):
                raise _Answered(webob.exc.HTTPConflict(explanation=_BUSY if refused.running else _CLEARING))
        except (StoreUnavailable, _Answered):
            answer.close()
            raise
        return answer

    def _rest(self, environ: Environ, update: Update) -> Captured:
        rest = json.dumps(update.rest).encode()
        return Captured(self._application, asking.with_document(environ, rest, len(rest)))

    def _move_deadline(self, image_id: str, by: Caller, give_up_after: int) -> None:
        # An empty update is answered 200 to whoever may see the image.
        image = granted(self._images.for_update, by, image_id)
        if image is None:
            About(LOG, image_id).info('its deadline is not moved for one who may not modify it')
            return
        try:
            if image.status in v2.WAITING_STATUSES:
                self._store.remember(image.image_id, image.created_at, image.owner, None, give_up_after)
        except StoreUnavailable as error:
            About(LOG, image_id).error('its deadline could not be moved: %s', error)


def _refuse_reserved(body: bytes, update: Update | None) -> None:
    written = v2.written(body)
    if update is None or isinstance(update.word, Reset | Drop):
        # The text of the error may be written together with the status, which is for who may modify the image.
        asking.refuse_reserved(written)
    if names.KEEP_PROPERTY in written:
        raise asking.Reserved(names.KEEP_PROPERTY)


def _refuse_unless_it_waits(image: Image, record: ImageRecord | None) -> None:
    if image.status not in v2.ERROR_STATUSES:
        raise _Answered(webob.exc.HTTPConflict(explanation=_HAS_DATA.format(status=image.status)))
    if record is not None and record.running is not None and record.running.holds:
        raise _Answered(webob.exc.HTTPConflict(explanation=_BUSY))


def _is_patch(environ: Environ) -> bool:
    # Glance answers any other media type with 415, before it looks into the document.
    return str(environ.get('CONTENT_TYPE') or '').partition(';')[0] in v2.PATCH_MEDIA_TYPES
