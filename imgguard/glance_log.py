"""Glance's own reason for a failure, taken from what it logs in the thread of the request.

A bare 500 of Glance hides the cause; Glance logs it with the exception while it handles the request
(``glance/common/wsgi.py``, ``Resource.__call__``: "Caught error"). Its error notification holds the
cause too, but operators switch notifications off.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from imgguard import text


class Reasons:
    """What was logged during one request, newest last."""

    def __init__(self) -> None:
        self._last = ''

    def add(self, record: logging.LogRecord) -> None:
        """Take over the cause from a record that carries an exception."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self._last = text.reason(str(error)) or type(error).__name__

    def __str__(self) -> str:
        return self._last


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._threads = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        reasons: Reasons | None = getattr(self._threads, 'reasons', None)
        if reasons is not None:
            try:
                reasons.add(record)
            except Exception:
                self.handleError(record)

    @contextmanager
    def collect(self) -> Iterator[Reasons]:
        reasons = self._threads.reasons = Reasons()
        try:
            yield reasons
        finally:
            self._threads.reasons = None


_COLLECTOR = _Collector()


@contextmanager
def reasons() -> Iterator[Reasons]:
    """Collect the errors that Glance logs in this thread within the block."""
    logger = logging.getLogger('glance')
    # Logging may be set up again after the filter was loaded, which takes handlers off.
    if _COLLECTOR not in logger.handlers:
        logger.addHandler(_COLLECTOR)
    with _COLLECTOR.collect() as collected:
        yield collected
