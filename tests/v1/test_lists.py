"""Lists of v1 through the proxy in front of a real Glance 15.0.2: images in error are there, killed ones among them."""

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from imgguard import lists_v1
from imgguard.api import v1
from tests.identity import admin_token, token
from tests.old_glance import OldGlance
from tests.uploading import ERROR
from tests.v1.conftest import StartOldGlance
from tests.v1.guarding import guarding
from tests.v1.images import V1Images
from tests.v1.shelf import ALICE, OWNER, Row, in_order, put

KINDS = [('active', None), ('killed', 'client_disconnected'), ('queued', None), ('killed', None),
         ('killed', 'size_mismatch'), ('queued', 'client_disconnected'), ('active', None), ('saving', 'storage_full'),
         ('deleted', None), ('killed', 'storage_full'), ('saving', None), ('pending_delete', None), ('killed', None)]
NAMES = ['alpha', 'Alpha', 'beta', 'b-eta', 'äther', '', 'beta']


def shelf_rows() -> Iterator[Row]:
    for number in range(60):
        status, code = KINDS[number % len(KINDS)]
        fields: dict[str, Any] = {'name': NAMES[number % len(NAMES)], 'size': number % 4,
                                  'visibility': 'public' if number % 9 == 0 else 'shared'}
        # By its registry Glance deletes an image without a new status.
        if status in ('deleted', 'pending_delete') or number == 43:
            fields |= {'deleted': 1, 'deleted_at': '2026-01-02 00:00:00.000000'}
        if number % 7 == 0:
            fields |= {'disk_format': 'qcow2', 'min_ram': 5}
        if number % 8 == 0:
            fields |= {'owner': 'blue', 'visibility': 'public' if number % 16 else 'private'}
        yield Row(number, status, code, fields, {'os_distro': 'debian'} if number % 3 else {})


ROWS = list(shelf_rows())


def listed_rows(owner: str = OWNER) -> list[Row]:
    """What a list of this project holds."""
    seen = (row for row in ROWS if row.values()['owner'] == owner or row.values()['visibility'] == 'public')
    return [row for row in seen if not row.values()['deleted'] and (row.status != 'killed' or row.code)]


@pytest.fixture(scope='module')
def store(glance: OldGlance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('guard')
    put(ROWS, glance.database, f'sqlite:///{folder}/imgguard.db')
    return folder


def walked(images: V1Images, path: str, limit: int) -> list[str]:
    """The ids of all pages, as clients ask for them: until a page is shorter than they asked for."""
    found: list[str] = []
    marker = ''
    while True:
        answer = images.request('GET', f'{path}&limit={limit}{marker}')
        assert answer.status == 200, answer.text
        page = [image['id'] for image in answer.json['images']]
        found += page
        assert len(found) < 10000, 'the list does not end'
        if len(page) < limit:
            return found
        marker = f'&marker={page[-1]}'


PATHS = ['/v1/images', '/v1/images/detail']
KEYS = ['created_at', 'name', 'status', 'size', 'id', 'disk_format', 'container_format', 'updated_at']


@pytest.mark.parametrize('direction', ['asc', 'desc'])
@pytest.mark.parametrize('key', KEYS)
def test_no_image_twice_none_missing_at_any_limit(glance: OldGlance, images: V1Images, key: str,
                                                  direction: str) -> None:
    expected = in_order(glance, listed_rows(), key, direction)
    for limit in (5, 30):
        assert walked(images, f'/v1/images?sort_key={key}&sort_dir={direction}', limit) == expected, limit


def test_no_image_twice_none_missing_in_pages_of_any_length(glance: OldGlance, images: V1Images) -> None:
    expected = in_order(glance, listed_rows())
    for limit in (1, 2, 3, len(expected) - 1, len(expected), len(expected) + 1):
        assert walked(images, '/v1/images/detail?', limit) == expected, limit


def test_a_page_is_as_long_as_glances_own(glance: OldGlance, images: V1Images) -> None:
    expected = in_order(glance, listed_rows())
    for path in ('/v1/images', '/v1/images/detail', '/v1/', '/v1.1/images', '/v1//images/detail'):
        for query, length in (('', 25), ('limit=3', 3), ('limit=0', 0), ('limit=1000', 1000)):
            page = images.request('GET', f'{path}?{query}').json['images']
            assert [image['id'] for image in page] == expected[:length], (path, query)
    unversioned = images.request('GET', '/images/detail', {'Accept': 'application/vnd.openstack.images-v1'})
    assert [image['id'] for image in unversioned.json['images']] == expected[:25]


def test_no_page_ends_with_a_killed_image_without_the_size_that_images_are_sorted_by(
        start_old_glance: StartOldGlance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glance = start_old_glance()
    rows = [Row(number, 'active', None, {'size': number}) for number in range(8)]
    rows += [Row(10, 'killed', 'storage_full', {'size': 3}), Row(11, 'queued', 'storage_full', {'size': 4})]
    unsized = [Row(20, 'killed', 'storage_full', {'size': None}),
               *(Row(number, 'killed', None, {'size': None}) for number in range(21, 28))]
    put(rows + unsized, glance.database, f'sqlite:///{tmp_path}/imgguard.db')
    with guarding(glance, tmp_path, by_database=False) as port:
        images = V1Images(port, ALICE)
        for direction, limit in itertools.product(('asc', 'desc'), (1, 3, 20)):
            assert walked(images, f'/v1/images?sort_key=size&sort_dir={direction}', limit) == in_order(
                glance, rows, 'size', direction), (direction, limit)
        assert walked(images, '/v1/images?', 3) == in_order(glance, [*rows, unsized[0]])
        monkeypatch.setattr(lists_v1, '_STEP', 1)
        assert walked(images, '/v1/images?sort_key=size&sort_dir=asc', 5) == in_order(glance, rows, 'size', 'asc')
        # One that Glance itself lists.
        waiting = Row(9, 'queued', None, {'size': None})
        with closing(sqlite3.connect(glance.database)) as database, database:
            waiting.written_in_glance(database)
        assert images.listed('sort_key=size&sort_dir=asc&limit=3') == [waiting.id, rows[0].id, rows[1].id]


def test_any_image_is_a_marker_that_is_one_for_glance(glance: OldGlance, images: V1Images, bare: V1Images) -> None:
    seen = {row.id: row for row in ROWS if row.values()['owner'] == OWNER or row.values()['visibility'] == 'public'}
    order, expected = in_order(glance, seen.values()), in_order(glance, listed_rows())
    for row in ROWS:
        answer = images.request('GET', f'/v1/images?limit=5&marker={row.id}')
        alone = bare.request('GET', f'/v1/images?limit=5&marker={row.id}')
        assert answer.status == alone.status
        if answer.status == 200:
            after = set(order[order.index(row.id) + 1:])
            assert [image['id'] for image in answer.json['images']] == [
                image_id for image_id in expected if image_id in after][:5]
        else:
            assert answer.text == alone.text and (row.id not in seen or row.values()['deleted'])


def test_details_are_those_of_head(images: V1Images, bare: V1Images) -> None:
    page = images.request('GET', '/v1/images/detail?limit=50').json['images']
    alone = {image['id']: image for image in bare.request('GET', '/v1/images/detail?limit=50').json['images']}
    rows = {row.id: row for row in ROWS}
    for image in page:
        row = rows[image['id']]
        if row.code is None:
            assert image == alone[image['id']]
            continue
        assert (image['status'], image['size'], image['checksum']) == ('error', 0, None)
        assert image['properties'][f'{ERROR}_code'] == row.code
        # Text, request id and number of attempts are for the owner's project.
        assert (ERROR in image['properties']) == (row.values()['owner'] == OWNER)
        head = images.head(image['id'])
        assert {name: head[f'property-{name}'] for name in image['properties']} == image['properties']
    assert {image['id'] for image in page if image['id'] not in alone} == {
        row.id for row in listed_rows() if row.status == 'killed'}


def test_a_brief_list_holds_the_same_without_the_error(images: V1Images) -> None:
    details = images.request('GET', '/v1/images/detail?limit=50').json['images']
    assert images.request('GET', '/v1/images?limit=50').json['images'] == [v1.brief(image) for image in details]


# Filters

def of_filter(name: str, value: str, row: Row) -> bool:
    values = row.values()
    if name.startswith('property-'):
        return row.properties.get(name.removeprefix('property-')) == value
    if name in ('size_min', 'size_max'):
        return bool(values['size'] >= int(value) if name == 'size_min' else values['size'] <= int(value))
    return str(values[name]) == value


@pytest.mark.parametrize('name, value', [
    ('name', 'alpha'), ('name', ''), ('disk_format', 'qcow2'), ('min_ram', '5'), ('size_min', '2'),
    ('size_max', '1'), ('property-os_distro', 'debian'), ('name', 'nosuch')])
@pytest.mark.parametrize('status', [None, 'error', 'queued'])
def test_every_other_filter_stays_glances(glance: OldGlance, images: V1Images, name: str, value: str,
                                          status: str | None) -> None:
    rows = [row for row in listed_rows() if of_filter(name, value, row)]
    query = f'{name}={value}'
    if status is not None:
        rows = [row for row in rows if (row.code is not None if status == 'error' else
                                        row.code is None and row.status == status)]
        query += f'&status={status}'
    for path, limit in itertools.product(PATHS, (4, 40)):
        assert walked(images, f'{path}?{query}', limit) == in_order(glance, rows), limit


STATUSES = {
    'error': {'error'}, 'in:error': {'error'}, 'eq:error': {'error'}, 'queued': {'queued'}, 'saving': {'saving'},
    'in:queued,error': {'queued', 'error'}, 'active': {'active'}, 'in:active,saving': {'active', 'saving'},
    'killed': set(), 'in:killed,active': {'active'}, 'deleted': set(), 'nosuch': set(), '': set()}


@pytest.mark.parametrize('status', STATUSES)
def test_the_filter_on_the_status_is_one_on_the_status_shown(glance: OldGlance, images: V1Images, status: str) -> None:
    rows = [row for row in listed_rows() if ('error' if row.code else row.status) in STATUSES[status]]
    for path, limit in itertools.product(PATHS, (4, 40)):
        assert walked(images, f'{path}?status={status}', limit) == in_order(glance, rows)


def test_of_a_status_that_is_given_twice_the_last_counts(images: V1Images) -> None:
    assert images.listed('status=active;status=error') == images.listed('status=error') != []
    assert images.listed('status=error&status=active') == images.listed('status=active') != []


def test_the_code_of_the_error(glance: OldGlance, images: V1Images) -> None:
    rows = [row for row in listed_rows() if row.code == 'storage_full']
    for query, among in (('', rows), ('&status=error', rows), ('&status=queued', []), ('&status=active', [])):
        assert walked(images, f'/v1/images?property-{ERROR}_code=storage_full{query}', 2) == in_order(glance, among)
    assert images.listed(f'property-{ERROR}_code=nosuch') == []


def test_changes_are_glances_own_with_the_error_written_in(images: V1Images, bare: V1Images) -> None:
    since = 'changes-since=2000-01-01T00:00:00Z'
    for more in ('&limit=50', '&limit=5', '', f'&marker={ROWS[8].id}'):
        assert images.listed(since + more) == bare.listed(since + more) == [
            image['id'] for image in images.request('GET', f'/v1/images/detail?{since}{more}').json['images']]
    errors = images.request('GET', f'/v1/images/detail?{since}&status=error&limit=50').json['images']
    assert {image['id'] for image in errors} == {row.id for row in listed_rows() if row.code}
    killed = images.request('GET', f'/v1/images/detail?{since}&status=killed&limit=50').json['images']
    assert {(image['id'], image['status']) for image in killed} == {
        (row.id, 'killed') for row in ROWS if row.status == 'killed' and (row.code is None or row.values()['deleted'])
        and (row.values()['owner'] == OWNER or row.values()['visibility'] == 'public')}
    assert images.listed('changes-since=2030-01-01T00:00:00Z&status=error') == []


@pytest.mark.parametrize('query', [
    'limit=x', 'limit=-1', 'sort_key=nosuch', 'sort_dir=up', 'marker=x', 'size_min=x', 'is_public=maybe',
    'protected=maybe', 'changes-since=x', 'status=in:"a', 'name=in:"a', 'status=gt:a', 'name=%C3%A4ther',
    'marker=00000000-0000-0000-0000-000000000000'])
def test_what_glance_refuses_it_refuses_in_its_own_words(images: V1Images, bare: V1Images, query: str) -> None:
    for path, more in itertools.product(PATHS, ('', 'status=error&')):
        answer, alone = (each.request('GET', f'{path}?{more}{query}') for each in (images, bare))
        assert (answer.status, answer.text) == (alone.status, alone.text), query


def test_a_request_with_a_body_is_sent_on_as_it_is(images: V1Images, bare: V1Images, requests: list[str]) -> None:
    for body in (b'{}', b'limit=2'):
        requests.clear()
        answer, alone = (each.request('GET', '/v1/images?limit=9', body=body) for each in (images, bare))
        assert (answer.status, answer.text) == (alone.status, alone.text)
        assert requests == ['GET /v1/images?limit=9']


# Callers

def test_others_see_what_glance_shows_them(glance: OldGlance, port: int) -> None:
    for project in ('blue', 'green'):
        stranger = V1Images(port, token('bob', project))
        assert walked(stranger, '/v1/images?', 3) == in_order(glance, listed_rows(project))
        details = stranger.request('GET', '/v1/images/detail?limit=50&status=error').json['images']
        rows = {row.id: row for row in ROWS}
        assert all((ERROR in image['properties']) == (rows[image['id']].values()['owner'] == project)
                   for image in details)


def test_an_admin_asks_for_all_or_for_what_is_public(glance: OldGlance, port: int) -> None:
    admin = V1Images(port, admin_token())
    live = [row for row in ROWS if not row.values()['deleted'] and (row.status != 'killed' or row.code)]
    public = [row for row in live if row.values()['visibility'] == 'public']
    for query, rows in (('is_public=none', live), ('is_public=true', public), ('', public),
                        ('is_public=false', [row for row in live if row not in public])):
        assert walked(admin, f'/v1/images?{query}', 7) == in_order(glance, rows), query
        errors = [row for row in rows if row.code]
        assert walked(admin, f'/v1/images/detail?status=error&{query}', 3) == in_order(glance, errors), query


# Other options, outages

def test_images_in_error_may_show_the_status_queued(glance: OldGlance, store: Path, bare: V1Images) -> None:
    with guarding(glance, store, by_database=False, v1_error_status='queued') as port:
        images = V1Images(port, ALICE)
        waiting = [row for row in listed_rows() if row.code is None and row.status == 'queued']
        errors = [row for row in listed_rows() if row.code]
        for status, rows in (('queued', waiting + errors), ('error', errors), ('saving', [
                row for row in listed_rows() if (row.status, row.code) == ('saving', None)])):
            assert walked(images, f'/v1/images?status={status}', 3) == in_order(glance, rows)
        page = images.request('GET', '/v1/images/detail?limit=50&status=queued').json['images']
        assert {image['status'] for image in page} == {'queued'}


def test_without_the_store_and_without_candidates_the_answers_are_glances(
        glance: OldGlance, bare: V1Images, tmp_path: Path) -> None:
    with guarding(glance, tmp_path, by_database=False) as port:
        images = V1Images(port, ALICE)
        for down in (False, True):
            if down:
                (tmp_path / 'imgguard.db').write_bytes(b'no database' * 1000)
            for path, query in itertools.product(PATHS, ('', 'status=error', 'status=queued', f'marker={ROWS[1].id}')):
                answer, alone = (each.request('GET', f'{path}?{query}') for each in (images, bare))
                assert answer.body == alone.body


# Thousands

MANY = 3000


def made(year: int) -> dict[str, str]:
    return dict.fromkeys(['created_at', 'updated_at'], f'{year}-01-01 00:00:00.000000')


@pytest.mark.parametrize(('path', 'listed', 'asked'), [
    # The page that is asked for; whether a killed image follows, and what follows.
    ('/v1/images?limit=20', [7, 4, 0, 3], 3), ('/v1/images?limit=2', [7, 4], 1),
    # Glance's page, and twice what is killed.
    ('/v2/images?limit=20', [7, 4, 0, 3], 4)])
def test_killed_images_that_are_older_than_all_in_error_cost_nothing(
        old: tuple[int, OldGlance], requests: list[str], path: str, listed: list[int], asked: int) -> None:
    answer = V1Images(old[0], ALICE).request('GET', path)
    assert [image['id'] for image in answer.json['images']] == [Row(number, '').id for number in listed]
    assert len(requests) <= asked, requests


def test_nor_do_they_where_only_images_in_error_are_asked_for(old: tuple[int, OldGlance], requests: list[str]) -> None:
    for path, asked in (('/v1/images?status=error&limit=20', 1), ('/v2/images?status=error', 5)):
        requests.clear()
        answer = V1Images(old[0], ALICE).request('GET', path)
        assert [image['id'] for image in answer.json['images']] == [Row(7, '').id, Row(3, '').id]
        assert len(requests) <= asked, requests


def test_none_is_missed_where_more_are_in_error_than_are_looked_up(
        old: tuple[int, OldGlance], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists_v1, '_MOST_LOOKED_UP', 0)
    for path in ('/v1/images?status=error&limit=20', '/v2/images?status=error'):
        answer = V1Images(old[0], ALICE).request('GET', path)
        assert [image['id'] for image in answer.json['images']] == [Row(7, '').id, Row(3, '').id]


@pytest.fixture(scope='module')
def old(start_old_glance: StartOldGlance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, OldGlance]]:
    glance, folder = start_old_glance(), tmp_path_factory.mktemp('old')
    rows = [Row(0, 'active'), Row(3, 'killed', 'storage_full', made(2022)), Row(4, 'active'),
            Row(7, 'queued', 'storage_full')]
    put([*rows, *(Row(number, 'killed', None, made(2020)) for number in range(10, 2000))], glance.database,
        f'sqlite:///{folder}/imgguard.db')
    with guarding(glance, folder, by_database=False) as port:
        yield port, glance


@pytest.fixture(scope='module')
def crowd(start_old_glance: StartOldGlance,
          tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, OldGlance]]:
    glance, folder = start_old_glance(), tmp_path_factory.mktemp('crowd')
    # After thousands in error stand thousands of killed ones that the guard does not know, and one that is active.
    put([Row(number, 'killed', 'storage_full' if number > MANY else None) for number in range(1, 2 * MANY + 1)]
        + [Row(0, 'active')], glance.database, f'sqlite:///{folder}/imgguard.db')
    with guarding(glance, folder, by_database=False) as port:
        yield port, glance


def test_thousands_in_error_cost_two_requests_a_page(crowd: tuple[int, OldGlance], requests: list[str]) -> None:
    images, glance = V1Images(crowd[0], ALICE), crowd[1]
    rows = [Row(number, 'killed') for number in range(MANY + 1, 2 * MANY + 1)]
    assert walked(images, '/v1/images/detail?status=error', 20) == in_order(glance, rows)
    # The page that is asked for and whether Glance takes its marker; at the end, what follows it, and that it is empty.
    assert len(requests) <= 2 * (MANY // 20 + 1) + MANY // 200


def test_what_stands_behind_thousands_that_nobody_is_shown_is_found(
        crowd: tuple[int, OldGlance], requests: list[str]) -> None:
    images, last = V1Images(crowd[0], ALICE), Row(MANY + 1, 'killed').id
    assert images.listed(f'marker={last}&limit=20') == [Row(0, 'active').id]
    assert len(requests) <= 10


def test_a_page_that_takes_too_many_images_is_glances(
        crowd: tuple[int, OldGlance], requests: list[str], monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(lists_v1, '_MAX_EXAMINED', 200)
    images, first = V1Images(crowd[0], ALICE), Row(MANY, 'killed').id
    assert images.listed(f'marker={first}&limit=20') == [Row(0, 'active').id]
    assert 'were not enough for a page of 20' in caplog.text
    assert len(requests) == 4
