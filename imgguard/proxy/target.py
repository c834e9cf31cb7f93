"""The request target: what the client sent, byte for byte, as long as it still says what the environ says.

Whoever stands in front of the proxy may have changed PATH_INFO or QUERY_STRING, or ask for something else on its own;
then these count. The servers give the raw target in REQUEST_URI (uWSGI, cheroot) or RAW_URI (gunicorn).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

_ABSOLUTE: Final = re.compile(rb'[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*')
_ESCAPED_SLASH: Final = re.compile(rb'%2[fF]')
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
    raw_path, mark, raw_query = _without_authority(raw).partition(b'#')[0].partition(b'?')
    below = _below(raw_path, _bytes(environ, 'SCRIPT_NAME'), path)
    if below is not None and raw_query == query:
        return prefix + _escaped(below + mark + raw_query)
    plain = prefix + quote(path, safe=_IN_PATH).encode() or b'/'
    return plain + (b'?' + _escaped(query) if query else b'')


def origin_form(path: str) -> str | None:
    """The path in a PATH_INFO that is a whole URL (RFC 9112, section 3.2.2); ``None`` where it is none.

    uWSGI hands an absolute target on as it is.
    """
    match = _ABSOLUTE.match(path.encode('latin-1'))
    return None if match is None else path[match.end():] or '/'


def _without_authority(raw: bytes) -> bytes:
    match = _ABSOLUTE.match(raw)
    if match is None:
        return raw
    rest = raw[match.end():]
    return rest if rest.startswith(b'/') else b'/' + rest


def _below(raw: bytes, script: bytes, path: bytes) -> bytes | None:
    """What of the raw path is below the mount point, where it says the same as ``path``."""
    if not raw.startswith(b'/'):
        return None
    # A gateway in front may have cut the mount point off what it sent on (oslo.middleware's http_proxy_to_wsgi).
    for below in (_cut(raw, script), raw):
        if below is not None and path in _meanings(below):
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


def _meanings(raw: bytes) -> Iterator[bytes]:
    """What servers make of a raw path.

    cheroot leaves an escaped slash as it is (``cheroot/server.py``, ``QUOTED_SLASH_REGEX``); uWSGI resolves dot
    segments (RFC 3986, section 5.2.4).
    """
    yield unquote_to_bytes(raw)
    yield b'%2F'.join(unquote_to_bytes(part) for part in _ESCAPED_SLASH.split(raw))
    yield _resolved(unquote_to_bytes(raw))


def _resolved(path: bytes) -> bytes:
    kept: list[bytes] = []
    segments = path.split(b'/')[1:]
    for segment in segments:
        if segment == b'..':
            del kept[-1:]
        elif segment != b'.':
            kept.append(segment)
    if segments and segments[-1] in (b'.', b'..'):
        kept.append(b'')
    return b'/' + b'/'.join(kept)


def _escaped(raw: bytes) -> bytes:
    return _UNSENDABLE.sub(lambda match: b'%%%02X' % match[0][0], raw)


def _bytes(environ: Mapping[str, Any], name: str) -> bytes:
    # PEP 3333: strings of an environ hold bytes.
    return str(environ.get(name) or '').encode('latin-1')
