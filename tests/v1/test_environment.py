"""The environment of the old Glance is made once, and is there only when it is complete."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.v1.environment import made


def complete(part: Path) -> None:
    part.mkdir()
    (part / 'complete').touch()


def test_what_was_interrupted_is_made_anew(tmp_path: Path) -> None:
    def interrupted(part: Path) -> None:
        part.mkdir()
        (part / 'half').touch()
        raise KeyboardInterrupt

    place = tmp_path / 'cache' / 'glance-15.2-x'
    with pytest.raises(KeyboardInterrupt):
        made(place, interrupted)
    assert not place.exists()
    assert made(place, complete) == place
    assert [each.name for each in place.iterdir()] == ['complete']


def test_what_is_there_is_taken(tmp_path: Path) -> None:
    made(tmp_path / 'x', complete)
    assert made(tmp_path / 'x', Path.rmdir) == tmp_path / 'x'


def test_one_makes_it_while_others_wait(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    making: list[Path] = []

    def slowly(part: Path) -> None:
        making.append(part)
        begun.set()
        assert go_on.wait(60)
        complete(part)

    with ThreadPoolExecutor() as threads:
        first = threads.submit(made, tmp_path / 'x', slowly)
        assert begun.wait(60)
        others = [threads.submit(made, tmp_path / 'x', slowly) for _ in range(3)]
        go_on.set()
        assert [each.result(60) for each in (first, *others)] == [tmp_path / 'x'] * 4
    assert len(making) == 1
