"""One request, two hosts: the claim of the first is taken over by the one that does the work."""

from dataclasses import replace

from imgguard.attempts import Busy, Claim, Kind, State
from imgguard.store import Store
from tests.store.conftest import CREATED, CUT, SILENCE, UPLOAD, Hands, begun, elapse, failed

HANDED_ON = replace(UPLOAD, kind=Kind.IMPORT, handed_on=True, worker='first')
TAKEN_OVER = replace(UPLOAD, kind=Kind.IMPORT, request_id='req-2', worker='second')


def taken_over(store: Store, claim: Claim) -> Claim | Busy:
    return store.begin('image', CREATED, 'owner', TAKEN_OVER, instead_of=claim.number)


def test_it_stays_one_attempt(store: Store) -> None:
    before = failed(store)
    first = begun(store, new=HANDED_ON)
    assert store.attempts(first.key, 1)[0].handed_on
    second = taken_over(store, first)
    assert isinstance(second, Claim) and second.error is not None and second.error.number == before.number
    record = store.records(['image'])['image', CREATED]
    assert record.running is not None and record.running.worker == 'second'
    assert record.attempts == 2
    assert [(each.request_id, each.worker, each.handed_on) for each in store.attempts(first.key, 10)] == [
        ('req-2', 'second', False), ('req-1', 'worker', False)]


def test_who_had_it_changes_nothing_any_more(store: Store) -> None:
    first = begun(store, new=HANDED_ON)
    second = taken_over(store, first)
    assert isinstance(second, Claim)
    assert store.renew('first', 'host', {(first.key, first.number): 5}) == set()
    assert not store.finish(first, State.FAILED, CUT, shown=True, http_status=500, bytes_received=0)
    store.withdraw(first)
    record = store.records(['image'])['image', CREATED]
    assert (record.running is not None, record.error, record.attempts) == (True, None, 1)
    assert store.finish(second, State.SUCCEEDED, None, shown=False, http_status=202, bytes_received=5)


def test_once(store: Store) -> None:
    first = begun(store, new=HANDED_ON)
    assert isinstance(taken_over(store, first), Claim)
    again = taken_over(store, first)
    assert isinstance(again, Busy) and again.running is not None and again.running.worker == 'second'


def test_one_that_is_over_is_not_taken_over(store: Store, hands: Hands) -> None:
    first = begun(store, new=HANDED_ON)
    elapse(store, hands, SILENCE + 1)
    assert store.lose(first.key, first.number)
    second = taken_over(store, first)
    assert isinstance(second, Claim) and second.error is not None and second.error.code == 'worker_lost'
    assert [each.state for each in store.attempts(first.key, 10)] == [State.RUNNING, State.LOST]


def test_it_can_be_withdrawn(store: Store) -> None:
    second = taken_over(store, begun(store, new=HANDED_ON))
    assert isinstance(second, Claim)
    store.withdraw(second)
    record = store.records(['image'])['image', CREATED]
    assert (record.running, record.attempts, store.attempts(record.key, 10)) == (None, 0, [])


def test_a_wish_to_delete_is_noted_on_what_was_there(store: Store) -> None:
    failed(store)
    failed(store, 'another')
    store.unwanted('image', CREATED)
    store.unwanted('nobody knows it', CREATED)
    newer = failed(store)
    assert [each.unwanted for each in store.attempts(newer.key, 10)] == [None, True]
    another = store.records(['another'])['another', CREATED]
    assert [each.unwanted for each in store.attempts(another.key, 10)] == [None]
