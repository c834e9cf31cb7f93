"""Lists of the Images API v1: ``GET /v1/images`` and ``GET /v1/images/detail``.

Glance hides killed images from them, whatever status is asked for, unless all changes since some time are asked for;
then it hides nothing, also not what is deleted (``glance/db/sqlalchemy/api.py`` of Glance 15.0.2,
``_make_conditions_from_filters``). So the guard asks for the changes since ever of all images with the statuses that a
list is made of, ``killed`` among them, and takes out what is killed and not in error. Sorting, paging, visibility and
every other filter stay Glance's. A list of v1 has no link to the next page: clients stop at a page that is shorter than
they asked for, so every page is filled up.

Killed images are never purged, so that a Glance of some years may have many thousands of which the guard knows nothing.
So where only images in error are asked for, Glance is asked for no changes that are older than the first of these; and
where others are, too, and one page of Glance's is not enough, whether a killed image with such a change follows at all.
"""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from imgguard.api import v1, v2
from imgguard.border import Border
from imgguard.errors import StoreUnavailable
from imgguard.images import Caller
from imgguard.listing_v1 import SINCE_EVER, Wanted, parse
from imgguard.operations import Action, Operation
from imgguard.presenter import Presenter
from imgguard.store import Store
from imgguard.wsgi import Application, Captured, Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

Json = dict[str, Any]
#: Sends a list request with details and this query to Glance, as the caller.
Ask = Callable[[str], Captured]

_FORMAT: Final = '%Y-%m-%dT%H:%M:%SZ'
# The time of creation is cut to seconds, and the clock of another host of Glance's tells when an image changed.
_SKEW: Final = timedelta(hours=1)
# Of more images in error it is not looked up when the first was made.
_MOST_LOOKED_UP: Final = 200

_STEP: Final = 200
_MAX_STEP: Final = 1000
_MAX_EXAMINED: Final = 50000


def hidden_since(store: Store) -> str | None:
    """A time since which every image has changed that Glance may hide although it is in error.

    :returns: ``None`` where no image is in error, nor a verdict due
    :raises StoreUnavailable: the store cannot be asked
    """
    ids = store.candidates(_MOST_LOOKED_UP + 1)
    ids += store.due(_MOST_LOOKED_UP + 1)
    if not ids:
        return None
    if len(ids) > _MOST_LOOKED_UP:
        return SINCE_EVER
    made = [record.created_at for record in store.records(ids).values()]
    try:
        return (min(datetime.strptime(time, _FORMAT) for time in made) - _SKEW).strftime(_FORMAT)
    except ValueError:
        # Meanwhile none is known, or Glance has told of a time in a spelling of its own.
        return SINCE_EVER


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
            if details and page.is_json():
                self._presenter.present(page, by)
        return page.send(start_response)

    def _page(self, environ: Environ, by: Caller, details: bool) -> Captured | None:
        wanted = parse(environ.get('QUERY_STRING', ''), self._shown)
        # Glance answers the index to other methods, too (glance/api/v1/router.py), and refuses a body that is no JSON.
        if wanted is None or environ['REQUEST_METHOD'] != 'GET' or environ.get('CONTENT_LENGTH') not in (None, '', '0'):
            return None
        since = hidden_since(self._store)
        if since is None:
            return None
        wanted = replace(wanted, since=since)

        def ask(query: str) -> Captured:
            answer: Captured = by.context.ask('GET', '/v1/images/detail', query=query)
            return answer

        probe = wanted.probe()
        if probe is not None and ask(probe).status != 200:
            return None
        answer = ask(wanted.query())
        listed = _gathered(answer, wanted, ask, lambda images: self._matching(images, wanted, by))
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
                matches = wanted.errors and wanted.code in (None, found[1].code) and (
                    # It must not end a page. Others that Glance does not know to go on from are in its own pages, too.
                    wanted.is_marker(image) or image['status'] != v2.STATUS_KILLED)
            else:
                matches = image['status'] in wanted.others and (wanted.of_changes or image.get('deleted') is not True)
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
    limit = len(page)
    seen: set[str] = set()
    listed: list[Json] = []
    # The last image that Glance knows to go on from, and how many of those behind it have been seen.
    last: str | None = None
    behind, may_look = 0, True
    while page:
        seen.update(image['id'] for image in page)
        if len(seen) > _MAX_EXAMINED:
            LOG.error('the list is answered without the error state: %d images of Glance were not enough for a page of '
                      '%d', len(seen), limit)
            return None
        for image in page:
            if wanted.is_marker(image):
                # What is deleted is a marker only while Glance hides nothing.
                last, behind, may_look = image['id'], 0, image.get('deleted') is not True
            else:
                behind += 1
        listed += matching(page)
        if len(listed) >= limit:
            break
        step = min(max(limit, len(seen), _STEP) + behind, _MAX_STEP)
        if behind >= step:
            LOG.error('the list is answered without the error state: Glance does not know what follows %d images that '
                      'have no size', behind)
            return None
        look = wanted.look_for_killed(last) if may_look else None
        if look is not None and images_of_page(ask(look)) == []:
            wanted = replace(wanted, killed=False)
        further = images_of_page(ask(wanted.query(last, step)))
        if further is None:
            return None
        page = [image for image in further if image['id'] not in seen]
    return listed[:limit]


def images_of_page(answer: Captured) -> list[Json] | None:
    """The images of a list with details; ``None`` for another answer."""
    if not answer.is_json():
        return None
    document = json.loads(answer.body())
    images = v1.images_of(document)
    return images if isinstance(document, dict) and document.get('images') == images else None
