"""Which list requests the error state takes part in: ``listing.parse``, and Glance's own way to read them.

The walk through Glance's pages is tested on a real Glance elsewhere.
"""

from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgguard.api.v2 import WAITING_STATUSES
from imgguard.listing import Filter, parse

CODE = 'os_glance_image_error_code'


def asked(query: str, error_status: str = 'error') -> tuple[bool, set[str], str | None] | None:
    """Whether images in error are asked for, the other statuses, and the code."""
    wanted = parse(query, error_status)
    return None if wanted is None else (wanted.errors, set(wanted.others), wanted.code)


@pytest.mark.parametrize(('query', 'expected'), [
    # images in error
    ('status=error', (True, set(), None)),
    ('status=eq:error', (True, set(), None)),
    ('status=in:error', (True, set(), None)),
    ('status=in:"error"', (True, set(), None)),
    ('status=%65rror', (True, set(), None)),
    ('%73tatus=error', (True, set(), None)),
    ('limit=2;status=error', (True, set(), None)),           # WebOb parts a query at ";" too
    # and others
    ('status=in:error,queued', (True, {'queued'}, None)),
    ('status=in:"queued","error"', (True, {'queued'}, None)),
    ('status=in%3Aactive%2Cerror', (True, {'active'}, None)),
    ('status=in:error,nosuch', (True, set(), None)),
    # images that wait, without those in error
    ('status=queued', (False, {'queued'}, None)),
    ('status=saving', (False, {'saving'}, None)),
    ('status=in:importing,active', (False, {'importing', 'active'}, None)),
    ('status=active&status=queued', (False, {'queued'}, None)),  # Glance takes the last one
    # by the code of the error
    (f'{CODE}=storage_full', (True, set(), 'storage_full')),
    (f'{CODE}=storage_full&status=error', (True, set(), 'storage_full')),
    (f'{CODE}=storage_full&status=in:queued,error', (True, set(), 'storage_full')),
    (f'{CODE}=', (True, set(), '')),
])
def test_filters_the_error_state_takes_part_in(
        query: str, expected: tuple[bool, set[str], str | None]) -> None:
    assert asked(query) == expected


@pytest.mark.parametrize('query', [
    '',
    'limit=5',
    'name=error',
    'name=status',
    'name=100%25',
    'status=',
    'status=active',
    'status=in:active,killed',
    'status=nosuch',
    'status=Error',                    # Glance's statuses are in lower case only
    'status=error&status=active',
    f'{CODE}=storage_full&status=queued',   # no image in error is queued: Glance finds none by itself
    'status=neq:error',                # Glance answers these with 400
    'status=in:"error',
    'status=in:err"or',
    'status=in:"error"x',
    'status=error:x',
    'status=error&x=%ff',              # and this with an error of its own
    'x=%ff&%73tatus=error',
])
def test_filters_that_glance_alone_can_answer(query: str) -> None:
    assert parse(query, 'error') is None


@pytest.mark.parametrize(('query', 'expected'), [
    ('status=killed', (True, set(), None)),
    ('status=error', (True, set(), None)),
    ('status=in:queued,killed', (True, {'queued'}, None)),
    (f'{CODE}=declared', (True, set(), 'declared')),
    ('status=queued', (False, {'queued'}, None)),
])
def test_an_error_that_is_shown_as_killed(query: str, expected: tuple[bool, set[str], str | None]) -> None:
    assert asked(query, 'killed') == expected


@pytest.mark.parametrize(('query', 'narrowable'), [
    ('status=error&name=x', True), ('status=error&id=in:a,b', False), ('status=error&owner_id=x', True)])
def test_the_filter_on_ids_can_be_taken_only_once(query: str, narrowable: bool) -> None:
    wanted = parse(query, 'error')
    assert wanted is not None and wanted.narrowable is narrowable


def test_nothing_but_errors() -> None:
    for query, only in (('status=error', True), ('status=in:error,queued', False), ('status=queued', False)):
        wanted = parse(query, 'error')
        assert wanted is not None and wanted.errors_only is only


def test_every_parameter_is_kept_in_order() -> None:
    query = 'tag=a&name=Gr%C3%B6%C3%9Fe+x&tag=b&status=error&sort=name:asc&empty='
    assert parse(query, 'error') == Filter(
        (('tag', 'a'), ('name', 'Größe x'), ('tag', 'b'), ('status', 'error'), ('sort', 'name:asc'), ('empty', '')),
        frozenset(), True, None)


# Against Glance's own reading of "in:" and quotes

LISTS = st.lists(st.sampled_from(['"', ',', 'error', 'queued', 'active', '\\', 'x', ' ', ':']), max_size=9).map(''.join)


@pytest.fixture(scope='module')
def glance() -> SimpleNamespace:
    """The modules of Glance that read filters; importing them takes its time."""
    from glance.common import exception, utils
    return SimpleNamespace(exception=exception, utils=utils)


@settings(deadline=None)
@given(LISTS)
@example('"queued,error"')
@example('queued,,"error",')
@example(',')
@example('"","error"')
def test_lists_are_read_as_glance_reads_them(glance: SimpleNamespace, value: str) -> None:
    try:
        glances = set(glance.utils.split_filter_value_for_quotes(value))
    except glance.exception.InvalidParameterValue:
        assert asked(urlencode({'status': f'in:{value}'})) is None
        return
    wanted = asked(urlencode({'status': f'in:{value}'}))
    if wanted is not None:
        assert wanted == ('error' in glances, glances & {'queued', 'active'}, None)
    else:
        # Backslashes within quotes are left to Glance: no status has one.
        assert not glances & {'error', *WAITING_STATUSES} or '\\' in value


@settings(deadline=None)
@given(st.text())
@example('status=%')
@example('status=\u20ac')
@example('status=error&%ud800')
def test_nothing_is_ever_raised(query: str) -> None:
    parse(query, 'error')
    parse('status=error&' + query, 'error')
