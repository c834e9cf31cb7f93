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
from imgguard.operations import IMAGE, PARTS, Action, Operation, is_form
from imgguard.stopwatch import Stopwatch
from imgguard.wsgi import Application, Environ, StartResponse, unpacked

_IN_FORM: Final = 'A form cannot replace the method of a request: send the request with the method that is meant.'

Handler = Callable[[Environ, StartResponse, Operation, Caller], Iterable[bytes]]


def image_guard(application: Application, handlers: Mapping[int, Mapping[Action, Handler]],
                recognise: Callable[[Environ], Operation | None], identify: Callable[[Environ], Caller | None],
                start: Callable[[], None], around: Callable[[Caller], AbstractContextManager[None]] | None,
                stopwatch: Stopwatch, look: Application | None = None) -> Application:
    """The guard in front of ``application``, Glance's API in this process or the proxy in front of it.

    A function, for behind Glance a call of an object takes a microsecond more than one.

    :param handlers: one for each action, by the version of the API
    :param recognise: tells what a request wants; ``None`` where that is none of the guard's business
    :param identify: tells who sent a request; ``None`` where only Glance can answer it
    :param start: starts what each process needs once; called with the first request of any kind, and with the first of
        ours, for a process may have been forked after its first
    :param around: called with who sent a request, for as long as it is handled; ``None``: nothing is
    :param stopwatch: measures for whoever counts
    :param look: does what the handler for :attr:`Action.SHOW` of v2 does, in fewer steps and with nothing around it
    """
    process: int | None = None
    counts, parts = stopwatch.counts, PARTS

    def begin() -> None:
        nonlocal process
        start()
        process = os.getpid()

    def guarded(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if process is None:
            begin()
            return guard(environ, start_response)
        if environ['REQUEST_METHOD'] == 'POST' and is_form(environ):
            environ, replaced = asking.method_in_form(environ)
            if replaced:
                return webob.exc.HTTPBadRequest(explanation=_IN_FORM)(environ, start_response)
        operation = recognise(environ)
        handler = None if operation is None else handlers[operation.version].get(operation.action)
        if operation is None or handler is None:
            return application(environ, start_response)
        if process != os.getpid():
            begin()
        by = identify(environ)
        if by is None:
            return application(environ, start_response)
        if 'HTTP_ACCEPT_ENCODING' in environ and operation.action is not Action.DOWNLOAD:
            environ = unpacked(environ)
        if around is None and counts.recorder is None:
            return handler(environ, start_response, operation, by)
        with stopwatch.whole(environ, operation.action), around(by) if around else nullcontext():
            return handler(environ, start_response, operation, by)

    # What recognise() tells of nearly all requests, at a third of its cost. Behind Glance each call takes a microsecond
    # or two, and each name a tenth, also one of a function around that is not used: so here are few.
    def guard(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            path: str = environ['PATH_INFO']
        except KeyError:
            path = ''
        if path.count('/') > 3 and not path.endswith(parts) and '//' not in path and process is not None:
            return application(environ, start_response)
        if (path.startswith(IMAGE) and path.count('/') == 3 and environ['REQUEST_METHOD'] == 'GET'
                and not environ.get('QUERY_STRING') and look is not None and counts.recorder is None
                and process == os.getpid()):
            return look(environ, start_response)
        return guarded(environ, start_response)

    return guard
