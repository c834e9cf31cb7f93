"""A page of a list with images put in that the list itself does not hold, each where it belongs. No I/O.

What the images show and where they belong is asked of the caller, and costs requests: so only what is needed is asked,
and of how many is bounded.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

Json = dict[str, Any]

# Each of them costs a request or two.
_MOST_KILLED: Final = 50
_MOST_FOR_NOTHING: Final = 200


def places(killed: Sequence[Json], low: int, high: int, locate: Callable[[Json, int, int], int]) -> list[int]:
    """Before which image of a page each killed one belongs; both in the same order.

    :param low: of the page, as is ``high``, between which all belong
    :param locate: tells it of one that belongs between two places that are not the same
    """
    if not killed or low == high:
        return [low] * len(killed)
    middle = len(killed) // 2
    there = locate(killed[middle], low, high)
    return [*places(killed[:middle], low, there, locate), there, *places(killed[middle + 1:], there, high, locate)]


def merged(page: Sequence[Json], is_cut: bool, limit: int, killed: Iterator[Json], shown: Callable[[Json], Json | None],
           locate: Callable[[Json, int, int], int]) -> tuple[list[Json], str | None]:
    """A page of v2 with killed images put between.

    :param is_cut: whether Glance lists more after the page
    :param limit: how many images the page may have; one that is cut is as long as it may be
    :param killed: in the order of the page
    :param shown: what v2 shows of a killed image; ``None`` for one that the list does not hold
    :param locate: see :func:`places`
    :returns: the images, and the one to go on from if there is more
    """
    merge = _Merge(page, is_cut, limit, shown, locate)
    examined = 0
    while batch := list(islice(killed, min(limit, _MOST_KILLED))):
        merge.add(batch)
        examined += len(batch)
        if merge.listed or merge.is_full or examined >= _MOST_FOR_NOTHING:
            break
    # A page that holds nothing is taken for the last: rather leave out killed images than not go on.
    if merge.is_full or not merge.listed or next(killed, None) is None:
        merge.finish()
    return merge.listed, merge.last if merge.goes_on else None


class _Merge:
    """
    :ivar listed: the images so far
    :ivar last: the image to go on from
    :ivar goes_on: whether there is more
    :ivar is_full: whether no killed image belongs on the page any more
    """

    def __init__(self, page: Sequence[Json], is_cut: bool, limit: int, shown: Callable[[Json], Json | None],
                 locate: Callable[[Json, int, int], int]) -> None:
        self.listed: list[Json] = []
        self.last = ''
        self.goes_on, self.is_full = True, False
        self._page, self._is_cut, self._taken = page, is_cut, 0
        self._limit = len(page) if is_cut else max(limit, len(page))
        self._shown, self._locate = shown, locate

    def add(self, killed: Sequence[Json]) -> None:
        """Put killed images in, which come after those that were put in before."""
        found = places(killed, self._taken, len(self._page), self._locate)
        for image, place in zip(killed, found, strict=True):
            self._take(place)
            self.is_full = len(self.listed) == self._limit
            if self.is_full:
                return
            shown = self._shown(image)
            self.last = image['id']
            if shown is not None:
                self.listed.append(shown)

    def finish(self) -> None:
        """No killed image is left that belongs on the page: fill it up."""
        self._take(len(self._page))
        self.goes_on = self._is_cut or self.is_full or self._taken < len(self._page)

    def _take(self, end: int) -> None:
        taken = self._page[self._taken:min(end, self._taken + self._limit - len(self.listed))]
        self.listed += taken
        self._taken += len(taken)
        if taken:
            self.last = taken[-1]['id']
