"""``imgguard-manage``: where it takes its options from, what it prints, and its exit status.

Each test runs :func:`imgguard.cli.main` on files of its own and reads stdout and stderr as the operator would.
"""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgguard.attempts import Claim, Failure, Kind, NewAttempt, State
from imgguard.cli import main
from imgguard.store import Store


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


@pytest.mark.parametrize('section', ['imgguard', 'pipeline:imgguard', '[filter:imgguard]'])
def test_the_section_is_one_of_a_filter(section: str, run: Run, paste: Callable[[str], str]) -> None:
    assert run('--paste-file', paste(''), '--section', section, 'db', 'version') == Ran(
        2, '', f"imgguard-manage: --section: {section!r} is not allowed; give the section of a filter, such as "
               "'filter:imgguard', or of a proxy, such as 'app:imgguard'\n")


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


# Images in error, their history, and what is done about them

CREATED = '2026-11-22T22:19:29Z'
SECRET = 's3cret'
PROGRAM = 'import sys; from imgguard.cli import main; sys.exit(main())'


@pytest.fixture
def store(run: Run, conf: str, tmp_path: Path) -> Iterator[Store]:
    """The store that ``conf`` names, with its tables."""
    run('--config-file', conf, 'db', 'upgrade')
    opened = Store(f'sqlite:///{tmp_path}/guard.db', 60)
    yield opened
    opened.close()


def begun(store: Store, image_id: str = 'image') -> Claim:
    claim = store.begin(image_id, CREATED, 'red', NewAttempt(
        Kind.UPLOAD, True, 'req-1', 'alice', 'red', 'elsewhere', 'elsewhere:1:ab', 10))
    assert isinstance(claim, Claim)
    return claim


def failed(store: Store, image_id: str = 'image') -> Claim:
    claim = begun(store, image_id)
    cut = Failure('client_disconnected', 'The connection \x1b[31mwas lost.')
    assert store.finish(claim, State.FAILED, cut, shown=True, http_status=500, bytes_received=7)
    return claim


def silent(path: Path, seconds: float, witness: bool) -> None:
    """Let the last sign of life of all attempts be so long ago; another worker has lived all the while, or not."""
    now = "((julianday('now') - 2440587.5) * 86400.0)"
    with closing(sqlite3.connect(path / 'guard.db')) as connection, connection:
        connection.execute(f'UPDATE imgguard_images SET running_at = {now} - ? WHERE running_at > 0', [seconds])
        connection.execute(f'UPDATE imgguard_attempts SET updated_at = {now} - ?', [seconds])
        if witness:
            connection.execute('INSERT INTO imgguard_workers (worker, host, since, seen_at) '
                               f"VALUES ('witness', 'here', {now} - 9999, {now})")


def test_the_images_in_error_as_a_table_and_as_json(run: Run, conf: str, store: Store) -> None:
    failed(store, 'one')
    failed(store, 'two')
    failed(store, 'again')
    begun(store, 'again')
    ran = run('--config-file', conf, 'failures', 'list')
    lines = ran.out.splitlines()
    assert (ran.status, ran.err) == (0, '')
    assert lines[1].split() == ['image_id', 'code', 'at', 'attempts', 'retryable', 'owner', 'message']
    assert [line.split()[:2] for line in lines[2:]] == [['one', 'client_disconnected'], ['two', 'client_disconnected']]
    assert '\x1b' not in ran.out
    listed = json.loads(run('--config-file', conf, '--format', 'json', 'failures', 'list').out)
    assert [(each['image_id'], each['retryable'], each['bytes_received']) for each in listed] == [
        ('one', True, 7), ('two', True, 7)]
    shown = json.loads(run('--config-file', conf, 'failures', 'show', 'one', '--format', 'json').out)
    assert shown == listed[0]


def test_no_image_in_error(run: Run, conf: str, store: Store) -> None:
    assert run('--config-file', conf, '--format', 'json', 'failures', 'list').out == '[]\n'
    assert run('--config-file', conf, 'failures', 'list').out.splitlines()[1].startswith('image_id')


def test_the_history_is_that_of_the_api(run: Run, conf: str, store: Store) -> None:
    failed(store)
    begun(store)
    found = json.loads(run('--config-file', conf, '--format', 'json', 'attempts', 'list', 'image').out)
    assert [(each['number'], each['state'], each['host']) for each in found] == [
        (2, 'running', 'elsewhere'), (1, 'failed', 'elsewhere')]
    assert 'client_disconnected' in run('--config-file', conf, 'attempts', 'list', 'image').out


@pytest.mark.parametrize('words', [('failures', 'show'), ('attempts', 'list'), ('requeue',)])
def test_an_unknown_image_is_one_line_and_status_1(words: tuple[str, ...], run: Run, conf: str, store: Store) -> None:
    ran = run('--config-file', conf, *words, 'nowhere')
    assert (ran.status, ran.err) == (1, 'imgguard-manage: no image nowhere is known to the guard\n')


def test_an_image_that_is_not_in_error(run: Run, conf: str, store: Store) -> None:
    store.remember('image', CREATED, 'red', True)
    assert run('--config-file', conf, 'failures', 'show', 'image').err.endswith('image image is not in error\n')
    begun(store)
    assert 'attempt 1 is running' in run('--config-file', conf, 'failures', 'show', 'image').err
    store.deleted('image', CREATED)
    ran = run('--config-file', conf, 'failures', 'show', 'image')
    assert ran.status == 1 and 'is deleted' in ran.err
    assert 'is deleted' in run('--config-file', conf, 'requeue', 'image').err


def test_one_sweep(run: Run, conf: str, store: Store, tmp_path: Path) -> None:
    begun(store)
    silent(tmp_path, 100, witness=True)
    ran = run('--config-file', conf, '--format', 'json', 'sweep', '--once')
    assert json.loads(ran.out) == {'lost': 1, 'settled': 0, 'given_up': 0, 'requeued': 0, 'deleted': 0, 'forgotten': 0,
                                   'published': 0, 'unproven': 0, 'fenced': 0}
    assert ran.status == 0 and 'only leases and deadlines are settled' in ran.err


def test_a_sweep_says_what_it_cannot_prove(run: Run, conf: str, store: Store, tmp_path: Path) -> None:
    begun(store)
    silent(tmp_path, 100, witness=False)
    assert '1 silent attempts are left alone' in run('--config-file', conf, 'sweep', '--once').err


def test_a_purge(run: Run, conf: str, store: Store) -> None:
    assert json.loads(run('--config-file', conf, '--format', 'json', 'purge').out) == {
        'forgotten': 0, 'retention_days': 30}


def test_an_image_whose_worker_may_be_paused(run: Run, conf: str, store: Store, tmp_path: Path) -> None:
    claim = begun(store)
    alive = run('--config-file', conf, 'requeue', 'image', '--worker-is-dead')
    assert alive.status == 1 and 'attempt 1 of image image is running on elsewhere' in alive.err
    silent(tmp_path, 100, witness=False)
    assert 'say so with --worker-is-dead' in run('--config-file', conf, 'requeue', 'image').err
    silent(tmp_path, 100, witness=True)
    fenced = run('--config-file', conf, 'requeue', 'image')
    assert fenced.status == 1 and re.search(r'not cleared away before \d{4}-.*Z; if its worker is dead', fenced.err)
    declared = run('--config-file', conf, '--format', 'json', 'requeue', 'image', '--worker-is-dead')
    said = json.loads(declared.out)
    assert (declared.status, said['declared_dead']) == (0, 1) and "in Glance's process" in said['next']
    assert store.attempts(claim.key, 1)[0].state is State.FAILED


def test_an_image_with_nothing_to_wait_for(run: Run, conf: str, store: Store) -> None:
    store.remember('image', CREATED, 'red', True)
    assert 'nothing: the image is not in error' in run('--config-file', conf, 'requeue', 'image').out
    failed(store)
    assert 'is cleared away in Glance' in run('--config-file', conf, 'requeue', 'image').out
    record = store.find('image')[0]
    assert store.begin_clearing(record.key, 1, 'me') and store.end_clearing(record.key, 'me', True)
    assert 'nothing is left' in run('--config-file', conf, 'requeue', 'image').out


def test_options_that_matter_to_a_requeue(run: Run, conf: str, store: Store) -> None:
    failed(store)
    with open(conf, 'a') as file:
        file.write('requeue = off\n')
    ran = run('--config-file', conf, 'requeue', 'image')
    assert ran.status == 1 and 'requeue = off' in ran.err


@pytest.mark.parametrize(('connection', 'status', 'problem'), [
    ('mysql://glance:s3cret@127.0.0.1:1/glance', 1, "Glance's database (mysql database glance at 127.0.0.1:1) failed"),
    ('postgresql+psycopg2://glance:s3cret@db/glance', 2, "option glance_connection names the driver"),
    ('sqlite:////nowhere/glance.db', 1, "Glance's database (SQLite file /nowhere/glance.db) failed"),
])
def test_a_glance_database_that_cannot_be_used(
        connection: str, status: int, problem: str, run: Run, conf: str, store: Store) -> None:
    failed(store)
    with open(conf, 'a') as file:
        file.write(f'glance_connection = {connection}\n')
    for words in (('sweep', '--once'), ('requeue', 'image')):
        ran = run('--config-file', conf, *words)
        assert ran.status == status and problem in ran.err
        assert SECRET not in ran.err + ran.out


def test_a_sweep_of_the_shell_ends_with_sigterm(conf: str, store: Store) -> None:
    with subprocess.Popen([sys.executable, '-c', PROGRAM, '--config-file', conf, '--format', 'json', 'sweep'],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())['lost'] == 0
        process.terminate()
        assert process.wait(60) == 0


def test_a_failure_reaches_the_shell(conf: str, store: Store) -> None:
    ran = subprocess.run([sys.executable, '-c', PROGRAM, '--config-file', conf, 'requeue', 'nowhere'],
                         capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (1, 'imgguard-manage: no image nowhere is known to the guard\n')
