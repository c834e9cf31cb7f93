"""The use-cases of the guard: begin an attempt, end it with a verdict, remember what was asked.

Knows images, attempts and settings; neither HTTP nor SQL.
"""

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from imgguard.about import About, claimed
from imgguard.attempts import Busy, Claim, Failure, ImageRecord, Kind, NewAttempt, Running, State
from imgguard.errors import StoreUnavailable
from imgguard.images import Caller, Image
from imgguard.leases import Heartbeat
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.text import one_line
from imgguard.workers import HOST

LOG: Final = logging.getLogger(__name__)

Result = TypeVar('Result')


class CannotGuard(Exception):
    """This process cannot keep its promises now; the text says why and what to do."""


class Guard:
    """What one filter does for images somebody asked to keep.

    :param elsewhere: whether Glance runs outside this process, so that the end of this process is not that of its work
    """

    def __init__(self, store: Store, heartbeat: Heartbeat, settings: Settings, elsewhere: bool = False) -> None:
        self._store = store
        self._elsewhere = elsewhere
        self._heartbeat = heartbeat
        self._settings = settings

    def keeps(self, asked: bool | None, record: ImageRecord | None, image_type: str | None) -> bool:
        """Whether an attempt is guarded: the request decides, else what was asked at create, else the policy."""
        if asked is not None:
            return asked
        if record is not None and record.keep is not None:
            return record.keep
        policy = self._settings.keep_default
        return policy == 'always' or (policy == 'snapshots' and image_type == 'snapshot')

    def begin(self, image: Image, by: Caller, guarded: bool, expected: int | None, kind: Kind = Kind.UPLOAD,
              handed_on: bool = False, instead_of: int | None = None, seen: ImageRecord | None = None) -> Claim | Busy:
        """Claim the image for an attempt to bring data into it; committed when it returns.

        :param handed_on: whether Glance hands the request on to another host
        :param instead_of: the number of the attempt whose claim is taken over, if it still runs
        :param seen: what was known of the image a moment ago, if anything was
        :raises CannotGuard: when the sign of life of this process is not renewed
        :raises StoreUnavailable: when the claim could not be stored
        """
        if not self._heartbeat.runs():
            raise CannotGuard('threads do not run in this process (uWSGI: set enable-threads = true)')
        new = NewAttempt(kind, guarded, by.request_id, by.user_id, by.project_id, HOST,
                         self._heartbeat.worker, expected, handed_on or self._elsewhere)
        return self._store.begin(image.image_id, image.created_at, image.owner, new, instead_of, seen)

    def succeeded(self, claim: Claim, http_status: int, received: int, remark: Failure | None = None) -> bool:
        """End an attempt whose data arrived; the image is in error no longer.

        :param remark: what is to be said all the same; its code is empty
        :returns: whether that counts: the attempt still held the image, or nothing came after it
        :raises StoreUnavailable: when that could not be stored now; it is stored when the store is back
        """
        return self._end(claim, lambda: self._store.finish(
            claim, State.SUCCEEDED, remark, shown=False, http_status=http_status, bytes_received=received))

    def failed(self, image: Image, claim: Claim, failure: Failure, http_status: int | None, received: int,
               shown: bool, remains: bool | None = None) -> bool:
        """End an attempt whose data did not arrive.

        :param shown: whether the image is in error because of it
        :param remains: whether what it left in Glance is to be cleared away; ``None`` for what ``shown`` says
        :returns: whether that counts: the attempt still held the image, or nothing came after it
        :raises StoreUnavailable: when that could not be stored now; it is stored when the store is back
        """
        claimed(LOG, claim).warning('failed after %d bytes: %s (%s)', received, failure.code, failure.text)
        return self._end(claim, lambda: self._store.finish(
            claim, State.FAILED, failure, shown=shown, http_status=http_status, bytes_received=received,
            remains=remains))

    def withdraw(self, claim: Claim) -> None:
        """Undo a claim whose request was refused at the door: it was no attempt.

        :raises StoreUnavailable: when that could not be stored now; it is stored when the store is back
        """
        self._end(claim, lambda: self._store.withdraw(claim))

    def declare(self, image: Image, by: Caller, failure: Failure, guarded: bool) -> Busy | int:
        """Put an image in error without an attempt: whoever may modify it says that its data will not come.

        :param guarded: whether somebody asked to keep the image
        :returns: the number it has in the history; :class:`Busy` while an attempt is alive
        :raises StoreUnavailable: when that could not be stored
        """
        About(LOG, image.image_id, request_id=by.request_id).warning('%s (%s)', failure.code, failure.text)
        new = NewAttempt(Kind.DECLARE, guarded, by.request_id, by.user_id, by.project_id, HOST,
                         self._heartbeat.worker, None)
        return self._store.declare(image.image_id, image.created_at, image.owner, new, failure)

    def reset(self, image: Image) -> Busy | bool:
        """Let an image in error wait for its data again; its history stays.

        :returns: whether it was in error; :class:`Busy` while an attempt is alive
        :raises StoreUnavailable: when that could not be stored
        """
        About(LOG, image.image_id).info('its error is taken back')
        return self._store.clear_error(image.image_id, image.created_at)

    def lost(self, record: ImageRecord, running: Running) -> bool:
        """End the running attempt of an image, which is not alive, as lost.

        :returns: whether this call did it, which is true for exactly one of several callers
        :raises StoreUnavailable: when that could not be stored
        """
        attempt = self._store.attempt(record.key, running.number)
        done = self._store.lose(record.key, running.number)
        if done:
            About(LOG, record.image_id, running.number, attempt.request_id if attempt else None).warning(
                'is lost: its worker on %s gave no sign of life', one_line(running.host))
        return done

    def _end(self, claim: Claim, end: Callable[[], Result]) -> Result:
        try:
            return end()
        except StoreUnavailable:
            self._heartbeat.finish_later(claim, end)
            raise
