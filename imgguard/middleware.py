"""The filter: recognises a request and hands it to who handles it.

A request that is none of ours costs one look at its path. What belongs to a request lives in local values.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import webob.exc

from imgguard import asking
from imgguard.images import Caller
from imgguard.operations import Action, Operation, is_form
from imgguard.stopwatch import Stopwatch
from imgguard.wsgi import Application, Environ, StartResponse, unpacked

_IN_FORM: Final = 'A form cannot replace the method of a request: send the request with the method that is meant.'

Handler = Callable[[Environ, StartResponse, Operation, Caller], Iterable[bytes]]


class ImageGuard:
    """The guard in front of ``application``, Glance's API in this process or the proxy in front of it.

    :param handlers: one for each action, by the version of the API
    :param recognise: tells what a request wants; ``None`` where that is none of the guard's business
    :param identify: tells who sent a request; ``None`` where only Glance can answer it
    :param start: starts what each process needs once; called with the first request of any kind, and with the first of
        ours, for a process may have been forked after its first
    :param around: called with who sent a request, for as long as it is handled; ``None``: nothing is
    :param stopwatch: measures for whoever counts
    """

    def __init__(self, application: Application, handlers: Mapping[int, Mapping[Action, Handler]],
                 recognise: Callable[[Environ], Operation | None],
                 identify: Callable[[Environ], Caller | None], start: Callable[[], None],
                 around: Callable[[Caller], AbstractContextManager[None]] | None, stopwatch: Stopwatch) -> None:
        self._application = application
        self._handlers = handlers
        self._recognise = recognise
        self._identify = identify
        self._start = start
        self._process: int | None = None
        self._around = around
        self._stopwatch = stopwatch

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if self._process is None:
            self._begin()
        if environ['REQUEST_METHOD'] == 'POST' and is_form(environ):
            environ, replaced = asking.method_in_form(environ)
            if replaced:
                return webob.exc.HTTPBadRequest(explanation=_IN_FORM)(environ, start_response)
        operation = self._recognise(environ)
        handler = None if operation is None else self._handlers[operation.version].get(operation.action)
        if operation is None or handler is None:
            return self._application(environ, start_response)
        if self._process != os.getpid():
            self._begin()
        by = self._identify(environ)
        if by is None:
            return self._application(environ, start_response)
        if 'HTTP_ACCEPT_ENCODING' in environ and operation.action is not Action.DOWNLOAD:
            environ = unpacked(environ)
        if self._around is None and self._stopwatch.counts.recorder is None:
            return handler(environ, start_response, operation, by)
        with self._stopwatch.whole(environ, operation.action), self._around(by) if self._around else nullcontext():
            return handler(environ, start_response, operation, by)

    def _begin(self) -> None:
        self._start()
        self._process = os.getpid()
