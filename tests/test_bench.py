"""The benchmark runs: each case is answered as it should be, and its results are written. No time is looked at."""

import json
import subprocess
import sys
from pathlib import Path

from demo.private_glance import CHECKOUT, last_lines

# More attempts than are written at once. Without 100 000 images, pages of 1000 and uploads that take long.
QUICK = ('^(oslo|keystonemiddleware|a filter|not ours|GET|create|PUT 1 .iB)|list of 25, (10 %|none)')


def test_the_quick_cases_are_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'bench', '--rounds', '0', '--attempts', '6000', '--only', QUICK,
         '--folder', str(tmp_path), '--output', str(tmp_path / 'out')],
        cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, last_lines(done.stdout)
    results = json.loads((tmp_path / 'out' / 'sqlite.json').read_text())['results']
    names = [result['name'] for result in results]
    assert len(names) == len(set(names)) == 21
    for name in names:
        assert name in done.stdout
        assert f'>{name}<' in (tmp_path / 'out' / 'sqlite.svg').read_text()
    assert {result['rounds'] for result in results} == {2}
    assert [path.name for path in tmp_path.iterdir()] == ['out'], 'something was left'
