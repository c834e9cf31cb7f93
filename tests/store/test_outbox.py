"""Events of images: which change puts one into the outbox, and how they come out of it.

``store`` is one with notifications set up. A row of the first table is one way into an error or out of it.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Double, literal

from imgguard import codes
from imgguard.attempts import Event, Failure, Happening, Kind, State
from imgguard.store import Store, outbox
from imgguard.store.engine import Database
from tests.store.conftest import CREATED, CUT, LEASE, SILENCE, SKEW, UNGUARDED, UPLOAD, Hands, begun, elapse, failed

NEVER = Failure(codes.NEVER_ARRIVED, 'It never arrived.')
FULL = Failure(codes.STORAGE_FULL, 'The store is full.')
DECLARED = Failure(codes.DECLARED, 'The producer gave up.')
ABANDONED = Failure(codes.ABANDONED, 'It was given up.')
DECLARE = replace(UPLOAD, kind=Kind.DECLARE)

Told = tuple[str, int, str]


@pytest.fixture
def store(url: str, hands: Hands) -> Iterator[Store]:
    opened = Store(url, LEASE, SKEW, hands, with_events=True)
    yield opened
    opened.close()


def taken(store: Store) -> list[Event]:
    """Every event that waits, taken out in the order in which they are given."""
    events: list[Event] = []
    while waiting := store.outbox.claim('taker', 100):
        events += [each.event for each in waiting]
        store.outbox.end('taker', [each.key for each in waiting], [])
    return events


def told(store: Store) -> list[Told]:
    return [(each.happening.value, each.number, each.code) for each in taken(store)]


class Way:
    """What a row may do to its image."""

    def __init__(self, store: Store, hands: Hands) -> None:
        self.store = store
        self.hands = hands
        store.remember('image', CREATED, 'owner', True)
        self.key = store.find('image')[0].key
        self.claim = begun(store)

    def retry(self, kind: Kind = Kind.UPLOAD) -> None:
        self.claim = begun(self.store, new=replace(UPLOAD, kind=kind))

    def copy(self) -> None:
        self.retry(Kind.COPY)

    def begin_unguarded(self) -> None:
        self.claim = begun(self.store, new=UNGUARDED)

    def fail(self, failure: Failure = CUT, shown: bool = True) -> None:
        self.store.finish(self.claim, State.FAILED, failure, shown=shown, http_status=400, bytes_received=7)

    def fail_unshown(self) -> None:
        self.fail(shown=False)

    def succeed(self) -> None:
        self.store.finish(self.claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)

    def withdraw(self) -> None:
        self.store.withdraw(self.claim)

    def renew(self) -> None:
        self.store.renew('worker', 'host', {(self.claim.key, self.claim.number): 9})

    def silence(self) -> None:
        elapse(self.store, self.hands, SILENCE + 30)

    def lose(self) -> None:
        self.store.lose(self.key, self.claim.number)

    def arrive(self) -> None:
        self.store.arrive(self.key, self.claim.number, None)

    def declare(self, failure: Failure = DECLARED) -> None:
        self.store.declare('image', CREATED, 'owner', DECLARE, failure)

    def wait_in_vain(self) -> None:
        self.store.remember('image', CREATED, None, None, give_up_at_after=30)
        self.hands.seconds += 31

    def wait_longer(self) -> None:
        self.store.remember('image', CREATED, None, None, give_up_at_after=60)

    def give_up(self) -> None:
        self.store.give_up(self.key, NEVER)

    def reset(self) -> None:
        self.store.clear_error('image', CREATED)

    def delete(self) -> None:
        self.store.deleted('image', CREATED)


LOST = ('image.error', 1, 'worker_lost')
FAILED = ('image.error', 1, 'client_disconnected')
OVER = ('image.error.cleared', 1, 'client_disconnected')
FOUND = ('image.error.cleared', 1, 'worker_lost')
GIVEN_UP = ('image.give_up', 2, 'never_arrived')

WAYS: dict[str, tuple[list[Callable[[Way], object]], list[Told]]] = {
    # Into error
    'an upload fails': ([Way.fail], [FAILED]),
    'an attempt fails that nobody asked to keep': ([Way.fail_unshown], []),
    'a retry fails': ([Way.fail, Way.retry, lambda way: way.fail(FULL)], [FAILED, ('image.error', 2, 'storage_full')]),
    'a retry fails with the same words': (
        [Way.fail, Way.retry, Way.fail], [FAILED, ('image.error', 2, 'client_disconnected')]),
    'an empty retry is refused': ([Way.fail, Way.retry, Way.fail_unshown], [FAILED]),
    'an import fails': ([Way.withdraw, lambda way: way.retry(Kind.IMPORT), Way.fail],
                        [('image.error', 2, 'client_disconnected')]),
    'a worker is lost, and the sweep or a reader finds it': ([Way.silence, Way.lose], [LOST]),
    'a worker is lost, and two find it': ([Way.silence, Way.lose, Way.lose], [LOST]),
    'a worker is lost, and a retry finds it': ([Way.silence, Way.retry], [LOST]),
    'a worker is lost, and a clearing finds it': (
        [Way.silence, lambda way: way.store.begin_clearing(way.key, 1, 'worker')], [LOST]),
    'a worker is lost, and a declaration finds it': ([Way.silence, Way.declare], [('image.error', 2, 'declared')]),
    'a worker is lost, and an operator says so, twice': (
        [Way.silence, lambda way: way.store.declare_dead(way.key), lambda way: way.store.declare_dead(way.key)],
        [LOST]),
    'a worker is lost, of an attempt that nobody asked to keep': (
        [Way.withdraw, Way.begin_unguarded, Way.silence, Way.lose], []),
    'a lost attempt fails late': ([Way.silence, Way.lose, Way.fail], [LOST, FAILED]),
    'a failure is stored twice, for its answer was lost': ([Way.fail, Way.fail], [FAILED]),
    'it is declared': ([Way.withdraw, Way.declare], [('image.error', 2, 'declared')]),
    'it is declared after it failed': ([Way.fail, Way.declare], [FAILED, ('image.error', 2, 'declared')]),
    'it is given up by a DELETE': (
        [Way.withdraw, lambda way: way.declare(ABANDONED)], [('image.error', 2, 'abandoned')]),
    'its data never arrives': ([Way.withdraw, Way.wait_in_vain, Way.give_up], [GIVEN_UP]),
    'its data never arrives, and two find it': ([Way.withdraw, Way.wait_in_vain, Way.give_up, Way.give_up], [GIVEN_UP]),
    # Out of it
    'a retry succeeds': ([Way.fail, Way.retry, Way.succeed], [FAILED, OVER]),
    'a silent retry succeeded, as Glance says': ([Way.fail, Way.retry, Way.silence, Way.arrive], [FAILED, OVER]),
    'a lost attempt succeeded, as Glance says': ([Way.silence, Way.lose, Way.arrive], [LOST, FOUND]),
    'it is reset, twice': ([Way.fail, Way.reset, Way.reset], [FAILED, OVER]),
    'it is reset while a silent retry holds it': ([Way.fail, Way.retry, Way.silence, Way.reset], [FAILED, OVER]),
    'a lost attempt is alive after all': ([Way.silence, Way.lose, Way.renew], [LOST, FOUND]),
    'a lost attempt is alive, and lost again': (
        [Way.silence, Way.lose, Way.renew, Way.silence, Way.lose], [LOST, FOUND, LOST]),
    'a lost attempt is alive, and succeeds': ([Way.silence, Way.lose, Way.renew, Way.succeed], [LOST, FOUND]),
    'a lost attempt succeeds late': ([Way.silence, Way.lose, Way.succeed], [LOST, FOUND]),
    'a lost attempt was none': ([Way.silence, Way.lose, Way.withdraw], [LOST, FOUND]),
    'it gets more time after it was given up': (
        [Way.withdraw, Way.wait_in_vain, Way.give_up, Way.wait_longer],
        [GIVEN_UP, ('image.error.cleared', 2, 'never_arrived')]),
    # Neither
    'a first attempt succeeds': ([Way.succeed], []),
    'a silent attempt is lost and reset in one': ([Way.silence, Way.reset], []),
    'a retry begins': ([Way.fail, Way.retry, Way.renew], [FAILED]),
    'a retry is refused at the door': ([Way.fail, Way.retry, Way.withdraw], [FAILED]),
    'it gets more time after it failed': ([Way.fail, Way.wait_longer], [FAILED]),
    'a copy of an active image fails': ([Way.succeed, Way.copy, Way.fail_unshown], []),
    'a copy is lost, and the sweep or a reader finds it': ([Way.succeed, Way.copy, Way.silence, Way.lose], []),
    'a copy is lost, and the next one finds it': ([Way.succeed, Way.copy, Way.silence, Way.copy], []),
    'it is deleted in error': ([Way.fail, Way.delete], [FAILED]),
    'it is deleted during an attempt that then fails': ([Way.delete, Way.fail], []),
    'it is deleted, and the worker of its attempt is lost': ([Way.delete, Way.silence, Way.lose], []),
}


@pytest.mark.parametrize('way', WAYS)
def test_every_way_into_and_out_of_error_tells_it_once(store: Store, hands: Hands, way: str) -> None:
    steps, events = WAYS[way]
    scene = Way(store, hands)
    for step in steps:
        step(scene)
    assert told(store) == events
    error = store.find('image')[0].error
    shown = bool(events) and events[-1][0] != Happening.CLEARED.value
    # Whoever hears all events knows what is shown; what became of a deleted image, Glance has told.
    assert (error is not None) == shown or Way.delete in steps


def test_what_an_event_says(store: Store, hands: Hands) -> None:
    failed(store)
    hands.seconds += 10
    store.clear_error('image', CREATED)
    error, cleared = taken(store)
    assert error == Event(Happening.ERROR, 'image', CREATED, 'owner', hands.seconds - 10, 1, Kind.UPLOAD, CUT.code,
                          CUT.text, 'req-1', 7)
    assert cleared == replace(error, happening=Happening.CLEARED, at=hands.seconds)


def test_a_change_that_is_rolled_back_tells_nothing(store: Store, url: str) -> None:
    claim = begun(store)
    database = Database(url)
    database.write(lambda connection: connection.exec_driver_sql('ALTER TABLE imgguard_attempts RENAME TO away'))
    with pytest.raises(Exception, match='imgguard'):
        store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
    database.write(lambda connection: connection.exec_driver_sql('ALTER TABLE away RENAME TO imgguard_attempts'))
    assert told(store) == []
    assert store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
    assert told(store) == [FAILED]
    database.close()


def test_where_notifications_are_off_nothing_is_written_or_asked(
        url: str, hands: Hands, statements: list[tuple[str, object, str]]) -> None:
    off, on = (Store(url, LEASE, SKEW, hands, with_events=each) for each in (False, True))
    counts = {}
    for store in (off, on):
        statements.clear()
        failed(store, f'image-{store is on}')
        counts[store] = len(statements)
        assert bool(told(store)) == (store is on)
        store.close()
    # Begin: two looks. Finish: two looks, the kind of the attempt, the event itself.
    assert counts[on] == counts[off] + 6


def test_an_event_rides_in_the_transaction_that_makes_it_true(
        store: Store, statements: list[tuple[str, object, str]]) -> None:
    store.remember('image', CREATED, 'owner', True)
    statements.clear()
    failed(store)
    assert [text for text, _, _ in statements].count('COMMIT') == 2


def test_the_publisher_is_woken_after_the_commit_and_only_for_an_event(store: Store) -> None:
    seen: list[list[Told]] = []
    store.outbox.committed = lambda: seen.append(told(store))
    claim = begun(store)
    store.renew('worker', 'host', {(claim.key, claim.number): 1})
    assert seen == []
    store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
    assert seen == [[FAILED]]


# How they come out

def test_what_is_claimed_is_left_to_who_claimed_it_for_a_while(store: Store, hands: Hands) -> None:
    for number in range(3):
        failed(store, f'image-{number}')
    first = store.outbox.claim('one', 2)
    second = store.outbox.claim('two', 2)
    assert [each.event.image_id for each in [*first, *second]] == ['image-0', 'image-1', 'image-2']
    assert store.outbox.claim('three', 2) == []
    hands.seconds += outbox.CLAIM_SECONDS + 1
    assert store.outbox.claim('three', 9) == [*first, *second]
    # Who woke up too late takes out nothing of another's.
    store.outbox.end('one', [each.key for each in first], [])
    store.outbox.end('three', [], [each.key for each in [*first, *second]])
    assert store.outbox.claim('four', 9) == [*first, *second]


def test_what_could_not_be_published_can_be_claimed_at_once(store: Store) -> None:
    for number in range(2):
        failed(store, f'image-{number}')
    published, left = store.outbox.claim('one', 9)
    store.outbox.end('one', [published.key], [left.key])
    assert store.outbox.claim('two', 9) == [left]


def test_events_of_one_image_are_given_out_in_their_order(store: Store) -> None:
    failed(store)
    store.clear_error('image', CREATED)
    failed(store, 'other')
    (error, other) = store.outbox.claim('one', 9)
    assert (error.event.happening, other.event.image_id) == (Happening.ERROR, 'other')
    assert store.outbox.claim('two', 9) == []
    store.outbox.end('one', [error.key], [other.key])
    cleared, again = store.outbox.claim('two', 9)
    assert (cleared.event.happening, again) == (Happening.CLEARED, other)


def test_the_oldest_of_too_many_are_dropped_and_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, 'MOST_WAITING', 3)
    for number in range(3):
        failed(store, f'image-{number}')
    assert store.outbox.trim() == 0
    for number in range(3, 5):
        failed(store, f'image-{number}')
    assert (store.outbox.trim(), store.outbox.trim()) == (2, 0)
    assert [each.image_id for each in taken(store)] == ['image-2', 'image-3', 'image-4']


def test_many_take_out_everything_once_while_more_comes_in(store: Store, url: str, hands: Hands) -> None:
    found: list[str] = []
    more = threading.Event()

    def take(name: str) -> None:
        mine = Store(url, LEASE, SKEW, lambda: literal(hands.seconds, Double()))
        while True:
            last = more.is_set()
            waiting = mine.outbox.claim(name, 3)
            found.extend(each.event.image_id for each in waiting)
            mine.outbox.end(name, [each.key for each in waiting], [])
            if last and not waiting:
                break
        mine.close()

    threads = [threading.Thread(target=take, args=(f'taker-{number}',)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(40):
        failed(store, f'image-{number}')
    more.set()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f'image-{number}' for number in range(40))


def test_an_event_outlives_what_is_known_of_its_image(store: Store, hands: Hands) -> None:
    failed(store)
    store.deleted('image', CREATED)
    hands.seconds += 1000
    assert store.purge(500) == 1
    assert told(store) == [FAILED]
