"""The failure codes: what users see, and what programs may rely on for ever."""

import dataclasses

import pytest

from imgguard import codes

# Released codes and whether the same data may be sent again as it is. Lines may be added, none changed or removed.
RELEASED = {
    'client_disconnected': True,
    'size_mismatch': True,
    'digest_mismatch': True,
    'empty_retry': False,           # the same request has no data: it would be refused again
    'bad_request': False,
    'format_rejected': False,
    'signature_rejected': False,
    'size_limit_exceeded': False,
    'quota_exceeded': True,         # room can be made without changing the image
    'storage_full': True,           # likewise, by the operator
    'storage_unavailable': True,
    'credentials_expired': True,
    'backend_error': True,
    'source_unreachable': True,
    'import_failed': True,
    'worker_lost': True,
    'never_arrived': True,
    'abandoned': True,              # no data was ever refused
    'declared': False,              # somebody who may said: it will never come
}


def test_released_codes_keep_their_names_and_meaning() -> None:
    assert {name: code.retryable for name, code in codes.CODES.items()} == RELEASED


@pytest.mark.parametrize('name', RELEASED)
def test_each_code_has_a_constant_that_spells_it(name: str) -> None:
    assert getattr(codes, name.upper()) == name
    assert codes.CODES[name].name == name


@pytest.mark.parametrize('name', RELEASED)
def test_text_and_hint_are_one_printable_sentence_each(name: str) -> None:
    code = codes.CODES[name]
    for text in (code.text, code.hint):
        assert text.isprintable() and text.isascii()
        assert text[0].isupper() and text.endswith('.')
        assert text == ' '.join(text.split())
    assert len(code.text) <= 1024


def test_texts_tell_the_codes_apart() -> None:
    assert len({code.text for code in codes.CODES.values()}) == len(RELEASED)
    assert len({code.hint for code in codes.CODES.values()}) == len(RELEASED)


def test_default_text() -> None:
    assert codes.default_text('storage_full') == 'The image storage is full.'


def test_default_text_of_an_unknown_code_is_an_error() -> None:
    with pytest.raises(KeyError, match='disk_on_fire'):
        codes.default_text('disk_on_fire')


def test_the_set_is_closed() -> None:
    with pytest.raises(TypeError):
        codes.CODES['new'] = codes.CODES['declared']  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        codes.CODES['declared'].retryable = True  # type: ignore[misc]
