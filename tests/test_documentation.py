"""What the documentation promises of the code."""

from pathlib import Path

import pytest

from imgguard.codes import CODES, Code

ROOT = Path(__file__).resolve().parent.parent
MANUAL = ' '.join((ROOT / 'doc' / 'manual.rst').read_text().split())
README = (ROOT / 'README.rst').read_text()


@pytest.mark.parametrize('code', CODES.values(), ids=lambda code: code.name)
def test_the_manual_tells_every_code(code: Code) -> None:
    retryable = 'true' if code.retryable else 'false'
    assert f'``{code.name}`` (retryable: {retryable}) {code.text} {code.hint}' in MANUAL


def test_the_pipeline_in_the_readme_is_that_of_the_paste_sample() -> None:
    line = next(line.strip() for line in README.splitlines() if line.strip().startswith('keystone = '))
    assert line in (ROOT / 'etc' / 'glance-api-paste.ini').read_text()
