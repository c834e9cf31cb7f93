"""What a list request of v1 asks for, and what then to ask Glance (see :mod:`imgguard.lists_v1`). No I/O."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlencode

from imgguard import listing, names
from imgguard.api import v2

Json = dict[str, Any]

SINCE_EVER: Final = '1970-01-01T00:00:00Z'

_CHANGES: Final = 'changes-since'
_CODE: Final = f'property-{names.ERROR_CODE}'
_HIDDEN: Final = frozenset({v2.STATUS_KILLED, 'deleted'})


@dataclass(frozen=True, slots=True)
class Wanted:
    """A list that the error state takes part in.

    :param parameters: of the query: each name, and the parameter as it was sent
    :param others: Glance's statuses that are listed, of images that are not in error
    :param errors: whether images in error are listed
    :param code: only images in error with this code
    :param of_changes: whether the client itself asked for changes since some time, and so for what Glance hides
    :param by_size: whether images are sorted by their size
    :param since: images that have not changed since cannot be in error
    :param killed: whether killed images may be among those in error
    """

    parameters: tuple[tuple[str, str], ...]
    others: frozenset[str]
    errors: bool
    code: str | None
    of_changes: bool
    by_size: bool
    since: str = SINCE_EVER
    killed: bool = True

    def query(self, marker: str | None = None, limit: int | None = None) -> str:
        """The query of a page of Glance's that holds all these images, and others.

        :param marker: the page after this image, and not after the one asked for
        :param limit: of so many images, and not of as many as asked for
        """
        statuses = self.others | (v2.ERROR_STATUSES if self.errors else frozenset())
        if not self.killed:
            statuses -= {v2.STATUS_KILLED}
        # Of the others no change is too old.
        return self._query(statuses, SINCE_EVER if self.others else self.since, marker, limit)

    def look_for_killed(self, marker: str | None) -> str | None:
        """The query of one killed image that may be in error, if there is any; ``None`` where none needs to be asked.

        Where only images in error are asked for, or it is not known since when to look, the answer would save nothing.

        :param marker: after this image
        """
        if self.of_changes or self.since == SINCE_EVER or not (self.errors and self.others and self.killed):
            return None
        return self._query(frozenset({v2.STATUS_KILLED}), self.since, marker, 1)

    def _query(self, statuses: frozenset[str], since: str, marker: str | None, limit: int | None) -> str:
        ours = [('status', 'in:' + ','.join(sorted(statuses)))]
        if v2.STATUS_KILLED in statuses and not self.of_changes:
            ours.append((_CHANGES, since))
        if marker is not None:
            ours.append(('marker', marker))
        if limit is not None:
            ours.append(('limit', str(limit)))
        replaced = {name for name, _ in ours} | {_CODE, '_method'}
        kept = [sent for name, sent in self.parameters if name not in replaced]
        return '&'.join([*kept, urlencode(ours, safe=':,')])

    def is_marker(self, image: Json) -> bool:
        """Whether Glance knows what follows this image.

        In a list by size it lists nothing, or all again, after one without (``glance/db/sqlalchemy/api.py``,
        ``_paginate_query``, which takes ``''`` for its size and 0 for that of the others).
        """
        return not self.by_size or image.get('size') is not None

    def probe(self) -> str | None:
        """The query of no image at all by which Glance refuses a marker as it would in the page that is asked for.

        Of changes Glance takes a deleted image for a marker, too. ``None`` where nothing can differ.
        """
        if self.of_changes or not self.errors or all(name != 'marker' for name, _ in self.parameters):
            return None
        return '&'.join([*(sent for name, sent in self.parameters if name not in ('limit', '_method')), 'limit=0'])


def parse(query: str, shown: str) -> Wanted | None:
    """Read a list request; ``None`` when one page of Glance's holds what is to be listed.

    :param shown: the status that images in error show; ``error`` means them too
    """
    pairs = tuple(_pairs(query))
    # Of a name that is given twice Glance takes the last value.
    values = {name: value for name, value, _ in pairs}
    code, of_changes = values.get(_CODE), _CHANGES in values
    if of_changes and code is None and 'status' not in values:
        return None
    statuses = listing.statuses_of(values['status']) if 'status' in values else listing.STATUSES | {shown}
    if statuses is None:
        return None
    words = {names.STATUS_ERROR, shown}
    errors = bool(statuses & words)
    others = statuses & listing.STATUSES if of_changes else statuses & listing.STATUSES - _HIDDEN
    if code is not None:
        others = frozenset()
    if not errors and not others & v2.ERROR_STATUSES:
        return None
    return Wanted(tuple((name, sent) for name, _, sent in pairs), others, errors, code, of_changes,
                  values.get('sort_key') == 'size')


def _pairs(query: str) -> Iterable[tuple[str, str, str]]:
    # As Python 2.7 takes a query apart (urlparse.py, parse_qsl).
    for sent in re.split('[&;]', query):
        name, _, value = (unquote_to_bytes(part.replace('+', ' ').encode('latin-1')).decode('utf-8', 'replace')
                          for part in sent.partition('='))
        if sent:
            yield name, value, sent
