"""What the guard knows, written into Glance's answers; and the verdicts that are due, spoken on the way.

Nothing needs a daemon: whoever looks at an image has its verdict first.
"""

import json
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from imgguard.about import About
from imgguard.api import v1, v2
from imgguard.attempts import ImageRecord
from imgguard.border import Border
from imgguard.errors import GlanceUnavailable, StoreUnavailable
from imgguard.images import Caller
from imgguard.operations import spellings
from imgguard.recovery import Recovery
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.wsgi import Captured

LOG: Final = logging.getLogger(__name__)

Json = dict[str, Any]
Records = Mapping[tuple[str, str], ImageRecord]
Known = Sequence[tuple[ImageRecord, str]]

# A look at a page must not take long because much is to be cleared away, or because Glance must be asked of many
# imports how they go on without their workers, which may be so at every look until they have ended.
_MOST_CLEARED: Final = 5
_MOST_ASKED: Final = 5


class Presenter:
    """Shows the error state for one filter."""

    def __init__(self, store: Store, settings: Settings, recovery: Recovery) -> None:
        self._store = store
        self._recovery = recovery
        self._settings = settings

    def present(self, answer: Captured, by: Caller, image_id: str = '') -> None:
        """Write what is known into an answer with one image or a page of them; one query for all.

        An answer that cannot contain an image in error is left as it is, unparsed.

        :param image_id: of the only image in it, as the path spells it
        """
        if not v2.may_be_in_error(answer.body()):
            return
        # Whatever is wrong here, the client gets Glance's answer.
        with Border(LOG, 'answered without the error state', StoreUnavailable):
            self._rewrite(answer, by, image_id)

    def _rewrite(self, answer: Captured, by: Caller, image_id: str) -> None:
        body, found = answer.body(), None
        # A Glance on MariaDB finds an image by other spellings, too, and only its own id counts: there may be others in
        # what it shows of locations. In the name of a property a backslash stands before the quotation mark.
        if image_id and f', "id": "{image_id}"'.encode() in body and body.count(b', "id": ') == 1:
            found = self._store.records([image_id])
            if not found:
                return
        page = v2.Page(body)
        images = page.images
        waiting = [number for number, image in enumerate(images) if image['status'] in v2.ERROR_STATUSES]
        records = self.records([images[number] for number in waiting], found)
        if not records:
            return
        changed = {number for number in waiting if self.write(images[number], records, by)}
        if changed:
            answer.replace(page.written(changed))

    def may_be_hidden(self, image_id: str) -> bool:
        """Whether an answer that cannot be read may show an image in error as a sound one.

        :param image_id: of the image it shows, as the path spells it; ``''`` for a list
        """
        try:
            if not image_id:
                return bool(self._store.candidates(1) or self._store.due(1))
            return any(record.error or record.overdue or (record.running and not record.running.alive)
                       for record in self._store.records(spellings(image_id)).values())
        except StoreUnavailable as error:
            LOG.error('answered without the error state: %s', error)
            return False

    def known(self, images: Sequence[Json]) -> Records:
        """What is known of these images; nothing while the store is down."""
        try:
            return self.records(images)
        except StoreUnavailable as error:
            LOG.error('answered without the error state: %s', error)
            return {}

    def records(self, images: Sequence[Json], found: Records | None = None) -> Records:
        """What is known of these images, after every verdict that was due.

        :param found: what the store has just said of them
        :raises StoreUnavailable: when the store cannot be asked
        """
        ids = [image['id'] for image in images]
        records = self._store.records(ids) if found is None else found
        if not records:
            return records
        known = _known(images, records)
        if self._settle(known):
            records = self._store.records(ids)
            known = _known(images, records)
        self._clear(known)
        return records

    def write(self, image: Json, records: Records, by: Caller) -> bool:
        """Write what is known into one image; whether anything was."""
        found = v2.error_of(image, records)
        if found is None:
            return v2.show_waiting(image, records)
        v2.show_error(image, *found, self._settings.error_status, _details(image, by))
        return True

    def _settle(self, known: Known) -> bool:
        due = [(record, status) for record, status in known if not self._recovery.is_settled(record, status)]
        if not due:
            return False
        settled = False
        going_on = [record for record, _ in due
                    if record.running is not None and record.running.goes_on and not record.running.alive]
        # By chance, or those that go on for long would keep the others from being looked at.
        left = {record.key for record in random.sample(going_on, max(0, len(going_on) - _MOST_ASKED))}
        for record, status in due:
            if record.key in left:
                continue
            # One image of which nothing can be learned now must not take the others their verdict.
            with Border(About(LOG, record.image_id), 'it cannot be settled now', GlanceUnavailable):
                settled |= self._recovery.settle(record, status)
        return settled

    def _clear(self, known: Known) -> None:
        left = [(record, status) for record, status in known if record.remains and record.running is None]
        for record, status in left[:_MOST_CLEARED]:
            self._recovery.try_to_clear(record, status)


class PresenterV1(Presenter):
    """Shows the error state in answers of the API v1.

    :param status: the option ``v1_error_status``
    """

    def __init__(self, store: Store, settings: Settings, recovery: Recovery, status: str) -> None:
        super().__init__(store, settings, recovery)
        self._status = status

    def present_in_headers(self, answer: Captured, image_id: str, by: Caller) -> None:
        """Write what is known into an answer that tells of one image in its headers.

        :param image_id: as the path spells it
        """
        # Whatever is wrong here, the client gets Glance's answer.
        with Border(LOG, 'answered without the error state'):
            told = v1.image_of(answer.headers, image_id)
            image = None if told is None else v1.as_v2(told)
            if image is None or image['status'] not in v2.ERROR_STATUSES:
                return
            records = self.known([image])
            found = v2.error_of(image, records)
            if found is None:
                answer.headers = v1.show_waiting_in_headers(answer.headers, image, records)
            else:
                answer.headers = v1.show_error_in_headers(answer.headers, *found, self._status, _details(image, by))

    def write(self, image: Json, records: Records, by: Caller) -> bool:
        """See :meth:`Presenter.write`; the image is in the words of v1."""
        told = v1.as_v2(image)
        found = v2.error_of(told, records)
        if found is None:
            return v1.show_waiting(image, records)
        v1.show_error(image, *found, self._status, _details(told, by))
        return True

    def _rewrite(self, answer: Captured, by: Caller, image_id: str) -> None:
        document = json.loads(answer.body())
        told = [(image, v1.as_v2(image)) for image in v1.images_of(document)]
        waiting = [(image, as_v2) for image, as_v2 in told if as_v2['status'] in v2.ERROR_STATUSES]
        records = self.known([as_v2 for _, as_v2 in waiting])
        if any([self.write(image, records, by) for image, _ in waiting]):
            answer.replace(v2.dump(document))
            answer.headers = v1.without_data(answer.headers)


def _known(images: Iterable[Json], records: Records) -> Known:
    """What is known of those of which anything is, each with what Glance says of its status."""
    return [(record, image['status']) for image in images
            if (record := records.get((image['id'], image['created_at']))) is not None]


def _details(image: Json, by: Caller) -> bool:
    return by.may_read_details(image.get('owner'), image.get('visibility'))
