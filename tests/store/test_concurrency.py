"""Many at once, in threads and processes: exactly one gets what only one may have."""

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from imgguard.attempts import Claim, State
from imgguard.store import Store
from tests.store.conftest import CREATED, CUT, LEASE, SILENCE, UPLOAD, Hands, begun, elapse, failed
from tests.store.racing import at_once

PROCESSES = 3
THREADS = 8
FREE = 6
ROUNDS = 3


def _in_threads(work: Callable[[], Any], count: int = THREADS) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(count)]]


def _claim_all(url: str, start: Any, results: Any) -> None:
    store = Store(url, LEASE)
    together = threading.Barrier(THREADS)
    images = [f'free-{number}' for number in range(FREE)]
    seen = store.records(images)

    def work() -> list[str]:
        together.wait()
        return [image for image in images
                if isinstance(store.begin(image, CREATED, 'owner', UPLOAD, seen=seen.get((image, CREATED))), Claim)]

    start.wait()
    results.put([image for images in _in_threads(work) for image in images])
    store.close()


def _claim_in_turns(url: str, start: Any, results: Any) -> None:
    store = Store(url, LEASE)

    def work() -> list[int]:
        numbers: list[int] = []
        while len(numbers) < ROUNDS:
            claim = store.begin('contested', CREATED, 'owner', UPLOAD)
            if isinstance(claim, Claim):
                assert store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=0)
                numbers.append(claim.number)
        return numbers

    start.wait()
    results.put([number for numbers in _in_threads(work) for number in numbers])
    store.close()


def _in_processes(work: Callable[..., None], url: str) -> list[Any]:
    spawn = multiprocessing.get_context('spawn')
    start, results = spawn.Barrier(PROCESSES), spawn.SimpleQueue()
    processes = [spawn.Process(target=work, args=(url, start, results)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    found = [item for _ in processes for item in results.get()]
    results.close()
    return found


@pytest.mark.parametrize('known', [True, False])
def test_one_claim_for_each_free_image(url: str, store: Store, known: bool) -> None:
    """Each has seen the image free, or believes that it is the first; all but one are wrong."""
    for number in range(FREE if known else 0):
        store.remember(f'free-{number}', CREATED, 'owner', True)
    claimed = _in_processes(_claim_all, url)
    assert Counter(claimed) == {f'free-{number}': 1 for number in range(FREE)}


def test_no_number_is_lost_or_given_twice(url: str, store: Store) -> None:
    numbers = _in_processes(_claim_in_turns, url)
    assert sorted(numbers) == list(range(1, PROCESSES * THREADS * ROUNDS + 1))
    record = store.records(['contested'])['contested', CREATED]
    assert (record.attempts, record.running) == (len(numbers), None)


def test_one_of_many_writes_the_verdict(store: Store, hands: Hands) -> None:
    claim = begun(store)
    elapse(store, hands, SILENCE + 1)
    assert Counter(_in_threads(lambda: store.lose(claim.key, claim.number))) == {True: 1, False: THREADS - 1}


def test_one_of_many_takes_over_from_a_lost_one(store: Store, hands: Hands) -> None:
    begun(store)
    elapse(store, hands, SILENCE + 1)
    outcomes = _in_threads(lambda: store.begin('image', CREATED, 'owner', UPLOAD))
    claims = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
    assert [(claim.number, claim.error and claim.error.code) for claim in claims] == [(2, 'worker_lost')]


def test_signs_of_life_of_the_same_images_in_any_order(store: Store) -> None:
    claims = [begun(store, f'image-{number}') for number in range(10)]
    held = {(claim.key, claim.number): 1 for claim in claims}
    turned = dict(reversed(held.items()))
    results = _in_threads(lambda: [store.renew('worker', 'host', order) for order in (held, turned, held)])
    assert all(renewed == set(held) for result in results for renewed in result)


def test_either_one_clears_or_one_begins(store: Store) -> None:
    for number in range(ROUNDS):
        image_id = f'image-{number}'
        key = failed(store, image_id).key
        begins = [lambda: isinstance(store.begin(image_id, CREATED, 'owner', UPLOAD), Claim)] * 4
        clears = [partial(store.begin_clearing, key, 1, f'clearer-{other}') for other in range(4)]
        outcomes = at_once(*begins, *clears)
        assert sum(outcomes) == 1, outcomes
        running = store.records([image_id])[image_id, CREATED].running
        assert (running is not None) == any(outcomes[:4])


@pytest.mark.parametrize('state', [State.SUCCEEDED, State.FAILED])
def test_lost_taken_back_and_finished_at_once(store: Store, hands: Hands, state: State) -> None:
    """Whoever comes first, the end counts once, and is what remains."""
    for number in range(2 * ROUNDS):
        image_id = f'image-{number}'
        claim = begun(store, image_id)
        elapse(store, hands, SILENCE + 1)
        end = partial(store.finish, claim, state, CUT, shown=True, http_status=400, bytes_received=7)
        lose = partial(store.lose, claim.key, 1)
        take_back = partial(store.renew, 'worker', 'host', {(claim.key, 1): 5})
        ended, *_, again = at_once(end, lose, take_back, lose, take_back, end)
        assert {ended, again} == {True, False}
        record = store.records([image_id])[image_id, CREATED]
        assert record.running is None
        assert (record.error and record.error.code) == (CUT.code if state is State.FAILED else None)
        assert store.attempts(claim.key, 1)[0].state is state


def test_cleared_away_or_taken_back(store: Store, hands: Hands) -> None:
    """Never both: what was taken back is not cleared under its hands."""
    for number in range(2 * ROUNDS):
        image_id = f'image-{number}'
        claim = begun(store, image_id)
        elapse(store, hands, SILENCE + 1)
        assert store.lose(claim.key, 1)
        cleared, held = at_once(partial(store.begin_clearing, claim.key, 1, 'clearer'),
                                partial(store.renew, 'worker', 'host', {(claim.key, 1): 5}))
        assert cleared is not bool(held)
        assert (store.records([image_id])[image_id, CREATED].running is None) is cleared


def test_many_declare_and_begin(store: Store) -> None:
    declare = partial(store.declare, 'image', CREATED, 'owner', UPLOAD, CUT)
    begin = partial(store.begin, 'image', CREATED, 'owner', UPLOAD)
    outcomes = at_once(declare, begin, declare, begin, declare, begin)
    claim, = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
    numbers = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert sorted([*numbers, claim.number]) == list(range(1, len(numbers) + 2))


def test_signs_of_life_of_many_new_workers(store: Store) -> None:
    claims = [begun(store, f'image-{number}') for number in range(THREADS)]
    works = [partial(store.renew, f'worker-{claim.key % 4}', 'host', {(claim.key, 1): 1}) for claim in claims]
    assert at_once(*works) == [{(claim.key, 1)} for claim in claims]
