"""Requests that write an image's metadata: create and update."""

import json
import logging
from collections.abc import Iterable
from typing import Any, Final

import webob.exc

from imgguard import asking, names
from imgguard.api import v2
from imgguard.errors import StoreUnavailable
from imgguard.guard import Guard
from imgguard.images import Caller, Forbidden, GlanceImages
from imgguard.operations import Operation
from imgguard.presenter import Presenter
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.wsgi import Application, Captured, Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

Json = dict[str, Any]

_NOT_STORED: Final = ('The request to keep this image if it fails cannot be stored now. Nothing was done; try again '
                      'later.')


class Metadata:
    """Handles create and update for one filter."""

    def __init__(self, application: Application, settings: Settings, store: Store, guard: Guard,
                 presenter: Presenter, images: GlanceImages) -> None:
        self._application = application
        self._settings = settings
        self._store = store
        self._guard = guard
        self._presenter = presenter
        self._images = images

    def create(self, environ: Environ, start_response: StartResponse, operation: Operation,
               by: Caller) -> Iterable[bytes]:
        """Let Glance create the image, and remember what was asked for it."""
        try:
            asked = asking.keep(environ)
            give_up_after = asking.give_up_after(environ)
            environ, by_property = asking.take_property(environ)
        except asking.BadRequest as error:
            return webob.exc.HTTPBadRequest(explanation=str(error))(environ, start_response)
        asked = by_property if asked is None else asked
        if asked and self._settings.on_store_failure == 'refuse':
            try:
                self._store.check()
            except StoreUnavailable as error:
                LOG.error('a create was refused, for the image could not be kept: %s', error)
                return webob.exc.HTTPInternalServerError(explanation=_NOT_STORED)(environ, start_response)
        answer = Captured(self._application, environ)
        if answer.status == 201 and answer.is_json():
            for image in v2.images_of(json.loads(answer.body())):
                self._created(answer, image, asked, give_up_after)
            self._presenter.present(answer, by)
        return answer.send(start_response)

    def _created(self, answer: Captured, image: Json, asked: bool | None, give_up_after: int | None) -> None:
        keep = self._guard.keeps(asked, None, image.get('image_type'))
        if not keep and asked is None and give_up_after is None:
            return
        seconds = give_up_after or (self._settings.give_up_after if keep else 0)
        try:
            self._store.remember(image['id'], image['created_at'], image.get('owner'), asked, seconds or None)
            kept = names.KEPT_GUARDED
        except StoreUnavailable as error:
            LOG.error('image %s: the request to keep it could not be stored: %s', image['id'], error)
            kept = names.KEPT_UNAVAILABLE
        if keep:
            answer.headers.append((names.KEPT_HEADER, kept))

    def update(self, environ: Environ, start_response: StartResponse, operation: Operation,
               by: Caller) -> Iterable[bytes]:
        """Let Glance update the image; moves its deadline where the header says so."""
        try:
            give_up_after = asking.give_up_after(environ)
        except asking.BadRequest as error:
            return webob.exc.HTTPBadRequest(explanation=str(error))(environ, start_response)
        environ, body = asking.document(environ)
        if body is not None and asking.mentions_property(body) and _is_patch(environ) and v2.writes(
                body, names.KEEP_PROPERTY):
            # As glance/api/v2/images.py, RequestDeserializer, answers writes to its own reserved names.
            return webob.exc.HTTPForbidden(
                explanation=f"Attribute '{names.KEEP_PROPERTY}' is reserved.")(environ, start_response)
        answer = Captured(self._application, environ)
        if answer.status == 200 and answer.is_json():
            if give_up_after is not None:
                self._move_deadline(operation.image_id, by, give_up_after)
            self._presenter.present(answer, by)
        return answer.send(start_response)

    def _move_deadline(self, image_id: str, by: Caller, give_up_after: int) -> None:
        try:
            # An empty update is answered 200 to whoever may see the image.
            image = self._images.for_update(by, image_id)
            if image.status in v2.WAITING_STATUSES:
                self._store.remember(image.image_id, image.created_at, image.owner, None, give_up_after)
        except Forbidden:
            LOG.info('image %s: its deadline is not moved for one who may not modify it', image_id)
        except StoreUnavailable as error:
            LOG.error('image %s: its deadline could not be moved: %s', image_id, error)


def _is_patch(environ: Environ) -> bool:
    # Glance answers any other media type with 415, before it looks into the document.
    return str(environ.get('CONTENT_TYPE') or '').partition(';')[0] in v2.PATCH_MEDIA_TYPES
