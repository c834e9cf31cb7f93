"""Log lines about an attempt: the text tells it to people, attributes of the record tell it to programs."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from oslo_context import context as oslo_context
from oslo_log import formatters

from imgguard.about import About, claimed
from imgguard.attempts import Claim, Kind
from tests.conftest import LoadClient
from tests.identity import token
from tests.uploading import Images, new_project

CLAIM = Claim(1, 3, None, '7f9c', Kind.UPLOAD, 'req-1')


class Lines(logging.Handler):
    """What oslo.log's formatter for JSON makes of each record, at once: it looks at the request that is running."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seen: list[dict[str, Any]] = []
        self._formatter = formatters.JSONFormatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Format it, and keep it."""
        self.seen.append(json.loads(self._formatter.format(record)))

    def about(self, words: str) -> dict[str, Any]:
        """The one line whose text holds these words."""
        found, = (line for line in self.seen if words in line['message'])
        return found


@pytest.fixture(autouse=True)
def no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Glance leaves the last request of a thread behind, and oslo.log takes it for the one that runs."""
    monkeypatch.delattr(oslo_context._request_store, 'context', raising=False)


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, log = Lines(), logging.getLogger('imgguard')
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)
    yield handler
    log.setLevel(before)
    log.removeHandler(handler)


@pytest.fixture
def log() -> logging.Logger:
    return logging.getLogger('imgguard.test')


def test_a_line_about_an_attempt(lines: Lines, log: logging.Logger) -> None:
    claimed(log, CLAIM).warning('failed after %d bytes', 5)
    line, = lines.seen
    assert line['message'] == 'image 7f9c: attempt 3: failed after 5 bytes'
    assert line['extra'] == {'image_id': '7f9c', 'attempt': 3, 'request_id': 'req-1'}
    assert (line['name'], line['filename'], line['levelname']) == ('imgguard.test', 'test_about.py', 'WARNING')


def test_what_is_not_known_is_left_out(lines: Lines, log: logging.Logger) -> None:
    About(log, '7f9c').info('its error is taken back')
    line, = lines.seen
    assert (line['message'], line['extra']) == ('image 7f9c: its error is taken back', {'image_id': '7f9c'})


def test_the_attributes_are_those_of_oslo_log(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    claimed(log, CLAIM).warning('failed')
    record, = caplog.records
    told = vars(record)
    assert (told['resource'], told['request_id'], told['attempt']) == ('[image-7f9c] ', 'req-1', 3)
    # Where a request runs the line is one of that request; the attempt's own stays beside it.
    oslo_context.RequestContext(request_id='req-2', overwrite=True)
    try:
        line = json.loads(formatters.JSONFormatter().format(record))
    finally:
        del oslo_context._request_store.context
    assert (line['context']['request_id'], line['extra']['request_id']) == ('req-2', 'req-1')


@pytest.mark.parametrize('image_id', ['a\nb', 'a\x1b[2Jb', '%s%(password)s%', 'x' * 5000, '\u202eabc'])
def test_an_id_from_a_caller_cannot_spoil_the_line(log: logging.Logger, caplog: pytest.LogCaptureFixture,
                                                   image_id: str) -> None:
    for arguments in ((), ('a', 'b')):
        claimed(log, Claim(1, 3, None, image_id, Kind.UPLOAD, image_id)).warning(
            ' and '.join(['%s'] * len(arguments)) or 'failed', *arguments)
    for record in caplog.records:
        told = [record.getMessage(), *(str(value) for value in vars(record)['extra'].values())]
        assert all(text.isprintable() and len(text) < 400 for text in told)


def test_a_traceback_comes_along(lines: Lines, log: logging.Logger) -> None:
    try:
        raise RuntimeError('a mistake of ours')
    except RuntimeError:
        claimed(log, CLAIM).exception('its end could not be settled')
    assert 'RuntimeError: a mistake of ours' in lines.about('could not be settled')['traceback']


def test_the_lines_of_a_failed_upload(lines: Lines, load_client: LoadClient) -> None:
    images = Images(load_client({}), token('alice', new_project()))
    image_id = images.created({'X-OpenStack-Image-Keep-On-Failure': 'true'})
    answer = images.upload_cut(image_id)
    line = lines.about('client_disconnected')
    assert line['message'].startswith(f'image {image_id}: attempt 1: failed after 300 bytes: client_disconnected (')
    assert line['extra'] == {'image_id': image_id, 'attempt': 1,
                             'request_id': answer.headers['X-Openstack-Request-Id']}
    images.patch(image_id, {'op': 'replace', 'path': '/status', 'value': 'queued'})
    assert lines.about('taken back')['extra']['image_id'] == image_id
