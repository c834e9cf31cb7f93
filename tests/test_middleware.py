"""What the filter does before it is known what a request wants."""

import os
from collections.abc import Iterable
from typing import Any

import pytest

from imgguard.counts import Counts
from imgguard.images import Caller
from imgguard.middleware import ImageGuard
from imgguard.operations import Action, Operation, recognise
from imgguard.stopwatch import Stopwatch
from imgguard.wsgi import Environ, StartResponse


def _glance(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return []


def _show(environ: Environ, start_response: StartResponse, operation: Operation, by: Caller) -> Iterable[bytes]:
    return []


def test_what_a_process_needs_is_started_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    guard = ImageGuard(_glance, {2: {Action.SHOW: _show}}, recognise,
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


@pytest.mark.parametrize(('given', 'request_id'), [
    (None, None),
    ('', None),
    ('req-1', 'req-1'),
    ('mine', 'req-mine'),                               # as Glance answers it
    ('req-\x1b[2J\nforged line', 'req- [2J forged line'),
    ('req-' + 'x' * 300, 'req-' + 'x' * 250 + '…'),
])
def test_the_id_of_a_request_fits_a_log_line(given: str | None, request_id: str | None) -> None:
    assert Caller(None, None, False, given, None).request_id == request_id


def _never(*_: Any) -> Any:
    raise AssertionError('nobody answers here')
