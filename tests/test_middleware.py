"""What the filter does before it is known what a request wants."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgguard.counts import Counts
from imgguard.images import Caller
from imgguard.middleware import image_guard
from imgguard.operations import Action, Operation, recognise
from imgguard.operations_v1 import recognise_negotiated
from imgguard.stopwatch import Stopwatch
from imgguard.wsgi import Environ, StartResponse


def _glance(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return []


def _show(environ: Environ, start_response: StartResponse, operation: Operation, by: Caller) -> Iterable[bytes]:
    return []


def test_what_a_process_needs_is_started_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    guard = image_guard(_glance, {2: {Action.SHOW: _show}}, recognise,
                        lambda environ: Caller(None, None, False, '', None), lambda: started.append(os.getpid()), None,
                        Stopwatch(Counts()))

    def request(path: str) -> list[int]:
        guard({'REQUEST_METHOD': 'GET', 'PATH_INFO': path}, _never)
        return list(started)

    assert [request(path) for path in ('/v2/tasks', '/v2/tasks', '/v2/images/x')] == [[os.getpid()]] * 3
    # A server may fork after the first request, and the threads of its parent are not in the child.
    monkeypatch.setattr(os, 'getpid', lambda: 1)
    assert len(request('/v2/tasks')) == 1, 'what is not ours needs nothing'
    assert [request('/v2/images/x')[1:] for _ in range(2)] == [[1]] * 2


@pytest.mark.parametrize(('said', 'request_id'), [
    (None, None),
    ('', None),
    ('req-1', 'req-1'),
    ('mine', 'req-mine'),                               # as Glance answers it
    ('req-\x1b[2J\nforged line', 'req- [2J forged line'),
    ('req-' + 'x' * 300, 'req-' + 'x' * 250 + '…'),
])
def test_the_id_of_a_request_fits_a_log_line(said: str | None, request_id: str | None) -> None:
    assert Caller(None, None, False, said, None).request_id == request_id


# The first step, which spares most requests the others

_PATHS = st.lists(st.sampled_from(['/', '//', 'v2', 'v1', '/v2/images/', 'images', 'x', 'file', 'stage', 'members',
                                   'attempts', 'locations', 'import', 'schemas', 'image', '\n', '']),
                  max_size=9).map(''.join)


@pytest.mark.parametrize('tell', [recognise, recognise_negotiated])
@given(method=st.sampled_from(['GET', 'PUT', 'POST', 'HEAD']), path=_PATHS, query=st.sampled_from(['', '_method=PUT']))
@example(method='GET', path='/v2//images/x', query='')
@example(method='PUT', path='/v2/images/x/file\n', query='')
@example(method='GET', path='/v2/images/x/file', query='_method=PUT')
@example(method='GET', path='/v2/images/x', query='_method=DELETE')
def test_the_first_step_takes_no_request_for_another(tell: Callable[[Environ], Operation | None], method: str,
                                                     path: str, query: str) -> None:
    went: list[Action | None] = []

    def handler(action: Action | None) -> Any:
        def handle(*_: Any) -> Iterable[bytes]:
            went.append(action)
            return []

        return handle

    handlers = {action: handler(action) for action in Action}
    guard = image_guard(handler(None), {1: handlers, 2: handlers}, tell,
                        lambda environ: Caller(None, None, False, '', None), lambda: None, None, Stopwatch(Counts()),
                        look=handler(Action.SHOW))
    environ = {'REQUEST_METHOD': method, 'PATH_INFO': path, 'QUERY_STRING': query}
    guard(dict(environ), _never)
    wanted = tell(environ)
    if path == '/v2/images/' and method == 'GET' and not query:
        # No image: it is looked at, and Glance says so.
        assert went == [Action.SHOW]
    else:
        assert went == [None if wanted is None else wanted.action]


def _never(*_: Any) -> Any:
    raise AssertionError('nobody answers here')
