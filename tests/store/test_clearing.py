"""The right to clear away what dead attempts left in Glance: one at a time, and no attempt meanwhile."""

import pytest
from sqlalchemy import Connection

from imgguard.attempts import Busy, Claim
from imgguard.store import Store
from imgguard.store.held import Held, Rows
from tests.store.conftest import CREATED, SILENCE, UPLOAD, Hands, begun, elapse, failed


def test_while_somebody_clears_no_attempt_begins(store: Store) -> None:
    claim = failed(store)
    assert store.begin_clearing(claim.key, 1, 'clearer')
    assert store.begin('image', CREATED, 'owner', UPLOAD) == Busy(None)
    assert store.end_clearing(claim.key, 'clearer', True)
    assert store.records(['image'])['image', CREATED].cleared_number == 1
    assert begun(store).number == 2


def test_what_could_not_be_cleared_is_not_noted_as_cleared(store: Store) -> None:
    claim = failed(store)
    assert store.begin_clearing(claim.key, 1, 'clearer')
    assert store.end_clearing(claim.key, 'clearer', False)
    assert store.records(['image'])['image', CREATED].cleared_number == 0
    assert store.begin_clearing(claim.key, 1, 'clearer'), 'it may be tried again'


def test_one_at_a_time(store: Store) -> None:
    claim = failed(store)
    assert store.begin_clearing(claim.key, 1, 'clearer')
    assert not store.begin_clearing(claim.key, 1, 'another')
    assert not store.begin_clearing(claim.key, 1, 'clearer')
    assert not store.keep_clearing(claim.key, 'another')
    assert not store.end_clearing(claim.key, 'another', True)
    assert store.keep_clearing(claim.key, 'clearer')


def test_nothing_is_cleared_while_an_attempt_is_alive(store: Store) -> None:
    claim = begun(store)
    assert not store.begin_clearing(claim.key, 1, 'clearer')
    assert not store.begin_clearing(claim.key + 1000, 1, 'clearer')


def test_nothing_is_cleared_that_came_after_the_look(store: Store) -> None:
    claim = failed(store)
    failed(store)
    assert not store.begin_clearing(claim.key, 1, 'clearer')
    assert store.begin_clearing(claim.key, 2, 'clearer')


def test_a_number_that_was_withdrawn_counts(store: Store) -> None:
    claim = failed(store)
    store.withdraw(begun(store))
    newest = store.records(['image'])['image', CREATED].last_number
    assert newest == 2
    assert store.begin_clearing(claim.key, newest, 'clearer')


def test_a_silent_attempt_is_lost_first(store: Store, hands: Hands) -> None:
    claim = begun(store)
    elapse(store, hands, SILENCE + 1)
    assert store.begin_clearing(claim.key, 1, 'clearer')
    record = store.records(['image'])['image', CREATED]
    assert record.running is None and record.error is not None and record.error.code == 'worker_lost'


def test_the_right_lapses_with_who_has_it(store: Store, hands: Hands) -> None:
    claim = failed(store)
    assert store.begin_clearing(claim.key, 1, 'clearer')
    hands.seconds += SILENCE
    assert store.keep_clearing(claim.key, 'clearer'), 'a sign of life in time'
    hands.seconds += SILENCE
    assert not store.begin_clearing(claim.key, 1, 'another')
    hands.seconds += 1
    assert store.begin_clearing(claim.key, 1, 'another')
    assert not store.keep_clearing(claim.key, 'clearer'), 'who wakes up must stop'
    assert not store.end_clearing(claim.key, 'clearer', True)
    assert store.records(['image'])['image', CREATED].cleared_number == 0


def test_an_attempt_takes_the_image_from_a_dead_clearer(store: Store, hands: Hands) -> None:
    claim = failed(store)
    assert store.begin_clearing(claim.key, 1, 'clearer')
    hands.seconds += SILENCE + 1
    assert isinstance(store.begin('image', CREATED, 'owner', UPLOAD), Claim)
    assert not store.keep_clearing(claim.key, 'clearer')


def test_a_clock_set_back_under_a_claim(store: Store, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = failed(store)
    assert store.begin_clearing(claim.key, 1, 'clearer')
    hands.seconds += SILENCE + 0.5
    look = Rows.by_name

    def look_and_set_back(rows: Rows, connection: Connection, image_id: str, created_at: str) -> Held | None:
        held = look(rows, connection, image_id, created_at)
        hands.seconds -= 1
        return held

    monkeypatch.setattr(Rows, 'by_name', look_and_set_back)
    assert store.begin('image', CREATED, 'owner', UPLOAD) == Busy(None)
    assert [each.number for each in store.attempts(claim.key, 10)] == [1]
    hands.seconds += 2
    assert begun(store).number == 2
