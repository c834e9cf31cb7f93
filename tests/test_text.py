"""Words from elsewhere, made fit to be shown: explanations of Glance, and causes it only logged."""

import json
import logging
import re
import threading
from collections.abc import Iterator

import pytest
import webob
import webob.exc
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from imgguard import glance_log, text


# One line

@pytest.mark.parametrize(('given_text', 'shown'), [
    ('as it is', 'as it is'),
    ('', ''),
    ('  two\n\nlines\t', 'two lines'),
    ('bell\x07 escape\x1b[31m nul\x00.', 'bell escape [31m nul .'),
    ('right-to-left \u202e override, no-break\xa0space', 'right-to-left override, no-break space'),
    ('half a pair \ud800', 'half a pair'),
    ('Größe 大小', 'Größe 大小'),
    ('x' * 1024, 'x' * 1024),
    ('x' * 1025, 'x' * 1023 + '…'),
    (' ' * 100_000 + 'far away', ''),
])
def test_one_line(given_text: str, shown: str) -> None:
    assert text.one_line(given_text) == shown


def test_the_limit_is_in_characters_and_includes_the_mark() -> None:
    assert text.one_line('12345', 5) == '12345'
    assert text.one_line('123456', 5) == '1234…'
    assert text.one_line('123 56', 5) == '123…'


# No places of the operator's storage

@pytest.mark.parametrize(('given_text', 'shown'), [
    ("[Errno 30] Read-only file system: '/var/lib/glance/images/99d0'", "[Errno 30] Read-only file system: '(path)'"),
    ('cannot open /var/lib/glance: denied', 'cannot open (path): denied'),
    ('cannot open "/srv/a b/c"', 'cannot open "(path) b/c"'),
    ('dir=/var/lib,/srv/x;(/tmp/y)', 'dir=(path),(path);((path))'),
    ('/var/a:/var/b', '(path)'),
    ('~/images ./images ../images', '(path) (path) (path)'),
    ("b'failed:\\n/var/lib/x\\n'", "b'failed:\\n(path)'"),
    ('file:///var/lib/x is missing', '(address) is missing'),
    ('rbd://fsid/pool/image/snap: no', '(address) no'),
    ('swift+https://user:secret@host:5000/v3 failed', '(address) failed'),
    # none of these is a place
    ('and/or', 'and/or'),
    ('application/json', 'application/json'),
    ('5/7 bytes, 1 / 2', '5/7 bytes, 1 / 2'),
    ('std::string', 'std::string'),
])
def test_reason_without_places(given_text: str, shown: str) -> None:
    assert text.reason(given_text) == shown


def test_reason_without_a_statement_of_sql() -> None:
    error = OperationalError("UPDATE images SET owner='project'", {}, Exception('database is locked'))
    assert '[SQL: UPDATE images' in str(error)
    assert text.reason(str(error)) == '(builtins.Exception) database is locked'


PIECES = st.lists(st.one_of(st.sampled_from([
    '/var/lib', '/', '//', ' ', "'", '"', ':', ',', ';', '(', ')', '[', ']', '=', '<', '>', '\n', '\x1c', '\u200b',
    '\xa0', 'word', 'file://', 'http://', '~/', '../', '\\', '|', '…', 'x' * 600]), st.text(max_size=5))).map(''.join)


@settings(deadline=None)
@given(PIECES)
@example('a' * 8190 + ' /var/lib/glance')
@example('\x1c/var\x1c/lib')
@example('"/"/var')
def test_reason_is_one_printable_line_without_absolute_paths(given_text: str) -> None:
    shown = text.reason(given_text)
    assert shown.isprintable()
    assert shown == ' '.join(shown.split())
    assert len(shown) <= text.MAX_TEXT
    assert re.search(r'(?<![\w/.~-])/(?!\s|$|[\'"<>:;,()\[\]…])', shown) is None
    assert '://' not in shown or re.search(r'\w://', shown) is None


# The explanation within an answer, whichever form WebOb chose

FORMS: dict[str, str | None] = {'plain': None, 'html': 'text/html', 'anything': '*/*', 'json': 'application/json'}


def explained(error: webob.exc.HTTPException, form: str) -> str:
    """What is read from the real answer of WebOb to a client that accepts this form."""
    headers = {'Content-Type': 'application/octet-stream'}
    accept = FORMS[form]
    if accept is not None:
        headers['Accept'] = accept
    request = webob.Request.blank('/v2/images/x/file', method='PUT', headers=headers)
    answer = request.get_response(error)
    return text.explanation(answer.body, answer.headers['Content-Type'])


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize(('error', 'said'), [
    (webob.exc.HTTPBadRequest(explanation='Size mismatch: expected 9000 bytes, got 5000 bytes'),
     'Size mismatch: expected 9000 bytes, got 5000 bytes'),
    (webob.exc.HTTPRequestEntityTooLarge(explanation='Image exceeds\n the storage quota: 5'),
     'Image exceeds the storage quota: 5'),
    (webob.exc.HTTPGone(explanation='Größe “5”'), 'Größe “5”'),
    (webob.exc.HTTPConflict(explanation="it's & that"), "it's & that"),
    (webob.exc.HTTPInternalServerError(),
     'The server has either erred or is incapable of performing the requested operation.'),
    # Glance gives the cause of a 415 as detail
    (webob.exc.HTTPUnsupportedMediaType(detail='Image disk_format qcow2 does not match stream data raw'),
     'The request media type application/octet-stream is not supported by this server. '
     'Image disk_format qcow2 does not match stream data raw'),
    (webob.exc.HTTPBadRequest(explanation="cannot open '/var/lib/glance/x'"), "cannot open '(path)'"),
    (webob.exc.HTTPBadRequest(explanation=''), ''),
    (webob.exc.HTTPBadRequest(explanation='404 Not Found'), '404 Not Found'),
    (webob.exc.HTTPBadRequest(explanation='x' * 5000), 'x' * 1023 + '…'),
])
def test_explanation(error: webob.exc.HTTPException, said: str, form: str) -> None:
    assert explained(error, form) == said


@pytest.mark.parametrize(('form', 'said'), [
    ('plain', 'nope &lt;'),          # WebOb strips tags itself
    ('html', 'no<b>pe &lt;'),        # and here escapes them
    ('json', 'no pe <'),             # here it leaves them between its own
])
def test_markup_in_an_explanation(form: str, said: str) -> None:
    assert explained(webob.exc.HTTPBadRequest(explanation='no<b>pe &lt;'), form) == said


@pytest.mark.parametrize(('body', 'content_type', 'said'), [
    (b'', 'text/plain', ''),
    (b'', '', ''),
    (b'\xff\xfe', 'text/plain', '\ufffd\ufffd'),
    (b'no JSON', 'application/json', ''),
    (b'[' * 60_000, 'application/json', ''),
    (b'["list"]', 'application/json', ''),
    (b'{"message": 5}', 'application/json', ''),
    (b'{"code": "400 Bad Request"}', 'application/json; charset=UTF-8', ''),
    (b'<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center><hr>nginx',
     'text/html', 'nginx'),
])
def test_answers_that_are_not_glances(body: bytes, content_type: str, said: str) -> None:
    assert text.explanation(body, content_type) == said


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text().map(lambda message: json.dumps({'message': message}).encode()),
       st.sampled_from(['text/plain', 'text/html; charset=UTF-8', 'application/json', '', 'x']))
def test_an_explanation_is_always_one_printable_line(body: bytes, content_type: str) -> None:
    said = text.explanation(body, content_type)
    assert said.isprintable()
    assert len(said) <= text.MAX_TEXT


# Causes that Glance only logs

@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger of Glance's, as quiet as if it were set up by Glance; no handler of ours outlives the test."""
    glance = logging.getLogger('glance')
    before = list(glance.handlers)
    yield logging.getLogger('glance.common.wsgi')
    glance.handlers[:] = before


def log_failure(log: logging.Logger, error: Exception) -> None:
    """Log as Glance does when it has caught something."""
    try:
        raise error
    except Exception:
        log.exception('Caught error')


def test_the_cause_is_the_last_exception_logged_without_places(log: logging.Logger) -> None:
    with glance_log.reasons() as reasons:
        assert str(reasons) == ''
        log_failure(log, RuntimeError('first'))
        log_failure(log, OSError(30, 'Read-only file system', '/var/lib/glance/x'))
        log.error('an error without an exception')
    assert str(reasons) == "[Errno 30] Read-only file system: '(path)'"


def test_an_exception_without_words_is_named(log: logging.Logger) -> None:
    with glance_log.reasons() as reasons:
        log_failure(log, KeyError())
    assert str(reasons) == 'KeyError'


def test_warnings_and_other_loggers_are_no_cause(log: logging.Logger) -> None:
    with glance_log.reasons() as reasons:
        log.warning('tried', exc_info=ValueError('not that'))
        log_failure(logging.getLogger('elsewhere'), ValueError('nor that'))
    assert str(reasons) == ''


def test_each_request_gets_its_own_cause(log: logging.Logger) -> None:
    others = []

    def other_request() -> None:
        with glance_log.reasons() as reasons:
            log_failure(log, ValueError('of the other'))
        others.append(str(reasons))

    with glance_log.reasons() as reasons:
        thread = threading.Thread(target=other_request)
        thread.start()
        thread.join()
        assert str(reasons) == ''
        log_failure(log, ValueError('of this one'))
    log_failure(log, ValueError('later'))
    assert (str(reasons), others) == ('of this one', ['of the other'])


def test_logging_that_was_set_up_again_does_not_stop_it(log: logging.Logger) -> None:
    with glance_log.reasons():
        pass
    logging.getLogger('glance').handlers.clear()
    with glance_log.reasons() as reasons:
        log_failure(log, ValueError('seen'))
    with glance_log.reasons():
        assert len(logging.getLogger('glance').handlers) == 1
    assert str(reasons) == 'seen'


def test_an_exception_that_cannot_be_shown_does_no_harm(
        log: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unspeakable(Exception):
        """Fails to say what it is."""

        def __str__(self) -> str:
            raise RuntimeError

    monkeypatch.setattr(logging, 'raiseExceptions', False)
    with glance_log.reasons() as reasons:
        log.error('Caught error', exc_info=Unspeakable())
    assert str(reasons) == ''
