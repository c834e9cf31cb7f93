"""How long the guard itself takes: the whole of a request that is ours, less what Glance takes of it.

What the guard does while Glance reads a body (counting, hashing, holding the last bytes) is part of
Glance's time. Without anybody who counts, nothing is measured.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from imgguard.counts import Counts
from imgguard.operations import Action
from imgguard.wsgi import Application, Environ, StartResponse

# Copies of the environ are shallow, so that all of them hold the same list.
_BELOW: Final = 'imgguard.seconds_below'


class Stopwatch:
    """Measures for one filter.

    :param clock: seconds of a clock that is never set back
    """

    def __init__(self, counts: Counts, clock: Callable[[], float] = time.perf_counter) -> None:
        self.counts: Final = counts
        self._clock = clock

    @contextmanager
    def whole(self, environ: Environ, action: Action) -> Iterator[None]:
        """Measure the block, in which a request of this kind is handled."""
        below: list[float] = []
        environ[_BELOW] = below
        began = self._clock()
        try:
            yield
        finally:
            self.counts.took(action.value, self._clock() - began - sum(below))

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
