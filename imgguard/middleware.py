"""The filter: recognises a request and hands it to who handles it.

A request that is none of ours costs one look at its path. An instance does not change after it was
made; what belongs to a request lives in local values.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from imgguard.images import Caller, caller
from imgguard.operations import Action, Operation, recognise
from imgguard.wsgi import Application, Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

Handler = Callable[[Environ, StartResponse, Operation, Caller], Iterable[bytes]]


class ImageGuard:
    """The guard in front of ``application``, Glance's API in this process.

    :param handlers: one for each action
    :param start: called with every request, of whatever kind; starts what each process needs once
    """

    def __init__(self, application: Application, handlers: Mapping[Action, Handler],
                 start: Callable[[], None]) -> None:
        self._application = application
        self._handlers = handlers
        self._start = start

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self._start()
        operation = recognise(environ)
        handler = None if operation is None else self._handlers.get(operation.action)
        if operation is None or handler is None:
            return self._application(environ, start_response)
        by = caller(environ)
        if by is None:
            if 'context' not in environ.get('webob.adhoc_attrs', {}):
                LOG.error('imgguard stands before the filter "context" of the pipeline: requests are handed '
                          'through unguarded; put imgguard after context')
            return self._application(environ, start_response)
        return handler(environ, start_response, operation, by)
