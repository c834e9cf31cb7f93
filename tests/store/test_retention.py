"""What is forgotten, and what is remembered as long as the image is there."""

from dataclasses import replace

import pytest

from imgguard.attempts import Failure, Kind, State
from imgguard.store import Store, retention
from imgguard.store.engine import Database
from tests.store.conftest import CREATED, CUT, UPLOAD, Hands, begun, failed

DAY = 86400.0
MONTH = 30 * DAY


def _succeeded(store: Store, image_id: str) -> int:
    claim = begun(store, image_id)
    store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    return claim.key


def _known(store: Store, *image_ids: str) -> list[str]:
    return [image_id for image_id in image_ids if store.find(image_id)]


def test_what_was_deleted_or_has_its_data_is_forgotten_in_time(store: Store, hands: Hands) -> None:
    failed(store, 'active')
    active = _succeeded(store, 'active')
    failed(store, 'deleted')
    store.deleted('deleted', CREATED)
    hands.seconds += MONTH
    assert store.purge(MONTH) == 0
    hands.seconds += 1
    _succeeded(store, 'fresh')
    assert store.purge(MONTH) == 2
    assert _known(store, 'active', 'deleted', 'fresh') == ['fresh']
    assert store.attempts(active, 10) == []
    assert store.purge(MONTH) == 0


def test_a_deletion_is_noted_once(store: Store, hands: Hands) -> None:
    failed(store)
    store.deleted('image', CREATED)
    hands.seconds += MONTH + 1
    store.deleted('image', CREATED)
    assert store.purge(MONTH) == 1


def test_what_is_in_error_or_waits_or_runs_is_remembered(store: Store, hands: Hands) -> None:
    failed(store, 'in error')
    store.remember('sticky', CREATED, 'owner', True)
    begun(store, 'runs')
    _succeeded(store, 'copied')
    begun(store, 'copied')
    failed(store, 'reset')
    store.clear_error('reset', CREATED)
    hands.seconds += 12 * MONTH
    assert store.purge(MONTH) == 0


def test_an_image_whose_data_is_only_staged_waits_for_it(store: Store, hands: Hands) -> None:
    store.remember('image', CREATED, 'owner', True)
    claim = begun(store, 'image', replace(UPLOAD, kind=Kind.STAGE))
    store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=10)
    hands.seconds += MONTH + 1
    assert store.purge(MONTH) == 0
    claim = begun(store, 'image', replace(UPLOAD, kind=Kind.IMPORT))
    store.finish(claim, State.SUCCEEDED, None, shown=False, http_status=202, bytes_received=10)
    hands.seconds += MONTH + 1
    assert store.purge(MONTH) == 1


def test_an_active_image_whose_copy_failed_is_forgotten_all_the_same(store: Store, hands: Hands) -> None:
    _succeeded(store, 'image')
    copy = begun(store, 'image')
    store.finish(copy, State.FAILED, Failure('import_failed', 'A store is full.'), shown=False, http_status=None,
                 bytes_received=0)
    hands.seconds += MONTH + 1
    assert store.purge(MONTH) == 1


def test_the_last_change_counts(store: Store, hands: Hands) -> None:
    _succeeded(store, 'image')
    hands.seconds += MONTH
    store.finish(begun(store, 'image'), State.FAILED, CUT, shown=False, http_status=None, bytes_received=0)
    hands.seconds += 1
    assert store.purge(MONTH) == 0


def test_an_attempt_on_a_deleted_image_that_was_heard_of_lately_is_left(store: Store, hands: Hands) -> None:
    claim = begun(store)
    store.deleted('image', CREATED)
    hands.seconds += MONTH
    store.renew('worker', 'host', {(claim.key, 1): 5})
    hands.seconds += 1
    assert store.purge(MONTH) == 0
    hands.seconds += MONTH
    assert store.purge(MONTH) == 1


def test_workers_are_forgotten_after_a_day(store: Store, hands: Hands, database: Database) -> None:
    store.renew('old', 'host', {})
    hands.seconds += DAY
    store.renew('new', 'host', {})
    hands.seconds += 1
    store.purge(MONTH)
    assert database.read(lambda connection: connection.exec_driver_sql(
        'SELECT worker FROM imgguard_workers').scalars().all()) == ['new']


def test_many_are_forgotten_in_steps(store: Store, hands: Hands, monkeypatch: pytest.MonkeyPatch,
                                     statements: list[tuple[str, object, str]]) -> None:
    monkeypatch.setattr(retention, '_STEP', 3)
    for number in range(7):
        _succeeded(store, f'image-{number}')
    failed(store, 'in error')
    hands.seconds += MONTH + 1
    statements.clear()
    assert store.purge(MONTH) == 7
    assert sum(text.startswith('DELETE FROM imgguard_images') for text, _, _ in statements) == 3
    assert _known(store, 'in error') == ['in error']
