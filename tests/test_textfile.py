"""The lines of the manual that hand the numbers of the sweep to node_exporter, as a shell runs them."""

import os
import shutil
import subprocess
import sysconfig
import textwrap
from dataclasses import asdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from imgguard.settling import Counts
from imgguard.store import Store
from tests.harness import skip_or_fail
from tests.test_documentation import ROOT

_FIRST, _LAST = '    counts=$(imgguard-manage', 'imgguard.prom\n'


class Recipe:
    """The lines, with their folders in another place."""

    def __init__(self, folder: Path) -> None:
        if shutil.which('jq') is None:
            skip_or_fail('jq', 'it is not installed')
        manual = (ROOT / 'doc' / 'manual.rst').read_text()
        begin = manual.index(_FIRST)
        lines = textwrap.dedent(manual[begin:manual.index(_LAST, begin) + len(_LAST)])
        self._lines = lines.replace('/etc/imgguard', str(folder)).replace('/var/lib/node_exporter', str(folder))
        self.connection = f'sqlite:///{folder}/guard.db'
        self._configuration = folder / 'imgguard.conf'
        self._written = folder / 'imgguard.prom'

    def run(self, connection: str) -> int:
        """Run them with a store, and return their status."""
        self._configuration.write_text(f'[imgguard]\nconnection = {connection}\n')
        path = os.pathsep.join((sysconfig.get_path('scripts'), os.environ['PATH']))
        return subprocess.run(['sh', '-c', self._lines], env={**os.environ, 'PATH': path}, stdin=subprocess.DEVNULL,
                              check=False, timeout=120).returncode

    def exposed(self) -> dict[str, tuple[str, float]]:
        """What Prometheus makes of the file: type and value of each name."""
        return {family.name: (family.type, family.samples[0].value)
                for family in text_string_to_metric_families(self._written.read_text())}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(tmp_path)


def test_what_a_run_did_is_exposed(recipe: Recipe) -> None:
    store = Store(recipe.connection, 60)
    store.upgrade()
    store.remember('image', '2026-11-22T22:19:29Z', 'owner', True, give_up_at_after=-1)
    store.close()
    assert recipe.run(recipe.connection) == 0
    counts = asdict(Counts(given_up=1))
    assert recipe.exposed() == {f'imgguard_sweep_{name}': ('gauge', counts[name]) for name in counts}


def test_a_run_that_failed_leaves_the_file_as_it_was(recipe: Recipe) -> None:
    Store(recipe.connection, 60).upgrade()
    assert recipe.run(recipe.connection) == 0
    before = recipe.exposed()
    assert recipe.run('postgresql+psycopg://nobody@127.0.0.1:1/imgguard') == 1
    assert before and recipe.exposed() == before
