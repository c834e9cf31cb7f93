"""The border round what must not disturb a request, or other work: whatever goes wrong within is logged, no more.

It stands where Glance's database, its stores and their drivers, the network or our own book-keeping may raise anything,
and where the answer, or the next item, is right without what was tried.
"""

import logging
from types import TracebackType
from typing import Final

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Border:
    """Goes on behind the block, whatever was raised in it; what stops a thread or the process is let through.

    :param log: is told of it as an error, with the traceback
    :param words: what then is not done
    :param expected: exceptions that may come at any time; of these the text is logged alone
    """

    def __init__(self, log: Log, words: str, *expected: type[Exception], level: int = logging.ERROR) -> None:
        self._log: Final = log
        self._words: Final = words
        self._expected: Final = expected
        self._level: Final = level

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        if isinstance(error, self._expected):
            self._log.log(self._level, '%s: %s', self._words, error)
        else:
            self._log.error(self._words, exc_info=error)
        return True
