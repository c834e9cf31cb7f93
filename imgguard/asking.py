"""How a client asks to keep an image: header, property at create, and what they may say."""

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

from imgguard import names, servers
from imgguard.body import Refused, Source, framing

Environ = dict[str, Any]

_WORDS: Final[Mapping[str, bool]] = {
    'true': True, '1': True, 'yes': True, 'on': True,
    'false': False, '0': False, 'no': False, 'off': False}
_VALUES: Final = 'true or false (also 1/0, yes/no, on/off)'
_MAX_SECONDS: Final = 31536000
_MAX_DOCUMENT: Final = 4 * 1024 * 1024
_BLOCK: Final = 64 * 1024


class BadRequest(ValueError):
    """A request to keep that cannot be understood; the text names header or property and the values."""


def keep(environ: Environ) -> bool | None:
    """What the header asks; ``None`` where it is absent.

    :raises BadRequest: for any value but the ones it names
    """
    value = environ.get(names.KEEP_ENVIRON)
    return None if value is None else _truth(str(value), f'The header {names.KEEP_HEADER}')


def give_up_after(environ: Environ) -> int | None:
    """The seconds within which the data must have come; ``None`` where nothing was said.

    :raises BadRequest: for anything but 1 to 31536000
    """
    value = environ.get(names.GIVE_UP_AFTER_ENVIRON)
    if value is None:
        return None
    digits = str(value).strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9 and 1 <= int(digits) <= _MAX_SECONDS):
        raise BadRequest(f'The header {names.GIVE_UP_AFTER_HEADER} must be a number of seconds, '
                         f'1 to {_MAX_SECONDS}.')
    return int(digits)


def document(environ: Environ) -> tuple[Environ, bytes | None]:
    """Read the JSON document of a request ahead of Glance.

    :returns: an environ from which the body can be read again, and the body, or ``None`` where it has
        more than 4 MiB or no valid framing; Glance then meets it as it came
    """
    try:
        body = framing(environ)
        if body.length is not None and not 0 < body.length <= _MAX_DOCUMENT:
            return environ, None
        source = servers.source(environ, body)
        head = _head(source, body.length)
    except (Refused, OSError):
        # Ambiguous, or the connection is gone; Glance will meet that too, and answers it.
        return environ, None
    if len(head) > _MAX_DOCUMENT:
        return servers.with_body(environ, _Again(head, source), body), None
    # A body that was cut stays one: its announced length stays.
    return with_document(environ, head, body.length or len(head)), head


def _head(source: Source, length: int | None) -> bytes:
    if length is not None:
        return source.read(length)
    head = b''
    while len(head) <= _MAX_DOCUMENT and (block := source.read(_BLOCK)):
        head += block
    return head


class _Again:
    """What was read of a body already, and then the rest of it."""

    def __init__(self, head: bytes, rest: Source) -> None:
        self._head, self._rest = head, rest

    def read(self, *size: int) -> bytes:
        if self._head:
            wanted = size[0] if size and size[0] is not None and size[0] >= 0 else len(self._head)
            head, self._head = self._head[:wanted], self._head[wanted:]
            return head
        return self._rest.read(*size)


def with_document(environ: Environ, body: bytes, length: int) -> Environ:
    """The environ with this document as its body."""
    changed = dict(environ)
    changed['wsgi.input'] = BytesIO(body)
    changed['CONTENT_LENGTH'] = str(length)
    for key in ('HTTP_TRANSFER_ENCODING', 'webob.is_body_seekable'):
        changed.pop(key, None)
    return changed


def mentions_property(body: bytes) -> bool:
    """Whether a JSON document can contain the property that asks to keep, escaped or not."""
    return names.KEEP_PROPERTY.encode() in body or b'\\u' in body


def take_property(environ: Environ) -> tuple[Environ, bool | None]:
    """Take the property that asks to keep out of the document of a create.

    :returns: the environ to hand on, and what was asked
    :raises BadRequest: for a value that is none of the words
    """
    environ, body = document(environ)
    if body is None or not mentions_property(body):
        return environ, None
    try:
        properties = json.loads(body)
    except (ValueError, RecursionError):
        return environ, None
    if not isinstance(properties, dict) or names.KEEP_PROPERTY not in properties:
        return environ, None
    value = properties.pop(names.KEEP_PROPERTY)
    asked = value if isinstance(value, bool) else _truth(str(value), f'The property {names.KEEP_PROPERTY}')
    rest = json.dumps(properties).encode()
    return with_document(environ, rest, len(rest)), asked


def _truth(value: str, what: str) -> bool:
    try:
        return _WORDS[value.strip().lower()]
    except KeyError:
        raise BadRequest(f'{what} must be {_VALUES}.') from None
