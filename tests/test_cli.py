"""``imgguard-manage``: where it takes its options from, what it prints, and its exit status.

Each test runs :func:`imgguard.cli.main` on files of its own and reads stdout and stderr as the operator would.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgguard.cli import main


@dataclass(frozen=True)
class Ran:
    """What a run left behind; in the texts the folder of the test is spelled HERE."""

    status: int | str | None
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def ran(*arguments: str) -> Ran:
        status: int | str | None
        try:
            status = main(arguments)
        except SystemExit as wrong_usage:
            status = wrong_usage.code
        said = capsys.readouterr()
        return Ran(status, said.out.replace(str(tmp_path), 'HERE'), said.err.replace(str(tmp_path), 'HERE'))
    return ran


@pytest.fixture
def conf(tmp_path: Path) -> str:
    """An oslo.config file that names a store in SQLite, which is not there yet."""
    path = tmp_path / 'imgguard.conf'
    path.write_text(f'[imgguard]\nconnection = sqlite:///{tmp_path}/guard.db\n')
    return str(path)


@pytest.fixture
def paste(tmp_path: Path) -> Callable[[str], str]:
    """Write a paste file; any callable does for a factory, for paste looks it up and the command never calls it."""
    def written(text: str) -> str:
        path = tmp_path / 'paste.ini'
        path.write_text(text.replace('FACTORY', 'paste.filter_factory = imgguard.cli:main'))
        return str(path)
    return written


# The commands

def test_upgrade_makes_the_tables_and_says_from_what_to_what(run: Run, conf: str) -> None:
    first = run('--config-file', conf, 'db', 'upgrade')
    made = re.fullmatch(r'store: sqlite:///HERE/guard\.db\nbefore   -\nversion  (\w+)\n', first.out)
    assert made, first
    assert (first.status, first.err) == (0, '')
    again = run('--config-file', conf, 'db', 'upgrade')
    assert again == Ran(0, f'store: sqlite:///HERE/guard.db\nbefore   {made[1]}\nversion  {made[1]}\n', '')
    assert run('--config-file', conf, 'db', 'version') == Ran(
        0, f'store: sqlite:///HERE/guard.db\nversion  {made[1]}\n', '')


def test_version_of_a_store_without_tables(run: Run, conf: str) -> None:
    assert run('--config-file', conf, 'db', 'version') == Ran(0, 'store: sqlite:///HERE/guard.db\nversion  -\n', '')


@pytest.mark.parametrize('place', ['before', 'after'])
def test_json_is_alone_on_stdout(place: str, run: Run, conf: str) -> None:
    words = ['db', 'version']
    words = ['--format', 'json', *words] if place == 'before' else [*words, '--format', 'json']
    ran = run('--config-file', conf, *words)
    assert json.loads(ran.out) == {'version': None}
    assert (ran.status, ran.err) == (0, 'store: sqlite:///HERE/guard.db\n')


def test_a_store_that_is_down_is_one_line_and_status_1(run: Run, tmp_path: Path) -> None:
    path = tmp_path / 'imgguard.conf'
    path.write_text(f'[imgguard]\nconnection = sqlite:///{tmp_path}/missing/guard.db\n')
    for words in (('db', 'version'), ('db', 'upgrade')):
        ran = run('--config-file', str(path), *words)
        assert (ran.status, ran.out) == (1, 'store: sqlite:///HERE/missing/guard.db\n')
        assert re.fullmatch(r'imgguard-manage: the store of imgguard .*HERE/missing/guard\.db.*\n', ran.err), ran.err


def test_the_password_is_not_shown(run: Run, tmp_path: Path) -> None:
    path = tmp_path / 'imgguard.conf'
    path.write_text('[imgguard]\nconnection = oracle://guard:s3cret@db/imgguard\n')
    ran = run('--config-file', str(path), 'db', 'version')
    assert (ran.status, ran.out) == (2, 'store: oracle://guard:***@db/imgguard\n')
    assert "'oracle'" in ran.err and 's3cret' not in ran.err


# Options from an oslo.config file

def test_the_config_file_may_be_named_from_here(run: Run, conf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(conf).parent)
    assert run('--config-file', 'imgguard.conf', 'db', 'version').status == 0


@pytest.mark.parametrize(('text', 'problem'), [
    ('[imgguard]\nretention = 3\n',
     "unknown option 'retention' in group [imgguard] of HERE/bad.conf; did you mean 'retention_days'?"),
    ('[imgguard]\nretention_days = 0\n',
     "option 'retention_days' in group [imgguard] of HERE/bad.conf: '0' is not allowed; "
     'give a whole number from 1 to 3650'),
    ('', "option 'oslo_config_file' in --config-file: HERE/bad.conf has no group [imgguard]"),
])
def test_wrong_options_are_one_line_and_status_2(text: str, problem: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / 'bad.conf').write_text(text)
    assert run('--config-file', str(tmp_path / 'bad.conf'), 'db', 'version') == Ran(
        2, '', f'imgguard-manage: {problem}\n')


# Options from a paste file

def test_the_section_of_the_filter(run: Run, paste: Callable[[str], str]) -> None:
    path = paste('[filter:imgguard]\nFACTORY\nconnection = sqlite:///%(here)s/guard.db\n')
    assert run('--paste-file', path, 'db', 'version') == Ran(0, 'store: sqlite:///HERE/guard.db\nversion  -\n', '')


def test_the_section_and_the_file_it_names(run: Run, conf: str, paste: Callable[[str], str]) -> None:
    path = paste(f'[filter:imgguard]\nFACTORY\noslo_config_file = {conf}\nkeep_default = always\n')
    assert run('--paste-file', path, 'db', 'version') == Ran(0, 'store: sqlite:///HERE/guard.db\nversion  -\n', '')


def test_another_section_and_the_one_it_uses(run: Run, paste: Callable[[str], str]) -> None:
    path = paste('[filter:imgguard]\nFACTORY\nconnection = sqlite:///%(here)s/guard.db\n'
                 '[filter:keep]\nuse = imgguard\nkeep_default = always\n')
    assert run('--paste-file', path, '--section', 'filter:keep', 'db', 'version').out == (
        'store: sqlite:///HERE/guard.db\nversion  -\n')


@pytest.mark.parametrize(('text', 'problem'), [
    ('[filter:imgguard]\nFACTORY\nretention = 3\n',
     "unknown option 'retention' in [filter:imgguard] of HERE/paste.ini; did you mean 'retention_days'?"),
    ('[filter:imgguard]\nFACTORY\nconnection = mysql://guard:s%40cret@db/x\n',
     "option 'connection' in [filter:imgguard] of HERE/paste.ini has a % that paste does not understand; "
     'a % that is meant as such is written %%'),
    ('connection = mysql://guard:s3cret@db/x\n', 'HERE/paste.ini is not a paste file (MissingSectionHeaderError)'),
    ('[filter:other]\n',
     "[filter:imgguard] of HERE/paste.ini cannot be loaded: No section 'imgguard' (prefixed by 'filter') "
     'found in config HERE/paste.ini'),
    ('[filter:imgguard]\nretention_days = 3\n',
     "[filter:imgguard] of HERE/paste.ini cannot be loaded: No loader given in section 'filter:imgguard'"),
    ('[filter:imgguard]\npaste.filter_factory = imgguard.nowhere:factory\n',
     "[filter:imgguard] of HERE/paste.ini cannot be loaded: No module named 'imgguard.nowhere'"),
])
def test_a_wrong_paste_file_is_one_line_and_status_2(
        text: str, problem: str, run: Run, paste: Callable[[str], str]) -> None:
    assert run('--paste-file', paste(text), 'db', 'version') == Ran(2, '', f'imgguard-manage: {problem}\n')


def test_a_missing_paste_file(run: Run) -> None:
    assert run('--paste-file', '/nowhere/paste.ini', 'db', 'version') == Ran(
        2, '', 'imgguard-manage: /nowhere/paste.ini cannot be read: No such file or directory\n')


@pytest.mark.parametrize('section', ['imgguard', 'app:imgguard', '[filter:imgguard]'])
def test_the_section_is_one_of_a_filter(section: str, run: Run, paste: Callable[[str], str]) -> None:
    assert run('--paste-file', paste(''), '--section', section, 'db', 'version') == Ran(
        2, '', f"imgguard-manage: --section: {section!r} is not allowed; give the section of a filter, such as "
               "'filter:imgguard'\n")


# Usage

@pytest.mark.parametrize(('arguments', 'problem'), [
    ((), 'the following arguments are required: COMMAND'),
    (('db', 'version'), 'one of the arguments --config-file --paste-file is required'),
    (('--config-file', 'a', '--paste-file', 'b', 'db', 'version'),
     'argument --paste-file: not allowed with argument --config-file'),
    (('--config-file', 'a'), 'the following arguments are required: COMMAND'),
    (('--config-file', 'a', 'db'), 'the following arguments are required: ACTION'),
    (('--config-file', 'a', 'db', 'downgrade'), "invalid choice: 'downgrade' (choose from"),
    (('--config-file', 'a', '--format', 'xml', 'db', 'version'), "argument --format: invalid choice: 'xml'"),
])
def test_wrong_usage_is_status_2(arguments: tuple[str, ...], problem: str, run: Run) -> None:
    ran = run(*arguments)
    assert (ran.status, ran.out) == (2, '')
    assert ran.err.startswith('usage: imgguard-manage')
    assert problem in ran.err


def test_help_tells_the_exit_status(run: Run) -> None:
    ran = run('--help')
    assert (ran.status, ran.err) == (0, '')
    assert 'Exit status: 0 done, 1 the operation failed, 2 wrong usage or configuration.' in ' '.join(ran.out.split())


def test_the_exit_status_reaches_the_shell(conf: str) -> None:
    program = 'import sys; from imgguard.cli import main; sys.exit(main())'
    ran = subprocess.run([sys.executable, '-c', program, '--config-file', conf, 'db', 'version'],
                         capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, '')
    assert ran.stdout.endswith('version  -\n')
