"""Requests that create an image: what is asked for it."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Asked:
    """What a create asks of the guard.

    :param keep: ``None`` where nothing was said
    :param give_up_after: seconds; ``None`` where nothing was said
    """

    keep: bool | None
    give_up_after: int | None


class Creates:
    """Handles ``POST /v2/images`` for one filter."""

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
            environ, asked = self._asked(environ)
        except asking.Reserved as error:
            # The words as glance/api/v2/images.py, RequestDeserializer.create, puts them.
            return webob.exc.HTTPForbidden(str(error))(environ, start_response)
        except asking.BadRequest as error:
            return webob.exc.HTTPBadRequest(explanation=str(error))(environ, start_response)
        if asked.keep and self._settings.on_store_failure == 'refuse':
            try:
                self._store.check()
            except StoreUnavailable as error:
                LOG.error('a create was refused, for the image could not be kept: %s', error)
                return webob.exc.HTTPInternalServerError(explanation=_NOT_STORED)(environ, start_response)
        return self._create(environ, start_response, operation, by, asked)

    def _asked(self, environ: Environ) -> tuple[Environ, Asked]:
        """What is asked, and the environ without it.

        :raises imgguard.asking.BadRequest: it cannot be understood
        :raises imgguard.asking.Reserved: it sets a property that only the guard writes
        """
        keep, give_up_after = asking.keep(environ), asking.give_up_after(environ)
        environ, by_property = self._take_property(environ)
        return environ, Asked(by_property if keep is None else keep, give_up_after)

    def _take_property(self, environ: Environ) -> tuple[Environ, bool | None]:
        return asking.take_property(environ)

    def _create(self, environ: Environ, start_response: StartResponse, operation: Operation, by: Caller,
                asked: Asked) -> Iterable[bytes]:
        answer, _ = self._created(environ, by, asked)
        return answer.send(start_response)

    def _created(self, environ: Environ, by: Caller, asked: Asked) -> tuple[Captured, Sequence[Json]]:
        """Glance's answer to a create, and the image it tells of, in the words of v2, once it is remembered."""
        answer = Captured(self._application, environ)
        images: Sequence[Json] = ()
        if answer.is_json(201):
            images = self._images_of(json.loads(answer.body()))
            for image in images:
                self._remember(answer, image, asked)
            self._presenter.present(answer, by)
        elif answer.status == 201 and asked.keep:
            LOG.error('a request to keep an image could not be stored: the answer that names it cannot be read')
            answer.headers.append((names.KEPT_HEADER, names.KEPT_UNAVAILABLE))
        return answer, images

    def _images_of(self, document: Any) -> Sequence[Json]:
        return v2.images_of(document)

    def _remember(self, answer: Captured, image: Json, asked: Asked) -> None:
        keep = self._guard.keeps(asked.keep, None, image.get('image_type'))
        if not keep and asked.keep is None and asked.give_up_after is None:
            return
        seconds = asked.give_up_after or (self._settings.give_up_after if keep else 0)
        try:
            self._store.remember(image['id'], image['created_at'], image.get('owner'), asked.keep, seconds or None)
            kept = names.KEPT_GUARDED
        except StoreUnavailable as error:
            About(LOG, image['id']).error('the request to keep it could not be stored: %s', error)
            kept = names.KEPT_UNAVAILABLE
        if keep:
            answer.headers.append((names.KEPT_HEADER, kept))
