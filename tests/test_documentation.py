"""What the documentation promises of the code."""

import importlib
import re
from itertools import pairwise
from pathlib import Path

import pytest
from oslo_config import cfg

from imgguard.codes import CODES, Code
from imgguard.opts import PROXY_OPTIONS
from tests.cases import PROVEN, Case, document

ROOT = Path(__file__).resolve().parent.parent
MANUAL = ' '.join((ROOT / 'doc' / 'manual.rst').read_text().split())
README = (ROOT / 'README.rst').read_text()


@pytest.mark.parametrize('name', ['README.rst', 'CHANGES.rst', 'doc/manual.rst', 'doc/failures.rst'])
def test_headings_are_underlined_and_tables_have_their_borders(name: str) -> None:
    """What of reStructuredText a merge or a careless edit breaks; its own parser is nothing the tests need else."""
    blocks = re.split(r'\n\s*\n', (ROOT / name).read_text().strip())
    for block in blocks:
        lines = block.splitlines()
        borders = [line for line in lines if re.fullmatch(r'=+( +=+)+', line)]
        assert borders in ([], [lines[0]] * 3) and (not borders or lines[-1] == borders[0]), block
        for title, underline in pairwise(lines):
            if re.fullmatch(r'=+|-{4,}', underline):
                assert lines in ([title, underline], [underline, title, underline]), block
                assert len(title) <= len(underline), block


@pytest.mark.parametrize('code', CODES.values(), ids=lambda code: code.name)
def test_the_manual_tells_every_code(code: Code) -> None:
    retryable = 'true' if code.retryable else 'false'
    assert f'``{code.name}`` (retryable: {retryable}) {code.text} {code.hint}' in MANUAL


@pytest.mark.parametrize('option', PROXY_OPTIONS, ids=lambda option: option.name)
def test_the_manual_tells_every_option_of_the_proxy(option: cfg.Opt) -> None:
    default = 'none' if option.default is None else f'``{str(option.default).lower()}``'
    assert f' ``{option.name}`` {default} ' in MANUAL


def test_the_pipeline_in_the_readme_is_that_of_the_paste_sample() -> None:
    line = next(line.strip() for line in README.splitlines() if line.strip().startswith('keystone = '))
    assert line in (ROOT / 'etc' / 'glance-api-paste.ini').read_text()


def test_the_table_of_cases_is_that_of_the_tests() -> None:
    text = document.DOCUMENT.read_text()
    assert document.filled(text) == text, 'write it anew with: python -m tests.cases'
    for name in ('README.rst', 'doc/manual.rst'):
        assert 'doc/failures.rst' in (ROOT / name).read_text()


# The other tests that play rows of the table say so when they are imported.
for module in ('authority', 'cases', 'cases_on_servers', 'imports', 'servers', 'staged', 'upload'):
    importlib.import_module(f'tests.test_{module}')


@pytest.mark.parametrize('case', document.CASES, ids=lambda case: case.number)
def test_each_case_is_played_or_tells_why_not(case: Case) -> None:
    assert [bool(case.ways), case.number in PROVEN, bool(case.untried)].count(True) == 1
    assert case.code is None or CODES[case.code].retryable == case.retryable


def test_each_case_has_a_number_of_its_own() -> None:
    numbers = [case.number for case in document.CASES]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) >= PROVEN
