"""The use-cases of the guard: begin an attempt, end it with a verdict, remember what was asked.

Knows images, attempts and settings; neither HTTP nor SQL.
"""

import logging
import os
import secrets
import socket
from typing import Final

from imgguard.attempts import Busy, Claim, Failure, ImageRecord, Kind, NewAttempt, State
from imgguard.images import Caller, Image
from imgguard.leases import Heartbeat
from imgguard.settings import Settings
from imgguard.store import Store

LOG: Final = logging.getLogger(__name__)

_HOST: Final = socket.gethostname()[:255]


class CannotGuard(Exception):
    """This process cannot keep its promises now; the text says why and what to do."""


class Guard:
    """What one filter does for images somebody asked to keep."""

    def __init__(self, store: Store, heartbeat: Heartbeat, settings: Settings) -> None:
        self._store = store
        self._heartbeat = heartbeat
        self._settings = settings
        self._worker = (0, '')

    def keeps(self, asked: bool | None, record: ImageRecord | None, image_type: str | None) -> bool:
        """Whether an attempt is guarded: the request decides, else what was asked at create, else the policy."""
        if asked is not None:
            return asked
        if record is not None and record.keep is not None:
            return record.keep
        policy = self._settings.keep_default
        return policy == 'always' or (policy == 'snapshots' and image_type == 'snapshot')

    def begin(self, image: Image, by: Caller, guarded: bool, expected: int | None) -> Claim | Busy:
        """Claim the image for an upload; committed when it returns.

        :raises CannotGuard: when the sign of life of this process is not renewed
        :raises StoreUnavailable: when the claim could not be stored
        """
        if not self._heartbeat.runs():
            raise CannotGuard('threads do not run in this process (uWSGI: set enable-threads = true)')
        new = NewAttempt(Kind.UPLOAD, guarded, by.request_id, by.user_id, by.project_id, _HOST,
                         self._worker_name(), expected)
        return self._store.begin(image.image_id, image.created_at, image.owner, new)

    def succeeded(self, claim: Claim, http_status: int, received: int) -> bool:
        """End an attempt whose data arrived; the image is in error no longer.

        :returns: whether the attempt still held the image
        :raises StoreUnavailable: when that could not be stored
        """
        return self._store.finish(claim, State.SUCCEEDED, None, shown=False,
                                  http_status=http_status, bytes_received=received)

    def failed(self, image: Image, claim: Claim, failure: Failure, http_status: int | None, received: int,
               shown: bool) -> bool:
        """End an attempt whose data did not arrive.

        :param shown: whether the image is in error because of it
        :returns: whether the attempt still held the image
        :raises StoreUnavailable: when that could not be stored
        """
        LOG.warning('image %s: attempt %d failed after %d bytes: %s (%s)', image.image_id, claim.number, received,
                    failure.code, failure.text)
        return self._store.finish(claim, State.FAILED, failure, shown=shown,
                                  http_status=http_status, bytes_received=received)

    def withdraw(self, claim: Claim) -> None:
        """Undo a claim whose request was refused at the door: it was no attempt.

        :raises StoreUnavailable: when that could not be stored
        """
        self._store.withdraw(claim)

    def _worker_name(self) -> str:
        process = os.getpid()
        if self._worker[0] != process:
            self._worker = process, f'{_HOST}:{process}:{secrets.token_hex(4)}'
        return self._worker[1]
