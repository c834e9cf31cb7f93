"""Who is dead: silence counts only while somebody else could reach the store. And who comes back.

``elapse`` lets time pass while another worker gives its signs of life, every third of a lease.
"""

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from imgguard.attempts import Busy, Claim, Failure, Kind, State
from imgguard.codes import default_text
from imgguard.store import Store
from tests.store.conftest import (
    CREATED,
    CUT,
    LEASE,
    SILENCE,
    SKEW,
    UNGUARDED,
    UPLOAD,
    VERDICT,
    Hands,
    begun,
    elapse,
    error_of,
    failed,
)

THIRD = LEASE / 3


def _is_alive(store: Store) -> bool:
    running = store.records(['image'])['image', CREATED].running
    assert running is not None
    return running.alive


def _lost(store: Store, hands: Hands, claim: Claim) -> None:
    elapse(store, hands, SILENCE + 1)
    assert store.lose(claim.key, claim.number)


def test_a_worker_that_died_is_found_by_the_others(store: Store, hands: Hands) -> None:
    claim = begun(store)
    elapse(store, hands, SILENCE)
    assert (_is_alive(store), store.due(10)) == (True, [])
    elapse(store, hands, 1)
    assert (_is_alive(store), store.due(10)) == (False, ['image'])
    assert store.lose(claim.key, claim.number)
    assert store.due(10) == []


def test_an_outage_is_no_death(store: Store, hands: Hands) -> None:
    """Ten minutes without the store, and then every worker renews as soon as it can."""
    claim = begun(store)
    elapse(store, hands, 100 * THIRD)
    store.renew('worker', 'host', {(claim.key, 1): 5})
    hands.seconds += 600
    assert _is_alive(store), 'nobody has reached the store since'
    store.renew('another', 'elsewhere', {})
    assert (_is_alive(store), store.due(10), store.lose(claim.key, 1)) == (True, [], False)
    assert isinstance(store.begin('image', CREATED, 'owner', UPLOAD), Busy)
    elapse(store, hands, THIRD)
    assert (_is_alive(store), store.due(10)) == (True, []), 'it may be just about to renew'
    assert store.renew('worker', 'host', {(claim.key, 1): 6}) == {(claim.key, 1)}
    elapse(store, hands, THIRD)
    assert _is_alive(store)
    assert store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)


def test_who_died_during_an_outage_is_found_after_it(store: Store, hands: Hands) -> None:
    claim = begun(store)
    elapse(store, hands, THIRD)
    hands.seconds += 600
    store.renew('another', 'elsewhere', {})
    elapse(store, hands, THIRD)
    assert not store.lose(claim.key, 1)
    elapse(store, hands, THIRD)
    assert store.due(10) == ['image']
    assert store.lose(claim.key, 1)


def test_a_short_outage_hides_nobody_either(store: Store, hands: Hands) -> None:
    """Shorter than a lease: the sign of life after it must not count for the time of the outage."""
    elapse(store, hands, THIRD)
    claim = begun(store)
    elapse(store, hands, 0)
    hands.seconds += SILENCE - 2
    store.renew('another', 'elsewhere', {})
    hands.seconds += 3
    assert _is_alive(store)
    assert store.renew('worker', 'host', {(claim.key, 1): 6}) == {(claim.key, 1)}


def test_nobody_is_dead_where_nobody_else_lives(store: Store, hands: Hands) -> None:
    begun(store)
    hands.seconds += 86400
    assert _is_alive(store)
    store.renew('just started', 'host', {})
    assert _is_alive(store)
    hands.seconds += THIRD
    store.renew('just started', 'host', {})
    assert _is_alive(store), 'an attempt cannot have noticed yet that the store is back'
    hands.seconds += THIRD
    store.renew('just started', 'host', {})
    assert not _is_alive(store)


def test_a_sign_of_life_is_taken_by_whoever_gives_it(store: Store, hands: Hands) -> None:
    """The clock is that of the database, and a name is that of one worker."""
    claim = begun(store)
    for _ in range(4):
        store.renew('worker', 'host', {})
        hands.seconds += THIRD
    store.renew('worker', 'host', {})
    assert store.due(10) == ['image'], 'the worker lives, but gave up this attempt'
    assert store.lose(claim.key, 1)


def test_a_lost_attempt_is_taken_back(store: Store, hands: Hands) -> None:
    """By the worker that was only paused or cut off, with the verdict, as if nothing had happened."""
    claim = begun(store)
    start = hands.seconds
    _lost(store, hands, claim)
    assert error_of(store) is not None
    assert store.renew('worker', 'host', {(claim.key, 1): 5}) == {(claim.key, 1)}
    record = store.records(['image'])['image', CREATED]
    assert (record.error, record.attempts) == (None, 1)
    assert record.running is not None
    assert (record.running.since, record.running.guarded, record.running.silent_for) == (start, True, 0)
    attempt, = store.attempts(claim.key, 10)
    assert (attempt.state, attempt.code, attempt.message, attempt.finished_at, attempt.bytes_received) == (
        State.RUNNING, None, None, None, 5)
    assert store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)


def test_an_unguarded_one_is_taken_back_and_leaves_the_verdict_before_it(store: Store, hands: Hands) -> None:
    failed(store)
    claim = begun(store, new=UNGUARDED)
    _lost(store, hands, claim)
    assert store.renew('worker', 'host', {(claim.key, 2): 5}) == {(claim.key, 2)}
    record = store.records(['image'])['image', CREATED]
    assert record.running is not None and not record.running.guarded
    assert record.error is not None and record.error.number == 1


def test_what_has_a_successor_is_not_taken_back(store: Store, hands: Hands) -> None:
    claim = begun(store)
    _lost(store, hands, claim)
    newer = begun(store)
    assert store.renew('worker', 'host', {(claim.key, 1): 5}) == set()
    store.finish(newer, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
    assert store.renew('worker', 'host', {(claim.key, 1): 5, (claim.key, 2): 5}) == set()
    error = error_of(store)
    assert error is not None and error.number == 2


def test_what_was_declared_dead_is_not_taken_back(store: Store, hands: Hands) -> None:
    claim = begun(store)
    _lost(store, hands, claim)
    store.declare('image', CREATED, 'owner', UPLOAD, Failure('declared', 'It never comes.'))
    assert store.renew('worker', 'host', {(claim.key, 1): 5}) == set()


@pytest.mark.parametrize('cleared', [True, False])
def test_what_was_cleared_away_is_not_taken_back(store: Store, hands: Hands, cleared: bool) -> None:
    """Nor what was cleared half, for nobody knows what is missing."""
    claim = begun(store)
    _lost(store, hands, claim)
    assert store.begin_clearing(claim.key, 1, 'clearer')
    assert store.renew('worker', 'host', {(claim.key, 1): 5}) == set()
    store.end_clearing(claim.key, 'clearer', cleared)
    assert store.renew('worker', 'host', {(claim.key, 1): 5}) == set()
    error = error_of(store)
    assert error is not None and error.code == 'worker_lost'


def test_what_ended_is_not_taken_back(store: Store) -> None:
    claim = failed(store)
    assert store.renew('worker', 'host', {(claim.key, 1): 5}) == set()
    assert error_of(store) is not None


def test_a_late_success_wins_over_the_verdict(store: Store, hands: Hands) -> None:
    store.remember('image', CREATED, 'owner', True, give_up_at_after=1000)
    claim = begun(store)
    _lost(store, hands, claim)
    assert store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    record = store.records(['image'])['image', CREATED]
    assert (record.error, record.running, record.give_up_at) == (None, None, None)
    attempt, = store.attempts(claim.key, 10)
    assert (attempt.state, attempt.code, attempt.http_status, attempt.bytes_received) == (
        State.SUCCEEDED, None, 204, 10)
    assert not store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10), 'once'


def test_a_late_success_takes_the_right_to_clear_away(store: Store, hands: Hands) -> None:
    claim = begun(store)
    _lost(store, hands, claim)
    assert store.begin_clearing(claim.key, 1, 'clearer')
    assert store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    assert not store.keep_clearing(claim.key, 'clearer')


def test_a_late_failure_tells_more_than_that_it_was_lost(store: Store, hands: Hands) -> None:
    claim = begun(store)
    _lost(store, hands, claim)
    lost = VERDICT._replace(
        code='worker_lost', text=default_text('worker_lost'), at=hands.seconds, bytes_received=0)
    assert error_of(store) == lost
    hands.seconds += 5
    assert store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
    assert error_of(store) == VERDICT._replace(at=hands.seconds)


def test_a_late_failure_that_is_not_shown_is_history_only(store: Store, hands: Hands) -> None:
    claim = begun(store)
    _lost(store, hands, claim)
    assert store.finish(claim, State.FAILED, CUT, shown=False, http_status=400, bytes_received=7)
    error = error_of(store)
    assert error is not None and error.code == 'worker_lost'
    assert store.attempts(claim.key, 1)[0].code == CUT.code


def test_a_late_failure_does_not_undo_a_reset(store: Store, hands: Hands) -> None:
    claim = begun(store)
    _lost(store, hands, claim)
    assert store.clear_error('image', CREATED) is True
    assert store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
    assert error_of(store) is None


def test_what_was_cleared_away_ends_no_more(store: Store, hands: Hands) -> None:
    claim = begun(store)
    _lost(store, hands, claim)
    store.begin_clearing(claim.key, 1, 'clearer')
    store.end_clearing(claim.key, 'clearer', True)
    before = store.find('image'), store.attempts(claim.key, 10)
    assert not store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    store.withdraw(claim)
    assert (store.find('image'), store.attempts(claim.key, 10)) == before


def test_what_was_refused_at_the_door_is_withdrawn_late(store: Store, hands: Hands) -> None:
    claim = begun(store)
    _lost(store, hands, claim)
    store.withdraw(claim)
    record = store.records(['image'])['image', CREATED]
    assert (record.error, record.attempts, store.attempts(claim.key, 10)) == (None, 0, [])


def test_a_late_withdrawal_changes_nothing_of_a_newer_attempt(store: Store, hands: Hands) -> None:
    claim = begun(store)
    _lost(store, hands, claim)
    begun(store)
    before = store.find('image'), store.attempts(claim.key, 10)
    store.withdraw(claim)
    assert (store.find('image'), store.attempts(claim.key, 10)) == before


@pytest.mark.parametrize(('changed', 'holds'), [
    ({}, True), ({'kind': Kind.LOCATION}, True), ({'kind': Kind.UPLOAD}, False), ({'handed_on': False}, False),
    ({'guarded': False}, False)])
def test_an_import_that_goes_on_elsewhere_holds_its_image_until_it_has_stalled(
    url: str, hands: Hands, changed: dict[str, Any], holds: bool,
) -> None:
    new = replace(UPLOAD, kind=Kind.IMPORT, handed_on=True)
    with closing(Store(url, LEASE, SKEW, hands, stall_seconds=10 * SILENCE)) as store:
        claim = begun(store, new=replace(new, **changed))
        elapse(store, hands, 9 * SILENCE)
        running = store.records(['image'])['image', CREATED].running
        assert running is not None and (running.alive, running.holds) == (False, holds)
        if holds:
            assert isinstance(store.begin('image', CREATED, 'owner', UPLOAD), Busy)
            assert isinstance(store.declare('image', CREATED, 'owner', UPLOAD, CUT), Busy)
            assert isinstance(store.clear_error('image', CREATED), Busy)
            assert not store.begin_clearing(claim.key, claim.number, 'worker')
            elapse(store, hands, 2 * SILENCE)
        assert isinstance(store.begin('image', CREATED, 'owner', UPLOAD), Claim)
        assert store.attempts(claim.key, 10)[-1].state is State.LOST


def test_an_operators_word_ends_an_import_that_goes_on_elsewhere(url: str, hands: Hands) -> None:
    with closing(Store(url, LEASE, SKEW, hands, stall_seconds=10 * SILENCE)) as store:
        claim = begun(store, new=replace(UPLOAD, kind=Kind.IMPORT, handed_on=True))
        elapse(store, hands, 2 * SILENCE)
        assert store.declare_dead(claim.key) == 1
        assert isinstance(store.begin('image', CREATED, 'owner', UPLOAD), Claim)
