"""``python -m bench``: what the guard costs, beside the bare Glance in this very process; see README.rst."""

import argparse
import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from bench import images, plot, table
from bench.cases import Scene, all_of_them, get_active
from bench.measuring import Case, Result, measure
from bench.pipelines import load, prepare
from demo.private_glance import lay_out
from tests.harness import IDENTITY, SERVERS, InProcessGlance, administer

HERE: Final = Path(__file__).resolve().parent


def main() -> None:
    """Measure, print the table, write what was asked for."""
    chosen = _arguments()
    warnings.simplefilter('ignore')
    results: list[Result] = []
    print(table.HEAD)
    with tempfile.TemporaryDirectory(prefix='imgguard-bench-', dir=chosen.folder) as place, \
            _database(chosen.store, Path(place) / 'imgguard.db') as store, \
            _database(chosen.glance, Path(place) / 'glance' / 'glance.db') as database:
        prepare(store)
        # As Glance knows it.
        database = database.replace('mariadb+pymysql:', 'mysql+pymysql:')
        settings = {} if chosen.glance == 'sqlite' else {'database': {'connection': database}}
        glance = InProcessGlance(lay_out(Path(place) / 'glance', guard=None, identity=IDENTITY, settings=settings))
        # Glance's own one logs into a folder that is gone by then.
        sys.excepthook = sys.__excepthook__
        try:
            for result in _measured(chosen, glance, database, store):
                print(table.line(result), flush=True)
                results.append(result)
        finally:
            glance.close()
    report = table.Report(chosen.store, results)
    if chosen.output is not None:
        chosen.output.mkdir(parents=True, exist_ok=True)
        table.write(report, chosen.output / f'{chosen.store}.json')
        plot.draw(report, chosen.output / f'{chosen.store}.svg')
    if chosen.publish:
        table.publish(report, HERE / 'README.rst')


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m bench', description='What the guard costs a request.')
    parser.add_argument('--rounds', type=float, default=1.0, metavar='FACTOR', help='more or fewer rounds (1)')
    parser.add_argument('--only', type=re.compile, default=re.compile(''), metavar='REGEXP', help='only these cases')
    parser.add_argument('--store', choices=['sqlite', *SERVERS], default='sqlite', help='where the guard has its store')
    parser.add_argument('--glance', choices=['sqlite', *SERVERS], default='sqlite', help='where Glance has its own')
    parser.add_argument('--attempts', type=int, default=0, metavar='NUMBER',
                        help='of images no Glance knows, that are in the store before anything is measured')
    parser.add_argument('--full', action='store_true', help='uploads of 2 GiB, too')
    parser.add_argument('--folder', type=Path, help='where Glance has its data, at most 2 GiB')
    parser.add_argument('--output', type=Path, help='a folder for the results as JSON and as a plot')
    parser.add_argument('--publish', action='store_true', help='put the table into bench/README.rst')
    return parser.parse_args()


@contextlib.contextmanager
def _database(kind: str, file: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if kind == 'sqlite':
        yield f'sqlite:///{file}'
        return
    name = f'imgguard_bench_{file.stem}_{os.getpid()}'
    administer(kind, f'CREATE DATABASE {name}')
    try:
        yield make_url(SERVERS[kind]).set(database=name).render_as_string(hide_password=False)
    finally:
        administer(kind, f'DROP DATABASE {name}' + (' WITH (FORCE)' if kind == 'postgresql' else ''))


def _measured(chosen: argparse.Namespace, glance: InProcessGlance, database: str, store: str) -> Iterator[Result]:
    for strangers in images.strangers(chosen.attempts):
        images.remember(store, strangers, 'elsewhere', in_error=False)
    pipelines = load(glance, store)
    scene = Scene(pipelines, database, store)

    def rounds(case: Case) -> int:
        return max(2, round(float(chosen.rounds) * case.rounds))

    for name, measured in pipelines.neighbours.items():
        case = get_active(scene, name)
        if chosen.only.search(name):
            yield measure(case, pipelines.bare, measured, pipelines.nothing, rounds(case))
    for case in all_of_them(scene, chosen.full):
        # Glance on SQLite refuses one of several that write at once.
        if case.at_once > 1 and chosen.glance == 'sqlite':
            continue
        if chosen.only.search(case.name):
            goal = case.goal.get(chosen.store, case.goal.get(''))
            yield measure(case, pipelines.bare, pipelines.guard, pipelines.nothing, rounds(case), goal)


if __name__ == '__main__':
    main()
