"""Writes the rows into ``doc/failures.rst``, between the marks of each table; the text around is written by hand."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.cases import Case
from tests.cases.imports import ACCEPTED, REFUSED
from tests.cases.servers import SERVERS
from tests.cases.stages import STAGES
from tests.cases.uploads import UPLOADS

DOCUMENT: Final = Path(__file__).resolve().parents[2] / 'doc' / 'failures.rst'
CASES: Final = (*UPLOADS, *STAGES, *REFUSED, *ACCEPTED, *SERVERS)
HEADS: Final = ('No.', 'What happens', 'Glance alone', 'The guard shows', 'Before it is tried again')
WIDTHS: Final = (5, 30, 34, 24, 18)


def _place(case: Case) -> tuple[int, int, str]:
    section, number, variant = re.fullmatch(r'(\d)\.(\d+)([a-z]?)', case.number).groups()  # type: ignore[union-attr]
    return int(section), int(number), variant


TABLES: Final[Mapping[str, Sequence[Case]]] = {
    name: sorted((case for case in CASES if case.number.startswith(f'{section}.')), key=_place)
    for section, name in enumerate(('uploads', 'stages', 'refused imports', 'accepted imports', 'locations'), 1)}


def cells(case: Case) -> tuple[str, ...]:
    """The row in words."""
    shown = 'nothing'
    if case.code is not None:
        shown = f'``{case.code}``, ' + ('retryable' if case.retryable else 'not retryable as it is')
    again = '' if case.code is None else case.first or 'nothing'
    return case.number, case.what, f'{case.answer}; {case.left}', shown, again


def table(cases: Sequence[Case]) -> str:
    """These rows as a table of reStructuredText, and below it why some of them cannot be tried by the tests."""
    rule = '  '.join('=' * width for width in WIDTHS)
    lines = [rule, *_lines(HEADS), rule]
    for case in cases:
        lines += _lines(cells(case))
    notes = [f'* {case.number} is not among the tests. {case.untried}' for case in cases if case.untried]
    wrapped = [line for note in notes for line in textwrap.wrap(note, 110, subsequent_indent='  ')]
    return '\n'.join([*lines, rule, *([''] if wrapped else []), *wrapped])


def _lines(row: Sequence[str]) -> list[str]:
    wrapped = [textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False)
               for cell, width in zip(row, WIDTHS, strict=True)]
    height = max(map(len, wrapped))
    padded = [[*cell, *[''] * (height - len(cell))] for cell in wrapped]
    return ['  '.join(cell[line].ljust(width) for cell, width in zip(padded, WIDTHS, strict=True)).rstrip()
            for line in range(height)]


def filled(document: str) -> str:
    """The document with all tables as they are to be."""
    for name, cases in TABLES.items():
        begin, end = f'.. begin {name}\n', f'.. end {name}\n'
        before, _, rest = document.partition(begin)
        _, _, after = rest.partition(end)
        document = f'{before}{begin}\n{table(cases)}\n\n{end}{after}'
    return document
