"""Headers on their way through: what a proxy keeps to itself, who the caller is said to be, and the way back.

The headers of a request are those of the environ, where a server has joined what came several times and ``-`` and
``_`` are one; they go out with ``-``, which Glance takes in every case (``glance/common/utils.py``,
``get_image_meta_from_headers``) and no server drops.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from imgguard.wsgi import Headers

RawHeaders = list[tuple[bytes, bytes]]

PSEUDONYM: Final = 'imgguard'

_ABOUT: Final = ('DOMAIN_ID', 'DOMAIN_NAME', 'PROJECT_ID', 'PROJECT_NAME', 'PROJECT_DOMAIN_ID', 'PROJECT_DOMAIN_NAME',
                 'USER_ID', 'USER_NAME', 'USER_DOMAIN_ID', 'USER_DOMAIN_NAME', 'ROLES', 'IDENTITY_STATUS')
#: By which ``authtoken`` tells the application who the caller is, and by which Glance believes it:
#: ``keystonemiddleware/auth_token/_request.py``, ``oslo_context/context.py``, ``glance/api/middleware/context.py``.
IDENTITY: Final = frozenset((
    *(f'HTTP_X_{name}' for name in _ABOUT), *(f'HTTP_X_SERVICE_{name}' for name in _ABOUT),
    'HTTP_X_SERVICE_CATALOG', 'HTTP_X_IS_ADMIN_PROJECT', 'HTTP_OPENSTACK_SYSTEM_SCOPE', 'HTTP_X_SYSTEM_SCOPE',
    # Of old: _DEPRECATED_HEADER_MAP there.
    'HTTP_X_ROLE', 'HTTP_X_USER', 'HTTP_X_TENANT', 'HTTP_X_TENANT_ID', 'HTTP_X_TENANT_NAME'))
_TOKENS: Final = ('HTTP_X_AUTH_TOKEN', 'HTTP_X_SERVICE_TOKEN', 'HTTP_X_STORAGE_TOKEN')

# RFC 9110, section 7.6.1, and the two that are for the nearest proxy (sections 11.7.1 and 11.7.2).
_OF_CONNECTION: Final = frozenset(('connection', 'proxy-connection', 'keep-alive', 'te', 'trailer',
                                   'transfer-encoding', 'upgrade', 'proxy-authenticate', 'proxy-authorization'))
# Made anew here, or handled (Expect). With an underscore in its name a length would get in beside the server's.
_MADE_HERE: Final = frozenset(('host', 'content-length', 'content-type', 'expect', 'via', 'x-forwarded-for',
                               'x-forwarded-proto'))
_LOCATIONS: Final = ('location', 'content-location')
_DEFAULT_PORT: Final = {'http': ':80', 'https': ':443'}
_URL: Final = re.compile(r'(?:(https?):)?//([^/?#]*)(.*)', re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the backend is.

    :param authority: host and port, as in its URL
    :param prefix: the path of its URL without a slash at the end
    """

    scheme: str
    authority: str
    prefix: str


def of_request(environ: Mapping[str, Any], origin: Origin, forward_identity: bool) -> RawHeaders:
    """The headers for the backend, without those that tell how long the body is.

    The Host is the client's, as from HAProxy: Glance builds its links from it. Where the client comes from and by
    which scheme is told in X-Forwarded-For and X-Forwarded-Proto (oslo.middleware's http_proxy_to_wsgi), where
    what a proxy before this one has said of the scheme stays.
    """
    named = _named(str(environ.get('HTTP_CONNECTION') or ''))
    headers = [('host', str(environ.get('HTTP_HOST') or origin.authority))]
    if environ.get('CONTENT_TYPE'):
        headers.append(('content-type', environ['CONTENT_TYPE']))
    for key, value in environ.items():
        name = key[5:].lower().replace('_', '-')
        if not key.startswith('HTTP_') or name in _OF_CONNECTION or name in _MADE_HERE:
            continue
        # A client may take back what it has sent, but not who it is said to be.
        if name in named and key not in IDENTITY and key not in _TOKENS:
            continue
        if forward_identity or key not in IDENTITY:
            headers.append((name, str(value)))
    protocol = str(environ.get('SERVER_PROTOCOL') or 'HTTP/1.1').removeprefix('HTTP/')
    headers += [('via', _joined(environ.get('HTTP_VIA'), f'{protocol} {PSEUDONYM}')),
                ('x-forwarded-for', _joined(environ.get('HTTP_X_FORWARDED_FOR'), environ.get('REMOTE_ADDR'))),
                ('x-forwarded-proto', scheme_of_client(environ))]
    return [(name.encode('latin-1'), _encoded(value.strip(' \t'))) for name, value in headers if name]


def scheme_of_client(environ: Mapping[str, Any]) -> str:
    """By which scheme the client came: ``http`` or ``https``."""
    said = str(environ.get('HTTP_X_FORWARDED_PROTO') or '').partition(',')[0].strip().lower()
    return said if said in _DEFAULT_PORT else str(environ['wsgi.url_scheme'])


def of_answer(raw: Iterable[tuple[bytes, bytes]], environ: Mapping[str, Any], origin: Origin) -> Headers:
    """The headers for the client, in the backend's order."""
    given = [(name.decode('latin-1'), value.decode('latin-1')) for name, value in raw]
    names = {name.lower() for name, _ in given}
    left_out = _OF_CONNECTION.union(*(_named(value) for name, value in given if name.lower() == 'connection'))
    if 'transfer-encoding' in names:
        # RFC 9112, section 6.3: a length beside it means nothing.
        left_out |= {'content-length'}
    else:
        left_out -= {'content-length'}
    return [(name, way_back(value, environ, origin) if name.lower() in _LOCATIONS else value)
            for name, value in given if name.lower() not in left_out]


def way_back(value: str, environ: Mapping[str, Any], origin: Origin) -> str:
    """A ``Location`` of the backend as one of this proxy; one that leads elsewhere is left as it is."""
    match = _URL.match(value)
    if match is None:
        return _mounted(value, environ, origin) or value if value.startswith('/') else value
    scheme, authority, path = match.groups()
    host = str(environ.get('HTTP_HOST') or f'{environ["SERVER_NAME"]}:{environ["SERVER_PORT"]}')
    # The backend knows itself by the Host it was sent, or by a name of its own.
    if _plain(authority) not in (_plain(origin.authority), _plain(host)):
        return value
    mounted = _mounted(path or '/', environ, origin)
    if mounted is None:
        return value
    return f'{scheme_of_client(environ)}://{host}{mounted}' if scheme else f'//{host}{mounted}'


def _mounted(path: str, environ: Mapping[str, Any], origin: Origin) -> str | None:
    below = path.removeprefix(origin.prefix)
    if not path.startswith(origin.prefix) or (below and below[0] not in '/?#'):
        return None
    script = quote(str(environ.get('SCRIPT_NAME') or '').encode('latin-1'), safe="/:@!$&'()*+,;=")
    return script + (below if below.startswith('/') else '/' + below)


def _plain(authority: str) -> str:
    host = authority.lower()
    for port in _DEFAULT_PORT.values():
        host = host.removesuffix(port)
    return host


def _named(connection: str) -> frozenset[str]:
    return frozenset(name.strip().lower().replace('_', '-') for name in connection.split(','))


def _encoded(value: str) -> bytes:
    try:
        # PEP 3333: strings of an environ hold bytes.
        return value.encode('latin-1')
    except UnicodeEncodeError:
        # authtoken puts names of users and projects into it as they are.
        return value.encode()


def _joined(before: object, more: object) -> str:
    return ', '.join(str(value) for value in (before, more) if value)
