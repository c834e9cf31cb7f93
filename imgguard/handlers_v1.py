"""What differs in requests of the Images API v1; what is done about images is the same as for v2."""

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from imgguard import names
from imgguard.api import v1
from imgguard.border import Border
from imgguard.creates import Asked, Creates
from imgguard.errors import GlanceUnavailable, StoreUnavailable
from imgguard.guard import Guard
from imgguard.images import Caller, Images
from imgguard.middleware import Handler
from imgguard.operations import Action, Operation
from imgguard.presenter import PresenterV1
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.wsgi import Application, Captured, Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

Json = dict[str, Any]


def unreserved(handler: Handler) -> Handler:
    """The handler, once it is sure that the request writes no property of the guard's own.

    Glance answers writes to protected properties the same, whoever sends them (``glance/api/v1/images.py``,
    ``_enforce_update_protected_props``).
    """
    def checked(environ: Environ, start_response: StartResponse, operation: Operation,
                by: Caller) -> Iterable[bytes]:
        name = v1.reserved(environ, creates=not operation.image_id)
        if name is not None:
            return v1.refused(name)(environ, start_response)
        return handler(environ, start_response, operation, by)

    return checked


class ReadsV1:
    """Handles requests that read one image, or change nothing but what is told of it."""

    def __init__(self, application: Application, presenter: PresenterV1) -> None:
        self._application: Final = application
        self._presenter: Final = presenter

    def show(self, environ: Environ, start_response: StartResponse, operation: Operation,
             by: Caller) -> Iterable[bytes]:
        """``HEAD``: hand on, with the error state written into the headers."""
        answer = Captured(self._application, environ)
        if answer.status == 200:
            self._presenter.present_in_headers(answer, operation.image_id, by)
        return answer.send(start_response)

    def update(self, environ: Environ, start_response: StartResponse, operation: Operation,
               by: Caller) -> Iterable[bytes]:
        """``PUT`` without data: hand on, with the error state written into the document that is answered."""
        answer = Captured(self._application, environ)
        if answer.is_json():
            self._presenter.present(answer, by)
        return answer.send(start_response)


class CreatesV1(Creates):
    """Handles ``POST /v1/images``.

    A create that brings data which is to be kept reaches Glance in two steps, a create without it and an upload (or
    copy) to the image that is there then: so the claim is committed before any data comes, and there is an image to
    show in error whatever happens. Kept or not, who brings data is told which image it was for when that fails.

    :param bring: what handles an upload, and a copy, to an image that is there
    :param delete: deletes an image in its caller's name; whether Glance did
    """

    def __init__(self, application: Application, settings: Settings, store: Store, guard: Guard,
                 presenter: PresenterV1, images: Images, bring: Mapping[Action, Handler],
                 delete: Callable[[Caller, str], bool]) -> None:
        super().__init__(application, settings, store, guard, presenter)
        self._images: Final = images
        self._bring: Final = bring
        self._delete: Final = delete

    def _take_property(self, environ: Environ) -> tuple[Environ, bool | None]:
        return v1.take_keep(environ)

    def _images_of(self, document: Any) -> Sequence[Json]:
        return [v1.as_v2(image) for image in v1.images_of(document)]

    def _create(self, environ: Environ, start_response: StartResponse, operation: Operation, by: Caller,
                asked: Asked) -> Iterable[bytes]:
        bring = self._bring.get(operation.action)
        if bring is None or v1.names_location(environ):
            return super()._create(environ, start_response, operation, by, asked)
        image_id = v1.chosen_id(environ) or str(uuid.uuid4())
        keeps = self._guard.keeps(asked.keep, None, v1.image_type(environ))
        first = v1.without_source(environ, image_id) if keeps else v1.with_id(environ, image_id)
        created, images = self._created(first, by, asked)
        if not (keeps and images):
            return self._with_id(created, environ, image_id, by).send(start_response)

        def brought(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            return bring(environ, start_response, Operation(operation.action, image_id, version=1), by)

        answer = Captured(brought, v1.of_source(environ, image_id))
        if answer.status >= 400 and answer.header(names.KEPT_HEADER) is None:
            # Refused at the door, so nothing speaks for an image that Glance would not have made in one step.
            answer.body()
            self._unmake(image_id, by)
            return answer.send(start_response)
        answer.headers.append((names.IMAGE_ID_HEADER, image_id))
        if answer.status < 400:
            answer.status_line = created.status_line
            answer.headers += [(name, value) for name, value in created.headers if name.lower() == 'location']
        return answer.send(start_response)

    def _unmake(self, image_id: str, by: Caller) -> None:
        """Delete an image that was made for data which then was refused."""
        with Border(LOG, 'an image whose data was refused is not deleted', StoreUnavailable):
            if self._delete(by, image_id):
                for record in self._store.records([image_id]).values():
                    self._store.deleted(record.image_id, record.created_at)

    def _with_id(self, answer: Captured, environ: Environ, image_id: str, by: Caller) -> Captured:
        """The answer to a create; of one that has failed and left an image, with the id of that.

        Of an id that the client has chosen nobody knows whether it was there before.
        """
        if answer.status >= 400 and v1.chosen_id(environ) is None:
            answer.body()
            with Border(LOG, 'a create failed, and it is not known whether it has left an image', GlanceUnavailable):
                if self._images.look(by, image_id) is not None:
                    answer.headers.append((names.IMAGE_ID_HEADER, image_id))
        return answer
