"""MariaDB servers that form a cluster (Galera): what holds on one server holds among two nodes."""

import itertools
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import make_url

from imgguard.attempts import Claim, State
from imgguard.errors import StoreUnavailable
from imgguard.store import Store
from imgguard.store.engine import Database
from imgguard.store.models import HEAD, VERSION_TABLE
from tests.galera import Cluster, Node
from tests.harness import administer
from tests.store.conftest import CREATED, CUT, LEASE, SILENCE, SKEW, UPLOAD, Hands, begun, elapse, error_of, failed
from tests.store.racing import at_once

RACES = 200
TIMES = 100
PROCESSES = 4
UPGRADES = 4

_numbers = itertools.count()


@pytest.fixture(scope='module')
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture
def new_database(cluster: Cluster) -> Callable[[], tuple[str, str]]:
    """Gives at each call the URLs of a new database by way of each node."""
    def make() -> tuple[str, str]:
        name = f'imgguard_{next(_numbers)}'
        administer(cluster.nodes[0].url, f'CREATE DATABASE {name}')
        first, second = (make_url(node.url).set(database=name).render_as_string(False) for node in cluster.nodes)
        return first, second

    return make


@pytest.fixture
def urls(new_database: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """A new database by way of each node, without tables."""
    return new_database()


@pytest.fixture
def stores(urls: tuple[str, str], hands: Hands) -> Iterator[tuple[Store, Store]]:
    """A store by way of each node, at the newest revision, both with the time that ``hands`` tells."""
    first, second = (Store(url, LEASE, SKEW, hands, with_events=True) for url in urls)
    first.upgrade()
    yield first, second
    first.close()
    second.close()


def _ask(url: str, question: str) -> list[tuple[Any, ...]]:
    database = Database(url)
    rows = database.read(lambda connection: connection.exec_driver_sql(question).all())
    database.close()
    return [tuple(row) for row in rows]


def _upgrade(urls: list[str], start: Any) -> None:
    for url in urls:
        start.wait(60)
        store = Store(url, LEASE)
        store.upgrade()
        store.close()


def test_upgrades_by_way_of_both_nodes_at_once(new_database: Callable[[], tuple[str, str]]) -> None:
    """The lock that keeps upgrades apart is known to one node only."""
    databases = [new_database() for _ in range(UPGRADES)]
    spawn = multiprocessing.get_context('spawn')
    start = spawn.Barrier(PROCESSES)
    processes = [spawn.Process(target=_upgrade, args=([urls[number % 2] for urls in databases], start))
                 for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    for first, second in databases:
        assert _ask(first, f'SELECT version_num FROM {VERSION_TABLE}') == [(HEAD,)]
        store = Store(second, LEASE)
        store.check()
        store.close()


def test_a_late_upgrade_leaves_one_revision(stores: tuple[Store, Store], urls: tuple[str, str]) -> None:
    """A node that was late has noted the first revision beside the last."""
    administer(urls[1], f"INSERT INTO {VERSION_TABLE} VALUES ('0001')")
    assert stores[0].version() == HEAD
    stores[0].check()
    administer(urls[1], f"DELETE FROM {VERSION_TABLE} WHERE version_num = '{HEAD}'")
    administer(urls[1], f"INSERT INTO {VERSION_TABLE} VALUES ('0003')")
    stores[1].upgrade()
    assert _ask(urls[0], f'SELECT version_num FROM {VERSION_TABLE}') == [(HEAD,)]


def test_every_table_has_a_primary_key(stores: tuple[Store, Store], urls: tuple[str, str]) -> None:
    """Galera cannot delete rows of others."""
    tables = 'SELECT table_name FROM information_schema.tables WHERE table_schema = database()'
    with_key = 'SELECT table_name FROM information_schema.table_constraints ' \
        "WHERE table_schema = database() AND constraint_type = 'PRIMARY KEY'"
    assert len(_ask(urls[0], tables)) == 5
    assert set(_ask(urls[0], tables)) == set(_ask(urls[0], with_key))


def test_one_of_two_nodes_gets_the_image(stores: tuple[Store, Store]) -> None:
    """Whether it was known before or not."""
    stores[0].remember('known', CREATED, 'owner', True)
    for number in range(RACES):
        image_id = 'known' if number % 2 else f'image-{number}'
        outcomes = at_once(*(partial(store.begin, image_id, CREATED, 'owner', UPLOAD) for store in stores))
        claim, = [outcome for outcome in outcomes if isinstance(outcome, Claim)]
        assert stores[number % 2].finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=0)
    assert [len(store.attempts(stores[0].find('known')[0].key, RACES)) for store in stores] == [RACES // 2] * 2


def test_many_of_both_nodes_get_the_image_in_turns(stores: tuple[Store, Store]) -> None:
    """Whoever lost too often against the other node would not be answered."""
    def work(store: Store) -> list[int]:
        numbers: list[int] = []
        while len(numbers) < 10:
            claim = store.begin('contested', CREATED, 'owner', UPLOAD)
            if isinstance(claim, Claim):
                assert store.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=0)
                numbers.append(claim.number)
        return numbers

    numbers = [number for numbers in at_once(*(partial(work, store) for store in stores * 4)) for number in numbers]
    assert sorted(numbers) == list(range(1, 81))


def test_one_of_two_nodes_speaks_the_verdict(stores: tuple[Store, Store], hands: Hands) -> None:
    claims = [begun(stores[number % 2], f'image-{number}') for number in range(TIMES)]
    elapse(stores[0], hands, SILENCE + 1)
    for claim in claims:
        outcomes = at_once(*(partial(store.lose, claim.key, claim.number) for store in stores * 2))
        assert Counter(outcomes) == {True: 1, False: 3}
    assert [len(store.candidates(TIMES + 1)) for store in stores] == [TIMES, TIMES]


def test_cleared_away_or_taken_back_or_begun_anew(stores: tuple[Store, Store], hands: Hands) -> None:
    """One of the three, whoever is asked: what runs is not cleared under its hands."""
    first, second = stores
    for number in range(TIMES):
        image_id = f'image-{number}'
        claim = begun(first, image_id)
        elapse(first, hands, SILENCE + 1)
        assert second.lose(claim.key, 1)
        one, other = stores if number % 2 else (second, first)
        cleared, held, begins = at_once(
            partial(one.begin_clearing, claim.key, 1, 'clearer'),
            partial(other.renew, 'worker', 'host', {(claim.key, 1): 5}),
            partial((first, second)[number // 2 % 2].begin, image_id, CREATED, 'owner', UPLOAD))
        assert [cleared, bool(held), isinstance(begins, Claim)].count(True) == 1


def test_an_end_counts_once(stores: tuple[Store, Store], hands: Hands) -> None:
    """Of an attempt that is given up, taken back and finished through both nodes at once."""
    first, second = stores
    for number in range(TIMES // 2):
        claim = begun(first, f'image-{number}')
        elapse(first, hands, SILENCE + 1)
        ends = [partial(store.finish, claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
                for store in stores]
        ended, again, *_ = at_once(*ends, partial(first.lose, claim.key, 1), partial(
            second.renew, 'worker', 'host', {(claim.key, 1): 5}))
        assert {ended, again} == {True, False}
        assert second.attempts(claim.key, 1)[0].state is State.FAILED


def test_each_node_sees_at_once_what_the_other_has_confirmed(stores: tuple[Store, Store]) -> None:
    """A failure is shown by any host once one has answered, and an attempt may end by way of another node."""
    first, second = stores
    for number in range(TIMES):
        image_id = f'image-{number}'
        claim = begun(first, image_id)
        assert second.finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
        error = error_of(first, image_id)
        assert error is not None and error.code == CUT.code
        first, second = second, first


def test_what_the_server_says_of_waiting_stays(cluster: Cluster, urls: tuple[str, str]) -> None:
    administer(urls[0], 'SET GLOBAL wsrep_sync_wait = 6')
    try:
        assert [_ask(url, 'SELECT @@wsrep_sync_wait') for url in urls] == [[(7,)], [(1,)]]
    finally:
        administer(urls[0], 'SET GLOBAL wsrep_sync_wait = 0')


def test_both_nodes_publish_everything_once_and_in_order(stores: tuple[Store, Store]) -> None:
    """The keys that tell the order are given out by each node alone."""
    for number in range(TIMES):
        failed(stores[number % 2], f'image-{number % 10}')
    published: list[tuple[str, int]] = []

    def publish(store: Store, by: str) -> None:
        for turn in range(1000):
            taken = store.outbox.claim(f'{by}-{turn}', 4)
            published.extend((waiting.event.image_id, waiting.event.number) for waiting in taken)
            store.outbox.end(f'{by}-{turn}', [waiting.key for waiting in taken], [])
            if len(published) >= TIMES:
                return

    at_once(*(partial(publish, store, f'worker-{number}') for number, store in enumerate(stores * 2)))
    assert [store.outbox.claim('nobody', 1) for store in stores] == [[], []]
    of_images = {image_id: [number for image, number in published if image == image_id] for image_id, _ in published}
    assert of_images == {f'image-{number}': list(range(1, TIMES // 10 + 1)) for number in range(10)}


def test_an_upgrade_of_a_table_that_is_read(stores: tuple[Store, Store], urls: tuple[str, str]) -> None:
    """What Galera breaks off for it is done again."""
    key = failed(stores[1]).key
    done = threading.Event()

    def change() -> None:
        try:
            for number in range(10):
                administer(urls[0], f'ALTER TABLE imgguard_images ADD COLUMN more_{number} INTEGER')
        finally:
            done.set()

    def use() -> int:
        count = 0
        while not done.is_set():
            assert stores[1].failures(10)[0].key == key
            stores[1].remember('image', CREATED, 'owner', True)
            count += 1
        return count

    _, *counts = at_once(change, use, use)
    assert all(counts)


def _answered(store: Store) -> bool:
    try:
        return bool(store.records(['image']))
    except StoreUnavailable:
        return False


def _comes_back(store: Store) -> bool:
    deadline = threading.Event()
    return any(_answered(store) or deadline.wait(0.1) for _ in range(300))


def test_the_node_we_use_dies_and_comes_back(cluster: Cluster, stores: tuple[Store, Store]) -> None:
    first, second = cluster.nodes
    failed(stores[1])
    second.kill()
    with pytest.raises(StoreUnavailable, match="Can't connect|Lost connection"):
        stores[1].records(['image'])
    assert _comes_back(stores[0])
    claim = begun(stores[0])
    second.start(first)
    assert stores[1].finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=0)
    assert error_of(stores[0]) == error_of(stores[1])


def test_a_node_without_a_majority_refuses(cluster: Cluster, stores: tuple[Store, Store]) -> None:
    """Its connections are dropped: the next may reach another node."""
    first, second = cluster.nodes
    failed(stores[0])
    claim = begun(stores[1])
    first.kill()
    _until_refused(second)
    for call in (partial(stores[1].records, ['image']), partial(stores[1].withdraw, claim)):
        with pytest.raises(StoreUnavailable, match='1047: WSREP has not yet prepared node for application use'):
            call()
    second.go_on_alone()
    assert _comes_back(stores[1])
    assert stores[1].finish(claim, State.FAILED, CUT, shown=True, http_status=400, bytes_received=0)
    first.start(second)
    assert error_of(stores[0]) == error_of(stores[1])


def _until_refused(node: Node) -> None:
    pause = threading.Event()
    assert any(not node.answers() or pause.wait(0.1) for _ in range(300))
