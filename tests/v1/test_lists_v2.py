"""Lists of v2 through the proxy in front of a real Glance 15.0.2: killed images in error are there, too."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgguard import listing
from imgguard.killed_images import KilledImages
from tests.identity import admin_token, token
from tests.old_glance import OldGlance
from tests.uploading import ERROR
from tests.v1 import test_lists
from tests.v1.conftest import StartOldGlance
from tests.v1.guarding import guarding
from tests.v1.images import V1Images
from tests.v1.shelf import ALICE, OWNER, Row, in_order, let_die, put

#: Project and status of the member of an image.
MEMBERS = {60: (OWNER, 'accepted'), 61: (OWNER, 'pending'), 64: (OWNER, 'accepted'), 65: (OWNER, 'pending'),
           4: ('green', 'pending'), 67: (OWNER, 'pending')}


def shelf_rows() -> Iterator[Row]:
    for row in test_lists.shelf_rows():
        visibility = row.values()['visibility']
        if visibility == 'shared' and row.number != 4:
            visibility = {1: 'private', 7: 'community'}.get(row.number % 10, 'shared')
        elif row.number in (24, 56):
            visibility = 'community'
        # To v2 the name of this property is a filter on min_disk.
        properties = {'min_disk_min': '1'} if row.number == 4 else {}
        yield replace(row, fields={**row.fields, 'visibility': visibility},
                      properties={**row.properties, **properties},
                      tags=['odd'] if row.number % 2 else ['even', 'all'])
    for number, (status, code, visibility) in enumerate([
            ('killed', 'storage_full', 'shared'), ('killed', 'storage_full', 'shared'),
            ('killed', 'storage_full', 'shared'), ('killed', 'storage_full', 'private'),
            ('active', None, 'shared'), ('active', None, 'shared'), ('active', None, 'shared'),
            ('killed', 'storage_full', 'shared')], 60):
        owner = None if number == 67 else 'blue'
        yield Row(number, status, code, {'owner': owner, 'visibility': visibility, 'size': 1})


ROWS = list(shelf_rows())


def is_live(row: Row) -> bool:
    return not row.values()['deleted'] and (row.status != 'killed' or row.code is not None)


def listed_rows(project: str = OWNER, member_status: str = 'accepted') -> list[Row]:
    """What a list of this project holds."""
    def is_listed(row: Row) -> bool:
        owner, visibility = row.values()['owner'], row.values()['visibility']
        member, status = MEMBERS.get(row.number, ('', ''))
        return owner == project or visibility == 'public' or (
            visibility == 'shared' and member == project and member_status in ('all', status))
    return [row for row in ROWS if is_live(row) and is_listed(row)]


def of_status(rows: list[Row], status: str | None) -> list[Row]:
    return rows if status is None else [row for row in rows if ('error' if row.code else row.status) == status]


@pytest.fixture(scope='module')
def store(glance: OldGlance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('guard')
    put(ROWS, glance.database, f'sqlite:///{folder}/imgguard.db')
    with closing(sqlite3.connect(glance.database)) as database, database:
        for row in ROWS:
            if row.number in MEMBERS:
                database.execute(
                    'INSERT INTO image_members (image_id, member, can_share, status, created_at, updated_at, deleted) '
                    'VALUES (?, ?, 0, ?, ?, ?, 0)', [row.id, *MEMBERS[row.number], row.created_at, row.created_at])
    return folder


def page(caller: V1Images, query: str) -> list[dict[str, Any]]:
    answer = caller.request('GET', f'/v2/images?{query}')
    assert answer.status == 200, answer.text
    found: list[dict[str, Any]] = answer.json['images']
    return found


def ids(caller: V1Images, query: str) -> list[str]:
    return [image['id'] for image in page(caller, query)]


def walked(caller: V1Images, query: str) -> list[str]:
    """The ids of all pages, as clients ask for them: until there is no next."""
    found: list[str] = []
    path = f'/v2/images?{query}'
    while path:
        answer = caller.request('GET', path)
        assert answer.status == 200, answer.text
        found += [image['id'] for image in answer.json['images']]
        assert len(found) < 1000, 'the list does not end'
        path = answer.json.get('next', '')
        assert answer.json['images'] or not path, 'clients take an empty page for the last'
    return found


@pytest.mark.parametrize('key', ['created_at', 'updated_at', 'name', 'size', 'id', 'status'])
@pytest.mark.parametrize('direction', ['asc', 'desc'])
def test_no_image_twice_none_missing(glance: OldGlance, images: V1Images, key: str, direction: str) -> None:
    for limit in (3, 100):
        query = f'limit={limit}&sort_key={key}&sort_dir={direction}'
        assert walked(images, query) == in_order(glance, listed_rows(), key, direction), limit
        errors = of_status(listed_rows(), 'error')
        assert walked(images, f'{query}&status=error') == in_order(glance, errors, key, direction), limit
    assert walked(images, f'sort={key}:{direction}') == in_order(glance, listed_rows(), key, direction)


def test_an_image_shows_in_a_list_what_it_shows_alone(images: V1Images) -> None:
    errors = [image for image in page(images, 'limit=100') if image['status'] == 'error']
    assert {image['id'] for image in errors} == {row.id for row in of_status(listed_rows(), 'error')}
    for image in errors:
        assert image == images.show(image['id'])


# Filters

FILTERS: dict[str, Callable[[Row], bool]] = {
    f'owner={OWNER}': lambda row: row.values()['owner'] == OWNER,
    'owner=blue': lambda row: row.values()['owner'] == 'blue',
    'owner=nobody': lambda row: False,
    'name=beta': lambda row: row.values()['name'] == 'beta',
    'name=in:alpha,beta': lambda row: row.values()['name'] in ('alpha', 'beta'),
    'tag=odd': lambda row: 'odd' in row.tags,
    'tag=even&tag=all': lambda row: 'even' in row.tags,
    'tag=nosuch': lambda row: False,
    'visibility=public': lambda row: bool(row.values()['visibility'] == 'public'),
    'visibility=private': lambda row: bool(row.values()['visibility'] == 'private'),
    'visibility=shared': lambda row: bool(row.values()['visibility'] == 'shared'),
    'visibility=private&tag=odd': lambda row: row.values()['visibility'] == 'private' and 'odd' in row.tags,
    f'id=in:{ROWS[1].id},{ROWS[4].id},{ROWS[6].id},{ROWS[63].id}': lambda row: row.number in (1, 4, 6),
    f'id={ROWS[4].id}': lambda row: row.number == 4,
    'os_distro=debian': lambda row: row.properties.get('os_distro') == 'debian',
    'disk_format=qcow2': lambda row: bool(row.values()['disk_format'] == 'qcow2'),
    'min_ram=5': lambda row: bool(row.values()['min_ram'] == 5),
    'size_min=2': lambda row: bool(row.values()['size'] >= 2),
    'protected=false': lambda row: True,
    'protected=true': lambda row: False}


@pytest.mark.parametrize('query', FILTERS)
@pytest.mark.parametrize('status', [None, 'error', 'queued'])
def test_every_filter_holds_for_killed_images_too(glance: OldGlance, images: V1Images, query: str,
                                                  status: str | None) -> None:
    expected = in_order(glance, [row for row in of_status(listed_rows(), status) if FILTERS[query](row)])
    with_status = query if status is None else f'{query}&status={status}'
    for limit in (4, 100):
        assert walked(images, f'{with_status}&limit={limit}') == expected, limit


@pytest.mark.parametrize('member_status', ['accepted', 'pending', 'all', 'rejected'])
def test_members_see_what_they_want_to_see(glance: OldGlance, images: V1Images, member_status: str) -> None:
    rows = listed_rows(OWNER, member_status)
    assert walked(images, f'member_status={member_status}&limit=7') == in_order(glance, rows)
    errors = of_status(rows, 'error')
    assert walked(images, f'member_status={member_status}&status=error') == in_order(glance, errors)


@pytest.mark.parametrize('status', ['killed', 'in:killed,active', 'active', 'eq:active', 'deleted', 'nosuch'])
def test_a_status_that_is_no_error_is_glances_to_filter_by(images: V1Images, bare: V1Images, status: str) -> None:
    for query in (f'status={status}', f'%73tatus={status}'):
        answer, alone = (each.request('GET', f'/v2/images?limit=100&{query}') for each in (images, bare))
        assert (answer.status, answer.body) == (alone.status, alone.body)


def test_queued_is_no_error(glance: OldGlance, images: V1Images, requests: list[str]) -> None:
    for status in ('queued', 'in:queued,killed'):
        expected = in_order(glance, of_status(listed_rows(), 'queued'))
        assert walked(images, f'status={status}&limit=2') == expected
        if status == 'queued':
            assert not [request for request in requests if '/v1/' in request]


def test_the_code_of_the_error(glance: OldGlance, images: V1Images, requests: list[str],
                               monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in listed_rows() if row.code == 'storage_full']
    assert {row.status for row in rows} == {'killed', 'saving'}
    monkeypatch.setattr(listing, 'MAX_IN_TARGET', 1)
    assert walked(images, f'{ERROR}_code=storage_full&limit=100') == in_order(glance, rows)
    # What v2 shows of the others is not asked for.
    shown = {request.partition('?')[0].rpartition('/')[2] for request in requests if '/v2/images/' in request}
    assert shown <= {row.id for row in ROWS if row.code == 'storage_full'} | {'members'}
    assert walked(images, f'{ERROR}_code=storage_full&limit=2') == in_order(glance, rows)


@pytest.mark.parametrize('query', [
    'visibility=community', 'created_at=gt:2026-01-01T00:00:01Z', 'updated_at=lt:2027-01-01T00:00:00Z',
    'checksum=', 'virtual_size=', 'min_disk_min=1', 'sort_key=name&sort_key=size', 'sort=name:asc,size:desc',
    'name=beta&name=beta', 'limit=0', 'limit=%2B5', 'id=gt:0', 'sort=name:asc&limit=x'])
def test_killed_images_are_left_out_where_v1_cannot_tell_them(images: V1Images, bare: V1Images, query: str) -> None:
    answer, alone = (each.request('GET', f'/v2/images?{query}') for each in (images, bare))
    assert answer.status == alone.status
    if answer.status == 200:
        assert [image['id'] for image in answer.json['images']] == [image['id'] for image in alone.json['images']]
        assert answer.json.get('next') == alone.json.get('next')
    else:
        assert answer.text == alone.text


@pytest.mark.parametrize('query', [
    'limit=x', 'limit=-1', 'sort_key=nosuch', 'sort_dir=up', 'marker=x', 'marker=', 'size_min=x', 'protected=True',
    'visibility=nosuch', 'member_status=nosuch', 'status=gt:a', 'name=in:"a', 'changes-since=2000-01-01T00:00:00Z',
    'sort=name:asc&sort_key=name', 'marker=00000000-0000-0000-0000-000000000000'])
def test_what_glance_refuses_it_refuses_in_its_own_words(images: V1Images, bare: V1Images, query: str) -> None:
    answer, alone = (each.request('GET', f'/v2/images?{query}') for each in (images, bare))
    assert (answer.status, answer.text) == (alone.status, alone.text)
    assert answer.status >= 400


def test_a_request_with_a_body_is_sent_on_once(images: V1Images, bare: V1Images, requests: list[str]) -> None:
    answer, alone = (each.request('GET', '/v2/images?limit=9', body=b'limit=2') for each in (images, bare))
    assert [image['id'] for image in answer.json['images']] == [image['id'] for image in alone.json['images']]
    assert requests == ['GET /v2/images?limit=9']


# Pages

def test_any_image_is_a_marker_that_is_one_for_glance(glance: OldGlance, images: V1Images, bare: V1Images) -> None:
    order, expected = in_order(glance, ROWS), in_order(glance, listed_rows())
    killed = 0
    for row in ROWS:
        answer = images.request('GET', f'/v2/images?limit=5&marker={row.id}')
        alone = bare.request('GET', f'/v2/images?limit=5&marker={row.id}')
        assert answer.status == alone.status
        if answer.status == 200:
            killed += row.status == 'killed'
            after = set(order[order.index(row.id) + 1:])
            assert [image['id'] for image in answer.json['images']] == [
                image_id for image_id in expected if image_id in after][:5]
        else:
            assert answer.text == alone.text
    assert killed > 10


def test_a_page_is_as_long_as_glances_own(glance: OldGlance, images: V1Images) -> None:
    expected = in_order(glance, listed_rows(OWNER, 'all'))
    for query, length in (('', 25), ('limit=3', 3), ('limit=1', 1), ('limit=1000', 1000)):
        assert ids(images, f'member_status=all&{query}') == expected[:length]


def test_without_a_size_none_stands_where_images_are_sorted_by_it(
        start_old_glance: StartOldGlance, tmp_path: Path) -> None:
    glance = start_old_glance()
    rows = [Row(number, 'active', None, {'size': number}) for number in range(8)]
    killed = [Row(10, 'killed', 'storage_full', {'size': None}), Row(11, 'killed', 'storage_full', {'size': 3})]
    put(rows + killed, glance.database, f'sqlite:///{tmp_path}/imgguard.db')
    with guarding(glance, tmp_path, by_database=False) as port:
        images = V1Images(port, ALICE)
        for direction in ('asc', 'desc'):
            assert walked(images, f'sort_key=size&sort_dir={direction}&limit=3') == in_order(
                glance, [*rows, killed[1]], 'size', direction)
        assert walked(images, 'limit=3') == in_order(glance, rows + killed)


@pytest.mark.parametrize('query', ['', 'status=error'])
def test_an_image_that_is_put_back_to_queued_meanwhile_is_listed_once(
        start_old_glance: StartOldGlance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    glance = start_old_glance()
    rows = [Row(0, 'active'), Row(2, 'killed', 'storage_full'), Row(4, 'killed', 'storage_full')]
    put(rows, glance.database, f'sqlite:///{tmp_path}/imgguard.db')
    killed = KilledImages._killed

    def requeued(*given: Any) -> Iterator[dict[str, Any]]:
        # The first before Glance is asked for the page, and the other when the page is there.
        for image in killed(*given):
            with closing(sqlite3.connect(glance.database)) as database, database:
                database.execute("UPDATE images SET status = 'queued' WHERE id = ?", [image['id']])
            yield image

    monkeypatch.setattr(KilledImages, '_killed', requeued)
    with guarding(glance, tmp_path, by_database=False) as port:
        found = page(V1Images(port, ALICE), query)
    assert [(image['id'], image['status']) for image in found] == [
        (rows[2].id, 'error'), (rows[1].id, 'error'), (rows[0].id, 'active')][:2 if query else 3]


@pytest.mark.parametrize('query', ['', 'status=error'])
def test_the_first_look_gives_an_attempt_that_died_its_verdict(start_old_glance: StartOldGlance, tmp_path: Path,
                                                               query: str) -> None:
    glance, store = start_old_glance(), f'sqlite:///{tmp_path}/imgguard.db'
    killed, active = Row(1, 'killed', 'storage_full'), Row(0, 'active')
    put([killed, active], glance.database, store)
    let_die(store)
    with guarding(glance, tmp_path, by_database=False) as port:
        found = page(V1Images(port, ALICE), query)
        assert [image[f'{ERROR}_code'] for image in found if image['status'] == 'error'] == ['worker_lost']
        assert [image['id'] for image in found] == [killed.id, active.id][:1 if query else 2]


# Callers

def test_another_project_sees_what_is_listed_to_it_alone(glance: OldGlance, port: int) -> None:
    rows = {row.id: row for row in ROWS}
    for project in ('blue', 'green', 'grey'):
        stranger = V1Images(port, token('bob', project))
        for member_status in ('accepted', 'all'):
            expected = in_order(glance, listed_rows(project, member_status))
            assert walked(stranger, f'limit=3&member_status={member_status}') == expected
        errors = page(stranger, 'status=error&limit=100')
        assert [image['id'] for image in errors] == in_order(glance, of_status(listed_rows(project), 'error'))
        assert all((ERROR in image) == (rows[image['id']].values()['owner'] == project) for image in errors)


def test_an_admin_sees_all_but_the_community(glance: OldGlance, port: int) -> None:
    admin = V1Images(port, admin_token())
    rows = [row for row in ROWS if is_live(row) and row.values()['visibility'] != 'community']
    assert walked(admin, 'limit=7') == in_order(glance, rows)
    errors = of_status(rows, 'error')
    assert walked(admin, 'status=error&limit=7') == in_order(glance, errors)
    assert walked(admin, 'owner=blue&limit=7') == in_order(
        glance, [row for row in rows if row.values()['owner'] == 'blue'])
    assert all(ERROR in image for image in page(admin, 'status=error&limit=100'))


def test_where_nobody_says_who_the_caller_is(glance: OldGlance, store: Path, port: int) -> None:
    with guarding(glance, store, by_database=False, identified=False) as unidentified:
        for project in (OWNER, 'blue', 'green', 'grey'):
            caller = V1Images(unidentified, token('alice', project))
            # The owner of an image that a member does not want to see might be that member.
            rows = [row for row in listed_rows(project) if row.status != 'killed' or not (
                row.values()['visibility'] == 'shared' and MEMBERS.get(row.number, ('', ''))[1] == 'pending')]
            assert walked(caller, 'limit=4') == in_order(glance, rows), project
            assert walked(caller, 'status=error') == in_order(glance, of_status(rows, 'error')), project
            everything = listed_rows(project, 'all')
            assert walked(caller, 'member_status=all') == in_order(glance, everything), project


# Outages

def same(images: V1Images, bare: V1Images, query: str) -> None:
    """Nothing but what the guard writes into an image differs."""
    answer, alone = (each.request('GET', f'/v2/images?{query}') for each in (images, bare))
    assert answer.status == alone.status == 200
    assert [image['id'] for image in answer.json['images']] == [image['id'] for image in alone.json['images']]
    assert answer.json.get('next') == alone.json.get('next')


def test_without_v1_the_list_is_glances(glance: OldGlance, images: V1Images, bare: V1Images) -> None:
    glance.kill_registry()
    try:
        for query in ('', 'limit=3', f'marker={ROWS[4].id}'):
            same(images, bare, query)
    finally:
        glance.start()
    assert ROWS[4].id in ids(images, 'limit=100')


@pytest.mark.parametrize('method', ['_killed', '_shown', '_place'])
def test_whatever_is_wrong_the_list_is_glances(images: V1Images, bare: V1Images, monkeypatch: pytest.MonkeyPatch,
                                               caplog: pytest.LogCaptureFixture, method: str) -> None:
    def fail(*given: object) -> None:
        raise KeyError('of the test')
    monkeypatch.setattr(KilledImages, method, fail)
    same(images, bare, 'limit=9&sort_key=name')
    assert 'killed images are not listed' in caplog.text


def test_an_image_that_is_gone_meanwhile_is_left_out(images: V1Images, glance: OldGlance,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    shown = KilledImages._shown
    monkeypatch.setattr(KilledImages, '_shown', lambda self, image, wanted, by: shown(
        self, {**image, 'id': '0' * 36} if image['id'] == ROWS[4].id else image, wanted, by))
    rows = [row for row in listed_rows() if row.number != 4]
    assert walked(images, 'limit=4') == in_order(glance, rows)


def test_nothing_is_asked_while_the_store_has_no_candidate(
        glance: OldGlance, bare: V1Images, tmp_path: Path, requests: list[str]) -> None:
    with guarding(glance, tmp_path, by_database=False) as port:
        images = V1Images(port, ALICE)
        for down in (False, True):
            if down:
                (tmp_path / 'imgguard.db').write_bytes(b'no database' * 1000)
            for query in ('', 'status=error', 'limit=3', f'marker={ROWS[1].id}'):
                requests.clear()
                answer, alone = (each.request('GET', f'/v2/images?{query}') for each in (images, bare))
                assert answer.body == alone.body
                assert requests == [f'GET /v2/images?{query}']
