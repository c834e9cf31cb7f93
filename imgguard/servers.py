"""What differs between WSGI servers, and how the guard finds out.

Under uWSGI Glance reads a chunked body with ``uwsgi.chunked_read()`` and ignores ``wsgi.input``
(``glance/common/wsgi.py``, ``Request.body_file``). To see and judge such a body the guard reads it
itself and gives it to Glance as a plain stream that ends by itself.
"""

import importlib
import sys
from functools import cache
from typing import Any

from imgguard.body import Framing, Source, UwsgiChunks

Environ = dict[str, Any]


def uwsgi() -> Any | None:
    """The module ``uwsgi``, which exists within a uWSGI worker only."""
    return sys.modules['uwsgi'] if 'uwsgi' in sys.modules else _imported()


# Once, for to find nothing takes a search through all of sys.path.
@cache
def _imported() -> Any | None:
    try:
        return importlib.import_module('uwsgi')
    except ImportError:
        return None


def threads_run() -> bool:
    """Whether the server lets threads of Python run; uWSGI needs ``enable-threads`` or ``threads`` for it."""
    return bool(getattr(uwsgi(), 'has_threads', True))


def source(environ: Environ, body: Framing) -> Source:
    """Where the body of this request really comes from."""
    module = uwsgi() if body.chunked else None
    if module is not None:
        return UwsgiChunks(module.chunked_read)
    wsgi_input: Source = environ['wsgi.input']
    return wsgi_input


def with_body(environ: Environ, reader: Source, body: Framing) -> Environ:
    """The environ for Glance, with the reader as its body.

    WebOb's ``req.body_file = …`` would drop Content-Length, so the environ is changed directly.
    """
    changed = dict(environ)
    changed['wsgi.input'] = reader
    changed.pop('webob.is_body_seekable', None)
    if body.chunked and uwsgi() is not None:
        changed.pop('HTTP_TRANSFER_ENCODING', None)
        changed['wsgi.input_terminated'] = True
    return changed
