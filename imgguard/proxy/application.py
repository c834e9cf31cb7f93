"""The application that hands each request on to the backend, and its answer back."""

from collections.abc import Iterable

from imgguard.wsgi import Environ, StartResponse


class Proxy:
    """Hands every request on to one backend.

    :param backend_url: ``http://host:port`` or ``https://…``, with a path in front of all others if there is one
    :param connect_timeout: seconds for a connection, TLS included
    :param read_timeout: seconds for which the backend may be silent, or take nothing of a body
    :param forward_identity: whether the headers pass by which ``authtoken`` tells who the caller is
    :param cafile: the authorities that a backend with https is verified with; ``None`` for those of the system
    :param insecure: do not verify it at all
    :raises imgguard.errors.ConfigurationError: the URL or the file cannot be used
    """

    def __init__(self, backend_url: str, connect_timeout: float, read_timeout: float, forward_identity: bool = False,
                 cafile: str | None = None, insecure: bool = False) -> None:
        raise NotImplementedError

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as WSGI asks for."""
        raise NotImplementedError
