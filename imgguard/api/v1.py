"""How the Images API v1 spells status, properties and requests; the same facts as :mod:`imgguard.api.v2`. No I/O.

An image is told in headers (HEAD and GET of one image), as ``{"image": {...}}`` (POST and PUT) or in a list. What is
said of Glance is so in 15.0.2, the last release on PyPI with v1.
"""

import re
import unicodedata
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

from webob import Response
from webob.exc import HTTPException, HTTPForbidden

from imgguard import asking, names, text
from imgguard.api import v2
from imgguard.attempts import ErrorState, ImageRecord
from imgguard.operations import spellings

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
Json = dict[str, Any]
Records = Mapping[tuple[str, str], ImageRecord]

_META: Final = 'x-image-meta-'
_PROPERTY: Final = 'x-image-meta-property-'
_STATUS: Final = f'{_META}status'
_SIZE: Final = f'{_META}size'
# What tells of data. An image that has none shows a size of 0 (glance/api/v1/images.py, _reserve), and none of these.
_OF_DATA: Final = frozenset({f'{_META}checksum', f'{_META}virtual_size', 'etag'})
_NULLED: Final = ('checksum', 'virtual_size')

_BRIEF: Final = ('id', 'name', 'size', 'disk_format', 'container_format', 'checksum')

_TIME: Final = re.compile(r'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)?')

# WSGI spells a header's dashes and underscores alike, as Glance does (glance/common/utils.py,
# get_image_meta_from_headers).
_META_ENVIRON: Final = 'HTTP_X_IMAGE_META_'
_ID_ENVIRON: Final = f'{_META_ENVIRON}ID'
_SIZE_ENVIRON: Final = f'{_META_ENVIRON}SIZE'
_LOCATION_ENVIRON: Final = f'{_META_ENVIRON}LOCATION'
_PROPERTY_ENVIRON: Final = f'{_META_ENVIRON}PROPERTY_'
_PURGE: Final = 'HTTP_X_GLANCE_REGISTRY_PURGE_PROPS'
_SOURCE: Final = frozenset({'CONTENT_LENGTH', 'CONTENT_TYPE', 'HTTP_TRANSFER_ENCODING', 'HTTP_EXPECT',
                            _LOCATION_ENVIRON, 'HTTP_X_GLANCE_API_COPY_FROM', 'wsgi.input_terminated'})
# What Glance looks at in the very request that brings the data (glance/api/v1/images.py, _upload, _handle_source).
_OF_SOURCE: Final = frozenset({_SIZE_ENVIRON, f'{_META_ENVIRON}STORE'})
_KEEP_ENVIRON: Final = _PROPERTY_ENVIRON + names.KEEP_PROPERTY.upper()


# Answers

def images_of(document: Any) -> list[Json]:
    """The images in the document of a list with details, a create or an update; empty for another shape."""
    if not isinstance(document, dict):
        return []
    found = document.get('images')
    images: list[Any] = found if isinstance(found, list) else [document.get('image')]
    return [image for image in images if _is_image(image)]


def _is_image(image: Any) -> bool:
    return (isinstance(image, dict) and all(isinstance(image.get(key), str) for key in ('id', 'created_at', 'status'))
            and isinstance(image.get('properties'), dict))


def as_v2(image: Json) -> Json:
    """What the guard needs to know of an image of v1, in the words of v2, so that the same record is found.

    Whether an image that is not public is private or shared, v1 does not tell: the visibility is then ``None``. A
    deleted image may keep the status it had (``glance/registry/api/v1/images.py``, ``delete``); here it is ``deleted``.
    """
    properties: Json = image['properties']
    return {'id': image['id'], 'created_at': created_at(image['created_at']),
            'status': 'deleted' if image.get('deleted') is True else image['status'],
            'owner': image.get('owner'), 'protected': image.get('protected') is True,
            'visibility': 'public' if image.get('is_public') is True else None,
            'image_type': properties.get('image_type'), 'checksum': image.get('checksum'),
            'updated_at': created_at(image['updated_at']) if isinstance(image.get('updated_at'), str) else None}


def brief(image: Json) -> Json:
    """The image as a brief list shows it (``glance/registry/api/v1/images.py``, ``DISPLAY_FIELDS_IN_INDEX``)."""
    return {name: image.get(name) for name in _BRIEF}


def created_at(value: str) -> str:
    """A time of v1 in the spelling of v2: ``2026-11-22T22:19:29.251478`` is ``2026-11-22T22:19:29Z``.

    As ``glance/common/timeutils.py``, ``isotime``, cuts it; what is no time stays as it is.
    """
    match = _TIME.fullmatch(value)
    return f'{match[1]}Z' if match else value


def image_of(headers: Headers, image_id: str) -> Json | None:
    """The image that the headers of an answer tell of, as JSON would; ``None`` for another answer.

    Values are strings as they are told, but for the truths that :func:`as_v2` looks at. A property's value may hold
    line ends and headers behind them, which Glance does not take out: an answer that tells a field twice, or of another
    image, is not believed.

    :param image_id: as the path spells it
    """
    told = [name.lower() for name, _ in headers if name.lower().startswith(_META)]
    if len(set(told)) < len(told):
        return None
    fields = {name.lower(): _decoded(value) for name, value in headers if name.lower().startswith(_META)}
    properties = {name.removeprefix(_PROPERTY): value for name, value in fields.items() if name.startswith(_PROPERTY)}
    image: Json = {name.removeprefix(_META): value for name, value in fields.items() if not name.startswith(_PROPERTY)}
    image['properties'] = properties
    for name in ('protected', 'is_public', 'deleted'):
        image[name] = image.get(name) == 'True'
    return image if _is_image(image) and image['id'] in spellings(image_id) else None


def _decoded(value: str) -> str:
    # Glance sends UTF-8, and WSGI carries bytes as Latin-1 (PEP 3333).
    return value.encode('latin-1', 'replace').decode('utf-8', 'replace')


def show_error(image: Json, record: ImageRecord, error: ErrorState, status: str, details: bool) -> None:
    """Write the verdict into an image of an answer in JSON.

    :param status: the status to show
    :param details: whether text, request id and number of attempts are for this caller
    """
    image.update(status=status, size=0)
    image.update({key: None for key in _NULLED if key in image})
    others = {name: value for name, value in image['properties'].items() if not is_reserved(name)}
    image['properties'] = {**others, **_properties(record, error, details)}


def show_error_in_headers(headers: Headers, record: ImageRecord, error: ErrorState, status: str,
                          details: bool) -> Headers:
    """The headers of an answer with the verdict in them; see :func:`show_error`.

    Values are one line of printable ASCII: Glance's own clients read no other well.
    """
    shown = {_STATUS: status, _SIZE: '0'} | {
        _PROPERTY + name: ascii_line(value) for name, value in _properties(record, error, details).items()}
    kept = [(name, value) for name, value in headers
            if name.lower() not in _OF_DATA and name.lower() not in shown and not _is_ours(name)]
    return [*kept, *shown.items()]


def without_data(headers: Headers) -> Headers:
    """The headers of an answer in JSON whose image is in error: they name no checksum."""
    return [(name, value) for name, value in headers if name.lower() not in _OF_DATA]


def show_waiting(image: Json, records: Records) -> bool:
    """Write the deadline for its data into an image of an answer in JSON, if it has one; whether it has."""
    given = _deadline(as_v2(image), records)
    image['properties'] |= given
    return bool(given)


def show_waiting_in_headers(headers: Headers, image: Json, records: Records) -> Headers:
    """The headers of an answer with the deadline in them, if the image has one.

    :param image: in the words of v2 (:func:`as_v2`)
    """
    given = _deadline(image, records)
    kept = [(name, value) for name, value in headers if name.lower().removeprefix(_PROPERTY) not in given]
    return [*kept, *((_PROPERTY + name, value) for name, value in given.items())]


def _deadline(image: Json, records: Records) -> dict[str, str]:
    shown = {key: image[key] for key in ('id', 'created_at', 'status')}
    return {names.GIVE_UP_AT: shown[names.GIVE_UP_AT]} if v2.show_waiting(shown, records) else {}


def _properties(record: ImageRecord, error: ErrorState, details: bool) -> dict[str, str]:
    shown: Json = {}
    v2.show_error(shown, record, error, '', details)
    del shown['status']
    return shown


def _is_ours(header: str) -> bool:
    return header.lower().startswith(_PROPERTY) and is_reserved(header.lower().removeprefix(_PROPERTY))


def ascii_line(value: str) -> str:
    """One line of printable ASCII: letters lose their marks, and what has no likeness becomes ``?``."""
    plain = unicodedata.normalize('NFKD', value)
    letters = ''.join(character for character in plain if not unicodedata.combining(character))
    line = text.one_line(letters.encode('ascii', 'replace').decode('ascii'), text.MAX_TEXT - len('..'))
    return line.replace('…', '...')


# Requests

def chosen_id(environ: Environ) -> str | None:
    """The id that the client of a create has chosen, which Glance takes as it is; ``None`` where it chose none."""
    return environ.get(_ID_ENVIRON) or None


def with_id(environ: Environ, image_id: str) -> Environ:
    """The environ of a create with that id chosen."""
    return {**environ, _ID_ENVIRON: image_id}


def names_location(environ: Environ) -> bool:
    """Whether a create names a location, too, which Glance keeps although it refuses two sources."""
    return bool(environ.get(_LOCATION_ENVIRON))


def image_type(environ: Environ) -> str | None:
    """The property ``image_type`` that a create sets."""
    return environ.get(f'{_PROPERTY_ENVIRON}IMAGE_TYPE')


def without_source(environ: Environ, image_id: str) -> Environ:
    """The environ of a create, with that id chosen, that leaves out what brings data."""
    rest = {name: value for name, value in environ.items() if name not in _SOURCE}
    if _is_zero(rest):
        # Glance would take an image of 0 bytes for complete (glance/api/v1/images.py, _reserve).
        del rest[_SIZE_ENVIRON]
    return {**with_id(rest, image_id), 'wsgi.input': BytesIO()}


def of_source(environ: Environ, image_id: str) -> Environ:
    """The environ of an upload or copy to that image with just what a create has of it."""
    rest = {name: value for name, value in environ.items() if not name.startswith(_META_ENVIRON) or name in _OF_SOURCE}
    if _is_zero(rest):
        del rest[_SIZE_ENVIRON]
    path = str(environ['PATH_INFO']).removesuffix('\n')
    return {**rest, 'REQUEST_METHOD': 'PUT', 'QUERY_STRING': '', 'PATH_INFO': f'{path}/{image_id}', _PURGE: 'false'}


def announced_size(environ: Environ) -> int | None:
    """The bytes that ``x-image-meta-size`` announces, with which Glance compares those that came.

    ``None`` where it tells nothing: absent, 0 (``glance/api/v1/upload_utils.py``, ``_kill_mismatched``), or nothing
    that Glance takes for a number.
    """
    value = str(environ.get(_SIZE_ENVIRON) or '').strip()
    return int(value) or None if value.isascii() and value.isdigit() and len(value) < 20 else None


def _is_zero(environ: Environ) -> bool:
    """Whether ``x-image-meta-size`` says 0, or nothing."""
    try:
        return _SIZE_ENVIRON in environ and int(environ[_SIZE_ENVIRON] or 0) == 0
    except ValueError:
        return False


def take_keep(environ: Environ) -> tuple[Environ, bool | None]:
    """Take the property that asks to keep the image out of a request.

    :returns: the environ to hand on, and what was asked; ``None`` where nothing was
    :raises imgguard.asking.BadRequest: for a value that is none of the words
    """
    if _KEEP_ENVIRON not in environ:
        return environ, None
    rest = dict(environ)
    return rest, asking.truth(str(rest.pop(_KEEP_ENVIRON)), f'The property {names.KEEP_PROPERTY}')


def reserved(environ: Environ, creates: bool) -> str | None:
    """A property of the guard's own that the request writes, if it does.

    :param creates: whether the request is a create, in which the property that asks to keep the image is welcome
    """
    if not creates and _KEEP_ENVIRON in environ:
        return names.KEEP_PROPERTY
    written = (name.removeprefix(_PROPERTY_ENVIRON).lower() for name in environ if name.startswith(_PROPERTY_ENVIRON))
    return next(filter(is_reserved, written), None)


def is_reserved(name: str) -> bool:
    """Whether a property is the guard's own; dashes are underscores to v1, and letters small."""
    name = name.lower().replace('-', '_')
    return name == names.GIVE_UP_AT or name == names.ERROR or name.startswith(f'{names.ERROR}_')


# Answers of the guard's own; text, HTML or JSON by the request's Accept, which is WebOb's work as it is Glance's

def refused(name: str) -> HTTPException:
    """The answer to a request that writes a reserved property (``glance/api/v1/images.py``, of protected ones)."""
    return HTTPForbidden(explanation=f"Property '{name}' is protected")


def deleted() -> Response:
    """The answer to a DELETE that was taken for the client's cleanup (``glance/api/v1/images.py``, ``delete``)."""
    return Response(body=b'', status=200)
