"""Digest fields of a request: ``Content-Digest`` and ``Repr-Digest`` (RFC 9530).

Both are Dictionary Structured Fields (RFC 8941, section 3.2) of byte sequences:
``sha-256=:<base64>:, sha-512=:<base64>:``. Only sha-256 and sha-512 are verified; other algorithms
are passed over, as RFC 9530, section 2, allows a recipient to do. For the body of a PUT the two
fields speak of the same bytes.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from imgguard import names

_MEMBER: Final = re.compile(r'\s*([a-z*][a-z0-9_.*-]*)\s*=\s*:([A-Za-z0-9+/=]*):\s*(?:;[^,]*)?')
_FUNCTIONS: Final = {'sha-256': 'sha256', 'sha-512': 'sha512'}
_FIELDS: Final = ((names.CONTENT_DIGEST_ENVIRON, names.CONTENT_DIGEST_HEADER),
                  (names.REPR_DIGEST_ENVIRON, names.REPR_DIGEST_HEADER))
_MAX_FIELD: Final = 2048


class BadDigest(ValueError):
    """A digest field that cannot be understood; the text names the field."""


class Digests:
    """The digests a client announced, computed along with the body.

    :ivar announced: whether there are any
    :raises BadDigest: when a field of the request is malformed
    """

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._expected = [(field, name, value)
                          for key, field in _FIELDS if key in environ
                          for name, value in _parse(str(environ[key]), field)]
        self.announced = bool(self._expected)
        self._hashes = {name: hashlib.new(_FUNCTIONS[name]) for _, name, _ in self._expected}

    def update(self, data: bytes) -> None:
        """Add the next bytes of the body."""
        for hashed in self._hashes.values():
            hashed.update(data)

    def mismatch(self) -> str | None:
        """Say which announced digest the bytes so far do not have; ``None`` when all are right."""
        for field, name, value in self._expected:
            if self._hashes[name].digest() != value:
                return f'The {name} digest of the body is not the one in {field}.'
        return None


def _parse(value: str, field: str) -> list[tuple[str, bytes]]:
    if len(value) > _MAX_FIELD:
        raise BadDigest(f'{field} is longer than {_MAX_FIELD} characters.')
    found: dict[str, bytes] = {}
    for member in value.split(','):
        match = _MEMBER.fullmatch(member)
        if match is None:
            raise BadDigest(f'{field} must look like sha-256=:BASE64: (RFC 9530).')
        name = match[1]
        if name not in _FUNCTIONS:
            continue
        try:
            digest = base64.b64decode(match[2], validate=True)
        except binascii.Error:
            raise BadDigest(f'{field}: the value of {name} is not base64.') from None
        if len(digest) != hashlib.new(_FUNCTIONS[name]).digest_size:
            raise BadDigest(f'{field}: the value of {name} has the wrong length.')
        found[name] = digest
    return list(found.items())
