"""Lists: images in error are found by status and code, in Glance's own order, pages and links."""

import itertools
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import MetaData, Table, create_engine, insert, text

from imgguard import listing, presenter
from imgguard.store.models import images as rows_of_the_guard
from tests import counting
from tests.conftest import OverrideGlance
from tests.harness import InProcessGlance, in_process_only
from tests.identity import token
from tests.uploading import ERROR, KEEP, Images, Pipelines, comparable, new_project

DATA = b'data of an image' * 100
MANY_IN_ERROR, MANY_QUEUED = 2500, 500


@pytest.fixture(scope='module')
def pipelines(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return Pipelines(in_process_glance, tmp_path_factory.mktemp('guard'))


class Shelf:
    """A project with images of every kind: each third in error, some waiting, some active."""

    def __init__(self, pipelines: Pipelines) -> None:
        self.images, self.bare = pipelines.callers()
        self.in_error: set[str] = set()
        self.waiting: set[str] = set()
        self.active: set[str] = set()
        self.size_mismatch: set[str] = set()
        for number in range(14):
            fields: dict[str, Any] = {'name': f'name-{number % 4}', 'tags': ['odd'] if number % 2 else ['even', 'all']}
            if number % 5 == 0:
                fields |= {'visibility': 'community'}
            if number % 7 == 0:
                fields |= {'protected': True}
            if number % 3 == 0:
                image_id = self.images.in_error(**fields)
                self.in_error.add(image_id)
                if number % 2 == 0:
                    self.images.upload(image_id, DATA, {'X-OpenStack-Image-Size': '9'})
                    self.size_mismatch.add(image_id)
            elif number % 3 == 1:
                self.waiting.add(self.images.created(KEEP if number % 2 else None, **fields))
            else:
                image_id = self.images.created(**fields)
                self.images.upload(image_id, DATA)
                self.active.add(image_id)

    def glances_order(self, query: str, among: set[str]) -> list[str]:
        """These images in the order in which the bare Glance lists them."""
        query = '&'.join(part for part in query.split('&') if not part.startswith('limit='))
        return [image['id'] for image in pages(self.bare, f'{query}&limit=1000')[0]['images']
                if image['id'] in among]


@pytest.fixture(scope='module')
def shelf(pipelines: Pipelines) -> Shelf:
    return Shelf(pipelines)


def pages(images: Images, query: str) -> list[dict[str, Any]]:
    """Follow the ``next`` links to the end."""
    found = []
    path: str | None = f'/v2/images?{query}'
    while path is not None:
        answer = images.request('GET', path)
        assert answer.status_int == 200, answer.text
        found.append(answer.json)
        assert len(found) < 200, 'the list does not end'
        path = answer.json.get('next')
    return found


def walked(images: Images, query: str) -> list[str]:
    """The ids of all pages."""
    return [image['id'] for page in pages(images, query) for image in page['images']]


# Which images a filter finds

IN_ERROR = ['error', 'eq:error', 'in:error', 'in:"error"', 'in:error,error', 'in:nosuch,error']
WAITING = ['queued', 'eq:queued', 'in:queued', 'in:"queued"', 'in:queued,saving', 'in:queued,nosuch']


def test_an_image_in_error_has_the_status_error_in_an_unfiltered_list(shelf: Shelf) -> None:
    listed = shelf.images.request('GET', '/v2/images?limit=100').json['images']
    assert {image['id'] for image in listed if image['status'] == 'error'} == shelf.in_error
    assert {image['id'] for image in listed} == shelf.in_error | shelf.waiting | shelf.active
    for image in listed:
        shown = shelf.images.show(image['id'])
        # PostgreSQL keeps tags in no order.
        assert {**image, 'tags': set(image['tags'])} == {**shown, 'tags': set(shown['tags'])}


@pytest.mark.parametrize('value', IN_ERROR)
def test_status_error_finds_exactly_the_images_in_error(shelf: Shelf, value: str) -> None:
    assert set(shelf.images.listed(f'status={quote(value)}')) == shelf.in_error


@pytest.mark.parametrize('value', WAITING)
def test_status_queued_no_longer_finds_them(shelf: Shelf, value: str) -> None:
    assert set(shelf.images.listed(f'status={quote(value)}')) == shelf.waiting


def test_several_statuses(shelf: Shelf) -> None:
    expected = {
        'in:error,queued': shelf.in_error | shelf.waiting, 'in:queued,active': shelf.waiting | shelf.active,
        'in:active,error': shelf.active | shelf.in_error, 'in:"active",saving,"error"': shelf.active | shelf.in_error,
        'in:active,error,queued': shelf.active | shelf.in_error | shelf.waiting, 'active': shelf.active,
        'in:saving,importing': set(), 'killed': set(), 'ERROR': set(), '': set()}
    for value, ids in expected.items():
        assert set(shelf.images.listed(f'status={quote(value)}&limit=100')) == ids, value


def test_of_a_status_that_is_given_twice_the_last_counts(shelf: Shelf) -> None:
    assert set(shelf.images.listed('status=active&status=error')) == shelf.in_error
    assert set(shelf.images.listed('status=error&status=active')) == shelf.active


def test_the_code_of_the_error(shelf: Shelf) -> None:
    cut = shelf.in_error - shelf.size_mismatch
    for query, ids in (('', shelf.size_mismatch), ('&status=error', shelf.size_mismatch), ('&status=queued', set()),
                       ('&status=in:error,queued', shelf.size_mismatch), ('&status=active', set())):
        assert set(shelf.images.listed(f'{ERROR}_code=size_mismatch{query}')) == ids, query
    assert set(shelf.images.listed(f'{ERROR}_code=client_disconnected')) == cut
    assert shelf.images.listed(f'{ERROR}_code=declared') == shelf.images.listed(f'{ERROR}_code=nosuch') == []


FILTERS = ['name=name-1', 'name=in:name-1,name-2', 'tag=odd', 'tag=even&tag=all', 'visibility=community',
           'visibility=shared', 'protected=true', 'protected=false', 'disk_format=raw', 'disk_format=qcow2',
           'name=name-0&tag=even&visibility=community', 'os_hidden=true', 'created_at=gt:2020-01-01T00:00:00Z',
           'size_min=1', 'owner=another', 'member_status=all', 'id=in:{ids}', 'nosuch=property']


@pytest.mark.parametrize('status, others', [
    *itertools.product(['error'], FILTERS), *itertools.product(['queued'], FILTERS[:6]),
    ('in:error,active', 'name=in:name-1,name-2&tag=odd')])
def test_every_other_filter_stays_glances(shelf: Shelf, status: str, others: str) -> None:
    # Community images are seen by all.
    owner = shelf.images.caller.split(':')[1]
    others = f'owner={owner}&' + others.format(ids=','.join(sorted(shelf.in_error | shelf.waiting)[::2]))
    among = {'error': shelf.in_error, 'queued': shelf.waiting, 'in:error,active': shelf.in_error | shelf.active}[status]
    assert walked(shelf.images, f'status={status}&{others}&limit=2') == shelf.glances_order(others, among)


def test_images_of_other_projects_are_not_found(shelf: Shelf, pipelines: Pipelines) -> None:
    stranger = pipelines.images()
    assert stranger.listed('status=error') == stranger.listed(f'{ERROR}_code=size_mismatch') == []
    community = set(walked(stranger, f'status=error&visibility=community&owner={shelf.images.caller.split(":")[1]}'))
    assert community == shelf.in_error & set(shelf.bare.listed('visibility=community&limit=100')) != set()


# Pages

# Not by size: Glance itself loses images without one between pages, or lists them again and again, as NULL is neither
# more nor less than NULL.
SORTS = ['', 'sort_key=name', 'sort_key=name&sort_dir=asc', 'sort=name:asc,created_at:desc', 'sort=id:asc',
         'sort=status:asc,id:asc', 'sort=name:desc,id:asc',
         'sort_key=updated_at&sort_dir=asc', 'sort=status:desc,name:asc']


@pytest.mark.parametrize('status, sort', [
    *itertools.product(['error'], SORTS), *itertools.product(['queued'], SORTS[:3]),
    ('in:error,queued,active', 'sort=name:asc,created_at:desc'),
    ('in:error,queued,active', 'sort=status:desc,name:asc'), ('in:queued,active', '')])
def test_no_image_twice_none_missing_in_glances_order_at_any_limit(shelf: Shelf, status: str, sort: str) -> None:
    among = {'error': shelf.in_error, 'queued': shelf.waiting, 'in:queued,active': shelf.waiting | shelf.active}.get(
        status, shelf.in_error | shelf.waiting | shelf.active)
    expected = shelf.glances_order(sort, among)
    assert len(expected) == len(among)
    for limit in (*(range(1, len(expected) + 2) if sort == '' else (1, 2, len(expected))), None):
        query = f'status={status}&{sort}' + ('' if limit is None else f'&limit={limit}')
        found = pages(shelf.images, query)
        assert [image['id'] for page in found for image in page['images']] == expected, limit
        if limit is not None and status == 'error':
            assert all(len(page['images']) == limit for page in found[:-1]), 'pages are full'


@in_process_only('Glance on PostgreSQL fails with it')
def test_a_sort_that_takes_glance_in_circles_lists_no_image_twice(shelf: Shelf) -> None:
    # An image without a size, as its marker, brings Glance back to the first of them.
    first = shelf.bare.request('GET', '/v2/images?status=queued&sort=size:desc&limit=6').json
    again = shelf.bare.request('GET', first['next'])
    assert [image['id'] for image in again.json['images']] == [image['id'] for image in first['images']]
    page = shelf.images.request('GET', '/v2/images?status=queued&sort=size:desc&limit=6').json
    assert [image['id'] for image in page['images']] == shelf.glances_order('sort=size:desc', shelf.waiting)
    assert 'next' not in page


def test_links_have_the_form_of_glances(shelf: Shelf) -> None:
    for query in ('status=in:error,queued&limit=3&sort=name:asc', 'limit=2&status=error&tag=even&tag=all&name=a%20b+c',
                  'sort_key=name&sort_key=id&status=eq:error&limit=1', 'status=error&owner=%C3%A4&limit=1',
                  'status=error'):
        guarded = shelf.images.request('GET', f'/v2/images?{query}').json
        bare = shelf.bare.request('GET', f'/v2/images?{query}').json
        assert {**guarded, 'images': [], 'next': None} == {**bare, 'images': [], 'next': None}, query
    guarded = shelf.images.request('GET', '/v2/images?status=error&limit=1&sort=name:asc').json
    alike = shelf.bare.request('GET', f'/v2/images?status=queued&limit=1&sort=name:asc&id={guarded["images"][0]["id"]}')
    assert guarded['next'] == alike.json['next'].replace('queued', 'error').replace(
        f'&id={guarded["images"][0]["id"]}', '')
    assert list(guarded) == list(alike.json)
    for image_id in shelf.in_error | shelf.active:
        query = f'status=error&marker={image_id}&limit=1'
        assert (shelf.images.request('GET', f'/v2/images?{query}').json['first']
                == shelf.bare.request('GET', f'/v2/images?{query}').json['first'] == '/v2/images?status=error&limit=1')


def test_repeated_sort_keys_are_glances_too(shelf: Shelf) -> None:
    # Glance's own links drop all but the last of them, so only the first page is in order.
    query = 'sort_key=name&sort_key=id&sort_dir=desc&sort_dir=asc'
    assert shelf.images.listed(f'status=error&{query}&limit=4') == shelf.glances_order(query, shelf.in_error)[:4]


def test_a_marker_may_be_any_image(shelf: Shelf) -> None:
    order = shelf.glances_order('', shelf.in_error | shelf.waiting | shelf.active)
    for marker, status in itertools.product(order[::4], ('error', 'queued')):
        among = shelf.in_error if status == 'error' else shelf.waiting
        expected = [image for image in order[order.index(marker) + 1:] if image in among]
        assert walked(shelf.images, f'status={status}&limit=2&marker={marker}') == expected


BAD = ['limit=-1', 'limit=x', 'limit=', 'marker=nosuch', 'marker=', 'sort=nosuch', 'sort_key=nosuch', 'sort_dir=up',
       'sort=name&sort_key=name', 'visibility=nosuch', 'member_status=nosuch', 'protected=maybe', 'os_hidden=maybe',
       'changes-since=2020', 'size_min=-1', 'created_at=nosuch', 'limit=0', 'name=%ff', 'id=in:"a']
BAD_STATUS = ['neq:error', 'in:"error', 'in:"a"b,error', 'gt:queued', 'in:', 'in:,', ':error', 'in:error,"',
              'in:"a","error"x']


@pytest.mark.parametrize('bad', BAD)
@pytest.mark.parametrize('status', ['error', 'queued'])
def test_what_glance_refuses_it_refuses_in_its_own_words(shelf: Shelf, status: str, bad: str) -> None:
    path = f'/v2/images?status={status}&{bad}'
    guarded, bare = shelf.images.request('GET', path), shelf.bare.request('GET', path)
    assert guarded.status_int in (200, 400)
    assert (guarded.status, guarded.content_type) == (bare.status, bare.content_type)
    if bare.status_int == 400:
        assert comparable(guarded) == comparable(bare)


@pytest.mark.parametrize('status', BAD_STATUS)
def test_a_status_glance_cannot_read_is_answered_by_glance(shelf: Shelf, status: str) -> None:
    path = f'/v2/images?status={quote(status)}'
    assert comparable(shelf.images.request('GET', path)) == comparable(shelf.bare.request('GET', path))


def test_limit_0_is_an_empty_page(shelf: Shelf) -> None:
    page = shelf.images.request('GET', '/v2/images?status=error&limit=0').json
    assert page['images'] == [] and 'next' not in page


@in_process_only('the policy is set within')
def test_pages_that_glances_policy_makes_shorter(
    in_process_glance: InProcessGlance, tmp_path: Path, override_glance: OverrideGlance,
) -> None:
    """Glance takes what a caller may not see out of a page, and goes on from the last image that is left."""
    rules = tmp_path / 'policy.yaml'
    rules.write_text('"get_image": "project_id:%(project_id)s and not \'hidden\':%(name)s"\n')
    override_glance('policy_file', str(rules), 'oslo_policy')
    images, bare = Pipelines(in_process_glance, tmp_path).callers()
    in_error: set[str] = set()
    waiting: set[str] = set()
    for number in range(9):
        name = f'name-{number}' if number % 3 else 'hidden'
        image_id, among = ((images.in_error(name=name), in_error) if number % 2 else
                           (images.created(KEEP, name=name), waiting))
        if number % 3:
            among.add(image_id)
    first = bare.request('GET', '/v2/images?status=queued&limit=3').json
    assert len(first['images']) == 2 and 'next' in first
    for status, among in (('error', in_error), ('queued', waiting), ('in:queued,error', in_error | waiting)):
        for limit in (2, 3, 4, 9):
            found = walked(images, f'status={status}&limit={limit}')
            assert (len(found), set(found)) == (len(among), among), (status, limit)


# error_status = killed, for clients that refuse a status they do not know

def test_killed_is_shown_and_found_under_both_names(in_process_glance: InProcessGlance, pipelines: Pipelines) -> None:
    other = Images(
        Pipelines(in_process_glance, _folder(pipelines), error_status='killed').guarded, token('alice', new_project()))
    image_id, waiting = other.in_error(), other.created(KEEP)
    assert other.show(image_id)['status'] == 'killed'
    for status in ('killed', 'error', 'in:killed,active', 'in:error', 'eq:killed', 'in:killed,error'):
        page = other.request('GET', f'/v2/images?status={status}').json['images']
        assert [(image['id'], image['status']) for image in page] == [(image_id, 'killed')], status
    assert other.listed('status=queued') == [waiting]
    assert other.listed('status=in:killed,queued') == [waiting, image_id]
    assert other.listed(f'{ERROR}_code=client_disconnected') == [image_id]
    # With the other spelling of the same store killed stays Glance's own word.
    assert Images(pipelines.guarded, other.caller).listed('status=killed') == []
    assert Images(pipelines.guarded, other.caller).listed('status=error') == [image_id]


def _folder(pipelines: Pipelines) -> Any:
    return pipelines.connection.removeprefix('sqlite:///').removesuffix('/imgguard.db')


# What it costs

class Queries:
    """Counts the queries of the guard's store."""

    def __init__(self, connection: str) -> None:
        self._connection = connection

    def of(self, images: Images, path: str, method: str = 'GET') -> int:
        """How many queries this request costs."""
        with counting.statements(self._connection) as seen:
            assert images.request(method, path).status_int < 400
        return len([statement for statement in seen if statement.startswith('SELECT')])


@pytest.fixture
def queries(pipelines: Pipelines) -> Queries:
    return Queries(pipelines.connection)


def test_a_page_costs_one_query_and_one_without_a_waiting_image_none(shelf: Shelf, queries: Queries) -> None:
    assert queries.of(shelf.images, '/v2/images?limit=100') == 1
    assert queries.of(shelf.images, '/v2/images?limit=1&sort=name:asc') <= 1
    assert queries.of(shelf.images, f'/v2/images/{next(iter(shelf.in_error))}') == 1
    assert queries.of(shelf.images, f'/v2/images/{next(iter(shelf.active))}') == 0
    for query in ('status=active', 'name=nosuch', 'status=in:active,deactivated', 'size_min=1', 'status=deleted'):
        assert queries.of(shelf.images, f'/v2/images?{query}') == 0, query
    shelf_image = next(iter(shelf.active))
    for path in ('/v2/schemas/image', '/v2/schemas/images', '/v2/schemas/member', f'/v2/images/{shelf_image}/tasks'):
        assert queries.of(shelf.images, path) == 0, path


def test_a_filtered_list_costs_few_queries(shelf: Shelf, queries: Queries) -> None:
    # What is due (deadlines, silent attempts), what is in error, and the page.
    assert queries.of(shelf.images, '/v2/images?status=error') <= 4
    assert queries.of(shelf.images, '/v2/images?status=queued') <= 4


@in_process_only('the answer is counted within')
def test_an_answer_without_a_waiting_image_is_not_even_parsed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presenter, 'json', None)
    for path in ('/v2/images?status=active', f'/v2/images/{next(iter(shelf.active))}', '/v2/images?name=nosuch'):
        guarded, bare = shelf.images.request('GET', path), shelf.bare.request('GET', path)
        assert guarded.body == bare.body
        assert {**guarded.headers, 'x-openstack-request-id': ''} == {**bare.headers, 'x-openstack-request-id': ''}


# Thousands

class Crowd:
    """A project with thousands of images in error among others that wait, put straight into both databases."""

    def __init__(self, glance: InProcessGlance, pipelines: Pipelines) -> None:
        self.images, self.bare = pipelines.callers()
        model = self.bare.created(name='waiting')
        numbers = range(MANY_IN_ERROR + MANY_QUEUED)
        ids = [f'{number * 7919 % 100003:08x}-{model[9:23]}-{number:012x}' for number in numbers]
        engine = create_engine(glance.database_url)
        with engine.begin() as connection:
            table = Table('images', MetaData(), autoload_with=connection)
            row = connection.execute(table.select().where(table.c.id == model)).mappings().one()
            connection.execute(insert(table), [
                {**row, 'id': ids[number], 'name': f'name-{number % 10}' if number % 6 else 'waiting',
                 'created_at': datetime(2026, 1, 1, 0, number // 60 % 60, number % 60)} for number in numbers])
        engine.dispose()
        # Every sixth waits, the others are in error.
        self.in_error = {ids[number] for number in numbers if number % 6}
        self.waiting = {ids[number] for number in numbers if number % 6 == 0} | {model}
        assert len(self.in_error) == MANY_IN_ERROR
        self._ordered = walked(self.bare, 'sort=name:asc&limit=1000')
        engine = create_engine(pipelines.connection)
        with engine.begin() as connection:
            connection.execute(insert(rows_of_the_guard), [
                {'image_id': ids[number], 'created_at': f'2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}Z',
                 'attempts': 1, 'last_number': 1, 'error_number': 1, 'error_code': 'client_disconnected',
                 'error_text': 'cut', 'error_at': 1e9 + number, 'error_bytes': 5, 'cleared_number': 1}
                for number in numbers if number % 6])
            connection.execute(text(
                'INSERT INTO imgguard_attempts (image_key, number, kind, state, guarded, code, started_at, updated_at, '
                "bytes_received, host, worker) SELECT \"key\", 1, 'upload', 'failed', true, error_code, error_at, "
                "error_at, 5, 'host', 'worker' FROM imgguard_images WHERE error_text = 'cut'"))
        engine.dispose()

    def order(self, among: set[str]) -> list[str]:
        """These images as the bare Glance sorts them by name."""
        return [image_id for image_id in self._ordered if image_id in among]


by_id = in_process_only('over a wire no more ids are asked for than a target holds')


@pytest.fixture(scope='module')
def crowd(in_process_glance: InProcessGlance, tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    return Crowd(in_process_glance, Pipelines(in_process_glance, tmp_path_factory.mktemp('crowd')))


# By name those that wait come last; by id they are everywhere.
@pytest.mark.parametrize('few,most,sort', [
    pytest.param(MANY_IN_ERROR, MANY_IN_ERROR, 'name', marks=by_id, id='asked for by id at once'),
    pytest.param(listing.FEW, MANY_IN_ERROR, 'id', marks=by_id, id='asked for by id after the first page'),
    pytest.param(listing.FEW, listing.MAX_NARROWED, 'id', id='too many for that')])
def test_thousands_in_error(crowd: Crowd, monkeypatch: pytest.MonkeyPatch, few: int, most: int, sort: str) -> None:
    monkeypatch.setattr(listing, 'FEW', few)
    monkeypatch.setattr(listing, 'MAX_NARROWED', most)
    found = pages(crowd.images, f'status=error&sort={sort}:asc&limit=1000')
    order = crowd.order(crowd.in_error) if sort == 'name' else sorted(crowd.in_error)
    assert [image['id'] for page in found for image in page['images']] == order
    assert [len(page['images']) for page in found] == [1000, 1000, 500]


def test_a_sort_that_takes_glance_in_circles_ends(crowd: Crowd) -> None:
    found = crowd.images.listed('status=queued&sort=size:desc&limit=1000')
    assert len(found) == len(set(found)) > 0 and set(found) <= crowd.waiting


def test_what_waits_behind_thousands_in_error_is_found(crowd: Crowd) -> None:
    found = pages(crowd.images, 'status=queued&sort=name:asc&limit=300')
    assert [image['id'] for page in found for image in page['images']] == crowd.order(crowd.waiting)
    assert all(page['images'] for page in found[:-1]), 'openstacksdk takes an empty page for the last'
