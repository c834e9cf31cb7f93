"""What happens in this process, for whoever counts it: nobody, unless the paste file has the metrics application.

Filters and the metrics application are sections of one paste file that know nothing of each other, and any of them may
be loaded first. They meet by the store that all of them name.
"""

import weakref
from typing import Final, Protocol

from imgguard.attempts import End


class Recorder(Protocol):
    """Writes down what happened; its methods must not raise."""

    def ended(self, end: End) -> None:
        """An attempt has ended, or a declaration was made, and that is committed."""

    def store_failed(self) -> None:
        """The guard's store could not be read or written."""

    def took(self, action: str, seconds: float) -> None:
        """The guard itself, without Glance, took so long for a request.

        :param action: the name of one of :class:`imgguard.operations.Action`
        """


class Counts:
    """The events around one store in this process; they go nowhere until there is a recorder.

    :ivar recorder: ``None`` while nobody counts
    """

    def __init__(self) -> None:
        self.recorder: Recorder | None = None

    def record_with(self, recorder: Recorder) -> None:
        """Hand everything that happens from now on to this recorder."""
        self.recorder = recorder

    def ended(self, end: End) -> None:
        """See :class:`Recorder`, as for all methods below."""
        if self.recorder is not None:
            self.recorder.ended(end)

    def store_failed(self) -> None:
        if self.recorder is not None:
            self.recorder.store_failed()

    def took(self, action: str, seconds: float) -> None:
        if self.recorder is not None:
            self.recorder.took(action, seconds)


_BY_STORE: Final[weakref.WeakValueDictionary[str, Counts]] = weakref.WeakValueDictionary()


def of(store: str) -> Counts:
    """The one object of this process for all who name this store; it lives as long as one of them holds it.

    :param store: as :func:`imgguard.store.address.identity` names it
    """
    return _BY_STORE.setdefault(store, Counts())
