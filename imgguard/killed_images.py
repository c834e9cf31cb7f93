"""Lists of the API v2 of an old Glance as they would be if it did not hide killed images.

v2 has no way to list them (``glance/api/v2/images.py`` of Glance 15.0.2, ``index``); v1 of the same Glance has
(:mod:`imgguard.lists_v1`). So those that are in error are taken from there, in the same order and by the same filters,
and put between the images that v2 lists. Where one belongs Glance itself tells: a killed image is a marker like any
other. What v1 cannot filter by is judged by what v2 shows of the image; where that does not tell either, or the order
is one that v1 does not know, killed images are left out.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final
from urllib.parse import urlencode

from imgguard import listing, names
from imgguard.api import v1, v2
from imgguard.border import Border
from imgguard.errors import GlanceUnavailable, StoreUnavailable
from imgguard.images import Caller
from imgguard.lists_v1 import hidden_since, images_of_page
from imgguard.merging import merged
from imgguard.presenter import Presenter
from imgguard.remote_images import NOT_SPOKEN
from imgguard.store import Store
from imgguard.wsgi import Application, Captured, Environ

LOG: Final = logging.getLogger(__name__)

Json = dict[str, Any]

_TIMES: Final = ('created_at', 'updated_at')
# Glance compares them in the database by either API (glance/registry/api/v1/images.py, SUPPORTED_FILTERS).
_OF_V1: Final = frozenset({'name', 'disk_format', 'container_format', 'size_min', 'size_max', 'protected', 'min_ram',
                           'min_disk'})
_JUDGED: Final = frozenset({'owner', 'id', 'tag', 'visibility', 'member_status'})
_RANGES: Final = ('_min', '_max')
_OF_PAGE: Final = frozenset({'limit', 'marker', 'sort', 'sort_key', 'sort_dir', 'status'})
# Columns that v1 has no filter for. An image in error shows no checksum and no virtual size.
_NOT_JUDGED: Final = frozenset({'created_at', 'updated_at', 'deleted', 'deleted_at', 'checksum', 'virtual_size',
                                'is_public', 'changes-since', names.ERROR_CODE})
_DEFAULT_LIMIT: Final = 25
_MAX_LIMIT: Final = 1000
_STEP: Final = 200
_MAX_EXAMINED: Final = 50000


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A list of v2 that killed images can be put into.

    :param parameters: of the query
    :param of_v1: the filters in the words of v1
    :param ids: the only images asked for
    """

    parameters: dict[str, str]
    key: str
    direction: str
    limit: int
    of_v1: tuple[tuple[str, str], ...]
    ids: frozenset[str] | None
    tags: tuple[str, ...]

    @classmethod
    def of(cls, query: str) -> '_Wanted | None':
        """``None`` where no killed image is asked for, or none can be told to belong."""
        pairs = listing.parameters_of(query)
        if pairs is None:
            return None
        given, tags = dict(pairs), tuple(value.strip() for name, value in pairs if name == 'tag')
        once = [name for name, _ in pairs if name != 'tag']
        statuses = listing.statuses_of(given['status']) if 'status' in given else frozenset({v2.STATUS_KILLED})
        limit = given.get('limit', str(_DEFAULT_LIMIT)).strip()
        sort = _sort(given)
        ids = listing.statuses_of(given['id']) if 'id' in given else None
        if (';' in query or len(set(once)) < len(once) or given.keys() & _NOT_JUDGED or sort is None
                or statuses is None or v2.STATUS_KILLED not in statuses or not (limit.isascii() and limit.isdigit())
                or ('id' in given and ids is None) or given.get('visibility') == 'community'
                or any(name.endswith(_RANGES) for name in given.keys() - _OF_V1)):
            return None
        of_v1 = tuple((name if name in _OF_V1 else f'property-{name}', value) for name, value in given.items()
                      if name not in _JUDGED | _OF_PAGE)
        return cls(given, *sort, min(int(limit), _MAX_LIMIT), of_v1, ids, tags)

    def may_have_visibility(self, told: str | None) -> bool:
        """Whether an image of which v1 tells this much of its visibility can be one that is asked for."""
        asked = self.parameters.get('visibility')
        return asked is None or (asked == 'public') == (told == 'public')


def _sort(given: dict[str, str]) -> tuple[str, str] | None:
    """The one key that a list is sorted by, and the direction; to both APIs time of creation and id come next."""
    if 'sort' in given:
        keys, directions = zip(*(((key, direction or 'desc') for key, _, direction in (
            part.partition(':') for part in given['sort'].strip().split(',')))), strict=True)
    else:
        keys, directions = ((given.get('sort_key', 'created_at').strip(),), (given.get('sort_dir', 'desc').strip(),))
    return (keys[0].strip(), directions[0].strip()) if len(keys) == 1 else None


class KilledImages:
    """Lists of v2 with the killed images in error among the others, as Glance shows them, for the proxy."""

    def __init__(self, application: Application, store: Store, presenter: Presenter) -> None:
        self._application: Final = application
        self._store: Final = store
        self._presenter: Final = presenter
        self._has_v1 = True

    def listed(self, environ: Environ, by: Caller, code: str | None) -> Captured:
        """Glance's answer to a list request, with these images in it.

        :param code: only those whose error has this code
        """
        answer: Captured | None = None
        # Whatever is wrong here, the client gets Glance's answer.
        with Border(LOG, 'killed images are not listed', StoreUnavailable, GlanceUnavailable):
            wanted = _Wanted.of(environ.get('QUERY_STRING', '')) if self._has_v1 and not _brings_body(environ) else None
            since = hidden_since(self._store) if wanted is not None and wanted.limit else None
            if wanted is not None and since is not None:
                answer = self._merged(environ, wanted, by, code, since)
        return answer or Captured(self._application, environ)

    def _merged(self, environ: Environ, wanted: _Wanted, by: Caller, code: str | None, since: str) -> Captured | None:
        killed = self._killed(wanted, by, code, since)
        first = next(killed, None)
        if first is None:
            return None
        answer = Captured(self._application, environ)
        document = json.loads(answer.body()) if answer.is_json() else None
        page = v2.images_of(document) if document is not None else []
        if document is None or document.get('images') != page:
            return answer
        on_page = {image['id'] for image in page}
        listed, marker = merged(
            page, 'next' in document, wanted.limit, chain([first], killed),
            # It may have been put back to queued, before the page came or since then.
            lambda image: None if image['id'] in on_page else self._shown(image, wanted, by),
            lambda image, low, high: self._place(image, page, environ, wanted, low, high))
        if len(listed) == len(page) and marker is None:
            return answer
        document = {name: value for name, value in document.items() if name != 'next'} | {'images': listed}
        if marker is not None:
            document['next'] = '/v2/images?' + urlencode(wanted.parameters | {'marker': marker})
        answer.replace(v2.dump(document))
        return answer

    def _killed(self, wanted: _Wanted, by: Caller, code: str | None, since: str) -> Iterator[Json]:
        """The killed images in error after the marker, in the words of v1; those that a look at v1 rules out are not.

        Nothing where Glance has no API v1, or refuses the request: it has its own words for that.
        """
        query = [('changes-since', since), ('status', v2.STATUS_KILLED), ('is_public', 'none'),
                 ('sort_key', wanted.key), ('sort_dir', wanted.direction), *wanted.of_v1]
        marker, examined = wanted.parameters.get('marker'), 0
        seen: set[str] = set()
        while examined < _MAX_EXAMINED:
            step = min(max(_STEP, examined), _MAX_LIMIT)
            following = [('limit', str(step)), *([] if marker is None else [('marker', marker)])]
            answer: Captured = by.context.ask('GET', '/v1/images/detail', query=urlencode([*query, *following]))
            if answer.status == NOT_SPOKEN:
                # It has none, and will have none: the next release to have it is of the past.
                self._has_v1 = False
            # Glance's own paging goes in circles when images without a size are sorted by it.
            images = [image for image in images_of_page(answer) or () if image['id'] not in seen]
            if not images:
                return
            seen.update(image['id'] for image in images)
            told = [v1.as_v2(image) for image in images]
            records = self._presenter.records(told)
            for image, as_v2 in zip(images, told, strict=True):
                found = v2.error_of(as_v2, records)
                if (found is not None and code in (None, found[1].code)
                        # After a marker that lacks what is sorted by, Glance may list nothing: it must not end a page.
                        and image.get(wanted.key) is not None
                        and wanted.parameters.get('owner') in (None, image.get('owner'))
                        and (wanted.ids is None or image['id'] in wanted.ids)
                        and wanted.may_have_visibility(as_v2['visibility'])):
                    yield image
            marker, examined = images[-1]['id'], examined + len(images)

    def _shown(self, image: Json, wanted: _Wanted, by: Caller) -> Json | None:
        """What v2 shows of it; ``None`` where the list asked for does not hold it."""
        shown: Json | None = by.context.find(f'/v2/images/{image["id"]}')
        if shown is None or shown.get('status') not in v2.ERROR_STATUSES or not set(wanted.tags) <= set(shown['tags']):
            return None
        visibility, asked = shown.get('visibility'), wanted.parameters.get('visibility')
        if asked is not None and asked != visibility:
            return None
        if visibility != 'shared' or (by.identified and (by.is_admin or by.project_id == shown.get('owner'))):
            return shown
        # Its members see it listed when they want to. Of a caller of whom nothing is known it is known only that it is
        # the owner or one of these.
        status = wanted.parameters.get('member_status', 'accepted')
        members = (by.context.find(f'/v2/images/{image["id"]}/members') or {}).get('members')
        is_listed = members is not None and all(status in ('all', member['status']) for member in members)
        return shown if is_listed else None

    def _place(self, image: Json, page: Sequence[Json], environ: Environ, wanted: _Wanted, low: int,
               high: int) -> int:
        """How many images of the page come before it; what is certain is not asked."""
        if wanted.key in _TIMES:
            # v2 tells no fractions of a second.
            time = v1.created_at(image[wanted.key])
            before = [other[wanted.key] < time if wanted.direction == 'asc' else other[wanted.key] > time
                      for other in page[low:high]]
            same = [other[wanted.key] == time for other in page[low:high]]
            low, high = low + sum(before), low + sum(before) + sum(same)
        if low == high:
            return low
        pairs = listing.parameters_of(environ.get('QUERY_STRING', '')) or []
        query = urlencode([*((name, value) for name, value in pairs if name not in ('marker', 'limit')),
                           ('marker', image['id']), ('limit', '1')])
        answer = Captured(self._application, {**environ, 'QUERY_STRING': query})
        following = v2.images_of(json.loads(answer.body())) if answer.status == 200 else None
        if following is None:
            raise GlanceUnavailable(f'Glance answered {answer.status_line!r} to a list after a killed image')
        at = next((at for at, other in enumerate(page) if following and other['id'] == following[0]['id']), len(page))
        return min(max(at, low), high)


def _brings_body(environ: Environ) -> bool:
    # A body can be sent to Glance only once, and a list takes several requests.
    return environ.get('CONTENT_LENGTH') not in (None, '', '0') or 'HTTP_TRANSFER_ENCODING' in environ
