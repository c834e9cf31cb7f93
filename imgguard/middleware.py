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
    """

    def __init__(self, application: Application, handlers: Mapping[Action, Handler]) -> None:
        self._application = application
        self._handlers = handlers

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        operation = recognise(environ)
        if operation is None:
            return self._application(environ, start_response)
        by = caller(environ)
        if by is None:
            LOG.error('imgguard stands before the filter "context" of the pipeline: requests are handed through '
                      'unguarded; put imgguard after context')
            return self._application(environ, start_response)
        return self._handlers[operation.action](environ, start_response, operation, by)
