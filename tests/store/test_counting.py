"""What the store tells its observer: each end once, after it is committed, whoever brought it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from imgguard.attempts import End, Failure, Kind, State
from imgguard.counts import Counts
from imgguard.errors import StoreUnavailable
from imgguard.store import Store
from tests.store.conftest import CREATED, CUT, LEASE, SILENCE, SKEW, UPLOAD, Hands, begun, elapse

LOST = End(Kind.UPLOAD, State.LOST, 'worker_lost', 0)
SUCCEEDED = End(Kind.UPLOAD, State.SUCCEEDED, None, 10)
FAILED = End(Kind.UPLOAD, State.FAILED, CUT.code, 7)


class Told:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.ends: list[End] = []
        self.errors = 0

    def ended(self, end: End) -> None:
        """Remember it."""
        self.ends.append(end)

    def store_failed(self) -> None:
        """Count it."""
        self.errors += 1

    def took(self, action: str, seconds: float) -> None:
        """Not the store's."""


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def store(url: str, hands: Hands, told: Told) -> Iterator[Store]:
    counts = Counts()
    counts.record_with(told)
    opened = Store(url, LEASE, SKEW, hands, observer=counts)
    yield opened
    opened.close()


def test_an_end_is_told_once(store: Store, told: Told) -> None:
    claim = begun(store)
    assert told.ends == []
    for _ in range(2):
        store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    assert told.ends == [SUCCEEDED]


def test_a_remark_is_no_failure(store: Store, told: Told) -> None:
    store.finish(begun(store), State.SUCCEEDED, Failure('', 'Not in one of its stores.'), shown=False, http_status=202,
                 bytes_received=10)
    assert told.ends == [SUCCEEDED]


def test_what_was_no_attempt_is_not_told(store: Store, told: Told) -> None:
    store.withdraw(begun(store))
    assert told.ends == []


def test_who_is_lost_in_passing(store: Store, hands: Hands, told: Told) -> None:
    begun(store)
    elapse(store, hands, SILENCE + 1)
    begun(store)
    assert told.ends == [LOST]


def test_who_is_lost_and_wakes_up(store: Store, hands: Hands, told: Told) -> None:
    claim = begun(store)
    elapse(store, hands, SILENCE + 1)
    assert store.lose(claim.key, claim.number)
    assert not store.lose(claim.key, claim.number)
    store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
    assert told.ends == [LOST, FAILED]


def test_who_had_brought_the_data(store: Store, hands: Hands, told: Told) -> None:
    first, other = begun(store), begun(store, 'other')
    elapse(store, hands, SILENCE + 1)
    store.arrive(first.key, first.number, None)
    store.lose(other.key, other.number)
    store.arrive(other.key, other.number, None)
    arrived = End(Kind.UPLOAD, State.SUCCEEDED, None, 0)
    assert told.ends == [arrived, LOST, arrived]


def test_verdicts_without_an_attempt(store: Store, hands: Hands, told: Told) -> None:
    never = Failure('never_arrived', 'The data did not arrive.')
    store.remember('image', CREATED, 'owner', True, 10)
    key = store.records(['image'])['image', CREATED].key
    hands.seconds += 11
    assert [store.give_up(key, never) for _ in range(2)] == [True, False]
    assert told.ends == [End(Kind.DECLARE, State.FAILED, 'never_arrived', 0)]


def test_a_change_that_was_not_committed_is_not_told(store: Store, hands: Hands, told: Told) -> None:
    """Not later either, by the next transaction on the same connection."""
    begun(store)
    elapse(store, hands, SILENCE + 1)
    # The silent one is ended first; then a number comes that no database takes.
    with pytest.raises((StoreUnavailable, OverflowError)):
        store.begin('image', CREATED, 'owner', replace(UPLOAD, bytes_expected=2 ** 70))
    begun(store, 'other')
    assert told.ends == []


def test_an_error_of_the_store_is_told(told: Told) -> None:
    counts = Counts()
    counts.record_with(told)
    store = Store('sqlite:////nowhere/imgguard.db', LEASE, observer=counts)
    for number in (1, 2):
        with pytest.raises(StoreUnavailable):
            store.records(['image'])
        assert told.errors == number
