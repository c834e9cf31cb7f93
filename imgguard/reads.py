"""Requests that read: show, list, download, schema."""

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import webob.exc

from imgguard import listing
from imgguard.about import About
from imgguard.api import v2
from imgguard.border import Border
from imgguard.errors import GlanceUnavailable, StoreUnavailable
from imgguard.images import Caller, Images
from imgguard.operations import IMAGE, Action, Operation
from imgguard.presenter import Presenter, Records
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.wsgi import NEVER_BEGAN, Application, Captured, Environ, Headers, StartResponse

LOG: Final = logging.getLogger(__name__)

Json = dict[str, Any]

_PACKED: Final = ('The answer of the image service came packed although it was asked for unpacked, so it is not known '
                  'which images are in error. The operator has to turn the packing off.')


class Reads:
    """Handles reading requests for one filter.

    :param elsewhere: whether requests for Glance go over a wire
    :param listed: Glance's answer to a list request, for a Glance that hides more than the guard does; the code is that
        of the only errors that are asked for
    """

    def __init__(self, application: Application, settings: Settings, store: Store, presenter: Presenter,
                 images: Images, elsewhere: bool = False,
                 listed: Callable[[Environ, Caller, str | None], Captured] | None = None) -> None:
        self._application = application
        self._listed = listed
        self._settings = settings
        self._store = store
        self._presenter = presenter
        self._images = images
        self._elsewhere = elsewhere

    def show(self, environ: Environ, start_response: StartResponse, operation: Operation,
             by: Caller) -> Iterable[bytes]:
        """Hand on, with the error state written in."""
        return self.tell(Captured(self._application, environ), environ, start_response, operation.image_id, by)

    def tell(self, answer: Captured, environ: Environ, start_response: StartResponse, image_id: str,
             by: Caller) -> Iterable[bytes]:
        """Hand on an answer, with the error state written in.

        :param image_id: of the image it shows, as the path spells it; ``''`` for a list
        """
        if answer.is_json():
            self._presenter.present(answer, by, image_id)
            return answer.send(start_response)
        return self._sent(answer, environ, start_response, image_id)

    def list(self, environ: Environ, start_response: StartResponse, operation: Operation,
             by: Caller) -> Iterable[bytes]:
        """As :meth:`show`; a filter that the error state takes part in is answered from several pages."""
        query = environ.get('QUERY_STRING', '')
        wanted = listing.parse(query, self._settings.error_status)
        answer: Captured | None = None
        if wanted is not None:
            # Whatever is wrong here, the client gets Glance's answer.
            with Border(LOG, 'the list is answered without the error state', StoreUnavailable):
                answer = self._filtered(environ, wanted, by)
        elif self._listed is not None and not listing.names_status(query):
            answer = self._listed(environ, by, None)
            if answer.is_json():
                self._presenter.present(answer, by)
        if answer is None:
            return self.tell(Captured(self._application, environ), environ, start_response, '', by)
        return self._sent(answer, environ, start_response, '')

    def _sent(self, answer: Captured, environ: Environ, start_response: StartResponse,
              image_id: str) -> Iterable[bytes]:
        """Hand on, unless it cannot be read and might tell of an image in error that it is sound."""
        if answer.status == 200 and answer.packed is not None and self._presenter.may_be_hidden(image_id):
            LOG.error('an answer of Glance cannot be read, for it came packed (Content-Encoding: %s) although it was '
                      'asked for unpacked: let no server between the guard and Glance pack unasked', answer.packed)
            answer.close()
            return webob.exc.HTTPBadGateway(explanation=_PACKED)(environ, start_response)
        return answer.send(start_response)

    def _filtered(self, environ: Environ, wanted: listing.Filter, by: Caller) -> Captured | None:
        def candidates(most: int) -> list[str] | None:
            found = self._store.due(most + 1) + self._store.candidates(most + 1, wanted.code)
            return found if len(found) <= most else None

        most = listing.MAX_IN_TARGET if self._elsewhere else listing.MAX_NARROWED
        few = candidates(min(most, listing.FEW))
        if few == []:
            return None

        def ask(query: str) -> Captured:
            asked = {**environ, 'QUERY_STRING': query}
            return Captured(self._application, asked) if self._listed is None else self._listed(asked, by, wanted.code)

        def present(image: Json, records: Records) -> None:
            self._presenter.write(image, records, by)

        walk = listing.Walk(wanted, ask, self._presenter.records, present)
        if not (wanted.errors_only and wanted.narrowable):
            return walk.answer(None, lambda: None)
        return walk.answer(few, lambda: candidates(most) if few is None else few)

    def download(self, environ: Environ, start_response: StartResponse, operation: Operation,
                 by: Caller) -> Iterable[bytes]:
        """Hand on, unless it is data that Glance rejected and left where it can be read."""
        answer = Captured(self._application, environ)
        # Glance may stumble over it, too: the Content-Length it then gives is no number.
        if (answer.status in (200, 206) or answer.status >= 500) and self._is_in_error(operation.image_id, by):
            # Its file is open already, and Glance closes it only once the reading has begun
            # (glance_store/_drivers/filesystem.py, ChunkedFile.__iter__).
            next(iter(answer.send(_ignore)), None)
            answer.close()
            return webob.exc.HTTPNoContent()(environ, start_response)
        return answer.send(start_response)

    def locations(self, environ: Environ, start_response: StartResponse, operation: Operation,
                  by: Caller) -> Iterable[bytes]:
        """Hand on; an image in error has none, whatever data Glance rejected and left."""
        answer = Captured(self._application, environ)
        if answer.is_json() and self._is_in_error(operation.image_id, by):
            answer.replace(b'[]')
        return answer.send(start_response)

    def _is_in_error(self, image_id: str, by: Caller) -> bool:
        records = self._presenter.known([{'id': image_id, 'created_at': '', 'status': ''}])
        image = None
        if any(record.error for record in records.values()):
            with Border(About(LOG, image_id), 'not looked at for what an image in error must not show',
                        GlanceUnavailable):
                image = self._images.look(by, image_id)
        return image is not None and v2.error_of(
            {'id': image.image_id, 'created_at': image.created_at, 'status': image.status}, records) is not None

    def schema(self, environ: Environ, start_response: StartResponse, operation: Operation,
               by: Caller) -> Iterable[bytes]:
        """Hand on, with the status and the properties of the guard added."""
        answer = Captured(self._application, environ)
        if answer.is_json():
            document = v2.extend_schema(json.loads(answer.body()), operation.action is Action.LIST_SCHEMA,
                                        self._settings.error_status)
            if document is not None:
                answer.replace(json.dumps(document).encode())
        return answer.send(start_response)


def looking(application: Application, identify: Callable[[Environ], Caller | None],
            tell: Callable[[Captured, Environ, StartResponse, str, Caller], Iterable[bytes]]) -> Application:
    """What :meth:`Reads.show` does, for a plain ``GET`` of one image.

    Most of what Glance is asked is such a look, and most of the answers go on as they are: these take as few calls as
    can be, for behind Glance each takes a microsecond or two.

    :param application: Glance in this process
    :param identify: tells who sent a request; ``None`` where only Glance can answer it
    :param tell: see :meth:`Reads.tell`; is given every answer that may have to be changed
    """
    may_be_in_error = v2.may_be_in_error

    def look(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # Glance moves what it has read of the path to SCRIPT_NAME (paste/urlmap.py, URLMap.__call__).
        path: str = environ['PATH_INFO']
        head: tuple[str, Headers, Any] | None = None
        written: list[bytes] = []

        def hold(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
            nonlocal head
            head = status, headers, exc_info
            return written.append

        accepts = environ.get('HTTP_ACCEPT_ENCODING')
        if accepts:
            # As unpacked() does; all clients of Python send it, and a copy would take as long as all else here.
            environ['HTTP_ACCEPT_ENCODING'] = 'identity'
        try:
            chunks = application(environ, hold)
            try:
                body = b''.join(chunks)
            finally:
                close = getattr(chunks, 'close', None)
                if close is not None:
                    close()
        finally:
            if accepts:
                environ['HTTP_ACCEPT_ENCODING'] = accepts
        if head is None:
            raise RuntimeError(NEVER_BEGAN)
        # As no packed body begins.
        if body.startswith(b'{') and not may_be_in_error(body) and head[2] is None and not written:
            start_response(head[0], head[1])
            return [body]
        answer, by = Captured.held(*head, b''.join((*written, body))), identify(environ)
        if by is None:
            return answer.send(start_response)
        return tell(answer, environ, start_response, path[len(IMAGE):].removesuffix('\n'), by)

    return look


def _ignore(status: str, headers: Headers, exc_info: object = None) -> Callable[[bytes], object]:
    return bytes
