"""The table of cases: every way known to bring data into an image of Glance 33 that does not end well, one row each.

A row is data. :mod:`tests.test_cases` plays the rows that one process can play, on the real Glance, beside the same
Glance without the guard; :mod:`tests.test_cases_on_servers` those that need processes and sockets. The document
``doc/failures.rst`` is written from the same rows::

    python -m tests.cases

A row ends in one of two ways. Either the image is in error, with the code and the words of the row, and after what
the row says must be done first, the same request to the same image makes it active with the right bytes and leaves
nothing else behind. Or it is no failure of the image, and the guard says nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from webtest import TestResponse

from tests.cases.scene import Scene
from tests.uploading import KEEP, Images

Sends = Callable[[Scene, Images, str], TestResponse]
Does = Callable[[Scene, Images, str], object]
Mends = Callable[[Scene, Images, str], bool]
Test = TypeVar('Test', bound=Callable[..., object])


class By(Enum):
    """How the data is brought in again."""

    UPLOAD = 'upload'
    STAGE = 'stage'
    WEB = 'web-download'
    DIRECT = 'glance-direct'


@dataclass(frozen=True)
class Left:
    """What Glance alone is left with when it has answered, and for an import when its task has ended.

    :param retry_works: whether the same request brings the data in once its cause is gone
    """

    status: str = 'queued'
    stored: bool = False
    staged: bool = False
    locked: bool = False
    retry_works: bool = True

    def __str__(self) -> str:
        for_ever = ' for ever' if self.status in ('saving', 'importing') else ''
        things = [words for words, there in (
            ('a file in the store', self.stored), ('staged data', self.staged), ('the import lock', self.locked),
        ) if there]
        return ', '.join([f'``{self.status}``{for_ever}', *things, 'a retry works' if self.retry_works else
                          '**no retry works**'])


NOTHING_LEFT = Left()


@dataclass(frozen=True)
class Way:
    """One way a row comes about in one process.

    :param send: the request that fails
    :param status: of the answer
    :param prepare: what is wrong at the server, for this image, beforehand
    :param properties: of the image
    :param created: makes the image instead, and returns its id
    :param words: some of the text shown; without them, the row's
    :param by_the_guard: the guard refuses what Glance alone takes, or answers in another way
    """

    send: Sends
    status: int
    prepare: Does = lambda scene, images, image_id: None
    properties: Mapping[str, Any] = field(default_factory=dict)
    created: Callable[[Scene, Images], str] | None = None
    words: tuple[str, ...] = ()
    by_the_guard: bool = False

    def create(self, scene: Scene, images: Images) -> str:
        """The image, which is to be kept."""
        return self.created(scene, images) if self.created else images.created(KEEP, **self.properties)


@dataclass(frozen=True)
class Case:
    """One row.

    :param number: of the row in the document
    :param what: happens, for people
    :param answer: of Glance, for people
    :param left: by Glance alone; words where it is not checked here
    :param code: shown by the guard; ``None`` where it says nothing
    :param ways: how it comes about in one process; none where a test of its own, which names the row, does it
    :param words: some of the text shown
    :param retryable: as shown
    :param first: what must be done before the same request is sent again, for people
    :param mend: does it, where it is the client's to do, and tells whether Glance let it; what is wrong at the server
        is mended by itself
    :param again: how the data is brought in again
    :param untried: why the row cannot be tried here
    """

    number: str
    what: str
    answer: str
    left: Left | str
    code: str | None
    ways: Mapping[str, Way] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    retryable: bool = True
    first: str = ''
    mend: Mends = lambda scene, images, image_id: True
    again: By = By.UPLOAD
    untried: str = ''


#: The numbers of rows that have a test of their own, see :func:`proves`.
PROVEN: set[str] = set()


def proves(*numbers: str) -> Callable[[Test], Test]:
    """Mark a test that plays these rows."""
    PROVEN.update(numbers)
    return lambda test: test
