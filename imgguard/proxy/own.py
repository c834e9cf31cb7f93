"""The proxy's own answers: plain text, and marked as no answer of the backend."""

from collections.abc import Iterable
from http import HTTPStatus

from imgguard.wsgi import NO_ANSWER, Environ, StartResponse


def own(status: HTTPStatus, message: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with this text."""
    environ[NO_ANSWER] = True
    body = f'{message}\n'.encode()
    start_response(f'{status.value} {status.phrase}',
                   [('Content-Type', 'text/plain; charset=utf-8'), ('Content-Length', str(len(body)))])
    return [] if environ['REQUEST_METHOD'] == 'HEAD' else [body]
