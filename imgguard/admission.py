"""The way in of every request that brings data into an image: asked? known? allowed? then the claim.

The order matters. Nothing is claimed or told before Glance's own policy let the caller do it, and the
claim is committed before Glance is called.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import webob.exc

from imgguard import asking, names
from imgguard.about import About
from imgguard.attempts import Busy, Claim, ImageRecord, Kind, Running
from imgguard.errors import GlanceUnavailable, ImgguardError, StoreUnavailable
from imgguard.fence import NotYet
from imgguard.guard import CannotGuard, Guard
from imgguard.images import Caller, Forbidden, Image
from imgguard.operations import spellings
from imgguard.recovery import BeingCleared, Recovery
from imgguard.requeue import CannotRequeue
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.wsgi import Application, Captured, Environ, StartResponse

LOG: Final = logging.getLogger(__name__)

# How long a request waits for the remains of an earlier attempt to be cleared away, and how often it looks.
_CLEARING_LOOKS: Final = 50
_CLEARING_LOOK_SECONDS: Final = 0.1

_NOUNS: Final = {Kind.UPLOAD: 'upload', Kind.STAGE: 'staging', Kind.IMPORT: 'import', Kind.COPY: 'copy',
                 Kind.LOCATION: 'import from a location', Kind.DECLARE: 'declaration'}
_BUSY: Final = ('Another {noun} to this image is under way. Wait until it has ended: the image then is active, or it '
                'shows an error and can be uploaded again.')
_GOES_ON: Final = ('Glance may still be working on another {noun} of this image, although the worker that began it '
                   'gives no sign of life. Wait until it has ended: it is given up at {at}, or once an operator has '
                   'made sure that Glance works on it no longer.')
_CLEARING: Final = ('What an earlier attempt left of this image is being cleared away. Try again in some seconds.')
_FENCED: Final = ('The worker of an earlier attempt was lost, but it may still wake up and write to this image. A new '
                  'attempt works from {at} on, or once an operator has made sure that the worker is dead.')
_NOT_STORED: Final = ('This image cannot be kept if its {noun} fails, for the guard cannot store that now. The {noun} '
                      'was not begun; try again later.')


@dataclass(frozen=True, slots=True)
class Admitted:
    """An image, and a caller who may bring data into it.

    :param record: what is known of the image
    :param guarded: whether a failure is to put it in error
    :param instead_of: the number of the attempt by which another host has claimed the image for this very request
    :param handed_on: whether Glance hands the request on to the host that has the staged data
    """

    image: Image
    record: ImageRecord | None
    guarded: bool
    instead_of: int | None = None
    handed_on: bool = False


class Admission:
    """The way in for one filter. What is no :class:`Admitted` or claim is the answer to the request."""

    def __init__(self, application: Application, settings: Settings, store: Store, guard: Guard,
                 recovery: Recovery, pause: Callable[[float], None] = time.sleep) -> None:
        self._application = application
        self._settings = settings
        self._store = store
        self._guard = guard
        self._recovery = recovery
        self._pause = pause

    def admit(self, environ: Environ, start_response: StartResponse, image_id: str, by: Caller, kind: Kind,
              ask: Callable[[Caller, str], Image], refuse: Callable[[], bool] = bool) -> Admitted | Iterable[bytes]:
        """Find out whether this request is to be recorded, and whether its caller may do what it wants.

        :param image_id: as the path spells it
        :param ask: asks Glance's policy; raises :class:`Forbidden`
        :param refuse: whether a caller who may not, of an image the guard knows, is refused here and not by Glance
        """
        try:
            asked = asking.keep(environ)
        except asking.BadRequest as error:
            return webob.exc.HTTPBadRequest(explanation=str(error))(environ, start_response)
        outage: ImgguardError | None
        records, outage = self._known(image_id)
        if not records and not asked and (asked is False or self._settings.keep_default == 'never'):
            if outage is not None:
                _about(image_id, by).error('%s is not recorded: %s', _a(_NOUNS[kind]), outage)
            return self._application(environ, start_response)
        try:
            image = ask(by, image_id)
        except Forbidden as refusal:
            if records and refuse():
                answer: Iterable[bytes] = refusal.answer(environ, start_response)
                return answer
            return self._application(environ, start_response)
        except Exception as error:
            # Glance's database, policy or drivers: whatever it is, Glance meets it again and answers it.
            _about(image_id, by).exception('cannot ask Glance about an image')
            sticky = any(record.keep for record in records.values())
            return self._unguarded(error, sticky if asked is None else asked, kind, _about(image_id, by), environ,
                                   start_response)
        record = records.get((image.image_id, image.created_at))
        if record is not None:
            try:
                record, image = self._recovered(record, image, kind, lambda: ask(by, image_id))
            except (NotYet, CannotRequeue) as error:
                return _not_yet(error)(environ, start_response)
            except (StoreUnavailable, GlanceUnavailable) as error:
                outage = error
        guarded = self._guard.keeps(asked, record, image.image_type)
        if outage is not None:
            return self._unguarded(outage, guarded, kind, _about(image_id, by), environ, start_response)
        if not guarded and record is None:
            return self._application(environ, start_response)
        running = None if record is None else record.running
        if record is None or running is None or not running.holds:
            return Admitted(image, record, guarded)
        if kind is Kind.IMPORT and self._is_handed_here(record, running, image, by):
            # What the client asked for, it asked there: Glance hands its headers not on.
            return Admitted(image, record, running.guarded, running.number)
        return self._busy(Busy(running), environ, start_response)

    def _is_handed_here(self, record: ImageRecord, running: Running, image: Image, by: Caller) -> bool:
        """Whether the claim was made by the host at which this request came in; Glance has handed it on to this one.

        Nothing of that is said by the request: the claim stands in the store, its caller is this one, and Glance
        has noted that the staged data is here. Of several such requests one gets the claim.
        """
        if running.kind is not Kind.IMPORT or image.status != 'uploading' or not image.staged_here:
            return False
        try:
            claimed = self._store.attempt(record.key, running.number)
        except StoreUnavailable as error:
            About(LOG, image.image_id).error('it is taken for busy: %s', error)
            return False
        return claimed is not None and bool(claimed.handed_on) and (
            (claimed.user_id, claimed.project_id) == (by.user_id, by.project_id))

    def _recovered(self, record: ImageRecord, image: Image, kind: Kind,
                   allowed: Callable[[], Image]) -> tuple[ImageRecord, Image]:
        """The image when what an attempt before this one left of it is out of the way."""
        silent = record.running is not None and not record.running.alive
        # Who found it silent, too, and was quicker has left remains behind the fence all the same.
        if self._recovery.settle(record, image.status) or silent:
            record = self._store.records([image.image_id])[image.image_id, image.created_at]
        staged = kind is Kind.IMPORT and image.status == 'uploading'
        if not record.remains or staged:
            return record, image
        if record.running is None:
            self._patiently(lambda: self._recovery.clear(self._store.records([image.image_id])[
                image.image_id, image.created_at], image.status, asked=True))
            return record, allowed()
        return record, image

    def _patiently(self, clear: Callable[[], object]) -> None:
        """Wait for somebody else who is clearing: a client that hung up may be back before its upload is cleaned up."""
        for _ in range(_CLEARING_LOOKS):
            try:
                clear()
                return
            except BeingCleared:
                self._pause(_CLEARING_LOOK_SECONDS)
        clear()

    def claim(self, environ: Environ, start_response: StartResponse, admitted: Admitted, by: Caller, kind: Kind,
              expected: int | None = None) -> Claim | Iterable[bytes]:
        """Claim the image for this request; committed when it returns.

        :param expected: how many bytes the client announced
        """
        def begin() -> Claim | Busy:
            return self._guard.begin(admitted.image, by, admitted.guarded, expected, kind, admitted.handed_on,
                                     admitted.instead_of, admitted.record)

        try:
            claim = begin()
            for _ in range(_CLEARING_LOOKS):
                if not isinstance(claim, Busy) or claim.running is not None:
                    break
                self._pause(_CLEARING_LOOK_SECONDS)
                claim = begin()
        except (CannotGuard, StoreUnavailable) as error:
            about = _about(admitted.image.image_id, by)
            return self._unguarded(error, admitted.guarded, kind, about, environ, start_response)
        if isinstance(claim, Busy):
            return self._busy(claim, environ, start_response)
        return claim

    def _busy(self, busy: Busy, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if busy.running is None:
            return webob.exc.HTTPConflict(explanation=_CLEARING)(environ, start_response)
        if not busy.running.guarded:
            # Nobody asked for more than Glance's own answer, which is a refusal too.
            return self._application(environ, start_response)
        explanation = _BUSY.format(noun=_NOUNS[busy.running.kind])
        if not busy.running.alive:
            at = _moment(self._settings.import_stall_seconds - busy.running.silent_for)
            explanation = _GOES_ON.format(noun=_NOUNS[busy.running.kind], at=at)
        return webob.exc.HTTPConflict(explanation=explanation)(environ, start_response)

    def _known(self, image_id: str) -> tuple[Mapping[tuple[str, str], ImageRecord], StoreUnavailable | None]:
        try:
            return self._store.records(spellings(image_id)), None
        except StoreUnavailable as error:
            return {}, error

    def _unguarded(self, error: Exception, asked: bool, kind: Kind, about: About, environ: Environ,
                   start_response: StartResponse) -> Iterable[bytes]:
        noun = _NOUNS[kind]
        if not asked:
            about.error('%s is not recorded: %s', _a(noun), error)
            return self._application(environ, start_response)
        if self._settings.on_store_failure == 'refuse':
            about.error('%s was refused, for it cannot be guarded: %s', _a(noun), error)
            refusal = webob.exc.HTTPInternalServerError(explanation=_NOT_STORED.format(noun=noun))
            return refusal(environ, start_response)
        about.error('%s runs unguarded: %s', _a(noun), error)
        answer = Captured(self._application, environ)
        answer.headers.append((names.KEPT_HEADER, names.KEPT_UNAVAILABLE))
        return answer.send(start_response)


def _not_yet(error: NotYet | CannotRequeue) -> webob.exc.HTTPConflict:
    if isinstance(error, CannotRequeue):
        return webob.exc.HTTPConflict(explanation=str(error))
    return webob.exc.HTTPConflict(explanation=_FENCED.format(at=_moment(error.seconds)))


def _about(image_id: str, by: Caller) -> About:
    return About(LOG, image_id, request_id=by.request_id)


def _moment(seconds: float) -> str:
    """The moment so many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime('%Y-%m-%dT%H:%M:%SZ')


def _a(noun: str) -> str:
    return f'an {noun}' if noun[0] in 'aeiou' else f'a {noun}'
