"""Glance's own reason for a failure, taken from what it logs.

Of a request: a bare 500 of Glance hides the cause; Glance logs it with the exception while it handles
the request (``glance/common/wsgi.py``, ``Resource.__call__``: "Caught error"). Its error notification
holds the cause too, but operators switch notifications off.

Of a task: Glance's own message is "Task failed due to Internal Error", whatever happened. The cause is
logged by the threads that work on the task, with the id of the task or with a name that ends in it
(``glance/async_/taskflow_executor.py``; ``glance/common/scripts/image_import/main.py``).
"""

import http.client
import logging
import re
import threading
import urllib.error
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from imgguard import text

_MAX_TASKS: Final = 1000
_MAX_CAUSES: Final = 16

_TASK_NAME: Final = re.compile(
    r'-(?P<task>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$')
_OWN_WORDS: Final = re.compile(r'^Task [0-9a-f-]{36}(?: failed because|:)\s*')
# glance/common/scripts/utils.py tells so what it met on each address before it gives up with words that tell nothing.
_GIVEN_UP: Final = 'Exhausted allowed addresses'
_STORING: Final = 'glance.common.scripts.image_import.main'


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that went wrong in a task.

    :param kind: name of the exception's class
    :param text: one printable line, fit to be shown
    :param storing: whether it happened while the data was being written to a store
    """

    kind: str
    text: str
    storing: bool = False


class Reasons:
    """What was logged during one request, newest last."""

    def __init__(self) -> None:
        self._last = ''

    def add(self, record: logging.LogRecord) -> None:
        """Take over the cause from a record that carries an exception."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and record.levelno >= logging.ERROR:
            self._last = text.reason(str(error)) or type(error).__name__

    def __str__(self) -> str:
        return self._last


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._threads = threading.local()
        self._tasks: OrderedDict[str, list[Cause]] = OrderedDict()
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        reasons: Reasons | None = getattr(self._threads, 'reasons', None)
        try:
            if reasons is not None:
                reasons.add(record)
            else:
                self._add_to_task(record)
        except Exception:
            self.handleError(record)

    @contextmanager
    def collect(self) -> Iterator[Reasons]:
        reasons = self._threads.reasons = Reasons()
        try:
            yield reasons
        finally:
            self._threads.reasons = None

    def causes(self, task_id: str) -> tuple[Cause, ...]:
        with self._guard:
            return tuple(self._tasks.get(task_id, ()))

    def forget(self, task_id: str) -> None:
        with self._guard:
            self._tasks.pop(task_id, None)

    def _add_to_task(self, record: logging.LogRecord) -> None:
        error = _error_of(record)
        if error is None:
            return
        task_id = _task_of(record)
        if task_id is None:
            if isinstance(record.args, Mapping) and 'url' in record.args:
                self._threads.address = error
            return
        if _GIVEN_UP in str(error):
            error = getattr(self._threads, 'address', None) or error
        cause = _cause(error, _is_storing(record))
        with self._guard:
            causes = self._tasks.setdefault(task_id, [])
            if cause not in causes and len(causes) < _MAX_CAUSES:
                causes.append(cause)
            while len(self._tasks) > _MAX_TASKS:
                self._tasks.popitem(last=False)


def _error_of(record: logging.LogRecord) -> BaseException | None:
    if record.exc_info and record.exc_info[1] is not None:
        return record.exc_info[1]
    arguments = record.args if isinstance(record.args, Mapping) else {}
    found: Any = next((arguments[name] for name in ('error', 'exc', 'e') if name in arguments), None)
    return found if isinstance(found, BaseException) else RuntimeError(found) if isinstance(found, str) else None


def _task_of(record: logging.LogRecord) -> str | None:
    if isinstance(record.args, Mapping):
        task_id = record.args.get('task_id')
        return task_id if isinstance(task_id, str) else None
    # taskflow tells of each step by its name, which Glance ends with the id of its task.
    name = record.args[0] if record.args else None
    match = _TASK_NAME.search(name) if isinstance(name, str) else None
    return match['task'] if match else None


def _is_storing(record: logging.LogRecord) -> bool:
    # glance/async_/flows/api_image_import.py, _ImportToStore; what it calls, set_image_data, tells of it first.
    name = record.args[0] if isinstance(record.args, tuple) and record.args else None
    return record.name == _STORING or (isinstance(name, str) and '-ImportToStore-' in name)


def _cause(error: BaseException, storing: bool) -> Cause:
    inner = getattr(error, 'reason', None) if type(error) is urllib.error.URLError else None
    if isinstance(inner, BaseException):
        error = inner
    words = _OWN_WORDS.sub('', text.reason(_words(error)))
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        # Many of them have no words but what they met.
        words = f'{type(error).__name__}: {words}'
    return Cause(type(error).__name__, words or type(error).__name__, storing)


def _words(error: BaseException) -> str:
    # Libraries that read from the web wrap exceptions in exceptions.
    match error.args:
        case (BaseException() as inner, *_):
            return _words(inner)
        case (str(words), BaseException(), *_):
            return words
    return str(error)


_COLLECTOR: Final = _Collector()


@contextmanager
def reasons() -> Iterator[Reasons]:
    """Collect the errors that Glance logs in this thread within the block, and from then on those of its tasks."""
    logger = logging.getLogger('glance')
    # Logging may be set up again after the filter was loaded, which takes handlers off.
    if _COLLECTOR not in logger.handlers:
        logger.addHandler(_COLLECTOR)
    with _COLLECTOR.collect() as collected:
        yield collected


def causes(task_id: str) -> tuple[Cause, ...]:
    """What went wrong in a task that runs or ran in this process, first things first; at most 16."""
    return _COLLECTOR.causes(task_id)


def forget(task_id: str) -> None:
    """Keep the causes of this task no longer. Those of the newest 1000 tasks are kept."""
    _COLLECTOR.forget(task_id)
