"""The values the guard reasons about: an image as Glance has it, an attempt, a verdict, a claim.

No I/O here. Times are seconds since the epoch, UTC, by the clock of the guard's database. An image
is identified by its id *and* by the moment Glance created it (as its API spells it, for example
``2026-11-22T22:19:29Z``), because a purged id may be used again.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple


class Kind(StrEnum):
    """What kind of try it was to bring data into an image."""

    UPLOAD = 'upload'
    STAGE = 'stage'
    IMPORT = 'import'
    COPY = 'copy'
    LOCATION = 'location'
    DECLARE = 'declare'


IMPORTS: Final = frozenset({Kind.IMPORT, Kind.COPY, Kind.LOCATION})
"""The kinds of which Glance fetches the data itself, and goes on when the request that began them is answered."""


class State(StrEnum):
    """The state of an attempt. ``running`` ends in exactly one of the others."""

    RUNNING = 'running'
    SUCCEEDED = 'succeeded'
    FAILED = 'failed'
    LOST = 'lost'


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed.

    :param code: one of :mod:`imgguard.codes`
    :param text: one printable line, at most 1024 characters
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class NewAttempt:
    """What is known of an attempt when it begins.

    :param guarded: whether a failure puts the image in error
    :param worker: names the process that runs it, unique over hosts and restarts
    :param bytes_expected: ``None`` when the client did not say
    :param handed_on: whether Glance hands the request on to the host that has the staged data; the guard there
        takes the claim over
    """

    kind: Kind
    guarded: bool
    request_id: str | None
    user_id: str | None
    project_id: str | None
    host: str
    worker: str
    bytes_expected: int | None
    handed_on: bool = False


class ErrorState(NamedTuple):
    """The verdict an image shows while it is in error; a tuple, for a page may have a thousand.

    :param number: the attempt it belongs to
    :param at: when, seconds since the epoch
    :param bytes_received: how many bytes that attempt received
    """

    number: int
    code: str
    text: str
    at: float
    request_id: str | None
    bytes_received: int


@dataclass(frozen=True, slots=True)
class Running:
    """The attempt that holds the image.

    :param alive: whether its last sign of life is at most one lease (and the skew) old, or nobody else proved
        since then that the store could be reached: an outage of the store is not a death
    :param since: when it began, seconds since the epoch
    :param task_id: the task of Glance that does the work, if that is known
    :param silent_for: seconds since its last sign of life
    :param handed_on: whether the work is done elsewhere, so that the end of its worker is not the end of the work
    :param goes_on: whether it is such an import that is not silent for so long that it has failed
    """

    number: int
    guarded: bool
    alive: bool
    since: float
    kind: Kind
    host: str
    worker: str
    task_id: str | None
    silent_for: float = field(compare=False)
    handed_on: bool = False
    goes_on: bool = False

    @property
    def holds(self) -> bool:
        """Whether no other attempt may begin; one nobody asked to keep is held by its worker alone."""
        return self.alive or (self.goes_on and self.guarded)


class ImageRecord(NamedTuple):
    """What the guard knows of one image; a tuple as :class:`ErrorState` is one.

    :param key: the guard's own primary key of the image
    :param created_at: as Glance's API shows it
    :param owner: the project that owned the image when the guard last wrote
    :param keep: the sticky request made at create; ``None`` when nothing was asked
    :param attempts: how many data attempts were made
    :param give_up_at: the deadline for its data; ``None`` for no limit
    :param overdue: whether that deadline has passed
    :param deleted: whether Glance has deleted it
    :param last_number: the highest number given to an attempt so far; 0 for none. The attempt may have been
        withdrawn since
    :param cleared_number: attempts up to this number cannot touch Glance any more, for the last of them succeeded or
        their remains were cleared away; 0 for none
    :param remains: whether an attempt may have left something in Glance that is to be cleared away
    """

    key: int
    image_id: str
    created_at: str
    owner: str | None
    keep: bool | None
    attempts: int
    give_up_at: float | None
    overdue: bool
    error: ErrorState | None
    running: Running | None
    deleted: bool
    last_number: int
    cleared_number: int
    remains: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to bring data into an image, held by one attempt.

    :param key: of the image, as in :class:`ImageRecord`
    :param number: of the attempt
    :param error: the verdict the image had before, if any
    :param request_id: of the request that made the attempt
    """

    key: int
    number: int
    error: ErrorState | None
    image_id: str
    kind: Kind
    request_id: str | None


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended, or a declaration.

    :param code: of the failure, ``None`` with success
    :param bytes_received: 0 where nobody can tell any more
    """

    kind: Kind
    state: State
    code: str | None
    bytes_received: int


@dataclass(frozen=True, slots=True)
class Busy:
    """The claim was refused: another attempt is alive.

    :param running: that attempt; ``None`` while the remains of earlier ones are being cleared away
    """

    running: Running | None


class Happening(StrEnum):
    """What others are told of, by the name of its event."""

    ERROR = 'image.error'
    CLEARED = 'image.error.cleared'
    GIVE_UP = 'image.give_up'


@dataclass(frozen=True, slots=True)
class Event:
    """An image went to error, or is in error no longer.

    :param owner: the project that owned the image when the guard last wrote
    :param at: when, seconds since the epoch
    :param number: the attempt whose verdict it is, that was spoken or is taken back; so are ``kind``, ``code``,
        ``text``, ``request_id`` and ``bytes_received``
    """

    happening: Happening
    image_id: str
    created_at: str
    owner: str | None
    at: float
    number: int
    kind: Kind
    code: str
    text: str
    request_id: str | None
    bytes_received: int
