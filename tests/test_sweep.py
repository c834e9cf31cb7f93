"""The sweep: what is due is settled exactly once, by how many sweeps at a time it may be; time is the test's."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import Double, literal

from imgguard import sweep
from imgguard.attempts import Claim, Kind, NewAttempt, State
from imgguard.errors import StoreUnavailable
from imgguard.settings import Settings, resolve
from imgguard.store import Store
from imgguard.settling import Counts
from imgguard.sweep import Sweep

CREATED = '2026-11-22T22:19:29Z'
UPLOAD = NewAttempt(Kind.UPLOAD, True, 'req-1', 'user', 'project', 'host', 'worker', 10)
LEASE = 60
SILENCE = LEASE + 5
DAY = 86400


class Time:
    """The time of the store and of the sweep; also what stops the sweep: after so many seconds."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.25
        self.stop_at = float('inf')

    def __call__(self) -> float:
        return self.seconds

    def is_set(self) -> bool:
        return self.seconds >= self.stop_at

    def wait(self, timeout: float) -> bool:
        self.seconds += timeout
        return self.is_set()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return resolve({'connection': f'sqlite:///{tmp_path}/guard.db', 'lease_seconds': str(LEASE)}, 'the test')


@pytest.fixture
def store(settings: Settings, time: Time) -> Iterator[Store]:
    opened = Store(settings.connection, LEASE, clock=lambda: literal(time.seconds, Double()))
    opened.upgrade()
    yield opened
    opened.close()


@pytest.fixture
def sweeper(store: Store, settings: Settings, time: Time) -> Sweep:
    return Sweep(store, settings, time, time)


def begun(store: Store, image_id: str = 'image', new: NewAttempt = UPLOAD) -> Claim:
    claim = store.begin(image_id, CREATED, 'owner', new)
    assert isinstance(claim, Claim)
    return claim


def elapse(store: Store, time: Time, seconds: float) -> None:
    """Let time pass while a worker gives its signs of life."""
    end = time.seconds + seconds
    while time.seconds < end:
        store.renew('witness', 'here', {})
        time.seconds = min(end, time.seconds + 10)
    store.renew('witness', 'here', {})


def code_of(store: Store, image_id: str) -> str | None:
    error = store.find(image_id)[0].error
    return None if error is None else error.code


def test_a_lost_attempt_and_a_deadline_are_settled_once(store: Store, time: Time, sweeper: Sweep) -> None:
    begun(store, 'lost')
    store.remember('waits', CREATED, 'owner', True, give_up_at_after=30)
    assert sweeper.run_once() == Counts()
    elapse(store, time, SILENCE + 30)
    begun(store, 'alive')
    assert sweeper.run_once() == Counts(lost=1, given_up=1)
    assert [code_of(store, each) for each in ('lost', 'waits', 'alive')] == ['worker_lost', 'never_arrived', None]
    assert sweeper.run_once() == Counts()


def test_what_is_too_old_is_forgotten(store: Store, time: Time, sweeper: Sweep) -> None:
    store.finish(begun(store), State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    time.seconds += 29 * DAY
    assert sweeper.run_once() == Counts()
    time.seconds += 2 * DAY
    assert sweeper.run_once() == Counts(forgotten=1)
    assert store.find('image') == []


def test_a_lost_copy_puts_its_image_not_in_error(store: Store, time: Time, sweeper: Sweep) -> None:
    claim = begun(store, new=replace(UPLOAD, kind=Kind.COPY))
    elapse(store, time, SILENCE + 30)
    assert sweeper.run_once() == Counts(lost=1)
    assert (code_of(store, 'image'), store.attempts(claim.key, 1)[0].state) == (None, State.LOST)


def test_an_import_that_goes_on_elsewhere_is_lost_when_it_has_stalled(
    settings: Settings, store: Store, time: Time,
) -> None:
    with closing(Store(settings.connection, LEASE, clock=lambda: literal(time.seconds, Double()),
                       stall_seconds=settings.import_stall_seconds)) as proxys:
        begun(proxys, new=replace(UPLOAD, kind=Kind.IMPORT, handed_on=True))
        begun(proxys, 'upload', replace(UPLOAD, handed_on=True))
        elapse(proxys, time, SILENCE + 30)
        sweeper = Sweep(proxys, settings, time, time)
        assert sweeper.run_once() == Counts(lost=1)
        assert [code_of(proxys, each) for each in ('image', 'upload')] == [None, 'worker_lost']
        elapse(proxys, time, settings.import_stall_seconds)
        assert sweeper.run_once() == Counts(lost=1)
        assert code_of(proxys, 'image') == 'worker_lost'


def test_one_run_alone_takes_no_outage_for_a_death(store: Store, time: Time, sweeper: Sweep) -> None:
    begun(store)
    time.seconds += SILENCE + 30
    assert sweeper.run_once() == Counts(unproven=1)
    assert code_of(store, 'image') is None


def test_where_all_of_glance_is_dead_the_sweep_is_the_witness(store: Store, time: Time, sweeper: Sweep) -> None:
    begun(store)
    time.seconds += SILENCE + 30
    time.stop_at = time.seconds + 100
    assert list(sweeper.run()) == [Counts(unproven=1), Counts(lost=1)]
    assert code_of(store, 'image') == 'worker_lost'


def test_more_than_a_page(store: Store, time: Time, sweeper: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, 'PAGE', 2)
    for number in range(5):
        begun(store, f'lost-{number}')
        store.remember(f'waits-{number}', CREATED, 'owner', True, give_up_at_after=30)
    elapse(store, time, SILENCE + 30)
    assert sweeper.run_once() == Counts(lost=5, given_up=5)


def test_many_at_a_time_do_everything_once(store: Store, settings: Settings, time: Time) -> None:
    for number in range(20):
        begun(store, f'lost-{number}')
        store.remember(f'waits-{number}', CREATED, 'owner', True, give_up_at_after=30)
    elapse(store, time, SILENCE + 30)
    found: list[Counts] = []
    threads = [Thread(target=lambda: found.append(Sweep(store, settings, time, time).run_once())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert (sum(each.lost for each in found), sum(each.given_up for each in found)) == (20, 20)
    assert all(store.find(f'lost-{number}')[0].last_number == 1 for number in range(20))


def test_it_stops_between_two_runs_and_purges_once_an_hour(
        store: Store, time: Time, sweeper: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    purges: list[float] = []

    def purge(seconds: float) -> int:
        purges.append(seconds)
        return 0

    monkeypatch.setattr(store, 'purge', purge)
    time.stop_at = time.seconds + 3700
    assert list(sweeper.run()) == [Counts()] * 62
    assert purges == [30 * DAY] * 2


def test_an_outage_ends_a_run_and_not_the_sweep(
        store: Store, time: Time, sweeper: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object) -> None:
        raise StoreUnavailable('the store is down')

    renew: Callable[..., object] = store.renew
    monkeypatch.setattr(store, 'renew', down)
    with pytest.raises(StoreUnavailable):
        sweeper.run_once()
    time.stop_at = time.seconds + 100
    runs = sweeper.run()
    assert isinstance(next(runs), StoreUnavailable)
    monkeypatch.setattr(store, 'renew', renew)
    assert list(runs) == [Counts()]
