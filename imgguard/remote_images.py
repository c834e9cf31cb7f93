"""Asking Glance about an image by requests, with the caller's own token: the way of the proxy.

Who may modify an image is found out by an update that Glance refuses once it has let the caller in, so that it
changes nothing: the name is replaced by itself, and a property is removed that is not there
(``glance/api/v2/images.py``, ``_do_replace`` and ``_do_remove``, which ask for the policy first; nothing is saved after
the 409). An empty update would be answered 200 to whoever may see the image.
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Final, TypeVar

from imgguard.api import v1
from imgguard.attempts import Kind
from imgguard.errors import GlanceUnavailable
from imgguard.images import Caller, Forbidden, Image, is_refused_for_its_form
from imgguard.operations import MEDIA_TYPE
from imgguard.operations_v1 import accepted
from imgguard.wsgi import Application, Captured, Environ, StartResponse

Json = dict[str, Any]
Found = TypeVar('Found')

_REQUEST_ID: Final = 'HTTP_X_OPENSTACK_REQUEST_ID'
# What a request needs to be sent as the same caller; the rest belongs to the request it came with.
_OF_CALLER: Final = ('wsgi.', 'SERVER_', 'REMOTE_', 'HTTP_X_', 'HTTP_HOST', 'HTTP_OPENSTACK_',
                     'HTTP_USER_AGENT', 'HTTP_ACCEPT', 'SCRIPT_NAME')
_NOT_OF_CALLER: Final = ('HTTP_X_IMAGE_META_', 'HTTP_X_GLANCE_', 'HTTP_X_OPENSTACK_IMAGE_', 'HTTP_ACCEPT_ENCODING',
                         'wsgi.input')
_UPDATE: Final = 'application/openstack-images-v2.1-json-patch'
_NOT_THERE: Final = '/imgguard_asks_whether_this_caller_may_modify_the_image'
_REFUSALS: Final = (401, 403, 404)
NOT_SPOKEN: Final = 300
"""Glance's status to a version of the API that it does not speak (``glance/api/middleware/version_negotiation.py``)."""

OUT_OF_RANGE: Final = {'HTTP_X_IMAGE_META_MIN_DISK': '2147483648', 'HTTP_X_GLANCE_REGISTRY_PURGE_PROPS': 'false'}
"""Headers of an update by v1 that Glance refuses once policy and owner have let the caller in: a ``min_disk`` that no
column holds (glance 15, ``glance/db/sqlalchemy/api.py``, ``_image_update`` and ``_validate_db_int``)."""


class NotAnswered(GlanceUnavailable):
    """Glance's answer does not tell what it was asked; the text says what it was."""


class TokenRefused(NotAnswered):
    """The caller's token is not, or no longer, good."""


class NotAllowed(Forbidden):
    """Glance's own answer to a request that was sent in the caller's name."""

    def __init__(self, captured: Captured) -> None:
        super().__init__(self._send)
        self.captured: Final = captured

    def _send(self, _: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return self.captured.send(start_response)


class Asker:
    """Sends requests of the guard's own as one caller."""

    def __init__(self, application: Application, environ: Mapping[str, Any]) -> None:
        self._application: Final = application
        self._environ: Final = {
            name: value for name, value in environ.items()
            if name.startswith(_OF_CALLER) and not name.startswith(_NOT_OF_CALLER)}
        if accepted(str(self._environ.get('HTTP_ACCEPT') or '')).startswith(MEDIA_TYPE):
            # It tells the version, which the paths of these requests tell.
            del self._environ['HTTP_ACCEPT']

    @property
    def request_id(self) -> str | None:
        """As the request it came with has it."""
        return self._environ.get(_REQUEST_ID)

    def ask(self, method: str, path: str, body: bytes = b'', content_type: str = '',
            more: Mapping[str, str] | None = None, query: str = '') -> Captured:
        """Send a request and read its answer whole.

        :param path: not escaped
        :param more: headers as WSGI spells them
        :param query: escaped
        """
        environ: Environ = {**self._environ, 'REQUEST_METHOD': method, 'PATH_INFO': path, 'QUERY_STRING': query,
                            'SERVER_PROTOCOL': 'HTTP/1.1', 'wsgi.input': BytesIO(body), **(more or {})}
        if body:
            environ |= {'CONTENT_LENGTH': str(len(body)), 'CONTENT_TYPE': content_type}
        answer = Captured(self._application, environ)
        answer.body()
        return answer

    def document(self, path: str) -> Json:
        """The JSON document at this path.

        :raises NotAllowed: 300, 401, 403, 404
        :raises NotAnswered: Glance did not answer with one
        """
        answer = self.ask('GET', path)
        if answer.status in (*_REFUSALS, NOT_SPOKEN):
            raise NotAllowed(answer)
        document = json.loads(answer.body()) if answer.is_json() else None
        if not isinstance(document, dict):
            raise NotAnswered(f'Glance answered {answer.status_line!r} to GET {path}')
        return document

    def find(self, path: str) -> Json | None:
        """The JSON document at this path; ``None`` when there is none for this caller (300, 403, 404).

        :raises TokenRefused: 401
        :raises NotAnswered: Glance did not answer with one
        """
        return _unless_hidden(lambda: self.document(path))

    def image(self, image_id: str) -> Json | None:
        """The image as v2 shows it, or in the words of v2 as v1 does: an old Glance may have only that.

        :returns: ``None`` when there is none for this caller
        :raises TokenRefused: 401
        :raises NotAnswered: Glance did not answer with one
        """
        found = self.find(f'/v2/images/{image_id}')
        return found if found is not None else _unless_hidden(lambda: self.image_of_v1(image_id))

    def image_of_v1(self, image_id: str) -> Json:
        """The image as v1 shows it, in the words of v2.

        :raises NotAllowed: 300, 401, 403, 404
        :raises NotAnswered: Glance did not answer with one
        """
        answer = self.ask('HEAD', f'/v1/images/{image_id}')
        if answer.status in (*_REFUSALS, NOT_SPOKEN):
            raise NotAllowed(answer)
        told = v1.image_of(answer.headers, image_id) if answer.status == 200 else None
        if told is None:
            raise NotAnswered(f'Glance answered {answer.status_line!r} to HEAD /v1/images/{image_id}')
        return v1.as_v2(told)


class Remote:
    """The Glance behind the proxy, asked as the caller whose request a thread works on."""

    def __init__(self, application: Application) -> None:
        self.application: Final = application
        self._current: Final = threading.local()

    @property
    def asker(self) -> Asker | None:
        """Whoever this thread asks for; ``None`` in one that works on no request."""
        asker: Asker | None = getattr(self._current, 'asker', None)
        return asker

    @contextmanager
    def asked_by(self, by: Caller) -> Iterator[None]:
        """Let this thread ask as that caller."""
        before = self.asker
        self._current.asker = by.context
        try:
            yield
        finally:
            self._current.asker = before

    def identify(self, forward_identity: bool) -> Callable[[Environ], Caller]:
        """How to tell who sent a request.

        By ``authtoken``, which has removed the identity headers that the client itself sent and leaves a mark in the
        environ that no client can set (``keystonemiddleware/auth_token``); or by these headers, where the operator says
        that whoever is in front may set them.

        :param forward_identity: the option
        """
        def caller(environ: Environ) -> Caller:
            # As Glance would make one, so that its log, its tasks and the guard's history name the same.
            if not environ.get(_REQUEST_ID):
                environ[_REQUEST_ID] = f'req-{uuid.uuid4()}'
            request_id = str(environ[_REQUEST_ID])
            asker = Asker(self.application, environ)
            user_id, project_id = environ.get('HTTP_X_USER_ID'), environ.get('HTTP_X_PROJECT_ID')
            # As glance/api/middleware/context.py, process_request, reads them.
            roles = {role.strip().lower() for role in (environ.get('HTTP_X_ROLES') or '').split(',')}
            believed = forward_identity or 'keystone.token_auth' in environ
            confirmed = environ.get('HTTP_X_IDENTITY_STATUS', 'Confirmed') == 'Confirmed'
            if not (believed and confirmed) or not (user_id or project_id):
                return Caller(None, None, False, request_id, asker, identified=False)
            return Caller(user_id, project_id, 'admin' in roles, request_id, asker)
        return caller


class RemoteImages:
    """Images of the Glance behind the proxy."""

    def __init__(self) -> None:
        # Until Glance has said that it does not.
        self._speaks_v1 = True

    def look(self, by: Caller, image_id: str) -> Image | None:
        """See :class:`imgguard.images.Images`."""
        return _unless_hidden(lambda: self.for_show(by, image_id))

    def for_upload(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`."""
        try:
            return self.for_update(by, image_id)
        except NotAllowed as refusal:
            # What Glance says of an upload differs in the name of the policy.
            refusal.captured.replace(refusal.captured.body().replace(b'modify_image', b'upload_image'))
            raise

    def for_import(self, by: Caller, image_id: str, kind: Kind) -> Image:
        """See :class:`imgguard.images.Images`; whoever may modify an image is taken for one who may copy it."""
        return self.for_update(by, image_id)

    def for_update(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`."""
        found = asker(by).document(_path(image_id))
        image = image_of(found)
        update = [{'op': 'replace', 'path': '/name', 'value': found.get('name')}, {'op': 'remove', 'path': _NOT_THERE}]
        answer = asker(by).ask('PATCH', _path(image.image_id), json.dumps(update).encode(), _UPDATE)
        if answer.status in _REFUSALS:
            raise NotAllowed(answer)
        if answer.status != 409:
            raise NotAnswered(f'Glance answered {answer.status_line!r} where 409 says that an update is allowed')
        if self._speaks_v1:
            self._ask_v1(by, image)
        return image

    def _ask_v1(self, by: Caller, image: Image) -> None:
        """Ask a Glance that has v1 there, too: its v2 looks at the policy only when it saves an update.

        (Glance 15, ``glance/api/policy.py``, ``ImageRepoProxy.save``.)

        :raises NotAllowed: the caller may not modify the image
        """
        answer = asker(by).ask('PUT', f'/v1/images/{image.image_id}', more=OUT_OF_RANGE)
        if answer.status == NOT_SPOKEN:
            self._speaks_v1 = False
        elif answer.status == 403:
            raise NotAllowed(answer)

    def for_delete(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`; whoever may modify an image is taken for one who may delete it.

        Nothing but a DELETE makes Glance ask for ``delete_image``, and it deletes what is staged before it refuses
        anything for another reason (``glance/api/v2/images.py``, ``delete``).
        """
        return self.for_update(by, image_id)

    def for_show(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`."""
        return image_of(asker(by).document(_path(image_id)))

    def might_see(self, by: Caller, owner: str | None) -> bool:
        """See :class:`imgguard.images.Images`."""
        return by.may_read_details(owner, None)

    def refuses_before_policy(self, environ: Mapping[str, Any]) -> bool:
        """See :class:`imgguard.images.Images`; which stores there are is not known here."""
        return is_refused_for_its_form(environ)


def _unless_hidden(ask: Callable[[], Found]) -> Found | None:
    """What is found; ``None`` where there is nothing for this caller.

    :raises TokenRefused: that is not known, for Glance refuses the token
    """
    try:
        return ask()
    except NotAllowed as refusal:
        if refusal.captured.status == 401:
            raise TokenRefused('Glance refuses the token') from refusal
        return None


def _path(image_id: str) -> str:
    return f'/v2/images/{image_id}'


def asker(by: Caller) -> Asker:
    """Who asks as this caller."""
    found: Asker = by.context
    return found


def image_of(found: Json) -> Image:
    """The image in a document of v2.

    :raises NotAnswered: it lacks what every image has
    """
    try:
        return Image(found['id'], found['created_at'], found['status'], found.get('owner'), found.get('image_type'),
                     bool(found.get('protected')), found.get('checksum') is not None or bool(found.get('stores')),
                     visibility=found.get('visibility'), size=found.get('size'), updated_at=found.get('updated_at'))
    except KeyError as error:
        raise NotAnswered(f'Glance showed an image without {error}') from error
