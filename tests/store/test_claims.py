"""One attempt at a time: how it begins, lives and ends, and what the image shows afterwards."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from imgguard.attempts import Busy, Claim, Failure, Kind, State
from imgguard.codes import default_text
from imgguard.store import AttemptRow, Store
from tests.store.conftest import (
    CREATED,
    CUT,
    RUNNING,
    SILENCE,
    UNGUARDED,
    UPLOAD,
    VERDICT,
    Hands,
    begun,
    elapse,
    failed,
)

LOST = VERDICT._replace(code='worker_lost', text=default_text('worker_lost'), bytes_received=0)


def test_an_image_nobody_knew_gets_a_row(store: Store, hands: Hands) -> None:
    claim = begun(store)
    assert (claim.number, claim.error) == (1, None)
    record = store.records(['image'])['image', CREATED]
    assert (record.key, record.owner, record.keep, record.attempts) == (claim.key, 'owner', None, 1)
    assert record.running == replace(RUNNING, since=hands.seconds)


def test_one_at_a_time(store: Store, hands: Hands) -> None:
    begun(store)
    hands.seconds += 10
    assert store.begin('image', CREATED, 'owner', UPLOAD) == Busy(
        replace(RUNNING, since=hands.seconds - 10, silent_for=10.0))
    record = store.records(['image'])['image', CREATED]
    assert record.attempts == 1
    assert [attempt.number for attempt in store.attempts(record.key, 10)] == [1]


def cleared(store: Store, claim: Claim) -> None:
    assert store.begin_clearing(claim.key, claim.number, 'worker') and store.end_clearing(claim.key, 'worker', True)


SINCE: dict[str, tuple[Callable[[Store, Claim], object], int | None]] = {
    'nothing': (lambda store, claim: None, 2),
    'another attempt': (lambda store, claim: begun(store), None),
    'another attempt, ended': (lambda store, claim: failed(store), 3),
    'another attempt, withdrawn': (lambda store, claim: store.withdraw(begun(store)), 3),
    'a reset': (lambda store, claim: store.clear_error('image', CREATED), 2),
    'somebody clears': (lambda store, claim: store.begin_clearing(claim.key, claim.number, 'worker'), None),
    'it was cleared': (cleared, 2),
    'another wish': (lambda store, claim: store.remember('image', CREATED, 'another', True, 60), 2),
}


@pytest.mark.parametrize('since,number', SINCE.values(), ids=SINCE)
def test_what_happened_since_the_image_was_seen_counts(
    store: Store, since: Callable[[Store, Claim], object], number: int | None,
) -> None:
    last = failed(store)
    seen = store.records(['image'])['image', CREATED]
    since(store, last)
    before = store.records(['image'])['image', CREATED]
    claim = store.begin('image', CREATED, None, UPLOAD, seen=seen)
    if number is None:
        assert claim == Busy(before.running)
        assert store.records(['image'])['image', CREATED] == before
        return
    assert isinstance(claim, Claim) and (claim.number, claim.error) == (number, before.error)
    now = store.records(['image'])['image', CREATED]
    assert now.running is not None and now.running.number == now.last_number == number
    assert (now.attempts, now.owner) == (before.attempts + 1, before.owner)
    assert [attempt.state for attempt in store.attempts(now.key, 1)] == [State.RUNNING]


def test_an_unguarded_attempt_is_claimed_and_recorded_alike(store: Store) -> None:
    claim = begun(store, new=UNGUARDED)
    running = store.records(['image'])['image', CREATED].running
    assert running is not None and store.begin('image', CREATED, 'owner', UPLOAD) == Busy(running)
    assert store.finish(claim, State.FAILED, CUT, shown=False, http_status=500, bytes_received=3)
    assert store.records(['image'])['image', CREATED].error is None
    assert store.attempts(claim.key, 1)[0].code == CUT.code


def test_another_time_of_creation_is_another_image(store: Store) -> None:
    first = failed(store)
    again = begun(store, created_at='2026-12-01T00:00:00Z')
    assert again.key != first.key
    assert (again.number, again.error) == (1, None)
    records = store.records(['image'])
    assert set(records) == {('image', CREATED), ('image', '2026-12-01T00:00:00Z')}
    assert records['image', CREATED].error is not None


def test_another_case_is_another_image(store: Store) -> None:
    assert begun(store, 'Image').key != begun(store, 'image').key
    assert set(store.records(['Image'])) == {('Image', CREATED)}


def test_the_history_has_everything(store: Store, hands: Hands) -> None:
    start = hands.seconds
    claim = begun(store)
    hands.seconds += 1
    store.renew('worker', 'host', {(claim.key, 1): 5})
    hands.seconds += 1
    store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
    assert store.attempts(claim.key, 10) == [AttemptRow(
        number=1, kind=Kind.UPLOAD, state=State.FAILED, guarded=True, code=CUT.code, message=CUT.text,
        http_status=400, request_id='req-1', started_at=start, updated_at=start + 2, finished_at=start + 2,
        bytes_received=7, bytes_expected=10, user_id='user', project_id='project', host='host', worker='worker',
        task_id=None, handed_on=False, unwanted=None, silent_for=0.0)]


def test_a_shown_failure_becomes_the_verdict(store: Store, hands: Hands) -> None:
    verdict = VERDICT._replace(at=hands.seconds)
    failed(store)
    record = store.records(['image'])['image', CREATED]
    assert (record.error, record.running) == (verdict, None)
    assert begun(store).error == verdict


def test_a_failure_that_is_not_shown_leaves_the_verdict(store: Store) -> None:
    failed(store)
    before = store.records(['image'])['image', CREATED].error
    refused = Failure('empty_retry', 'The retry had no data.')
    store.finish(begun(store), State.FAILED, refused, shown=False, http_status=400, bytes_received=0)
    record = store.records(['image'])['image', CREATED]
    assert (record.error, record.attempts, record.running) == (before, 2, None)
    assert store.attempts(record.key, 1)[0].code == 'empty_retry'


def test_success_clears_the_verdict_and_keeps_the_history(store: Store) -> None:
    failed(store)
    claim = begun(store)
    assert store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    record = store.records(['image'])['image', CREATED]
    assert (record.error, record.running, record.attempts) == (None, None, 2)
    assert [attempt.state for attempt in store.attempts(claim.key, 10)] == [State.SUCCEEDED, State.FAILED]


def test_a_success_may_say_what_did_not(store: Store) -> None:
    claim = begun(store)
    store.finish(claim, State.SUCCEEDED, Failure('', 'not in store b'), shown=True, http_status=200, bytes_received=10)
    attempt = store.attempts(claim.key, 1)[0]
    assert (attempt.code, attempt.message) == (None, 'not in store b')
    assert store.records(['image'])['image', CREATED].error is None


def test_an_end_needs_a_state_that_ends_and_a_reason(store: Store) -> None:
    claim = begun(store)
    for state in (State.RUNNING, State.FAILED, State.LOST):
        with pytest.raises(ValueError):
            store.finish(claim, state, None, shown=True, http_status=None, bytes_received=0)


def test_an_attempt_that_was_none_is_taken_back(store: Store) -> None:
    failed(store)
    before = store.records(['image'])['image', CREATED]
    store.withdraw(begun(store))
    assert store.records(['image'])['image', CREATED] == before._replace(last_number=2)
    assert [attempt.number for attempt in store.attempts(before.key, 10)] == [1]
    assert begun(store).number == 3, 'a number is never given twice'


def test_what_lost_its_claim_cannot_be_taken_back(store: Store) -> None:
    claim = begun(store)
    store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
    store.withdraw(claim)
    record = store.records(['image'])['image', CREATED]
    assert (record.attempts, record.error and record.error.code) == (1, CUT.code)
    assert store.attempts(claim.key, 1)[0].code == CUT.code


def test_a_deadline_that_passes_is_a_verdict_and_no_attempt(store: Store, hands: Hands) -> None:
    never = Failure('never_arrived', 'The data never came.')
    store.remember('image', CREATED, 'owner', True, give_up_at_after=60)
    waiting = store.records(['image'])['image', CREATED]
    assert (waiting.give_up_at, waiting.overdue) == (hands.seconds + 60, False)
    assert not store.give_up(waiting.key, never), 'it may still come'
    hands.seconds += 60
    assert store.records(['image'])['image', CREATED].overdue
    assert store.give_up(waiting.key, never)
    assert not store.give_up(waiting.key, never), 'once is enough'
    given_up = store.records(['image'])['image', CREATED]
    assert given_up.error == VERDICT._replace(
        code='never_arrived', text='The data never came.', at=hands.seconds, request_id=None, bytes_received=0)
    assert given_up.attempts == 0
    assert [(attempt.kind, attempt.state) for attempt in store.attempts(waiting.key, 10)] == [
        (Kind.DECLARE, State.FAILED)]
    assert begun(store).number == 2
    assert store.records(['image'])['image', CREATED].attempts == 1


def test_a_new_deadline_lets_an_image_that_was_given_up_wait_again(store: Store, hands: Hands) -> None:
    store.remember('image', CREATED, 'owner', True, give_up_at_after=60)
    hands.seconds += 61
    assert store.due(10) == ['image']
    key = store.records(['image'])['image', CREATED].key
    store.give_up(key, Failure('never_arrived', 'The data never came.'))
    assert store.due(10) == []
    store.remember('image', CREATED, 'owner', None, give_up_at_after=60)
    record = store.records(['image'])['image', CREATED]
    assert (record.error, record.overdue, record.give_up_at, record.keep) == (None, False, hands.seconds + 60, True)


def test_success_ends_the_waiting(store: Store, hands: Hands) -> None:
    store.remember('image', CREATED, 'owner', True, give_up_at_after=60)
    store.finish(begun(store), State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    hands.seconds += 61
    assert store.due(10) == []
    assert store.records(['image'])['image', CREATED].give_up_at is None


def test_a_failure_keeps_its_verdict_beyond_the_deadline(store: Store, hands: Hands) -> None:
    failed(store)
    store.remember('image', CREATED, 'owner', True, give_up_at_after=60)
    error = store.records(['image'])['image', CREATED].error
    assert error is not None and error.code == CUT.code


def test_an_image_that_is_being_uploaded_or_failed_is_not_given_up(store: Store, hands: Hands) -> None:
    never = Failure('never_arrived', 'The data never came.')
    store.remember('image', CREATED, 'owner', True, give_up_at_after=1)
    hands.seconds += 2
    claim = begun(store)
    assert not store.give_up(claim.key, never)
    store.finish(claim, State.FAILED, CUT, shown=True, http_status=500, bytes_received=7)
    assert not store.give_up(claim.key, never)
    error = store.records(['image'])['image', CREATED].error
    assert error is not None and error.code == CUT.code


def test_silence_beyond_lease_and_skew_is_the_end(store: Store, hands: Hands) -> None:
    claim = begun(store)
    elapse(store, hands, SILENCE)
    assert isinstance(store.begin('image', CREATED, 'owner', UPLOAD), Busy)
    assert not store.lose(claim.key, 1)
    hands.seconds += 0.25
    running = store.records(['image'])['image', CREATED].running
    assert running == replace(
        RUNNING, alive=False, since=hands.seconds - SILENCE - 0.25, silent_for=SILENCE + 0.25)
    again = store.begin('image', CREATED, 'owner', UPLOAD)
    assert isinstance(again, Claim)
    assert again.number == 2
    assert again.error == LOST._replace(at=hands.seconds)
    lost = store.attempts(claim.key, 10)[1]
    assert (lost.state, lost.code, lost.message, lost.finished_at) == (
        State.LOST, 'worker_lost', default_text('worker_lost'), hands.seconds)


def test_a_lost_unguarded_attempt_shows_nothing(store: Store, hands: Hands) -> None:
    claim = begun(store, new=UNGUARDED)
    elapse(store, hands, SILENCE + 1)
    assert begun(store).error is None
    assert store.attempts(claim.key, 10)[1].state is State.LOST


def test_a_lost_unguarded_attempt_leaves_the_verdict_before_it(store: Store, hands: Hands) -> None:
    failed(store)
    claim = begun(store, new=UNGUARDED)
    elapse(store, hands, SILENCE + 1)
    assert store.lose(claim.key, claim.number)
    error = store.records(['image'])['image', CREATED].error
    assert error is not None and error.number == 1


def test_lose_writes_the_verdict_once(store: Store, hands: Hands) -> None:
    claim = begun(store)
    store.renew('worker', 'host', {(claim.key, 1): 5})
    elapse(store, hands, SILENCE + 1)
    assert store.lose(claim.key, 1)
    assert not store.lose(claim.key, 1)
    record = store.records(['image'])['image', CREATED]
    assert record.running is None
    assert record.error == LOST._replace(at=hands.seconds, bytes_received=5)


def test_lose_takes_only_the_attempt_it_names(store: Store, hands: Hands) -> None:
    claim = begun(store)
    elapse(store, hands, SILENCE + 1)
    assert not store.lose(claim.key, 2)
    assert not store.lose(claim.key + 1000, 1)
    assert store.records(['image'])['image', CREATED].running is not None


def test_a_sign_of_life_keeps_the_claim(store: Store, hands: Hands) -> None:
    claim = begun(store)
    other = begun(store, 'other')
    for received in (10, 20):
        elapse(store, hands, SILENCE)
        assert store.renew('worker', 'host', {(claim.key, 1): received}) == {(claim.key, 1)}
    hands.seconds += 1
    assert isinstance(store.begin('image', CREATED, 'owner', UPLOAD), Busy)
    attempt = store.attempts(claim.key, 1)[0]
    assert (attempt.bytes_received, attempt.updated_at) == (20, hands.seconds - 1)
    assert begun(store, 'other').number == 2, 'nobody renewed this one'
    assert store.renew('worker', 'host', {(claim.key, 1): 30, (other.key, 1): 1, (10 ** 6, 1): 1}) == {(claim.key, 1)}
    assert [row.bytes_received for row in store.attempts(other.key, 10)] == [0, 0]


@pytest.mark.parametrize('state', [State.SUCCEEDED, State.FAILED])
def test_who_lost_the_claim_changes_nothing(store: Store, hands: Hands, state: State) -> None:
    late = begun(store)
    elapse(store, hands, SILENCE + 1)
    holder = begun(store)
    before = store.records(['image'])
    history = store.attempts(late.key, 10)
    assert not store.finish(late, state, CUT, shown=True, http_status=400, bytes_received=9)
    assert store.records(['image']) == before
    assert store.attempts(late.key, 10) == history
    assert store.finish(holder, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=9)
    assert not store.finish(holder, State.FAILED, CUT, shown=True, http_status=400, bytes_received=9)
    assert store.records(['image'])['image', CREATED].error is None


def test_at_most_a_hundred_are_kept(store: Store) -> None:
    """The first, the newest, and the shown one however old it is."""
    for number in range(1, 106):
        claim = begun(store)
        store.finish(claim, State.FAILED, CUT, shown=number == 3, http_status=400, bytes_received=0)
    numbers = [attempt.number for attempt in store.attempts(claim.key, 1000)]
    assert numbers == [*range(105, 7, -1), 3, 1]
    assert len(numbers) == 100
    assert store.records(['image'])['image', CREATED].attempts == 105


def test_declarations_are_among_the_hundred(store: Store) -> None:
    key = failed(store).key
    for _ in range(105):
        store.declare('image', CREATED, 'owner', UPLOAD, CUT)
    numbers = [attempt.number for attempt in store.attempts(key, 1000)]
    assert (numbers[0], numbers[-1]) == (106, 1) and len(numbers) <= 100


def test_a_lost_attempt_is_kept_as_long_as_it_may_wake_up(store: Store, hands: Hands) -> None:
    """What clears its remains away knows of it by the history alone."""
    failed(store)
    lost = begun(store)
    elapse(store, hands, SILENCE + 1)
    assert store.lose(lost.key, lost.number)
    for _ in range(105):
        store.declare('image', CREATED, 'owner', UPLOAD, CUT)
    kept = store.attempts(lost.key, 1000)
    assert [attempt.number for attempt in kept if attempt.state is State.LOST] == [lost.number]
    assert len(kept) <= 100
    number = kept[0].number
    assert store.begin_clearing(lost.key, number, 'worker') and store.end_clearing(lost.key, 'worker', True)
    store.declare('image', CREATED, 'owner', UPLOAD, CUT)
    assert State.LOST not in {attempt.state for attempt in store.attempts(lost.key, 1000)}


def test_texts_that_do_not_fit_are_made_to(store: Store) -> None:
    """A verdict is never lost because the database cannot hold a text as it came."""
    wild = replace(UPLOAD, request_id='r' * 300, user_id='nul\0', project_id='lone \udcff', host='h' * 999)
    claim = begun(store, new=wild)
    text = '\U0001f4a5' * 1500
    assert store.finish(claim, State.FAILED, Failure('declared', text), shown=True, http_status=None, bytes_received=0)
    error = store.records(['image'])['image', CREATED].error
    assert error is not None
    assert (error.text, error.request_id) == ('\U0001f4a5' * 1024, 'r' * 255)
    attempt = store.attempts(claim.key, 1)[0]
    assert (attempt.user_id, attempt.project_id, attempt.host) == ('nul', 'lone ?', 'h' * 255)


def test_large_images(store: Store) -> None:
    claim = begun(store, new=replace(UPLOAD, bytes_expected=2 ** 42))
    store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=2 ** 41)
    error = store.records(['image'])['image', CREATED].error
    assert error is not None and error.bytes_received == 2 ** 41
    assert store.attempts(claim.key, 1)[0].bytes_expected == 2 ** 42
