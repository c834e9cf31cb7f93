"""How a client asks to keep an image: the header, the property at create, the time the data has."""

import io
import json
from typing import Any

import pytest

from imgguard import asking

KEEP = 'HTTP_X_OPENSTACK_IMAGE_KEEP_ON_FAILURE'
GIVE_UP_AFTER = 'HTTP_X_OPENSTACK_IMAGE_GIVE_UP_AFTER'


# The header

@pytest.mark.parametrize(('value', 'asked'), [
    ('true', True), ('1', True), ('yes', True), ('on', True), ('TRUE', True), (' On ', True),
    ('false', False), ('0', False), ('no', False), ('off', False), ('False', False), ('\tNO', False),
])
def test_the_words(value: str, asked: bool) -> None:
    assert asking.keep({KEEP: value}) is asked


def test_nothing_was_asked() -> None:
    assert asking.keep({}) is None
    assert asking.keep({KEEP: None}) is None
    assert asking.give_up_after({}) is None


@pytest.mark.parametrize('value', ['', 'maybe', '2', 'truetrue', 'true,true', 'true, false', 't', 'None', '\uff54rue'])
def test_any_other_word_is_refused_with_those_that_are_not(value: str) -> None:
    with pytest.raises(asking.BadRequest) as caught:
        asking.keep({KEEP: value})
    assert str(caught.value) == (
        'The header X-OpenStack-Image-Keep-On-Failure must be true or false (also 1/0, yes/no, on/off).')


@pytest.mark.parametrize(('value', 'seconds'), [('1', 1), ('31536000', 31536000), (' 60 ', 60), ('0060', 60)])
def test_the_time_the_data_has(value: str, seconds: int) -> None:
    assert asking.give_up_after({GIVE_UP_AFTER: value}) == seconds


@pytest.mark.parametrize('value', ['', '0', '31536001', '-1', '+1', '1.5', '1h', '1_0', '\xb2', '\u0661', '9' * 5000])
def test_any_other_time_is_refused(value: str) -> None:
    with pytest.raises(asking.BadRequest) as caught:
        asking.give_up_after({GIVE_UP_AFTER: value})
    assert str(caught.value) == (
        'The header X-OpenStack-Image-Give-Up-After must be a number of seconds, 1 to 31536000.')


# The property at create

def create(document: object) -> dict[str, Any]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return {'REQUEST_METHOD': 'POST', 'CONTENT_LENGTH': str(len(body)), 'wsgi.input': io.BytesIO(body),
            'webob.is_body_seekable': True}


def body_of(environ: dict[str, Any]) -> bytes:
    """What Glance would read."""
    body: bytes = environ['wsgi.input'].read(int(environ['CONTENT_LENGTH']))
    assert environ['wsgi.input'].read() == b''
    return body


@pytest.mark.parametrize(('value', 'asked'), [
    ('true', True), ('Yes', True), (True, True), (1, True), ('false', False), (False, False), (0, False)])
def test_the_property_is_taken_out(value: object, asked: bool) -> None:
    environ = create({'name': 'Größe', 'imgguard_keep_on_failure': value, 'min_disk': 5})
    changed, said = asking.take_property(environ)
    assert said is asked
    assert json.loads(body_of(changed)) == {'name': 'Größe', 'min_disk': 5}
    assert 'webob.is_body_seekable' not in changed
    assert environ['CONTENT_LENGTH'] != changed['CONTENT_LENGTH']


def test_the_property_may_be_spelled_with_escapes() -> None:
    changed, said = asking.take_property(create(b'{"imgguard\\u005fkeep_on_failure": "true"}'))
    assert (said, body_of(changed)) == (True, b'{}')


def test_of_a_property_given_twice_the_last_value_counts() -> None:
    both = b'{"imgguard_keep_on_failure": "true", "imgguard_keep_on_failure": "false"}'
    changed, said = asking.take_property(create(both))
    assert (said, body_of(changed)) == (False, b'{}')


@pytest.mark.parametrize('value', ['maybe', '', None, 2, 1.0, [], {'true': True}])
def test_any_other_value_is_refused(value: object) -> None:
    with pytest.raises(asking.BadRequest) as caught:
        asking.take_property(create({'imgguard_keep_on_failure': value}))
    assert str(caught.value) == (
        'The property imgguard_keep_on_failure must be true or false (also 1/0, yes/no, on/off).')


@pytest.mark.parametrize('body', [
    b'{"name":  "x"}',
    b'{"name": "imgguard_keep_on_failure"}',
    b'{"tags": [{"imgguard_keep_on_failure": "true"}]}',
    b'["imgguard_keep_on_failure"]',
    b'"imgguard_keep_on_failure"',
    b'{"imgguard_keep_on_failure": ',
    b'{"imgguard_keep_on_failure": \xff}',
    b'{"imgguard_keep_on_failure": ' + b'[' * 100_000,
    b'{"imgguard_keep_on_failure": "true", "x": ' + b'9' * 5000 + b'}',
    b'',
])
def test_every_other_document_goes_on_as_it_came(body: bytes) -> None:
    changed, said = asking.take_property(create(body))
    assert said is None
    assert body_of(changed) == body


# Reading ahead of Glance

class Unreadable:
    """A body that must be left alone, or cannot be read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int) -> bytes:
        """Fail."""
        raise self.error


@pytest.mark.parametrize('changes', [
    {'CONTENT_LENGTH': None},
    {'CONTENT_LENGTH': ''},
    {'CONTENT_LENGTH': 'abc'},
    {'CONTENT_LENGTH': '-1'},
    {'CONTENT_LENGTH': str(4 * 1024 * 1024 + 1)},
    {'CONTENT_LENGTH': '9' * 5000},
    {'HTTP_TRANSFER_ENCODING': 'chunked'},
])
def test_a_body_of_unknown_or_great_length_is_left_to_glance(changes: dict[str, str | None]) -> None:
    environ = {'CONTENT_LENGTH': '10', 'wsgi.input': Unreadable(AssertionError('must not be read')), **changes}
    same, body = asking.document(environ)
    assert body is None
    assert same is environ
    assert asking.take_property(environ) == (environ, None)


def test_a_chunked_document_is_left_to_glance() -> None:
    environ = {'HTTP_TRANSFER_ENCODING': 'chunked', 'wsgi.input': Unreadable(AssertionError('must not be read'))}
    assert asking.document(environ) == (environ, None)


def test_a_body_that_cannot_be_read_fails_for_glance_in_just_that_way() -> None:
    for error in (OSError('gone'), ValueError('bad chunk')):
        changed, body = asking.document({'CONTENT_LENGTH': '10', 'wsgi.input': Unreadable(error)})
        assert body is None
        with pytest.raises(type(error), match=str(error)):
            changed['wsgi.input'].read(10)


def test_a_body_that_is_cut_stays_cut() -> None:
    environ = create(b'{"name": "x"}') | {'CONTENT_LENGTH': '100'}
    changed, body = asking.document(environ)
    assert body == b'{"name": "x"}'
    assert changed['CONTENT_LENGTH'] == '100'
    assert changed['wsgi.input'].read() == body


def test_the_environ_of_the_server_is_left_alone() -> None:
    environ = create({'imgguard_keep_on_failure': 'true'})
    before = dict(environ)
    asking.take_property(environ)
    assert environ == before
