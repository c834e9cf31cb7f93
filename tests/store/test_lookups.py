"""What is known: pages of images, images in error, histories, and what was asked for an image."""

import os
import re
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Table, insert, select

from imgguard.attempts import Failure, Kind, State
from imgguard.store import Store
from imgguard.store.clock import utc_now
from imgguard.store.engine import Database
from imgguard.store.models import attempts, images, workers
from tests.store.conftest import CREATED, CUT, LEASE, UPLOAD, Hands, begun, failed


def test_a_page_is_one_query(store: Store, url: str, statements: list[tuple[str, object, str]]) -> None:
    wanted = [f'image-{number}' for number in range(1000)]
    for image_id in wanted[:3]:
        store.remember(image_id, CREATED, 'owner', True)
    own_time = Store(url, LEASE)
    own_time.records(['connect first'])
    statements.clear()
    assert set(own_time.records(wanted)) == {(image_id, CREATED) for image_id in wanted[:3]}
    assert len(statements) == 1
    own_time.close()


@pytest.mark.parametrize('wanted', [['image'], ['image', 'other']], ids=['one', 'page'])
def test_attempts_are_asked_for_only_where_one_runs(
    store: Store, url: str, statements: list[tuple[str, object, str]], wanted: list[str],
) -> None:
    failed(store)
    own_time = Store(url, LEASE)
    own_time.records(wanted)
    statements.clear()
    assert own_time.records(wanted)['image', CREATED].error is not None
    assert [('JOIN' in text) for text, *_ in statements] == [False]
    begun(store)
    statements.clear()
    assert own_time.records(wanted)['image', CREATED].running is not None
    assert [('JOIN' in text) for text, *_ in statements] == [False, True]
    own_time.close()


def test_values_are_what_is_stored_to_the_last_digit(store: Store, database: Database, hands: Hands) -> None:
    """A verdict is told apart from an earlier one by its time, also where values travel as text."""
    words = Failure('declared', '"quoted" \\ {} [null] \U0001f4a5 \u2028 \t</script>')
    for number in range(20):
        hands.seconds = 1_764_246_000 + number / 7
        claim = begun(store, f'image-{number}', replace(UPLOAD, guarded=bool(number % 2)))
        store.finish(claim, State.FAILED, words, shown=True, http_status=None, bytes_received=2 ** 53 + number)
    stored = database.read(lambda connection: connection.execute(select(
        images.c.image_id, images.c.error_at, images.c.error_text, images.c.error_bytes)).all())
    stored_ids = [image_id for image_id, *_ in stored]
    pages = [store.records(stored_ids), *(store.records([image_id]) for image_id in stored_ids)]
    for known in pages:
        for record in known.values():
            error = record.error
            assert error is not None
            assert (record.image_id, error.at, error.text, error.bytes_received) in stored
    assert sum(map(len, pages)) == 40


def test_a_page_of_another_size_is_not_compiled_again(url: str, statements: list[tuple[str, object, str]]) -> None:
    own_time = Store(url, LEASE)
    own_time.records(['one', 'two'])
    statements.clear()
    own_time.records(['one', 'two', 'three'])
    assert [cache for _, _, cache in statements] == ['CACHE_HIT']
    own_time.close()


def test_one_image_is_known_as_it_is_in_a_page(store: Store) -> None:
    """The two ask in different ways; of what the driver gives nothing must be seen."""
    failed(store, 'failed')
    begun(store, 'running')
    store.remember('asked', CREATED, 'owner', True, give_up_at_after=30)
    wanted = ['failed', 'running', 'asked', 'unknown']
    page = store.records(wanted)
    alone = [store.records([image_id]) for image_id in wanted]
    # The times of a look differ.
    assert _without_times(repr([*alone, page])) == _without_times(repr(
        [{name: page[name] for name in page if name[0] == image_id} for image_id in wanted] + [page]))


def _without_times(text: str) -> str:
    return re.sub(r'silent_for=[0-9.]+', '', text)


def test_no_image_no_query(store: Store, statements: list[tuple[str, object, str]]) -> None:
    assert store.records([]) == {}
    assert not statements


def test_ids_are_values_never_syntax(store: Store) -> None:
    odd = ['a,b', '{a}', "it's", '"', '[1]', '%s', '\\', ':x', 'NULL', '']
    for image_id in odd:
        store.remember(image_id, CREATED, None, None)
    for image_id in odd:
        assert set(store.records([image_id, image_id])) == {(image_id, CREATED)}


def test_what_was_asked_stays_until_it_is_asked_otherwise(store: Store, hands: Hands) -> None:
    store.remember('image', CREATED, 'owner', True, give_up_at_after=30.5)
    store.remember('image', CREATED, None, None)
    record = store.records(['image'])['image', CREATED]
    assert (record.owner, record.keep, record.give_up_at) == ('owner', True, hands.seconds + 30.5)
    assert (record.attempts, record.error, record.running) == (0, None, None)
    hands.seconds += 100
    store.remember('image', CREATED, 'heir', False, give_up_at_after=1)
    record = store.records(['image'])['image', CREATED]
    assert (record.owner, record.keep, record.give_up_at) == ('heir', False, hands.seconds + 1)


def test_remembering_disturbs_no_attempt(store: Store) -> None:
    failed(store)
    begun(store)
    before = store.records(['image'])['image', CREATED]
    store.remember('image', CREATED, 'owner', None)
    assert store.records(['image'])['image', CREATED] == before


def test_a_new_owner_is_noted_with_the_next_attempt(store: Store) -> None:
    store.remember('image', CREATED, 'giver', None)
    begun(store)
    assert store.records(['image'])['image', CREATED].owner == 'owner'


def test_candidates_newest_first(store: Store, hands: Hands) -> None:
    for image_id, code in (('one', 'bad_request'), ('two', 'declared'), ('three', 'bad_request')):
        hands.seconds += 1
        failed(store, image_id, Failure(code, 'text'))
    begun(store, 'healthy')
    assert store.candidates(10) == ['three', 'two', 'one']
    assert store.candidates(2) == ['three', 'two']
    assert store.candidates(10, 'bad_request') == ['three', 'one']
    assert store.candidates(10, 'storage_full') == []


def test_candidates_name_an_id_once_and_miss_none(store: Store, hands: Hands) -> None:
    failed(store, 'single')
    for day in range(1, 6):
        hands.seconds += 1
        failed(store, 'used again', created_at=f'2026-12-0{day}T00:00:00Z')
    assert store.candidates(2) == ['used again', 'single']


def test_the_history_in_pages(store: Store) -> None:
    for _ in range(5):
        key = failed(store).key
    failed(store, 'other')
    assert [attempt.number for attempt in store.attempts(key, 2)] == [5, 4]
    assert [attempt.number for attempt in store.attempts(key, 2, marker=4)] == [3, 2]
    assert store.attempts(key, 2, marker=1) == []
    assert store.attempts(key + 1000, 2) == []


ELSEWHERE = {'sqlite': '', 'postgresql': '?options=-c timezone=Asia/Kolkata',
             'mariadb': "?init_command=SET time_zone='-07:00'"}


def test_time_is_utc_and_finer_than_a_second(url: str, backend: str) -> None:
    """Whatever the time zone of the server or of its session."""
    database = Database(url + ELSEWHERE[backend])
    times = []
    for _ in range(3):
        now = database.read(lambda connection: connection.execute(select(utc_now())).scalar_one())
        assert isinstance(now, float)
        assert abs(now - time.time()) < 2
        times.append(now)
        time.sleep(0.003)
    assert times == sorted(set(times))
    assert any(now % 1 for now in times)
    database.close()


def test_everything_that_had_an_id_is_found(store: Store) -> None:
    """Also what Glance has deleted; the one created last stands at the end."""
    failed(store, 'image', created_at='2026-12-01T00:00:00Z')
    failed(store, 'image')
    failed(store, 'other')
    store.deleted('image', CREATED)
    assert [(known.created_at, known.deleted) for known in store.find('image')] == [
        (CREATED, True), ('2026-12-01T00:00:00Z', False)]
    assert store.find('nobody') == []


def test_one_attempt_of_the_history(store: Store) -> None:
    key = failed(store).key
    failed(store)
    assert store.attempt(key, 1) == store.attempts(key, 10)[1]
    assert store.attempt(key, 3) is None
    assert store.attempt(key + 1000, 1) is None


def test_the_task_of_an_import_is_noted_with_its_attempt(store: Store) -> None:
    claim = begun(store)
    store.set_task(claim, 'task')
    running = store.records(['image'])['image', CREATED].running
    attempt = store.attempt(claim.key, claim.number)
    assert (running and running.task_id, attempt and attempt.task_id) == ('task', 'task')


def test_all_failures_and_all_that_run_in_pages(store: Store) -> None:
    keys = [failed(store, f'failed-{number}').key for number in range(5)]
    running = [begun(store, f'running-{number}').key for number in range(3)]
    store.deleted('failed-1', CREATED)
    store.deleted('running-1', CREATED)
    assert [known.key for known in store.failures(2)] == [keys[0], keys[2]]
    assert [known.key for known in store.failures(2, after_key=keys[2])] == keys[3:]
    assert [known.key for known in store.running(2)] == running[:2]
    assert [known.key for known in store.running(2, after_key=running[1])] == running[2:]
    known, = store.failures(1, after_key=keys[3])
    assert known == store.records(['failed-4'])['failed-4', CREATED]


INDEXES = {'sqlite': ('sqlite_autoindex_imgguard_images_1', 'sqlite_autoindex_imgguard_attempts_1'),
           'postgresql': ('imgguard_images_image_id_created_at', 'imgguard_attempts_pkey'),
           'mariadb': ('imgguard_images_image_id_created_at', 'PRIMARY')}


def _plan(database: Database, statement: str, parameters: Any) -> str:
    explain = 'EXPLAIN QUERY PLAN ' if database.backend == 'sqlite' else 'EXPLAIN '
    rows = database.read(lambda connection: connection.exec_driver_sql(explain + statement, parameters).all())
    if database.backend == 'mariadb':
        # Without possible_keys, which it need not use; a derived table holds what a limit has let through.
        return '\n'.join(f'{row.table} {row.type} {row.key} {row.Extra}' for row in rows
                         if not str(row.table).startswith('<derived'))
    return '\n'.join(str(tuple(row)) for row in rows)


#: How many images of each of three kinds; 333334 make a million attempts, which takes minutes.
FILLERS = int(os.environ.get('IMGGUARD_FILLERS') or 3000)
FILLED_AT_ONCE = 1000


def _fill(database: Database, first: int) -> None:
    """As many images in error as others, each with an attempt; some have a deadline or a running attempt.

    :param first: the first key to use
    """
    for begin in range(0, FILLERS, FILLED_AT_ONCE):
        numbers = range(begin, min(begin + FILLED_AT_ONCE, FILLERS))
        history = [{'image_key': key, 'number': 1, 'kind': 'upload', 'state': 'failed', 'guarded': True,
                    'started_at': 0.0, 'updated_at': 0.0, 'bytes_received': 0, 'host': 'host', 'worker': 'worker'}
                   for key in range(first + 3 * numbers.start, first + 3 * numbers.stop)]
        for table, filled in ((images, _fillers(first, numbers)), (attempts, history)):
            database.write(partial(_insert, table, filled))
    signs = [{'worker': f'worker-{number}', 'host': 'host', 'since': 0.0, 'seen_at': float(number)}
             for number in range(300)]
    database.write(partial(_insert, workers, signs))
    database.read(lambda connection: connection.exec_driver_sql(
        'ANALYZE' if database.backend != 'mariadb' else
        'ANALYZE TABLE imgguard_images, imgguard_attempts, imgguard_workers').close())


def _fillers(first: int, numbers: range) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in numbers:
        row = {'created_at': CREATED, 'attempts': 1, 'last_number': 1}
        ago = float(1_700_000_000 + number)
        blank = dict.fromkeys(['error_number', 'error_code', 'error_at', 'give_up_at', 'running_number', 'running_at',
                               'remains_at'])
        rows += [
            {**row, **blank, 'image_id': f'filler-{number}', 'key': first + 3 * number,
             'error_number': 1, 'error_code': 'bad_request', 'error_at': ago,
             'remains_at': ago if number % 100 == 0 else None},
            {**row, **blank, 'image_id': f'kept-{number}', 'key': first + 3 * number + 1,
             'give_up_at': ago * 2 if number % 100 == 0 else None},
            {**row, **blank, 'image_id': f'runs-{number}', 'key': first + 3 * number + 2,
             'running_number': 1 if number % 100 == 0 else None, 'running_at': ago * 2 if number % 100 == 0 else None}]
    return rows


def _insert(table: Table, rows: list[dict[str, Any]], connection: Connection) -> None:
    connection.execute(insert(table), rows)


@pytest.mark.parametrize('own_time', [False, True])
def test_look_ups_go_by_an_index(url: str, database: Database, hands: Hands, own_time: bool,
                                 statements: list[tuple[str, object, str]]) -> None:
    """With the time of the database too, which changes while PostgreSQL looks."""
    store = Store(url, LEASE, clock=None if own_time else hands)
    begun(store, 'runs')
    for _ in range(30):
        key = failed(store).key
    _fill(database, key + 1)
    by_name, by_key = INDEXES[database.backend]
    in_error = list(store.records(['image', 'runs']).values())
    for ask, indexes in ((lambda: store.records(['filler-1', 'filler-2']), (by_name,)),
                         (lambda: store.records(['filler-1', 'runs']), (by_name, by_key)),
                         (lambda: store.verdicts(in_error), (by_key,)),
                         (lambda: store.find('filler-1'), (by_name, by_key)),
                         (lambda: store.candidates(3), ('imgguard_images_error_at',)),
                         (lambda: store.candidates(3, 'client_disconnected'), ('imgguard_images_error_code_error_at',)),
                         (lambda: store.in_error(3), ('imgguard_images_error_at',)),
                         (lambda: store.due(3), ('imgguard_images_give_up_at',
                                                 'imgguard_images_running_at', 'imgguard_workers_seen_at')),
                         (lambda: store.remaining(3), ('imgguard_images_remains_at',)),
                         (lambda: store.attempt(key, 3), (by_key,)),
                         (lambda: store.attempts(key, 3), (by_key,))):
        statements.clear()
        ask()
        plan = '\n'.join(_plan(database, *statement[:2]) for statement in list(statements))
        assert all(index in plan for index in indexes), plan
        if database.backend == 'postgresql':
            assert plan.count('Index Cond') >= len(indexes) - ('imgguard_workers_seen_at' in indexes) - (
                indexes[0] == 'imgguard_images_error_at'), plan
        assert not any(word in plan for word in ('TEMP B-TREE', 'filesort', 'Sort Key', 'Seq Scan', ' ALL ')), plan
    store.close()


def _life(store: Store) -> None:
    """All that a request, a sign of life or a clearing changes."""
    store.remember('image', CREATED, 'owner', True, 60)
    cut = begun(store)
    store.set_task(cut, 'task')
    assert store.renew('worker', 'host', {(cut.key, cut.number): 1})
    assert store.finish(cut, State.FAILED, CUT, shown=True, http_status=400, bytes_received=7)
    store.unwanted('image', CREATED)
    assert store.begin_clearing(cut.key, 1, 'clearer') and store.keep_clearing(cut.key, 'clearer')
    assert store.end_clearing(cut.key, 'clearer', True)
    store.withdraw(begun(store))
    assert store.finish(begun(store), State.SUCCEEDED, None, shown=False, http_status=204, bytes_received=7)
    assert store.clear_error('image', CREATED) is False
    store.declare('image', CREATED, 'owner', replace(UPLOAD, kind=Kind.DECLARE), CUT)
    assert store.clear_error('image', CREATED) is True
    store.postpone_clearing(cut.key, 1)
    store.deleted('image', CREATED)


def test_changes_go_by_an_index(url: str, database: Database, statements: list[tuple[str, object, str]]) -> None:
    """Their events, and the locks they take, too: on MariaDB whatever is looked at is locked."""
    store = Store(url, LEASE, with_events=True)
    _fill(database, failed(store, 'first').key + 100)
    statements.clear()
    _life(store)
    seen = {text: values for text, values, _ in statements if text.startswith(('SELECT', 'UPDATE', 'DELETE'))}
    assert len(seen) > 15
    for text, values in seen.items():
        plan = _plan(database, text, values[0] if isinstance(values, list) else values)
        assert not re.search(r"Seq Scan| ALL |SCAN imgguard_\w+'", plan), (text, plan)
    store.close()
