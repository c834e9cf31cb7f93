"""How long the guard itself takes: the whole of a request that is ours, less what Glance takes of it.

What the guard does while Glance reads a body (counting, hashing, holding the last bytes) is part of
Glance's time. Without anybody who counts, nothing is measured.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

from imgguard.counts import Counts
from imgguard.images import Caller
from imgguard.middleware import Handler
from imgguard.operations import Action, Operation
from imgguard.wsgi import Application, Environ, StartResponse

# Copies of the environ are shallow, so that all of them hold the same list.
_BELOW: Final = 'imgguard.seconds_below'


class Stopwatch:
    """Measures for one filter.

    :param clock: seconds of a clock that is never set back
    """

    def __init__(self, counts: Counts, clock: Callable[[], float] = time.perf_counter) -> None:
        self._counts = counts
        self._clock = clock

    def whole(self, action: Action, handler: Handler) -> Handler:
        """The handler of a kind of requests, measured."""
        def measured(environ: Environ, start_response: StartResponse, operation: Operation,
                     by: Caller) -> Iterable[bytes]:
            if not self._counts.wanted:
                return handler(environ, start_response, operation, by)
            below: list[float] = []
            environ[_BELOW] = below
            began = self._clock()
            try:
                return handler(environ, start_response, operation, by)
            finally:
                self._counts.took(action.value, self._clock() - began - sum(below))

        return measured

    def below(self, application: Application) -> Application:
        """Glance's application as the handlers call it, measured."""
        def measured(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            seconds = environ.get(_BELOW)
            if seconds is None:
                return application(environ, start_response)
            began = self._clock()
            try:
                return application(environ, start_response)
            finally:
                seconds.append(self._clock() - began)

        return measured
