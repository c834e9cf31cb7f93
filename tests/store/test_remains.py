"""Which images may have something left in Glance that is to be cleared away, and when to look for it."""

from dataclasses import replace

import pytest

from imgguard.attempts import Claim, Failure, ImageRecord, Kind, NewAttempt, State
from imgguard.store import Store
from tests.store.conftest import CREATED, CUT, SILENCE, UNGUARDED, UPLOAD, Hands, begun, elapse, failed

COPY = replace(UPLOAD, kind=Kind.COPY)
DECLARATION = replace(UPLOAD, kind=Kind.DECLARE)


def known(store: Store) -> ImageRecord:
    return store.records(['image'])['image', CREATED]


def lost(store: Store, hands: Hands, new: NewAttempt = UPLOAD) -> Claim:
    claim = begun(store, new=new)
    elapse(store, hands, SILENCE + 1)
    assert store.lose(claim.key, claim.number)
    return claim


def test_a_failure_leaves_something_until_it_is_cleared_away(store: Store) -> None:
    assert store.remaining(10) == []
    claim = failed(store)
    assert (known(store).remains, store.remaining(10)) == (True, ['image'])
    assert store.begin_clearing(claim.key, 1, 'clearer')
    assert store.end_clearing(claim.key, 'clearer', False)
    assert known(store).remains, 'it could not be cleared away'
    assert store.begin_clearing(claim.key, 1, 'clearer')
    assert store.end_clearing(claim.key, 'clearer', True)
    assert (known(store).remains, store.remaining(10)) == (False, [])


@pytest.mark.parametrize(('new', 'remains', 'shown'), [
    (UPLOAD, True, True), (COPY, True, False), (UNGUARDED, False, False)], ids=['guarded', 'copy', 'unguarded'])
def test_a_lost_attempt(store: Store, hands: Hands, new: NewAttempt, remains: bool, shown: bool) -> None:
    """A copy never puts its image in error; what nobody asked to keep is left as Glance leaves it."""
    lost(store, hands, new)
    assert (known(store).remains, known(store).error is not None) == (remains, shown)


def test_a_copy_that_is_found_lost_by_the_next_attempt_shows_nothing(store: Store, hands: Hands) -> None:
    begun(store, new=COPY)
    elapse(store, hands, SILENCE + 1)
    begun(store)
    assert known(store).error is None


def test_a_failed_copy_may_leave_something_although_it_is_not_shown(store: Store) -> None:
    store.finish(begun(store, new=COPY), State.FAILED, CUT, shown=False, http_status=202, bytes_received=0,
                 remains=True)
    assert (known(store).remains, known(store).error) == (True, None)


def test_success_leaves_nothing(store: Store) -> None:
    failed(store)
    store.finish(begun(store), State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    record = known(store)
    assert (record.remains, record.cleared_number, record.last_number) == (False, 2, 2)


def test_a_success_that_the_image_tells_leaves_what_its_worker_did_not_put_away(store: Store, hands: Hands) -> None:
    store.remember('image', CREATED, 'owner', True, give_up_at_after=10000)
    failed(store)
    claim = begun(store)
    assert not store.arrive(claim.key, 2, None), 'it is alive'
    last = hands.seconds
    elapse(store, hands, SILENCE + 1)
    assert not store.arrive(claim.key, 1, None)
    assert store.arrive(claim.key, 2, 'not in store b')
    assert not store.arrive(claim.key, 2, None), 'once'
    record = known(store)
    assert (record.error, record.running, record.give_up_at) == (None, None, None)
    assert (record.remains, record.cleared_number) == (True, 0)
    newest = store.attempts(claim.key, 1)[0]
    assert (newest.state, newest.message, newest.code) == (State.SUCCEEDED, 'not in store b', None)
    assert (newest.updated_at, newest.finished_at) == (last, hands.seconds)
    assert newest.silent_for == SILENCE + 1
    assert not store.finish(claim, State.FAILED, CUT, shown=True, http_status=500, bytes_received=1)
    assert known(store).error is None, 'a worker that wakes up changes nothing'


def test_who_is_taken_back_has_left_nothing_yet(store: Store, hands: Hands) -> None:
    claim = lost(store, hands)
    assert store.renew('worker', 'host', {(claim.key, 1): 5}) == {(claim.key, 1)}
    assert (known(store).remains, store.remaining(10)) == (False, [])


def test_a_late_success_leaves_nothing(store: Store, hands: Hands) -> None:
    claim = lost(store, hands)
    assert store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    assert (known(store).remains, known(store).cleared_number) == (False, 1)


def test_a_declaration_leaves_nothing_but_what_was_there_before(store: Store, hands: Hands) -> None:
    store.declare('untouched', CREATED, 'owner', DECLARATION, Failure('declared', 'never'))
    assert not store.records(['untouched'])['untouched', CREATED].remains
    lost(store, hands, UNGUARDED)
    store.declare('image', CREATED, 'owner', DECLARATION, Failure('declared', 'never'))
    assert known(store).remains, 'from now on the image is kept, and a retry must find it clean'


def test_a_declaration_leaves_what_was_staged(store: Store) -> None:
    claim = begun(store, new=replace(UPLOAD, kind=Kind.STAGE))
    store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    assert not known(store).remains, 'it waits for its import'
    store.declare('image', CREATED, 'owner', DECLARATION, Failure('declared', 'never'))
    assert known(store).remains


def test_what_cannot_be_done_now_is_named_later(store: Store, hands: Hands) -> None:
    claim = failed(store)
    store.postpone_clearing(claim.key, 100)
    assert (known(store).remains, store.remaining(10)) == (True, [])
    hands.seconds += 99
    assert store.remaining(10) == []
    hands.seconds += 1
    assert store.remaining(10) == ['image']


def test_nothing_is_postponed_that_is_done(store: Store) -> None:
    claim = begun(store)
    store.postpone_clearing(claim.key, 0)
    assert not known(store).remains


def test_images_that_are_held_are_not_named(store: Store) -> None:
    failed(store)
    begun(store)
    assert store.remaining(10) == []


def test_images_that_were_deleted_are(store: Store) -> None:
    """Glance does not delete what it was not told of."""
    failed(store, 'deleted')
    store.deleted('deleted', CREATED)
    assert store.remaining(10) == ['deleted']


def test_the_longest_waiting_first(store: Store, hands: Hands) -> None:
    for image_id in ('a', 'b', 'c'):
        hands.seconds += 1
        failed(store, image_id)
    assert store.remaining(2) == ['a', 'b']
