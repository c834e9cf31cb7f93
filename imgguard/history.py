"""``GET /v2/images/{id}/attempts``: every attempt that was made to bring data into an image.

The resource is the guard's own. Who may see the image in Glance may see it; after the image was deleted,
the project that owned it and admins. To all others it is not there.
"""

import logging
from collections.abc import Iterable
from typing import Final

import webob.exc
from webob import Response

from imgguard.about import About
from imgguard.api import history, v2
from imgguard.attempts import ImageRecord
from imgguard.errors import GlanceUnavailable, StoreUnavailable
from imgguard.images import Caller, Forbidden, Image, Images
from imgguard.operations import Operation
from imgguard.presenter import Presenter
from imgguard.store import Store
from imgguard.wsgi import Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

_NOT_KNOWN: Final = 'The attempts to bring data into images cannot be read now; try again later.'


class History:
    """Handles requests for attempts for one filter."""

    def __init__(self, store: Store, presenter: Presenter, images: Images) -> None:
        self._store = store
        self._presenter = presenter
        self._images = images

    def __call__(self, environ: Environ, start_response: StartResponse, operation: Operation,
                 by: Caller) -> Iterable[bytes]:
        answer: webob.exc.HTTPException | Response
        try:
            answer = self._answer(operation.image_id, by, environ.get('QUERY_STRING', ''))
        except (StoreUnavailable, GlanceUnavailable) as error:
            About(LOG, operation.image_id).error('attempts cannot be shown: %s', error)
            answer = webob.exc.HTTPInternalServerError(explanation=_NOT_KNOWN)
        except Forbidden as refusal:
            answer = refusal.answer
        return answer(environ, start_response)

    def _answer(self, image_id: str, by: Caller, query: str) -> webob.exc.HTTPException | Response:
        try:
            image: Image | None = self._images.for_show(by, image_id)
        except Forbidden as refusal:
            image, refused = None, refusal
        record = self._gone(by, image_id) if image is None else self._record(image)
        if record is None:
            if image is None:
                raise refused
            return webob.exc.HTTPNotFound(explanation=f'No attempts are known of image {image_id}')
        try:
            page = history.page(query)
        except history.BadPage as error:
            return webob.exc.HTTPBadRequest(explanation=str(error))
        if page.marker is not None and self._store.attempt(record.key, page.marker) is None:
            return webob.exc.HTTPBadRequest(explanation=f'No attempt {page.marker} is known of image {image_id}')
        attempts = self._store.attempts(record.key, page.limit, page.marker) if page.limit else []
        details = image is None or by.may_read_details(image.owner, image.visibility)
        body = v2.dump(history.document(attempts, details, by.is_admin))
        return Response(body=body, content_type='application/json')

    def _record(self, image: Image) -> ImageRecord | None:
        known = {'id': image.image_id, 'created_at': image.created_at, 'status': image.status}
        return self._presenter.records([known]).get((image.image_id, image.created_at))

    def _gone(self, by: Caller, image_id: str) -> ImageRecord | None:
        """The image of that id which this caller's project owned last."""
        owned = [record for record in self._store.find(image_id)
                 if by.may_read_details(record.owner, None) and self._images.might_see(by, record.owner)]
        return owned[-1] if owned else None
