"""What an update (PATCH) of the Images API v2 asks of the guard: the words declare and reset, and removes to drop.

No I/O. Only what Glance would understand is taken for a word: both of its media types
(``glance/api/v2/images.py``, ``RequestDeserializer.update``) and its way to read a pointer. Whatever
does not fit is nobody's word, and Glance says what is wrong with it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imgguard import names, text

_FORMS: Final = {'application/openstack-images-v2.1-json-patch': True,
                 'application/openstack-images-v2.0-json-patch': False}
_OPERATIONS: Final = ('add', 'remove', 'replace')
_QUEUED: Final = 'queued'

_OTHERS_BESIDE: Final = ('An update that sets the status to error or queued may hold nothing else but tags and, for '
                         f'error, the text in /{names.ERROR}.')
_NO_TEXT: Final = f'/{names.ERROR} must be a text.'


@dataclass(frozen=True, slots=True)
class Declare:
    """The image will never come.

    :param text: why, one printable line; ``''`` where it was not told
    """

    text: str


@dataclass(frozen=True, slots=True)
class Reset:
    """Back to waiting.

    :param by_status: whether the status was set; else one ``remove`` of the error says so, which an image that is not
        in error needs not obey
    """

    by_status: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """Removes of our properties among other operations, which SDKs send with every update: they mean nothing."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A word that cannot be obeyed; ``text`` says why."""

    text: str


@dataclass(frozen=True, slots=True)
class Update:
    """An update that means something to the guard.

    :param rest: the operations left for Glance, as they came
    """

    word: Declare | Reset | Drop | Malformed
    rest: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    operation: str
    name: str
    value: Any
    raw: Any

    @property
    def sets_status(self) -> bool:
        return (self.operation, self.name) == ('replace', 'status') and self.value in (names.STATUS_ERROR, _QUEUED)

    @property
    def removes_ours(self) -> bool:
        return self.operation == 'remove' and self.name in names.PROPERTIES


def parse(body: bytes, media_type: str) -> Update | None:
    """Read the document of an update; ``None`` where it means nothing to the guard.

    :param media_type: the Content-Type of the request, with or without parameters
    """
    of_v2_1 = _FORMS.get(media_type.partition(';')[0])
    if of_v2_1 is None or not _may_mean_something(body):
        return None
    try:
        operations = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(operations, list):
        return None
    changes = [_change(operation, of_v2_1) for operation in operations]
    return _update([change for change in changes if change]) if all(changes) else None


def _may_mean_something(body: bytes) -> bool:
    return b'status' in body or names.ERROR.encode() in body or names.GIVE_UP_AT.encode() in body or b'\\u' in body


def _change(operation: Any, of_v2_1: bool) -> _Change | None:
    if not isinstance(operation, dict):
        return None
    if of_v2_1:
        name, path = operation.get('op'), operation.get('path')
    else:
        given = [each for each in _OPERATIONS if each in operation]
        name = given[0] if len(given) == 1 else None
        path = operation[name] if name else None
    if name not in _OPERATIONS or not isinstance(path, str) or not path.startswith('/'):
        return None
    parts = path.lstrip('/').split('/')
    root = parts[0].replace('~1', '/').replace('~0', '~').strip()
    if len(parts) > 1 and (root == 'status' or root in names.PROPERTIES):
        return None
    return _Change(name, root, operation.get('value'), operation)


def _update(changes: Sequence[_Change]) -> Update | None:
    said = [change for change in changes if change.sets_status]
    if said:
        return Update(*_of_status(said, changes))
    removed = [change for change in changes if change.removes_ours]
    if not removed:
        return None
    rest = [change for change in changes if not change.removes_ours]
    alone = len(removed) == 1 and removed[0].name == names.ERROR and all(change.name == 'tags' for change in rest)
    return Update(Reset(by_status=False) if alone else Drop(), _raw(rest))


def _of_status(said: Sequence[_Change], changes: Sequence[_Change]) -> tuple[Declare | Reset | Malformed,
                                                                             tuple[Any, ...]]:
    rest = [change for change in changes if not change.sets_status]
    tags = [change for change in rest if change.name == 'tags']
    others = [change for change in rest if change.name != 'tags']
    if len(said) > 1:
        return Malformed(_OTHERS_BESIDE), ()
    if said[0].value == _QUEUED:
        # A client that takes the error away along with its status says the same thing twice.
        word = Malformed(_OTHERS_BESIDE) if any(not change.removes_ours for change in others) else Reset(by_status=True)
        return word, _raw(tags)
    if len(others) > 1 or any(change.name != names.ERROR or change.operation == 'remove' for change in others):
        return Malformed(_OTHERS_BESIDE), ()
    if others and not isinstance(others[0].value, str):
        return Malformed(_NO_TEXT), ()
    return Declare(text.one_line(others[0].value) if others else ''), _raw(tags)


def _raw(changes: Sequence[_Change]) -> tuple[Mapping[str, Any], ...]:
    return tuple(change.raw for change in changes)
