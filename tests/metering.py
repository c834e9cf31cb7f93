"""The metrics application in a paste file, as the sample says, and what it exposes."""

import http.client
import re
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from demo.server import HOST

OFF = '# /metrics: imgguard-metrics'
SECTION = re.compile(r'^# \[app:imgguard-metrics\]\n(?:# .*\n)+', re.MULTILINE)

Labels = frozenset[tuple[str, str]]


class Samples:
    """One exposition.

    ``samples['imgguard_failures_total', {'code': 'declared'}]`` is a value, ``samples.nonzero(name)`` all others than
    0 of one name, by the values of their labels.
    """

    def __init__(self, text: str) -> None:
        self._values: dict[tuple[str, Labels], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name, frozenset(sample.labels.items())
                assert name not in self._values, f'{name} is told twice'
                self._values[name] = sample.value

    def __getitem__(self, name: tuple[str, Mapping[str, str]] | str) -> float:
        metric, labels = (name, {}) if isinstance(name, str) else name
        return self._values[metric, frozenset(labels.items())]

    def __contains__(self, metric: str) -> bool:
        return any(name == metric for name, _ in self._values)

    def nonzero(self, metric: str) -> dict[str, float]:
        """By the values of their labels, in the order of the labels' names, with spaces between them."""
        return {' '.join(value for _, value in sorted(labels)): number
                for (name, labels), number in self._values.items() if name == metric and number}

    def names(self) -> set[tuple[str, Labels]]:
        """All series there are."""
        return set(self._values)

    def sum(self, metric: str) -> float:
        """Over all labels."""
        return sum(self.nonzero(metric).values())


def switch_on(paste_file: Path, options: Mapping[str, str]) -> None:
    """Take the comment signs away that the sample says to take away, and set these options."""
    text = paste_file.read_text()
    assert text.count(OFF) == 6
    section = ''.join(f'{name} = {value}\n' for name, value in {'use': 'egg:imgguard#metrics', **options}.items())
    text, replaced = SECTION.subn(lambda _: f'[app:imgguard-metrics]\n{section}', text.replace(OFF, OFF[2:]))
    assert replaced == 1
    paste_file.write_text(text)


def scraped(port: int) -> Samples:
    """Ask a server."""
    status, text = asked(port)
    assert status == 200, text
    return Samples(text)


def asked(port: int) -> tuple[int, str]:
    """Ask a server that may refuse."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request('GET', '/metrics')
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
