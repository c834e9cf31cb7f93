"""Log lines about an image or an attempt: which one is told in the text and to programs.

Programs read attributes of the record, by the conventions of oslo.log (``oslo_log/log.py``, ``KeywordArgumentAdapter``;
``oslo_log/formatters.py``), of which nothing is needed here: ``resource`` for its format strings, and ``extra``, which
its formatters for JSON and fluentd put out as it is. ``request_id`` is the one that made the attempt; within another
request those formatters replace it by that request's own, and keep it in ``extra``.
"""

import logging
from collections.abc import MutableMapping
from typing import Any

from imgguard.attempts import Claim
from imgguard.text import one_line

_LONGEST: int = 64


class About(logging.LoggerAdapter[logging.Logger]):
    """Log lines about one image, and one attempt of it if that is known.

    :param number: of the attempt
    :param request_id: of the request that made it
    """

    def __init__(self, log: logging.Logger, image_id: str, number: int | None = None,
                 request_id: str | None = None) -> None:
        # It stands in a format string.
        image_id = one_line(image_id, _LONGEST).replace('%', '')
        told = {'image_id': image_id, 'attempt': number, 'request_id': None if request_id is None
                else one_line(request_id, 255)}
        told = {name: value for name, value in told.items() if value is not None}
        super().__init__(log, {**told, 'resource': f'[image-{image_id}] ', 'extra': told})
        self._subject = f'image {image_id}: ' if number is None else f'image {image_id}: attempt {number}: '

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Put the subject before the text, and beside it."""
        return f'{self._subject}{msg}', {**kwargs, 'extra': self.extra}


def claimed(log: logging.Logger, claim: Claim) -> About:
    """Log lines about the attempt that holds, or held, this claim."""
    return About(log, claim.image_id, claim.number, claim.request_id)
