"""Results as a table for people, as JSON, and in the README."""

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from bench.measuring import Result, Spread

HEAD: Final = (f'{"case":<46}{"rounds":>6}{"bare ms":>10}{"with ms":>10}  {"ratio (quartiles)":<26}'
               f'{"control":<26}{"added us (quartiles)":<28}{"of Glance":>9}  goal')
_DISTRIBUTIONS: Final = ('glance', 'WebOb', 'SQLAlchemy', 'psycopg', 'PyMySQL', 'oslo.middleware',
                         'keystonemiddleware')


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one run.

    :param store: the kind of database the guard's store was in
    """

    store: str
    results: Sequence[Result]

    def document(self) -> dict[str, Any]:
        """For JSON; times are seconds."""
        return {'store': self.store, 'at': datetime.now(UTC).isoformat(timespec='seconds'),
                'python': platform.python_version(), 'machine': platform.machine(),
                **{name: metadata.version(name) for name in _DISTRIBUTIONS},
                'results': [{**asdict(result), 'share': result.share, 'met': result.met} for result in self.results]}

    def text(self) -> str:
        """The table."""
        return '\n'.join([HEAD, *(line(result) for result in self.results)])


def line(result: Result) -> str:
    """One line of the table."""
    added = share = ''
    if result.own is not None and result.share is not None:
        added = f'{1e6 * result.own.median:.1f} ({1e6 * result.own.low:.1f}..{1e6 * result.own.high:.1f})'
        share = f'{100 * result.share:.2f} %'
    return (f'{result.name:<46}{result.rounds:>6}{1000 * result.bare.median:>10.2f}'
            f'{1000 * result.filtered.median:>10.2f}  {_percent(result.ratio):<26}{_percent(result.control):<26}'
            f'{added:<28}{share:>9}  {_goal(result)}').rstrip()


def _percent(spread: Spread) -> str:
    return (f'{100 * (spread.median - 1):+.2f} % '
            f'({100 * (spread.low - 1):+.1f}..{100 * (spread.high - 1):+.1f})')


def _goal(result: Result) -> str:
    if result.goal is None or result.met is None:
        return ''
    parts = []
    if result.goal.seconds:
        parts.append(f'{1e6 * result.goal.seconds:g} us')
    if result.goal.share:
        parts.append(f'{100 * result.goal.share:g} %')
    return f'{" + ".join(parts)}: {"met" if result.met else "MISSED"}'


def publish(report: Report, readme: Path) -> None:
    """Put the table where the README has that of this store.

    :raises ValueError: the README has no such place
    """
    marks = f'.. begin {report.store}\n', f'.. end {report.store}\n'
    indented = ''.join(f'    {each}\n' for each in report.text().splitlines())
    text, count = re.subn(f'{re.escape(marks[0])}.*?{re.escape(marks[1])}',
                          lambda _: f'{marks[0]}\n::\n\n{indented}\n{marks[1]}', readme.read_text(), flags=re.DOTALL)
    if count != 1:
        raise ValueError(f'{readme} has no place for the table of {report.store}')
    readme.write_text(text)


def write(report: Report, path: Path) -> None:
    """Write the results as JSON."""
    path.write_text(json.dumps(report.document(), indent=1) + '\n')
