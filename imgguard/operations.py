"""Recognise what a request wants from the Images API: one table of routes, no I/O.

Glance's pipeline treats more spellings as the same request than the plain path and method show, and
a guard that missed one of them could be walked round:

* paste's URL map collapses repeated slashes (``paste/urlmap.py``, ``URLMap.normalize_url``);
* the Routes middleware lets ``?_method=PUT`` in the query replace the method
  (``routes/middleware.py``, ``RoutesMiddleware.__call__``); what is in a query, WebOb decides;
* a path may end in a line feed, for the expressions of Routes end in ``$``
  (``routes/route.py``, ``Route.buildfullreg``).
"""

import re
from enum import StrEnum
from typing import Any, Final, NamedTuple

from webob import Request

Environ = dict[str, Any]


class Action(StrEnum):
    """What the request does, as far as the guard cares."""

    CREATE = 'create'
    LIST = 'list'
    LIST_DETAIL = 'list detail'
    SHOW = 'show'
    UPDATE = 'update'
    DELETE = 'delete'
    UPLOAD = 'upload'
    STAGE = 'stage'
    IMPORT = 'import'
    ADD_LOCATION = 'add location'
    LOCATIONS = 'locations'
    DOWNLOAD = 'download'
    ATTEMPTS = 'attempts'
    SCHEMA = 'schema'
    LIST_SCHEMA = 'list schema'


class Operation(NamedTuple):
    """A recognised request; a tuple, for each request has one and a frozen dataclass takes three times as long to make.

    :param image_id: as the path spells it; ``''`` where the path names no image
    :param version: of the Images API
    """

    action: Action
    image_id: str = ''
    version: int = 2


_COLLECTION: Final = {'GET': Action.LIST, 'POST': Action.CREATE}
_IMAGE: Final = {'GET': Action.SHOW, 'PATCH': Action.UPDATE, 'DELETE': Action.DELETE}
# By what follows the image in the path. Glance has no route for "attempts": it is the guard's own.
_PART: Final = {
    'file': {'PUT': Action.UPLOAD, 'GET': Action.DOWNLOAD},
    'stage': {'PUT': Action.STAGE},
    'import': {'POST': Action.IMPORT},
    'locations': {'POST': Action.ADD_LOCATION, 'GET': Action.LOCATIONS},
    'attempts': {'GET': Action.ATTEMPTS}}
PARTS: Final = tuple(f'/{part}{end}' for part in _PART for end in ('', '\n'))
"""How every path of ours ends that is longer than that of an image."""

_SCHEMAS: Final = {'/v2/schemas/image': Action.SCHEMA, '/v2/schemas/images': Action.LIST_SCHEMA}
MEDIA_TYPE: Final = 'application/vnd.openstack.images-'
_FORMS: Final = ('application/x-www-form-urlencoded', 'multipart/form-data')
_IMAGES: Final = '/v2/images'
IMAGE: Final = f'{_IMAGES}/'
"""How the path of an image begins, in its plainest spelling."""
_SLASHES: Final = re.compile('//+')


def recognise(environ: Environ) -> Operation | None:
    """Say which operation the request is, or ``None`` when it is none of ours."""
    path: str = environ.get('PATH_INFO', '')
    if '//' in path:
        path = _SLASHES.sub('/', path)
    if not path.startswith(_IMAGES):
        action = _SCHEMAS.get(path.removesuffix('\n'))
        return Operation(action) if action and _method(environ) == 'GET' else None
    # Taken apart, not matched: behind Glance an expression takes longer than all else for a request that is not ours.
    behind, *inside = path[len(_IMAGES):].removesuffix('\n').split('/', 3)
    if behind:
        return None
    image_id = inside[0] if inside else ''
    if len(inside) == 2:
        actions = _PART.get(inside[1])
    elif len(inside) == 1:
        actions = _IMAGE
    else:
        actions = None if inside else _COLLECTION
    if actions is None or (inside and not image_id):
        return None
    action = actions.get(_method(environ) if environ.get('QUERY_STRING') else environ['REQUEST_METHOD'])
    return None if action is None else Operation(action, image_id)


def is_form(environ: Environ) -> bool:
    """Whether Routes looks for another method in the body of a POST for an image.

    Source: ``routes/middleware.py``, ``is_form_post``.
    """
    return ('images' in environ.get('PATH_INFO', '')
            and str(environ.get('CONTENT_TYPE') or '').partition(';')[0] in _FORMS)


def spellings(image_id: str) -> list[str]:
    """The ids a Glance on MariaDB may mean by that of a path: it finds them in any case, and with spaces behind."""
    return list({image_id, image_id.rstrip(), image_id.rstrip().lower()})


def _method(environ: Environ) -> str:
    query: str = environ.get('QUERY_STRING', '')
    replaced = None
    if '_method' in query:
        try:
            replaced = Request({'QUERY_STRING': query}).GET.get('_method')
        except UnicodeError:
            # Routes takes such a query for one without it.
            pass
    method: str = replaced.upper() if replaced else environ['REQUEST_METHOD']
    return method
