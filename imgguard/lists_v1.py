"""Lists of the Images API v1: ``GET /v1/images`` and ``GET /v1/images/detail``.

Glance hides killed images from them, whatever status is asked for, unless all changes since some time are asked for;
then it hides nothing, also not what is deleted (``glance/db/sqlalchemy/api.py`` of Glance 15.0.2,
``_make_conditions_from_filters``). So the guard asks for the changes since ever of all images with the statuses that a
list is made of, ``killed`` among them, and takes out what is killed and not in error. Sorting, paging, visibility and
every other filter stay Glance's. A list of v1 has no link to the next page: clients stop at a page that is shorter than
they asked for, so every page is filled up.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlencode

from imgguard import listing, names
from imgguard.api import v1, v2
from imgguard.border import Border
from imgguard.errors import StoreUnavailable
from imgguard.images import Caller
from imgguard.operations import Action, Operation
from imgguard.presenter import Presenter
from imgguard.store import Store
from imgguard.wsgi import Application, Captured, Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

Json = dict[str, Any]
#: Sends a list request with details and this query to Glance, as the caller.
Ask = Callable[[str], Captured]

SINCE_EVER: Final = ('changes-since', '1970-01-01T00:00:00Z')

_CODE: Final = f'property-{names.ERROR_CODE}'
_HIDDEN: Final = frozenset({v2.STATUS_KILLED, 'deleted'})
_STEP: Final = 200
_MAX_STEP: Final = 1000
_MAX_EXAMINED: Final = 50000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A list that the error state takes part in.

    :param parameters: of the query: each name, and the parameter as it was sent
    :param others: Glance's statuses that are listed, of images that are not in error
    :param errors: whether images in error are listed
    :param code: only images in error with this code
    :param of_changes: whether the client itself asked for changes since some time, and so for what Glance hides
    """

    parameters: tuple[tuple[str, str], ...]
    others: frozenset[str]
    errors: bool
    code: str | None
    of_changes: bool

    def query(self, marker: str | None = None, limit: int | None = None) -> str:
        """The query of a page of Glance's that holds all these images, and others.

        :param marker: the page after this image, and not the one asked for
        """
        statuses = self.others | (v2.ERROR_STATUSES if self.errors else frozenset())
        ours = [('status', 'in:' + ','.join(sorted(statuses)))]
        if self.errors and not self.of_changes:
            ours.append(SINCE_EVER)
        if marker is not None:
            ours += [('marker', marker), ('limit', str(limit))]
        replaced = {name for name, _ in ours} | {_CODE, '_method'}
        kept = [sent for name, sent in self.parameters if name not in replaced]
        return '&'.join([*kept, urlencode(ours, safe=':,')])

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
    code, of_changes = values.get(_CODE), 'changes-since' in values
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
    return Wanted(tuple((name, sent) for name, _, sent in pairs), others, errors, code, of_changes)


def _pairs(query: str) -> Iterable[tuple[str, str, str]]:
    # As Python 2.7 takes a query apart (urlparse.py, parse_qsl).
    for sent in re.split('[&;]', query):
        name, _, value = (unquote_to_bytes(part.replace('+', ' ').encode('latin-1')).decode('utf-8', 'replace')
                          for part in sent.partition('='))
        if sent:
            yield name, value, sent


class ListsV1:
    """Handles lists of v1 for the proxy.

    :param presenter: writes the error state into images as v1 tells them
    :param shown: the status that v1 shows for an image in error
    """

    def __init__(self, application: Application, store: Store, presenter: Presenter, shown: str) -> None:
        self._application: Final = application
        self._store: Final = store
        self._presenter: Final = presenter
        self._shown: Final = shown

    def __call__(self, environ: Environ, start_response: StartResponse, operation: Operation,
                 by: Caller) -> Iterable[bytes]:
        """Answer with the page that is asked for, images in error among the others."""
        details = operation.action is Action.LIST_DETAIL
        page = None
        # Whatever is wrong here, the client gets Glance's answer.
        with Border(LOG, 'the list is answered without the error state', StoreUnavailable):
            page = self._page(environ, by, details)
        if page is None:
            page = Captured(self._application, environ)
            if details and page.status == 200 and page.is_json():
                self._presenter.present(page, by)
        return page.send(start_response)

    def _page(self, environ: Environ, by: Caller, details: bool) -> Captured | None:
        wanted = parse(environ.get('QUERY_STRING', ''), self._shown)
        # Glance answers the index to other methods, too (glance/api/v1/router.py), and looks for parameters in a body.
        if wanted is None or environ['REQUEST_METHOD'] != 'GET' or environ.get('CONTENT_LENGTH') not in (None, '', '0'):
            return None
        if not (self._store.candidates(1) or self._store.due(1)):
            return None

        def ask(query: str) -> Captured:
            answer: Captured = by.context.ask('GET', '/v1/images/detail', query=query)
            return answer

        def matching(images: Sequence[Json]) -> list[Json]:
            return self._matching(images, wanted, by)

        probe = wanted.probe()
        if probe is not None and ask(probe).status != 200:
            return None
        answer = ask(wanted.query())
        listed = _gathered(answer, wanted, ask, matching)
        if listed is None:
            return None
        answer.replace(v2.dump({'images': listed if details else [v1.brief(image) for image in listed]}))
        return answer

    def _matching(self, images: Sequence[Json], wanted: Wanted, by: Caller) -> list[Json]:
        told = [v1.as_v2(image) for image in images]
        records = self._presenter.records([image for image in told if image['status'] in v2.ERROR_STATUSES])
        listed = []
        for image, as_v2 in zip(images, told, strict=True):
            found = v2.error_of(as_v2, records)
            if found is not None:
                matches = wanted.errors and wanted.code in (None, found[1].code)
            else:
                matches = as_v2['status'] in wanted.others and (wanted.of_changes or image.get('deleted') is not True)
            if matches:
                self._presenter.write(image, records, by)
                listed.append(image)
        return listed


def _gathered(first: Captured, wanted: Wanted, ask: Ask,
              matching: Callable[[Sequence[Json]], list[Json]]) -> list[Json] | None:
    """The images of the page, from as many pages of Glance's as it takes.

    :returns: ``None`` where Glance's own answer is the right one: it refuses the request, or has nothing to list
    """
    page = images_of_page(first)
    if not page:
        return None
    # A page of Glance's that is full is as long as it may be; of one that is not, nothing follows.
    limit = examined = len(page)
    seen = {image['id'] for image in page}
    last, listed = page[-1]['id'], matching(page)
    while len(listed) < limit:
        further = images_of_page(ask(wanted.query(last, min(max(limit, examined, _STEP), _MAX_STEP))))
        if further is None:
            return None
        # Glance's own paging goes in circles when images without a size are sorted by it.
        page = [image for image in further if image['id'] not in seen]
        if not page:
            break
        seen.update(image['id'] for image in page)
        examined += len(page)
        if examined > _MAX_EXAMINED:
            LOG.error('the list is answered without the error state: %d images of Glance were not enough for a page of '
                      '%d', examined, limit)
            return None
        last = page[-1]['id']
        listed += matching(page)
    return listed[:limit]


def images_of_page(answer: Captured) -> list[Json] | None:
    """The images of a list with details; ``None`` for another answer."""
    if answer.status != 200 or not answer.is_json():
        return None
    document = json.loads(answer.body())
    images = v1.images_of(document)
    return images if isinstance(document, dict) and document.get('images') == images else None
