"""``GET /v2/images`` with a ``status`` filter, or the filter on the code of an error.

Glance knows nothing of the error state, so its own filter cannot find it. The guard asks Glance for
the images under the statuses that can hide an error, in Glance's own order, and keeps those whose
shown status was asked for. Sorting, paging, visibility and every other filter stay Glance's.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from webob import Request

from imgguard import names
from imgguard.api import v2
from imgguard.attempts import ImageRecord
from imgguard.wsgi import Captured

Json = dict[str, Any]
Records = Mapping[tuple[str, str], ImageRecord]

MAX_NARROWED: Final = 2000
"""Up to how many images in error Glance is asked for these alone, by id."""

FEW: Final = 200
"""Of more of them most images that wait for their data may well be in error: so the first page is asked for without
their ids, for to find a thousand ids takes Glance longer than to find what waits."""

MAX_IN_TARGET: Final = 50
"""The same where requests go over a wire: ids of 36 characters, in a target for which servers have 4 KiB (uWSGI) or 8
(eventlet, gunicorn)."""

_STEP: Final = 200
_MAX_PAGE: Final = 1000
_MAX_EXAMINED: Final = 2000
_MAX_EXAMINED_FOR_NOTHING: Final = 50000

STATUSES: Final = v2.ERROR_STATUSES | {'active', 'deleted', 'pending_delete', 'deactivated'}
"""All statuses of Glance's."""

# The clean forms of glance/common/utils.py, validate_quotes; Glance answers the others with 400.
_VALUE: Final = re.compile(r'"[^"\\]*"|[^",]+')
_VALUES: Final = re.compile(rf'(?:{_VALUE.pattern}|)(?:,(?:{_VALUE.pattern}|))*')


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that the error state takes part in.

    :param parameters: of the query, as Glance takes them: of a name that is given twice the last value
    :param others: the statuses asked for besides ``error``
    :param errors: whether images in error are asked for
    :param code: only images in error with this code
    """

    parameters: tuple[tuple[str, str], ...]
    others: frozenset[str]
    errors: bool
    code: str | None

    @property
    def errors_only(self) -> bool:
        """Whether nothing but images in error can match."""
        return self.errors and not self.others

    @property
    def narrowable(self) -> bool:
        """Whether Glance's own filter on ids is free for the guard to use."""
        return all(name != 'id' for name, _ in self.parameters)


def parse(query: str, error_status: str) -> Filter | None:
    """Read the filter of a list request; ``None`` when Glance alone can answer it.

    :param error_status: the status that images in error show; ``error`` means them too
    """
    if 'status' not in query and names.ERROR_CODE not in query and '%' not in query:
        return None
    pairs = parameters_of(query)
    if pairs is None:
        return None
    parameters = dict(pairs)
    code = parameters.get(names.ERROR_CODE)
    statuses = statuses_of(parameters['status']) if 'status' in parameters else frozenset({error_status})
    if statuses is None or ('status' not in parameters and code is None):
        return None
    error_words = {names.STATUS_ERROR, error_status}
    errors = bool(statuses & error_words)
    others = frozenset() if code is not None else statuses & STATUSES - error_words
    if not errors and (code is not None or not others & v2.WAITING_STATUSES):
        return None
    return Filter(tuple(pairs), others, errors, code)


def parameters_of(query: str) -> list[tuple[str, str]] | None:
    """The parameters of a query as they are sent; ``None`` where Glance cannot read them."""
    try:
        return list(Request({'QUERY_STRING': query}).GET.items())
    except UnicodeError:
        return None


def names_status(query: str) -> bool:
    """Whether a list request has a filter on the status."""
    return any(name == 'status' for name, _ in parameters_of(query) or ())


def statuses_of(value: str) -> frozenset[str] | None:
    """The statuses that a filter on them names; ``None`` where Glance cannot read it."""
    operator, colon, rest = value.partition(':')
    if not colon:
        return frozenset({value})
    if operator == 'eq':
        return frozenset({rest})
    if operator != 'in' or _VALUES.fullmatch(rest) is None:
        return None
    return frozenset(status.strip('"') for status in _VALUE.findall(rest))


class Walk:
    """One answer to a filtered list request, gathered from pages of Glance.

    :param ask: sends a list request with this query to Glance
    :param records: what the guard knows of the images of a page, with one query
    :param present: writes what the guard knows into an image that is listed
    """

    def __init__(self, wanted: Filter, ask: Callable[[str], Captured],
                 records: Callable[[Sequence[Json]], Records], present: Callable[[Json, Records], None]) -> None:
        self._wanted = wanted
        self._ask = ask
        self._records = records
        self._present = present

    def answer(self, narrowed_to: Sequence[str] | None, then_to: Callable[[], Sequence[str] | None]) -> Captured:
        """The answer for the client.

        :param narrowed_to: the only images that can match; ``None`` to examine all that Glance lists
        :param then_to: gives the same for all pages but the first
        """
        first = self._ask(self._query(narrowed_to))
        document = _page(first)
        if document is None:
            return first
        page: list[Json] = document['images']
        limit, examined = len(page), len(page)
        last, more = (page[-1]['id'] if page else None), 'next' in document
        seen = {image['id'] for image in page}
        listed = self._matching(page)
        narrowed_to = then_to() if more and len(listed) < limit else None
        while more and len(listed) < limit and not self._enough(examined, bool(listed)):
            step = min(max(limit, _STEP, examined), _MAX_PAGE)
            following = self._ask(self._query(narrowed_to, marker=last, limit=step))
            further = _page(following)
            if further is None:
                following.close()
                break
            # Glance's own paging goes in circles when images without a size are sorted by it.
            page = [image for image in further['images'] if image['id'] not in seen]
            if not page:
                more = False
                break
            seen.update(image['id'] for image in page)
            last, more = page[-1]['id'], 'next' in further
            examined += len(page)
            listed += self._matching(page)
        if len(listed) > limit:
            listed, more = listed[:limit], True
            last = listed[-1]['id']
        first.replace(v2.dump(self._document(document, listed, last if more else None)))
        return first

    @staticmethod
    def _enough(examined: int, found: bool) -> bool:
        # openstacksdk takes an empty page for the end, even with a "next" (openstack/resource.py, Resource.list): look
        # much farther for the first match than for the rest of the page.
        return examined >= (_MAX_EXAMINED if found else _MAX_EXAMINED_FOR_NOTHING)

    def _matching(self, page: list[Json]) -> list[Json]:
        records = self._records(page)
        matching = [image for image in page if self._matches(image, records)]
        for image in matching:
            self._present(image, records)
        return matching

    def _matches(self, image: Json, records: Records) -> bool:
        found = v2.error_of(image, records)
        if found is None:
            return image['status'] in self._wanted.others
        return self._wanted.errors and self._wanted.code in (None, found[1].code)

    def _query(self, narrowed_to: Sequence[str] | None, marker: str | None = None, limit: int | None = None) -> str:
        statuses = set(self._wanted.others)
        if self._wanted.errors:
            statuses |= v2.ERROR_STATUSES
        replaced = {'status': 'in:' + ','.join(f'"{status}"' for status in sorted(statuses))}
        if narrowed_to is not None:
            replaced['id'] = 'in:' + ','.join(narrowed_to)
        if marker is not None:
            replaced |= {'marker': marker, 'limit': str(limit)}
        kept = [(name, value) for name, value in self._wanted.parameters
                if name not in replaced and name != names.ERROR_CODE]
        return urlencode(kept + list(replaced.items()))

    def _document(self, document: Json, images: list[Json], marker: str | None) -> Json:
        # As glance/api/v2/images.py, ResponseSerializer.index, builds the links.
        parameters = dict(self._wanted.parameters)
        parameters.pop('marker', None)
        document = {key: value for key, value in document.items() if key != 'next'} | {'images': images}
        document['first'] = '/v2/images?' + urlencode(parameters)
        if marker is not None:
            document['next'] = '/v2/images?' + urlencode(parameters | {'marker': marker})
        return document


def _page(answer: Captured) -> Json | None:
    if not answer.is_json():
        return None
    document: Json = json.loads(answer.body())
    images = document.get('images') if isinstance(document, dict) else None
    return document if isinstance(images, list) and len(v2.images_of(document)) == len(images) else None
