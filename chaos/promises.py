"""What the ledger alone tells: whether anybody was told what is not so.

Where there was no answer, either is allowed. Each rule gives the sentences of what is wrong with one image.
"""

from collections.abc import Iterator, Sequence

from chaos.ledger import DATA, Event, Ledger
from imgguard.codes import CODES
from tests.uploading import ERROR

#: Who was told nothing of these may not have been guarded: the guard's store was away.
_UNGUARDED = (None, 'unavailable')


class History:
    """All that was asked about one image, the earliest first.

    :param begun: when its attempts began, by the guard
    """

    def __init__(self, image_id: str, events: Sequence[Event], ledger: Ledger, begun: Sequence[float]) -> None:
        self.image_id = image_id
        self.events = events
        self._ledger = ledger
        self._begun = begun
        self._data = [each for each in events if each.action in DATA]

    @property
    def arrived(self) -> list[Event]:
        """The uploads of which the client was told that all is well."""
        return [each for each in self._data if each.action == 'upload' and each.status == 204]

    @property
    def sent_whole(self) -> set[str]:
        """The checksums that the image may have."""
        return {each.payload.checksum for each in self._data if each.payload is not None and each.payload.whole}

    @property
    def judged(self) -> bool:
        """Whether a client declared or reset it, or tried to."""
        return any(each.action in ('declare', 'reset') for each in self.events)

    @property
    def deleted(self) -> bool:
        """Whether a client was told that the image is gone."""
        return any(each.action == 'delete' and each.status == 204 and each.kept in _UNGUARDED for each in self.events)

    def may_be_deleted(self, before: float) -> bool:
        """Whether a DELETE that was sent before may have been done."""
        return any(each.action == 'delete' and each.sent < before and (
            each.status is None or each.status >= 500 or (each.status == 204 and each.kept in _UNGUARDED))
            for each in self.events)

    @property
    def may_be_half_deleted(self) -> bool:
        """Whether a DELETE may have broken off in Glance, which takes three steps (glance/location.py, ``remove``).

        It then says ``deleted`` of an image that is there, or leaves its data in the store; no client can end that.
        """
        return any(each.action == 'delete' and (each.status is None or each.status >= 500) for each in self.events)

    @property
    def may_be_unguarded(self) -> bool:
        """Whether something came while the guard's store was away, of which it may know nothing."""
        return any(each.kept in _UNGUARDED and self._ledger.during("guard's", each, 1)
                   for each in self.events if each.action == 'create' or each.action in DATA)

    def changes_after(self, event: Event, before: float) -> bool:
        """Whether something was under way beside an answer, or asked since, that may have changed the image.

        A request without an answer may reach Glance later: a server that was killed had it in its queue.
        """
        return any(begun > event.answered for begun in self._begun) or any(
            each is not event and each.action not in ('look', 'create') and each.sent < before
            and each.answered > event.sent for each in self.events)

    def broken(self) -> Iterator[str]:
        """What is wrong."""
        if len(self.arrived) > 1:
            yield 'two uploads were acknowledged'
        for each in self.arrived:
            if each.payload is not None and not each.payload.whole and not self.may_be_unguarded:
                yield f'acknowledged, but not whole: {each}'
        for look in self.events:
            if look.action == 'look':
                yield from (f'{problem}: {look}' for problem in self._wrong_in(look))

    def _wrong_in(self, look: Event) -> Iterator[str]:
        if look.status == 404 and not self.may_be_deleted(look.answered):
            yield 'it is gone and nobody deleted it'
        if look.shown is None:
            return
        before = [each for each in self.arrived if each.answered < look.sent]
        if before and before[0].payload is not None and not self.may_be_deleted(look.answered) and (
                look.shown['status'], look.shown['checksum']) != ('active', before[0].payload.checksum):
            yield 'acknowledged data is not shown'
        if look.shown['status'] == 'active' and look.shown['checksum'] not in self.sent_whole and (
                not self.may_be_unguarded):
            yield 'active with data that nobody sent whole'
        if look.shown['status'] == 'error':
            yield from _wrong_error(look)
        if look.listed not in (None, look.shown['status'] == 'error') and not self._blind(look):
            yield f'the list of those in error tells another thing ({look.listed})'
        yield from self._error_hidden(look)

    def _error_hidden(self, look: Event) -> Iterator[str]:
        """Who was told that the image is kept in error sees it in error, unless somebody tries again."""
        told = [each for each in self._data if each.kept == 'error' and each.answered < look.sent]
        if told and look.shown is not None and look.shown['status'] != 'error' and not self._blind(look) and (
                not self.changes_after(told[-1], look.answered) and not _arrived_all_the_same(told[-1], look)):
            yield f'told to be in error by {told[-1]}'

    def _blind(self, look: Event) -> bool:
        return self._ledger.during("guard's", look, 1)


def _arrived_all_the_same(told: Event, look: Event) -> bool:
    """Whether Glance took the data and then failed to say so, for its database went away in between.

    Whoever was told of an error hears that it is over, and nobody is shown one.
    """
    payload, shown = told.payload, look.shown
    return (told.status or 0) >= 500 and payload is not None and payload.whole and shown is not None and (
        shown['status'] == 'active' and shown['checksum'] == payload.checksum)


def _wrong_error(look: Event) -> Iterator[str]:
    assert look.shown is not None
    if look.shown.get(f'{ERROR}_code') not in CODES or not look.shown.get(ERROR):
        yield 'in error without a reason'
    if any(look.shown.get(name) for name in ('size', 'checksum', 'os_hash_value', 'stores', 'direct_url', 'locations')):
        yield 'in error with facts of data'
