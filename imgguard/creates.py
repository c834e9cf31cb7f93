"""``POST /v2/images``: what is asked for an image when it is created."""

import json
import logging
from collections.abc import Iterable
from typing import Any, Final

import webob.exc

from imgguard import asking, names
from imgguard.about import About
from imgguard.api import v2
from imgguard.errors import StoreUnavailable
from imgguard.guard import Guard
from imgguard.images import Caller
from imgguard.operations import Operation
from imgguard.presenter import Presenter
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.wsgi import Application, Captured, Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

Json = dict[str, Any]

_NOT_STORED: Final = ('The request to keep this image if it fails cannot be stored now. Nothing was done; try again '
                      'later.')


class Creates:
    """Handles create for one filter."""

    def __init__(self, application: Application, settings: Settings, store: Store, guard: Guard,
                 presenter: Presenter) -> None:
        self._application = application
        self._settings = settings
        self._store = store
        self._guard = guard
        self._presenter = presenter

    def __call__(self, environ: Environ, start_response: StartResponse, operation: Operation,
                 by: Caller) -> Iterable[bytes]:
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
            About(LOG, image['id']).error('the request to keep it could not be stored: %s', error)
            kept = names.KEPT_UNAVAILABLE
        if keep:
            answer.headers.append((names.KEPT_HEADER, kept))
