"""``Content-Digest`` and ``Repr-Digest`` of a request (RFC 9530): what is verified, and what is refused."""

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgguard.digests import BadDigest, Digests

DATA = b'{"hello": "world"}\n'

# RFC 9530, appendix B.1 and D: the digests of exactly these bytes.
SHA_256 = 'sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:'
SHA_512 = ('sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCs'
           'yRZOtw8MjkM7iw7yZ/WkppmM44T3qg==:')
WRONG_256 = f'sha-256=:{base64.b64encode(bytes(32)).decode()}:'
WRONG_512 = f'sha-512=:{base64.b64encode(bytes(64)).decode()}:'


def mismatch(content: str | None = None, representation: str | None = None, data: bytes = DATA) -> str | None:
    """What a body is told that came with these fields."""
    environ = {'HTTP_CONTENT_DIGEST': content, 'HTTP_REPR_DIGEST': representation}
    digests = Digests({name: value for name, value in environ.items() if value is not None})
    for byte in data:
        digests.update(bytes([byte]))
    return digests.mismatch()


@pytest.mark.parametrize('field', [
    SHA_256,
    SHA_512,
    f'{SHA_256}, {SHA_512}',
    f' {SHA_256}\t,{SHA_512} ',
    f'{SHA_256};note=1',                                    # parameters mean nothing here
    f'md5=:AAAA:, {SHA_256}, unixsum=:AQ==:',               # others are not ours to verify
    'md5=:AAAA:',
    f'{WRONG_256}, {SHA_256}',                              # of a name given twice the last counts (RFC 8941)
])
def test_the_digests_of_the_body(field: str) -> None:
    assert mismatch(content=field) is None
    assert mismatch(representation=field) is None


def test_nothing_was_announced() -> None:
    assert mismatch() is None


@pytest.mark.parametrize(('content', 'representation', 'said'), [
    (WRONG_256, None, 'The sha-256 digest of the body is not the one in Content-Digest.'),
    (None, WRONG_256, 'The sha-256 digest of the body is not the one in Repr-Digest.'),
    (WRONG_512, None, 'The sha-512 digest of the body is not the one in Content-Digest.'),
    # one that is wrong is enough
    (f'{SHA_256}, {WRONG_512}', None, 'The sha-512 digest of the body is not the one in Content-Digest.'),
    (SHA_256, WRONG_256, 'The sha-256 digest of the body is not the one in Repr-Digest.'),
    (f'{SHA_256}, {WRONG_256}', None, 'The sha-256 digest of the body is not the one in Content-Digest.'),
])
def test_a_digest_of_other_bytes(content: str | None, representation: str | None, said: str) -> None:
    assert mismatch(content, representation) == said


def test_each_byte_counts() -> None:
    assert mismatch(SHA_256, data=DATA[:-1]) == 'The sha-256 digest of the body is not the one in Content-Digest.'


FORM = 'Content-Digest must look like sha-256=:BASE64: (RFC 9530).'


@pytest.mark.parametrize(('field', 'said'), [
    ('', FORM),
    ('sha-256', FORM),
    ('sha-256=RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=', FORM),     # the colons are missing
    ('sha-256="RK/0"', FORM),
    ('SHA-256=:RK/0:', FORM),                                            # names are in lower case
    (SHA_256 + ',', FORM),
    (SHA_256 + ' ' + SHA_512, FORM),
    ('sha-256=:RK_0:', FORM),                                            # not the alphabet of URLs
    ('sha-256=:A:', 'Content-Digest: the value of sha-256 is not base64.'),
    ('sha-256=:A===:', 'Content-Digest: the value of sha-256 is not base64.'),
    ('sha-256=::', 'Content-Digest: the value of sha-256 has the wrong length.'),
    ('sha-256=:AAAA:', 'Content-Digest: the value of sha-256 has the wrong length.'),
    (SHA_512.replace('512', '256'), 'Content-Digest: the value of sha-256 has the wrong length.'),
    ('x' * 2049, 'Content-Digest is longer than 2048 characters.'),
])
def test_a_field_that_is_none(field: str, said: str) -> None:
    with pytest.raises(BadDigest) as caught:
        mismatch(content=field)
    assert str(caught.value) == said


def test_the_text_names_the_field() -> None:
    with pytest.raises(BadDigest, match='^Repr-Digest must look like'):
        mismatch(representation='x')


@settings(deadline=None)
@given(st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(
        [SHA_256, SHA_512, 'sha-256', 'md5', '=', ':', ',', ';', ' ', 'A', '*', '\xe9'])).map(''.join),
    st.from_regex(r'\s*sha-(256|512)=:[A-Za-z0-9+/=]{0,90}:', fullmatch=True)))
def test_nothing_but_bad_digest_is_raised(field: str) -> None:
    try:
        Digests({'HTTP_CONTENT_DIGEST': field}).mismatch()
    except BadDigest as error:
        assert str(error).startswith('Content-Digest')


@settings(deadline=None)
@given(st.binary(max_size=100), st.lists(st.integers(0, 100)), st.sampled_from(['sha-256', 'sha-512']))
def test_any_body_has_its_own_digest(data: bytes, cuts: list[int], name: str) -> None:
    value = base64.b64encode(hashlib.new(name.replace('-', ''), data).digest()).decode()
    digests = Digests({'HTTP_REPR_DIGEST': f'{name}=:{value}:'})
    places = [0, *sorted(cuts), len(data)]
    for start, end in zip(places, places[1:]):
        digests.update(data[start:end])
    assert digests.mismatch() is None
