"""How the Images API v2 spells status, properties and schema of an image in error."""

import json
import re
import time
from collections.abc import Mapping, Set
from typing import Any, Final

from imgguard import codes, names
from imgguard.attempts import ErrorState, ImageRecord

Json = dict[str, Any]

STATUS_KILLED: Final = 'killed'

WAITING_STATUSES: Final = frozenset({'queued', 'saving', 'uploading', 'importing'})
"""The statuses of an image whose data may still come."""

ERROR_STATUSES: Final = WAITING_STATUSES | {STATUS_KILLED}
"""The statuses of an image that has no data; only under these can it be in error.

``killed`` is set by Glances that have the API v1 (glance 15, ``glance/api/v1/upload_utils.py``, ``safe_kill``).
"""

PATCH_MEDIA_TYPES: Final = frozenset(f'application/openstack-images-v2.{minor}-json-patch' for minor in (0, 1))

may_be_in_error: Final = re.compile(rb'"status": ?"(?:' + '|'.join(sorted(ERROR_STATUSES)).encode() + rb')"').search
"""Whether an answer can contain an image in error; a cheap test that is never wrong where it finds nothing."""

# How glance/api/v2/images.py, ResponseSerializer, writes a list. A quotation mark within a text is escaped.
_LIST: Final = '{"images": ['
_IMAGE_ENDS: Final = re.compile(r'"schema": "/v2/schemas/image"(?:, "stores": "[^"]*")?\}')
_BETWEEN: Final = ', '
# Made once, for it takes a fifth of the time in which it writes an image.
_dumps: Final = json.JSONEncoder(ensure_ascii=False).encode
_NULLED: Final = ('size', 'virtual_size', 'checksum', 'os_hash_algo', 'os_hash_value')
_REMOVED: Final = ('stores', 'direct_url', 'locations')

_PROPERTIES: Final = {
    names.ERROR: 'Why the data of the image did not arrive whole.',
    names.ERROR_CODE: 'The same as a word for programs: ' + ', '.join(codes.CODES) + '.',
    names.ERROR_AT: 'When the image went to error (ISO 8601, UTC).',
    names.ERROR_RETRYABLE: 'Whether sending the same data again to this image can help: true or false.',
    names.ERROR_REQUEST_ID: 'The request that failed.',
    names.ERROR_ATTEMPTS: 'How many attempts were made to bring the data.',
    names.GIVE_UP_AT: 'When an image that still waits for its data will be given up (ISO 8601, UTC).'}


def images_of(document: Any) -> list[Json]:
    """The images in the document of a list, a show, a create or an update; empty for another shape."""
    if not isinstance(document, dict):
        return []
    found = document.get('images')
    # An image may have a property of that name, which is a string.
    return [image for image in (found if isinstance(found, list) else [document]) if _is_image(image)]


class Page:
    """The images in an answer of Glance's, and the answer again with some of them changed.

    Of a list only those are written anew: to write a thousand takes three times as long as to read them.

    :ivar images: as of :func:`images_of`
    :raises ValueError: the answer is no JSON
    """

    def __init__(self, body: bytes) -> None:
        self._text: Final = body.decode()
        self._document: Final = json.loads(self._text)
        self.images: Final = images_of(self._document)

    def written(self, changed: Set[int]) -> bytes:
        """The answer with these of its images as they are now, by their places from 0 on."""
        if not self._text.startswith(_LIST):
            return dump(self._document)
        ends = [found.end() for found in _IMAGE_ENDS.finditer(self._text)]
        # Where nested values are shown, something in an image may look like the end of one: then there are too many.
        if not len(ends) == len(self.images) == len(self._document['images']):
            return dump(self._document)
        begins = [len(_LIST), *(end + len(_BETWEEN) for end in ends)]
        parts, behind = [], 0
        for number in sorted(changed):
            parts += [self._text[behind:begins[number]], _dumps(self.images[number])]
            behind = ends[number]
        return ''.join([*parts, self._text[behind:]]).encode()


def _is_image(image: Any) -> bool:
    return (isinstance(image, dict) and isinstance(image.get('id'), str) and isinstance(image.get('created_at'), str)
            and isinstance(image.get('status'), str))


def error_of(image: Json, records: Mapping[tuple[str, str], ImageRecord]) -> tuple[ImageRecord, ErrorState] | None:
    """The verdict this image shows now, if it is in error.

    An image that has data is never in error, whatever the store says; nor is one
    while a newer attempt is alive, or may go on without its worker.
    """
    record = records.get((image['id'], image['created_at']))
    if record is None or record.error is None or image['status'] not in ERROR_STATUSES:
        return None
    if record.running is not None and record.running.holds:
        return None
    return record, record.error


def show_error(image: Json, record: ImageRecord, error: ErrorState, status: str, details: bool) -> None:
    """Write the verdict into an image of an answer.

    :param status: the status to show
    :param details: whether text, request id and number of attempts are for this caller
    """
    for key in _NULLED:
        if key in image:
            image[key] = None
    for key in _REMOVED:
        image.pop(key, None)
    image['status'] = status
    image[names.ERROR_CODE] = error.code
    image[names.ERROR_AT] = timestamp(error.at)
    # A newer imgguard on another host may know more codes.
    known = codes.CODES.get(error.code)
    image[names.ERROR_RETRYABLE] = 'true' if known is not None and known.retryable else 'false'
    if details:
        image[names.ERROR] = error.text
        image[names.ERROR_ATTEMPTS] = str(record.attempts)
        if error.request_id is not None:
            image[names.ERROR_REQUEST_ID] = error.request_id


def show_waiting(image: Json, records: Mapping[tuple[str, str], ImageRecord]) -> bool:
    """Write the deadline for its data into an image that waits, if it has one; whether it has."""
    record = records.get((image['id'], image['created_at']))
    if record is None or record.give_up_at is None or image['status'] not in WAITING_STATUSES:
        return False
    image[names.GIVE_UP_AT] = timestamp(record.give_up_at)
    return True


def written(body: bytes) -> set[str]:
    """The names that the document of an update adds or replaces, in either form of Glance's PATCH."""
    try:
        operations = json.loads(body)
    except (ValueError, RecursionError):
        return set()
    if not isinstance(operations, list):
        return set()
    paths = [path for operation in operations if isinstance(operation, dict) for path in _paths(operation)]
    return {path.strip('/').strip() for path in paths if isinstance(path, str)}


def _paths(operation: Json) -> list[Any]:
    # Which form counts is said by the Content-Type; Glance passes over the members of the other.
    of_v2_1 = [operation.get('path')] if operation.get('op') in ('add', 'replace') else []
    return [*of_v2_1, operation.get('add'), operation.get('replace')]


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as Glance spells a time: ``2026-11-22T22:19:29Z``."""
    return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(int(seconds)))


def dump(document: Any) -> bytes:
    """JSON as Glance writes it (``glance/api/v2/images.py``, ``ResponseSerializer``)."""
    return _dumps(document).encode()


def extend_schema(document: Any, of_list: bool, status: str) -> Any | None:
    """Add status and properties of the guard to a schema document; nothing is taken away.

    :param of_list: whether it is the schema of a list of images
    :returns: the changed document, or ``None`` for a document of another shape
    """
    try:
        image = document['properties']['images']['items'] if of_list else document
        properties = image['properties']
        statuses = properties['status']['enum']
        if status not in statuses:
            statuses.append(status)
        for name, description in _PROPERTIES.items():
            # A base property (no is_base) that is readOnly: nova and cinder then do not copy it, and command lines
            # do not offer it.
            properties.setdefault(name, {'type': ['null', 'string'], 'readOnly': True, 'description': description})
    except (KeyError, TypeError, AttributeError):
        return None
    return document
