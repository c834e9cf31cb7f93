"""The application that hands each request on to the backend, and its answer back."""

import logging
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Final

import httpcore

from imgguard.body import Refused
from imgguard.errors import ImgguardError
from imgguard.proxy.backend import Backend, Message
from imgguard.proxy.headers import of_answer, of_request
from imgguard.proxy.own import own
from imgguard.proxy.sending import BadRequest, sending
from imgguard.proxy.target import target
from imgguard.wsgi import Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

# RFC 9110, section 8.6: those whose empty body is told.
_WITH_BODY: Final = ('POST', 'PUT', 'PATCH')


class BackendBroke(ImgguardError):
    """The answer of the backend broke off; the server must not end it as if it were whole."""


class Proxy:
    """Hands every request on to one backend.

    Its own answers are 400 for a request that cannot be sent on or does not come whole, 502 where the backend cannot
    be reached or breaks, and 504 where it is silent; they set :data:`imgguard.wsgi.NO_ANSWER` in the environ.
    Redirects are not followed and nothing is unpacked.

    :param backend_url: ``http://host:port`` or ``https://…``, with a path in front of all others if there is one, as
        :mod:`imgguard.settings` has judged it
    :param connect_timeout: seconds for a connection, and for TLS on it
    :param read_timeout: seconds for which the backend may be silent, or take nothing of a body
    :param forward_identity: whether the headers pass by which ``authtoken`` tells who the caller is
    :param cafile: the authorities that a backend with https is verified with; ``None`` for those of the system
    :param insecure: do not verify it at all
    :raises imgguard.errors.ConfigurationError: the file cannot be used
    """

    def __init__(self, backend_url: str, connect_timeout: float, read_timeout: float, forward_identity: bool = False,
                 cafile: str | None = None, insecure: bool = False) -> None:
        self._backend: Final = Backend(backend_url, connect_timeout, read_timeout, cafile, insecure)
        self._forward_identity: Final = forward_identity
        self._unconnected: Final = f'could not be reached within {connect_timeout:g} seconds'
        self._silent: Final = f'was silent for {read_timeout:g} seconds'

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as WSGI asks for."""
        try:
            response = self._backend.send(self._message(environ))
        except (Refused, BadRequest) as refused:
            return own(HTTPStatus.BAD_REQUEST, str(refused), environ, start_response)
        except httpcore.LocalProtocolError:
            # Its text repeats what is wrong, which may be a token.
            return own(HTTPStatus.BAD_REQUEST, 'The request cannot be sent on: HTTP does not allow its method or '
                       'one of its headers.', environ, start_response)
        except httpcore.TimeoutException as error:
            why = self._unconnected if isinstance(error, httpcore.ConnectTimeout) else self._silent
            return self._unanswered(HTTPStatus.GATEWAY_TIMEOUT, why, error, environ, start_response)
        except (httpcore.NetworkError, httpcore.RemoteProtocolError) as error:
            reached = not isinstance(error, httpcore.ConnectError)
            why = 'gave no answer that could be understood' if reached else 'could not be reached'
            return self._unanswered(HTTPStatus.BAD_GATEWAY, why, error, environ, start_response)
        return self._handed_back(response, environ, start_response)

    def close(self) -> None:
        """Close the connections to the backend. A later request opens new ones."""
        self._backend.close()

    def _message(self, environ: Environ) -> Message:
        path, method = str(environ.get('PATH_INFO') or ''), str(environ['REQUEST_METHOD'])
        if path and path[0] not in '/*':
            raise BadRequest('The target of the request is no path.')
        origin = self._backend.origin
        headers = of_request(environ, origin, self._forward_identity)
        body = sending(environ)
        if body is not None:
            headers.append(body.header)
        elif method in _WITH_BODY or environ.get('CONTENT_LENGTH'):
            headers.append((b'content-length', b'0'))
        if _may_be_split(path):
            headers.append((b'connection', b'close'))
        return Message(method.encode('latin-1'), target(environ, origin.prefix.encode()), headers, body)

    def _handed_back(self, response: httpcore.Response, environ: Environ,
                     start_response: StartResponse) -> Iterable[bytes]:
        answer = _Answer(response, self._backend.origin.authority)
        try:
            reason = response.extensions['reason_phrase'].decode('latin-1') or _phrase(response.status)
            start_response(f'{response.status} {reason}',
                           of_answer(response.headers, environ, self._backend.origin))
        except BaseException:
            answer.close()
            raise
        return answer

    def _unanswered(self, status: HTTPStatus, why: str, error: Exception, environ: Environ,
                    start_response: StartResponse) -> Iterable[bytes]:
        LOG.warning('the backend %s %s: %s', self._backend.origin.authority, why, error or type(error).__name__)
        return own(status, f'The image service behind this proxy {why}.', environ, start_response)


def _may_be_split(path: str) -> bool:
    """Whether what comes behind the answer may be anybody's.

    Glance's v1 puts the values of properties into headers as they are (glance 15, ``glance/api/v1/images.py``,
    ``_inject_image_meta_headers``), line ends too: the rest of such a value would be taken for the answer to the next
    request on the connection, which may be another caller's. Whatever the method: to Routes the query may say another
    (``PUT …?_method=HEAD``; see :mod:`imgguard.operations_v1`).
    """
    return 'images/' in path and not path.lstrip('/').startswith('v2')


class _Answer:
    """The body of an answer; closing it before its end breaks the connection to the backend."""

    def __init__(self, response: httpcore.Response, authority: str) -> None:
        self._response = response
        self._authority = authority

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._response.iter_stream()
        except (httpcore.NetworkError, httpcore.RemoteProtocolError, httpcore.TimeoutException) as error:
            why = str(error) or type(error).__name__
            LOG.warning('the backend %s broke off in the middle of an answer: %s', self._authority, why)
            raise BackendBroke(f'the answer of the backend broke off: {why}') from error

    def close(self) -> None:
        """Leave the connection to the next request, or break it."""
        self._response.close()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return 'Unknown'
