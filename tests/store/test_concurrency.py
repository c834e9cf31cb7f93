"""Many at once, in threads and processes: exactly one gets what only one may have."""

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from imgguard.attempts import Claim, State
from imgguard.store import Store
from tests.store.conftest import CREATED, CUT, LEASE, SKEW, UPLOAD, Hands, begun

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

    def work() -> list[str]:
        together.wait()
        return [image for image in (f'free-{number}' for number in range(FREE))
                if isinstance(store.begin(image, CREATED, 'owner', UPLOAD), Claim)]

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


def _in_processes(work: Callable[[str, Any, Any], None], url: str) -> list[Any]:
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


def test_one_claim_for_each_free_image(url: str) -> None:
    claimed = _in_processes(_claim_all, url)
    assert Counter(claimed) == {f'free-{number}': 1 for number in range(FREE)}


def test_no_number_is_lost_or_given_twice(url: str, store: Store) -> None:
    numbers = _in_processes(_claim_in_turns, url)
    assert sorted(numbers) == list(range(1, PROCESSES * THREADS * ROUNDS + 1))
    record = store.records(['contested'])['contested', CREATED]
    assert (record.attempts, record.running) == (len(numbers), None)


def test_one_of_many_writes_the_verdict(store: Store, hands: Hands) -> None:
    claim = begun(store)
    hands.seconds += LEASE + SKEW + 1
    assert Counter(_in_threads(lambda: store.lose(claim.key, claim.number))) == {True: 1, False: THREADS - 1}


def test_one_of_many_takes_over_from_a_lost_one(store: Store, hands: Hands) -> None:
    begun(store)
    hands.seconds += LEASE + SKEW + 1
    outcomes = _in_threads(lambda: store.begin('image', CREATED, 'owner', UPLOAD))
    claims = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
    assert [(claim.number, claim.error and claim.error.code) for claim in claims] == [(2, 'worker_lost')]


def test_signs_of_life_of_the_same_images_in_any_order(store: Store) -> None:
    claims = [begun(store, f'image-{number}') for number in range(10)]
    held = {(claim.key, claim.number): 1 for claim in claims}
    turned = dict(reversed(held.items()))
    results = _in_threads(lambda: [store.renew(order) for order in (held, turned, held)])
    assert all(renewed == set(held) for result in results for renewed in result)
