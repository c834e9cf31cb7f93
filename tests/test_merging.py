"""Putting images into a page of a list."""

from collections.abc import Iterator
from typing import Any

import pytest

from imgguard.merging import merged, places


def place_of(image: dict[str, Any], letters: str) -> int:
    return sum(letter < image['id'] for letter in letters)


@pytest.mark.parametrize(('letters', 'is_cut', 'limit', 'killed', 'listed', 'marker'), [
    ('', False, 5, 'a', 'a', None),
    ('', False, 1, 'ab', 'a', 'a'),
    ('bdf', False, 9, '', 'bdf', None),
    ('bdf', True, 3, '', 'bdf', 'f'),
    ('bdf', False, 9, 'aceg', 'abcdefg', None),
    ('bdf', False, 7, 'aceg', 'abcdefg', None),
    ('bdf', False, 6, 'aceg', 'abcdef', 'f'),
    ('bdf', False, 4, 'aceg', 'abcd', 'd'),
    ('bdf', True, 3, 'aceg', 'abc', 'c'),
    ('bdf', True, 3, 'g', 'bdf', 'f'),
    ('bdf', True, 3, 'eg', 'bde', 'e'),
    ('bdf', False, 3, 'g', 'bdf', 'f'),
    ('bdf', False, 4, 'g', 'bdfg', None),
    # Glance may list fewer at once than are asked for, and takes no less for a page than it lists.
    ('bdf', True, 9, 'ace', 'abc', 'c'),
    ('bdf', False, 2, 'aceg', 'abc', 'c'),
    # Those that the list does not hold are in capitals, and count for nothing.
    ('bdf', False, 9, 'AcEG', 'bcdf', None),
    ('bdf', True, 3, 'AEG', 'bdf', 'f'),
    ('bdf', True, 3, 'ACEG', 'bd', 'e'),
    ('bdf', True, 3, 'ACe', 'bde', 'e'),
    ('', False, 2, 'ABCDE', '', None),
    ('', False, 2, 'ABCDe', 'e', None),
    ('ef', False, 2, 'ABc', 'ce', 'e'),
])
def test_merging(letters: str, is_cut: bool, limit: int, killed: str, listed: str, marker: str | None) -> None:
    images, last = merged(
        [{'id': letter} for letter in letters], is_cut, limit, iter([{'id': letter} for letter in killed.lower()]),
        lambda image: image if image['id'] in killed else None,
        lambda image, low, high: place_of(image, letters))
    assert (''.join(image['id'] for image in images), last) == (listed, marker)


def endless() -> Iterator[dict[str, Any]]:
    while True:
        yield {'id': 'a'}


def test_a_page_of_a_thousand_does_not_cost_a_thousand_requests() -> None:
    images, last = merged([{'id': 'b'}], False, 1000, endless(), lambda image: image, lambda *given: 0)
    assert (len(images), last) == (50, 'a')


def test_an_endless_row_of_killed_images_that_nobody_is_shown_ends() -> None:
    assert merged([{'id': 'b'}], True, 1, endless(), lambda image: None, lambda *given: 0) == ([{'id': 'b'}], 'b')


def test_glance_is_asked_for_no_place_that_is_certain() -> None:
    asked: list[tuple[str, int, int]] = []

    def locate(image: dict[str, Any], low: int, high: int) -> int:
        asked.append((image['id'], low, high))
        return place_of(image, 'mno')
    killed = [{'id': letter} for letter in 'abcdefz']
    assert places(killed, 0, 3, locate) == [0] * 6 + [3]
    assert asked == [('d', 0, 3), ('f', 0, 3), ('z', 0, 3)]
    asked.clear()
    assert places([{'id': letter} for letter in 'aamzzzz'], 0, 3, locate) == [0] * 3 + [3] * 4
    assert asked == [('z', 0, 3), ('a', 0, 3), ('m', 0, 3)]
    asked.clear()
    assert places([{'id': letter} for letter in 'anz'], 0, 3, locate) == [0, 1, 3]
    assert asked == [('n', 0, 3), ('a', 0, 1), ('z', 1, 3)]
    asked.clear()
    assert places(killed, 1, 1, locate) == [1] * 7 and not asked
