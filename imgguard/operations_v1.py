"""Recognise what a request wants from the Images API v1, and of which version an URL speaks: no I/O.

In front of a whole Glance an URL has more spellings than behind its version negotiation
(``glance/api/middleware/version_negotiation.py``, of which :func:`negotiated` is the likeness). Sources are those of
Glance 15.0.2, the last release on PyPI with v1.
"""

import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from imgguard import operations
from imgguard.operations import MEDIA_TYPE, Action, Operation

Environ = dict[str, Any]

_VERSION: Final = re.compile(r'v(1|2)(?:\.\d+)?')
_SLASHES: Final = re.compile('//+')
# "detail" is a list and never the id of an image (glance/api/v1/router.py).
_PATH: Final = re.compile(r'/v1/images(?:/(?:(?P<detail>detail)|(?P<image>[^/]+?)))?$')
_INDEX: Final = re.compile(r'/v1/$')
_LENGTH: Final = re.compile(r'\s*\+?0*[1-9][0-9]*\s*', re.ASCII)
# As webob/acceptparse.py of WebOb 1.7 reads the header: parameters other than q count for nothing.
_ACCEPTED: Final = re.compile(r',\s*([^\s;,\n]+)(?:[^,]*?;\s*q=([0-9.]*))?')

_COPY_FROM: Final = 'HTTP_X_GLANCE_API_COPY_FROM'
_LOCATION: Final = 'HTTP_X_IMAGE_META_LOCATION'
# As glance/common/wsgi.py, JSONRequestDeserializer.has_body.
_ENCODINGS: Final = frozenset({'chunked', 'compress', 'deflate', 'gzip', 'identity'})
_MAY_HAVE_BODY: Final = frozenset({'POST', 'PUT', 'PATCH'})


def negotiated(environ: Environ) -> str:
    """The path as Glance's version negotiation leaves it: begins with ``/v1`` or ``/v2``, or is ``''``.

    A version stands in the path (``/v1.1/images``) or in the header Accept (``application/vnd.openstack.images-v1``).
    Glance looks into the header first, and then has no route for a path that names a version too; but what it takes
    for a version there depends on its WebOb. So here the path comes first: nothing that Glance does is missed. Which
    minor versions a Glance speaks only it knows: here they all pass.
    """
    path: str = environ.get('PATH_INFO', '')
    version, slash, rest = path.lstrip('/').partition('/')
    match = _VERSION.fullmatch(version)
    if match is not None:
        return _SLASHES.sub('/', f'/v{match[1]}{slash}{rest}')
    accept = accepted(environ.get('HTTP_ACCEPT') or '')
    match = _VERSION.fullmatch(accept.removeprefix(MEDIA_TYPE)) if accept.startswith(MEDIA_TYPE) else None
    return _SLASHES.sub('/', f'/v{match[1]}{path}') if match else ''


def accepted(header: str) -> str:
    """The header as Glance looks at it (``MIMEAccept.parse`` and ``Accept.__str__`` of WebOb 1.7)."""
    accepted = []
    for name, quality in _ACCEPTED.findall(',' + header):
        major, slash, minor = name.lower().partition('/')
        if not slash or '/' in minor or ('*' in major and major + minor != '**') or ('*' in minor and minor != '*'):
            continue
        try:
            whole = not quality or float(quality) >= 1
        except ValueError:
            whole = True
        accepted.append(f'{major}/{minor}' if whole else f'{major}/{minor};q={quality}')
    return ', '.join(accepted)


def recognise_negotiated(environ: Environ) -> Operation | None:
    """Say which operation of either version the request is, in front of where Glance negotiates the version."""
    path: str = environ.get('PATH_INFO', '')
    if path.startswith('/v2/'):
        return operations.recognise(environ)
    path = negotiated(environ)
    return operations.recognise({**environ, 'PATH_INFO': path}) if path.startswith('/v2') else recognise(environ)


def recognise(environ: Environ) -> Operation | None:
    """Say which operation of v1 the request is, or ``None`` when it is none of ours.

    What brings data is :attr:`Action.UPLOAD` (a body), :attr:`Action.IMPORT` (``x-glance-api-copy-from``) or
    :attr:`Action.ADD_LOCATION`, with an image id for ``PUT``, and with none for a ``POST`` that creates the image
    too. HEAD is :attr:`Action.SHOW` and GET :attr:`Action.DOWNLOAD`.
    """
    path = negotiated(environ)
    if not path.startswith('/v1'):
        return None
    if _INDEX.match(path):
        # Whatever the method.
        return Operation(Action.LIST, version=1)
    match = _PATH.match(path)
    if match is None:
        return None
    method = _method(environ)
    if match['detail']:
        # Glance refuses HEAD by the method that was sent (glance/api/v1/images.py, detail).
        is_list = method in ('GET', 'HEAD') and environ['REQUEST_METHOD'] != 'HEAD'
        return Operation(Action.LIST_DETAIL, version=1) if is_list else None
    if match['image'] is None:
        action = {'GET': Action.LIST, 'POST': _brings(environ) or Action.CREATE}.get(method)
    else:
        action = {'HEAD': Action.SHOW, 'GET': Action.DOWNLOAD, 'DELETE': Action.DELETE,
                  'PUT': _brings(environ) or Action.UPDATE}.get(method)
    return Operation(action, match['image'] or '', version=1) if action else None


def _brings(environ: Environ) -> Action | None:
    """How the request brings data (``glance/api/v1/images.py``, ``_handle_source``); of several ways the body."""
    if _has_body(environ):
        return Action.UPLOAD
    # In this order (_external_source); nothing comes of an empty location, and an empty address is refused.
    if _LOCATION in environ:
        return Action.ADD_LOCATION if environ[_LOCATION] else None
    return Action.IMPORT if _COPY_FROM in environ else None


def _has_body(environ: Environ) -> bool:
    encoding = str(environ.get('HTTP_TRANSFER_ENCODING') or '').lower()
    if encoding in _ENCODINGS and environ['REQUEST_METHOD'].upper() in _MAY_HAVE_BODY:
        return True
    return _LENGTH.fullmatch(str(environ.get('CONTENT_LENGTH') or '')) is not None


def _method(environ: Environ) -> str:
    """As the Routes of that time take it from the query (``routes/middleware.py``): an empty one counts as well."""
    query: str = environ.get('QUERY_STRING', '')
    method: str = environ['REQUEST_METHOD']
    if '_method' in query:
        for pair in re.split('[&;]', query):
            name, _, value = (unquote_to_bytes(part.replace('+', ' ')).decode('utf-8', 'ignore')
                              for part in pair.partition('='))
            if name == '_method':
                method = value.upper()
    return method
