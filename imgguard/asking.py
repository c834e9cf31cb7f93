"""How a client asks to keep an image: header, property at create, and what they may say."""

import json
from collections.abc import Collection, Mapping
from os.path import commonprefix
from io import BytesIO
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from imgguard import names

Environ = dict[str, Any]

_WORDS: Final[Mapping[str, bool]] = {
    'true': True, '1': True, 'yes': True, 'on': True,
    'false': False, '0': False, 'no': False, 'off': False}
_VALUES: Final = 'true or false (also 1/0, yes/no, on/off)'
_MAX_SECONDS: Final = 31536000
_MAX_DOCUMENT: Final = 4 * 1024 * 1024
_OURS: Final = commonprefix(list(names.PROPERTIES)).encode()


class BadRequest(ValueError):
    """A request to keep that cannot be understood; the text names header or property and the values."""


def keep(environ: Environ) -> bool | None:
    """What the header asks; ``None`` where it is absent.

    :raises BadRequest: for any value but the ones it names
    """
    value = environ.get(names.KEEP_ENVIRON)
    return None if value is None else truth(str(value), f'The header {names.KEEP_HEADER}')


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


class Reserved(ValueError):
    """A request writes this property, which is the guard's own."""

    def __init__(self, name: str) -> None:
        # As glance/api/v2/images.py, RequestDeserializer, says it of its own reserved names.
        super().__init__(f"Attribute '{name}' is reserved.")


def document(environ: Environ) -> tuple[Environ, bytes | None]:
    """Read the JSON document of a request ahead of Glance.

    :returns: an environ from which the body can be read again, and the body, or ``None`` where it is
        chunked, has more than 4 MiB or no length; Glance then meets it as it came. (A chunked document
        cannot be read ahead alike on every server: under uWSGI Glance itself fails on it.)
    """
    length = str(environ.get('CONTENT_LENGTH') or '').strip()
    if environ.get('HTTP_TRANSFER_ENCODING') or not (length.isascii() and length.isdigit() and len(length) < 9):
        return environ, None
    if not 0 < int(length) <= _MAX_DOCUMENT:
        return environ, None
    try:
        body = environ['wsgi.input'].read(int(length))
    except Exception as error:
        # The connection is gone, or whatever the server says; Glance must meet just that, and answers it.
        return with_document(environ, _Broken(error), int(length)), None
    # A body that was cut stays one: its announced length stays.
    return with_document(environ, body, int(length)), body


def method_in_form(environ: Environ) -> tuple[Environ, bool]:
    """Whether a form may replace the method of its request, as Routes has it.

    A form is what curl makes of any document without another Content-Type, and Glance does not mind.

    :returns: an environ from which the body can be read again, and the answer; true, too, of a body that cannot be read
        ahead
    """
    if environ.get('CONTENT_LENGTH') in (None, '', '0') and not environ.get('HTTP_TRANSFER_ENCODING'):
        return environ, False
    environ, body = document(environ)
    return environ, body is None or b'_method' in unquote_to_bytes(body.replace(b'+', b' '))


class _Broken:
    """A body that cannot be read."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, *size: int) -> bytes:
        """Fail as the server did."""
        raise self._error


def with_document(environ: Environ, body: bytes | _Broken, length: int) -> Environ:
    """The environ with this document as its body."""
    changed = dict(environ)
    changed['wsgi.input'] = BytesIO(body) if isinstance(body, bytes) else body
    changed['CONTENT_LENGTH'] = str(length)
    changed.pop('webob.is_body_seekable', None)
    return changed


def mentions_property(body: bytes) -> bool:
    """Whether a JSON document can contain a property of the guard's, escaped or not."""
    return names.KEEP_PROPERTY.encode() in body or _OURS in body or b'\\u' in body


def refuse_reserved(written: Collection[str]) -> None:
    """See to it that only the guard writes its properties.

    :raises Reserved: one of these names is such a property
    """
    name = min(names.PROPERTIES.intersection(written), default=None)
    if name is not None:
        raise Reserved(name)


def take_property(environ: Environ) -> tuple[Environ, bool | None]:
    """Take the property that asks to keep out of the document of a create.

    :returns: the environ to hand on, and what was asked
    :raises BadRequest: for a value that is none of the words
    :raises Reserved: it sets a property that only the guard writes
    """
    environ, body = document(environ)
    if body is None or not mentions_property(body):
        return environ, None
    try:
        properties = json.loads(body)
    except (ValueError, RecursionError):
        return environ, None
    if not isinstance(properties, dict):
        return environ, None
    refuse_reserved(properties)
    if names.KEEP_PROPERTY not in properties:
        return environ, None
    value = properties.pop(names.KEEP_PROPERTY)
    asked = value if isinstance(value, bool) else truth(str(value), f'The property {names.KEEP_PROPERTY}')
    rest = json.dumps(properties).encode()
    return with_document(environ, rest, len(rest)), asked


def truth(value: str, what: str) -> bool:
    """What a word means.

    :param what: said it, for people
    :raises BadRequest: it is none of the words
    """
    try:
        return _WORDS[value.strip().lower()]
    except KeyError:
        raise BadRequest(f'{what} must be {_VALUES}.') from None
