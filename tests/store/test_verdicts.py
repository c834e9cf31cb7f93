"""Verdicts without an attempt, verdicts that go, and images that Glance has deleted."""

from dataclasses import replace

import pytest

from imgguard.attempts import Busy, Failure, Kind, State
from imgguard.fence import Fence, NotYet
from imgguard.store import Store
from imgguard.workers import Workers
from tests.store.conftest import (
    CREATED,
    CUT,
    LEASE,
    SILENCE,
    UPLOAD,
    VERDICT,
    Hands,
    begun,
    elapse,
    error_of,
    failed,
)

NEVER = Failure('declared', 'The snapshot was cancelled.')
DECLARATION = replace(UPLOAD, kind=Kind.DECLARE, bytes_expected=None)


def test_an_image_nobody_knew_is_declared(store: Store, hands: Hands) -> None:
    assert store.declare('image', CREATED, 'owner', DECLARATION, NEVER) == 1
    record = store.records(['image'])['image', CREATED]
    assert (record.attempts, record.owner, record.running, record.last_number) == (0, 'owner', None, 1)
    assert record.error == VERDICT._replace(
        code='declared', text=NEVER.text, at=hands.seconds, bytes_received=0)
    declared, = store.attempts(record.key, 10)
    assert (declared.kind, declared.state, declared.code, declared.message, declared.user_id) == (
        Kind.DECLARE, State.FAILED, 'declared', NEVER.text, 'user')


def test_a_declaration_is_the_newest_word(store: Store) -> None:
    failed(store)
    assert store.declare('image', CREATED, None, DECLARATION, NEVER) == 2
    error = error_of(store)
    assert error is not None and (error.number, error.code) == (2, 'declared')
    assert store.records(['image'])['image', CREATED].owner == 'owner'
    assert begun(store).number == 3


def test_while_an_attempt_is_alive_nothing_is_declared(store: Store) -> None:
    begun(store)
    before = store.records(['image'])
    assert store.declare('image', CREATED, 'owner', DECLARATION, NEVER) == Busy(before['image', CREATED].running)
    assert store.records(['image']) == before


def test_a_silent_attempt_is_lost_before_the_declaration(store: Store, hands: Hands) -> None:
    claim = begun(store)
    elapse(store, hands, SILENCE + 1)
    assert store.declare('image', CREATED, 'owner', DECLARATION, NEVER) == 2
    assert [attempt.state for attempt in store.attempts(claim.key, 10)] == [State.FAILED, State.LOST]
    error = error_of(store)
    assert error is not None and error.code == 'declared'


def test_a_reset_lets_the_image_wait_again(store: Store) -> None:
    claim = failed(store)
    assert store.clear_error('image', CREATED) is True
    record = store.records(['image'])['image', CREATED]
    assert (record.error, record.attempts) == (None, 1)
    assert [attempt.code for attempt in store.attempts(claim.key, 10)] == [CUT.code]
    assert store.candidates(10) == []
    assert store.clear_error('image', CREATED) is False, 'there is nothing to reset'
    assert store.clear_error('nobody', CREATED) is False
    assert store.records(['nobody']) == {}


def test_a_reset_takes_the_deadline_along_that_has_passed(store: Store, hands: Hands) -> None:
    store.remember('image', CREATED, 'owner', True, give_up_at_after=60)
    failed(store)
    assert store.clear_error('image', CREATED) is True
    assert store.records(['image'])['image', CREATED].give_up_at is not None, 'it may still come in time'
    hands.seconds += 60
    assert store.due(10) == ['image']
    assert store.clear_error('image', CREATED) is True
    assert store.records(['image'])['image', CREATED].give_up_at is None
    assert store.due(10) == []


def test_while_an_attempt_is_alive_nothing_is_reset(store: Store, hands: Hands) -> None:
    failed(store)
    begun(store)
    hands.seconds += LEASE
    busy = store.clear_error('image', CREATED)
    assert isinstance(busy, Busy) and busy.running is not None and busy.running.number == 2
    assert error_of(store) is not None


def test_a_silent_attempt_is_lost_before_the_reset(store: Store, hands: Hands) -> None:
    claim = begun(store)
    elapse(store, hands, SILENCE + 1)
    assert store.clear_error('image', CREATED) is True
    assert store.records(['image'])['image', CREATED].error is None
    assert store.attempts(claim.key, 1)[0].state is State.LOST


def test_what_glance_deleted_is_no_candidate_and_has_no_deadline(store: Store, hands: Hands) -> None:
    failed(store, 'failed')
    begun(store, 'silent')
    store.remember('overdue', CREATED, 'owner', True, give_up_at_after=1)
    elapse(store, hands, SILENCE + 1)
    assert (store.candidates(10), store.due(10), store.due(1)) == (['failed'], ['overdue', 'silent'], ['overdue'])
    for image_id in ('failed', 'silent', 'overdue', 'unknown'):
        store.deleted(image_id, CREATED)
    assert store.candidates(10) == []
    assert store.due(10) == ['silent'], 'its attempt has to end, and what it left to go'
    assert store.candidates(10, CUT.code) == []
    known, = store.find('failed')
    assert known.deleted and known.error is not None
    overdue, = store.find('overdue')
    assert not store.give_up(overdue.key, NEVER)
    assert store.find('unknown') == []


def test_a_deletion_leaves_a_running_attempt(store: Store) -> None:
    claim = begun(store)
    store.deleted('image', CREATED)
    known, = store.find('image')
    assert known.deleted and known.running is not None
    assert store.renew('worker', 'host', {(claim.key, 1): 5}) == {(claim.key, 1)}
    assert store.finish(claim, State.FAILED, CUT, shown=True, http_status=404, bytes_received=7)


def test_the_worker_of_a_lost_attempt_is_declared_dead(store: Store, hands: Hands) -> None:
    claim = begun(store)
    last_sign = hands.seconds
    assert store.declare_dead(claim.key) == Busy(store.records(['image'])['image', CREATED].running)
    hands.seconds += SILENCE + 1
    assert store.declare_dead(claim.key) == 1, 'nobody else gave a sign of life: the operator is the witness'
    attempt, = store.attempts(claim.key, 10)
    assert (attempt.state, attempt.code, attempt.finished_at) == (State.FAILED, 'worker_lost', last_sign)
    error = error_of(store)
    assert error is not None and error.code == 'worker_lost'
    assert store.renew('worker', 'host', {(claim.key, claim.number): 9}) == set(), 'it is not taken back'
    assert not store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=9)
    assert store.declare_dead(claim.key) == 0
    assert store.declare_dead(claim.key + 1) == 0


@pytest.mark.parametrize('unanswered', [False, True], ids=['lost', 'without an answer'])
def test_declared_dead_nothing_of_what_was_handed_on_holds_the_fence(
    store: Store, hands: Hands, unanswered: bool,
) -> None:
    """Of an upload through the proxy nobody knows how it ended in Glance; the operator does."""
    claim = begun(store, new=replace(UPLOAD, handed_on=True))
    if unanswered:
        store.finish(claim, State.FAILED, CUT, shown=True, http_status=None, bytes_received=7)
    fence = Fence(store, Workers(), 600)
    elapse(store, hands, SILENCE + 1)
    store.lose(claim.key, claim.number)
    record = store.records(['image'])['image', CREATED]
    with pytest.raises(NotYet):
        fence.passed(record)
    assert store.declare_dead(claim.key) == 1
    assert [attempt.state for attempt in fence.passed(record)] == [State.FAILED]


def test_what_was_handed_on_and_answered_does_not_hold_the_fence(store: Store) -> None:
    claim = begun(store, new=replace(UPLOAD, handed_on=True))
    store.finish(claim, State.FAILED, CUT, shown=True, http_status=500, bytes_received=7)
    assert Fence(store, Workers(), 600).passed(store.records(['image'])['image', CREATED])


def test_an_attempt_whose_image_has_its_data_is_settled_once_lost_or_not(store: Store, hands: Hands) -> None:
    for given_up in (False, True):
        claim = begun(store)
        assert not store.arrive(claim.key, claim.number, None), 'it is alive'
        elapse(store, hands, SILENCE + 1)
        if given_up:
            assert store.lose(claim.key, claim.number)
        silent_since = store.attempts(claim.key, 1)[0].updated_at
        assert store.arrive(claim.key, claim.number, 'One store is missing.')
        assert not store.arrive(claim.key, claim.number, None)
        record = store.records(['image'])['image', CREATED]
        assert (record.error, record.running, record.remains) == (None, None, True)
        attempt = store.attempts(claim.key, 1)[0]
        assert (attempt.state, attempt.message) == (State.SUCCEEDED, 'One store is missing.')
        assert attempt.updated_at == silent_since, 'nobody has heard of its worker'


def test_an_attempt_that_others_came_after_is_not_settled(store: Store, hands: Hands) -> None:
    claim = begun(store)
    elapse(store, hands, SILENCE + 1)
    assert store.lose(claim.key, claim.number)
    begun(store)
    assert not store.arrive(claim.key, claim.number, None)
    assert store.attempts(claim.key, 10)[-1].state is State.LOST
