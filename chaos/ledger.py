"""What was asked, and what the askers were told, with times; and what was broken when.

Times are seconds of :func:`time.monotonic`.
"""

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

#: Requests that bring data, or make Glance fetch it.
DATA = frozenset({'upload', 'stage', 'web-download', 'glance-direct'})


@dataclass(frozen=True, slots=True)
class Payload:
    """Data for an image.

    :param whole: whether it is sent whole, and as its headers say
    """

    data: bytes
    whole: bool

    @property
    def checksum(self) -> str:
        """As Glance shows it."""
        return hashlib.md5(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Event:
    """A request.

    :param status: of its answer; ``None`` when there was none
    :param kept: what its answer says of the image (``X-OpenStack-Image-Kept``)
    :param shown: the image, if it was shown
    :param listed: whether the image was in a list of those in error, if that was asked too
    """

    image_id: str
    action: str
    sent: float
    answered: float
    status: int | None
    kept: str | None = None
    payload: Payload | None = None
    shown: Mapping[str, Any] | None = None
    listed: bool | None = None
    text: str = ''

    def __str__(self) -> str:
        what = f'{self.action} {self.sent:.2f}-{self.answered:.2f}: {self.status}'
        if self.kept is not None:
            what += f' kept={self.kept}'
        if self.payload is not None:
            what += f' {self.payload.checksum[:6]}{"" if self.payload.whole else " not whole"}'
        if self.shown is not None:
            code = self.shown.get('os_glance_image_error_code')
            what += f' {self.shown["status"]} {code or ""} {(self.shown.get("checksum") or "")[:6]}'
        return f'{what} {self.text}'


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that was broken for some time."""

    what: str
    begin: float
    end: float


@dataclass(slots=True)
class Ledger:
    """All of it; many threads write."""

    troubles: list[Trouble] = field(default_factory=list)
    _events: list[Event] = field(default_factory=list)
    _open: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, event: Event) -> None:
        """Note what was asked and answered."""
        with self._lock:
            self._events.append(event)

    @contextmanager
    def trouble(self, what: str) -> Iterator[None]:
        """Within the block this is broken."""
        begin = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self.troubles.append(Trouble(what, begin, time.monotonic()))

    def by_image(self) -> dict[str, list[Event]]:
        """The events by the images they are about, the earliest first."""
        found: dict[str, list[Event]] = defaultdict(list)
        with self._lock:
            for event in sorted(self._events, key=lambda each: each.sent):
                found[event.image_id].append(event)
        return found

    def during(self, what: str, event: Event, more: float = 0) -> bool:
        """Whether this was broken while something was asked, or so many seconds around it.

        :param what: how the name of the trouble begins
        """
        with self._lock:
            return any(each.what.startswith(what) and each.begin - more < event.answered
                       and event.sent < each.end + more for each in self.troubles)
