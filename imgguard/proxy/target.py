"""The request target: what the client sent, byte for byte, as long as it still says what the environ says.

Whoever stands in front of the proxy may have changed PATH_INFO or QUERY_STRING, or ask for something else on its own;
then these count. The servers give the raw target in REQUEST_URI (uWSGI, cheroot) or RAW_URI (gunicorn).
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

_ABSOLUTE: Final = re.compile(rb'[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*')
_ESCAPED_SLASH: Final = re.compile(rb'%2[fF]')
_NO_ESCAPE: Final = re.compile(rb'%(?![0-9a-fA-F]{2})')
_UNSENDABLE: Final = re.compile(rb'[^\x21-\x7e]')
# RFC 3986, section 3.3: what a path segment may hold as it is, and the slash between them.
_IN_PATH: Final = "/:@!$&'()*+,;="


def target(environ: Mapping[str, Any], prefix: bytes = b'') -> bytes:
    """The target for the backend (RFC 9112, section 3.2.1, origin-form).

    :param prefix: the path of the backend's own URL, without a slash at its end
    """
    path = _bytes(environ, 'PATH_INFO')
    query = _bytes(environ, 'QUERY_STRING').partition(b'#')[0]
    raw = _bytes(environ, 'REQUEST_URI') or _bytes(environ, 'RAW_URI')
    if environ.get('REQUEST_METHOD') == 'OPTIONS' and raw == b'*' and path in (b'*', b'/*') and not prefix:
        return b'*'
    _, mark, raw_query = raw.partition(b'#')[0].partition(b'?')
    below = _below(_path(raw), _bytes(environ, 'SCRIPT_NAME'), path)
    if below is not None and raw_query == query:
        return prefix + _escaped(below + mark + raw_query)
    plain = prefix + quote(path, safe=_IN_PATH).encode() or b'/'
    return plain + (b'?' + _escaped(query) if query else b'')


def ambiguous(environ: Mapping[str, Any]) -> bool:
    """Whether the server behind the proxy may make another path of the target than the one in front of it.

    Of a dot segment uWSGI makes the path it leads to, where its dots are not escaped; eventlet, gunicorn and cheroot
    leave it. Of an escaped slash all but cheroot make a slash. Of a ``%`` that begins no escape uWSGI makes a null
    byte, or nothing at the end of the path, and the others leave it. Each would be a way round the guard.
    """
    raw = _path(_bytes(environ, 'REQUEST_URI') or _bytes(environ, 'RAW_URI'))
    segments = (*unquote_to_bytes(raw).split(b'/'), *_bytes(environ, 'PATH_INFO').split(b'/'))
    return (_ESCAPED_SLASH.search(raw) is not None or _NO_ESCAPE.search(raw) is not None
            or any(segment in (b'.', b'..') for segment in segments))


def origin_form(path: str) -> str | None:
    """The path in a PATH_INFO that is a whole URL (RFC 9112, section 3.2.2); ``None`` where it is none.

    uWSGI hands an absolute target on as it is.
    """
    match = _ABSOLUTE.match(path.encode('latin-1'))
    return None if match is None else path[match.end():] or '/'


def _path(raw: bytes) -> bytes:
    """The path of a raw target, which may be a whole URL."""
    path = raw.partition(b'#')[0].partition(b'?')[0]
    match = _ABSOLUTE.match(path)
    return path if match is None else path[match.end():] or b'/'


def _below(raw: bytes, script: bytes, path: bytes) -> bytes | None:
    """What of the raw path is below the mount point, where it says the same as ``path``."""
    if not raw.startswith(b'/'):
        return None
    # A gateway in front may have cut the mount point off what it sent on (oslo.middleware's http_proxy_to_wsgi).
    for below in (_cut(raw, script), raw):
        if below is not None and unquote_to_bytes(below) == path:
            return below
    return None


def _cut(raw: bytes, script: bytes) -> bytes | None:
    """Take as much from the front of the raw path as means ``script``."""
    position = 0
    for wanted in script:
        length = 3 if raw[position:position + 1] == b'%' else 1
        if unquote_to_bytes(raw[position:position + length]) != bytes((wanted,)):
            return None
        position += length
    return raw[position:]


def _escaped(raw: bytes) -> bytes:
    return _UNSENDABLE.sub(lambda match: b'%%%02X' % match[0][0], raw)


def _bytes(environ: Mapping[str, Any], name: str) -> bytes:
    # PEP 3333: strings of an environ hold bytes.
    return str(environ.get(name) or '').encode('latin-1')
