"""Where options come from, which one wins, and what an operator reads when one of them is wrong.

The ``where`` given to ``resolve`` is what messages call the paste section.
"""

import dataclasses
import re
import typing
from pathlib import Path

import pytest
from oslo_config import cfg, types

from imgguard.errors import ConfigurationError
from imgguard.opts import OPTIONS
from imgguard.settings import Settings, mask_password, resolve, resolve_proxy

SECTION = '[filter:imgguard] of paste.ini'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / 'imgguard.conf'


def refusal(section: dict[str, str]) -> str:
    """Return the text with which a section is refused."""
    with pytest.raises(ConfigurationError) as caught:
        resolve(section, SECTION)
    return str(caught.value)


def refusal_of_file(file: Path, text: str) -> str:
    """Return the text with which a file is refused, with its path shortened."""
    file.write_text(text)
    return refusal({'oslo_config_file': str(file)}).replace(str(file), 'FILE')


# What may be said, and what it is when nothing is said

def test_defaults() -> None:
    assert resolve({}, SECTION) == Settings(
        connection='sqlite:////var/lib/glance/imgguard.db',
        requeue='auto',
        glance_connection=None,
        keep_default='never',
        error_status='error',
        cleanup_window=30,
        give_up_after=0,
        lease_seconds=60,
        fence_seconds=600,
        import_stall_seconds=3600,
        on_store_failure='pass',
        retention_days=30)


@pytest.mark.parametrize(('name', 'text', 'value'), [
    ('connection', 'postgresql+psycopg://guard:secret@db/imgguard', 'postgresql+psycopg://guard:secret@db/imgguard'),
    ('connection', 'sqlite:////srv/imgguard.db', 'sqlite:////srv/imgguard.db'),
    ('connection', 'sqlite+pysqlite:////srv/imgguard.db', 'sqlite+pysqlite:////srv/imgguard.db'),
    ('requeue', 'off', 'off'),
    ('glance_connection', 'mysql+pymysql://glance:secret@db/glance', 'mysql+pymysql://glance:secret@db/glance'),
    ('keep_default', 'snapshots', 'snapshots'),
    ('keep_default', 'always', 'always'),
    ('error_status', 'killed', 'killed'),
    ('cleanup_window', '0', 0),
    ('cleanup_window', '3600', 3600),
    ('give_up_after', '31536000', 31536000),
    ('lease_seconds', '5', 5),
    ('fence_seconds', '86400', 86400),
    ('import_stall_seconds', '1', 1),
    ('on_store_failure', 'refuse', 'refuse'),
    ('retention_days', '1', 1),
    ('retention_days', '3650', 3650),
])
@pytest.mark.parametrize('source', ['section', 'file'])
def test_each_option_is_taken_from_section_and_file(
        source: str, name: str, text: str, value: typing.Any, file: Path) -> None:
    file.write_text(f'[imgguard]\n{name} = {text}\n')
    section = {name: text} if source == 'section' else {'oslo_config_file': str(file)}
    settings = resolve(section, SECTION)
    assert getattr(settings, name) == value
    assert settings == dataclasses.replace(resolve({}, SECTION), **{name: value})


def test_the_section_wins_over_the_file_and_the_file_over_the_default(file: Path) -> None:
    file.write_text('[imgguard]\nkeep_default = snapshots\ncleanup_window = 10\n')
    settings = resolve({'oslo_config_file': str(file), 'cleanup_window': '20'}, SECTION)
    assert (settings.cleanup_window, settings.keep_default, settings.retention_days) == (20, 'snapshots', 30)


def test_other_groups_of_the_file_are_none_of_our_business(file: Path) -> None:
    file.write_text('[DEFAULT]\ndebug = true\n[database]\nconnection = mysql://x\n[imgguard]\nretention_days = 7\n')
    assert resolve({'oslo_config_file': str(file)}, SECTION) == dataclasses.replace(
        resolve({}, SECTION), retention_days=7)


def test_the_file_obeys_the_rules_of_oslo_config(file: Path) -> None:
    file.write_text('[IMGGUARD]\n'
                    'connection = "mysql+pymysql://guard:a$$b%40c@db/imgguard"\n'
                    'retention_days = 7\n'
                    'retention_days = 8\n')
    settings = resolve({'oslo_config_file': str(file)}, SECTION)
    assert settings.connection == 'mysql+pymysql://guard:a$b%40c@db/imgguard'
    assert settings.retention_days == 8


def test_a_dollar_in_the_section_is_a_dollar() -> None:
    url = 'mysql+pymysql://guard:a$b@db/imgguard'
    assert resolve({'connection': url}, SECTION).connection == url


def test_the_process_environment_decides_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('OS_IMGGUARD__RETENTION_DAYS', '99')
    file.write_text('[imgguard]\nretention_days = 7\n')
    assert resolve({'oslo_config_file': str(file)}, SECTION).retention_days == 7


def test_filters_of_one_process_do_not_see_each_other(file: Path) -> None:
    file.write_text('[imgguard]\nkeep_default = snapshots\n')
    first = resolve({'keep_default': 'always'}, SECTION)
    second = resolve({'oslo_config_file': str(file)}, SECTION)
    third = resolve({}, SECTION)
    assert [each.keep_default for each in (first, second, third)] == ['always', 'snapshots', 'never']
    assert 'imgguard' not in cfg.CONF


# Unknown names

@pytest.mark.parametrize(('name', 'rest'), [
    ('keep_defualt', "; did you mean 'keep_default'?"),
    ('keep-default', "; did you mean 'keep_default'?"),
    ('Keep_Default', "; did you mean 'keep_default'?"),
    ('LEASE_SECS', "; did you mean 'lease_seconds'?"),
    ('config_file', "; did you mean 'oslo_config_file'?"),
    ('colour', '; known are: connection, requeue, glance_connection, keep_default, error_status, cleanup_window, '
               'give_up_after, lease_seconds, fence_seconds, import_stall_seconds, on_store_failure, retention_days, '
               'oslo_config_file'),
])
def test_unknown_option_in_the_section(name: str, rest: str) -> None:
    assert refusal({name: 'x'}) == f'imgguard: unknown option {name!r} in {SECTION}{rest}'


def test_unknown_option_in_the_file(file: Path) -> None:
    assert refusal_of_file(file, '[imgguard]\nretention-days = 7\n') == (
        "imgguard: unknown option 'retention-days' in group [imgguard] of FILE; did you mean 'retention_days'?")


def test_the_file_cannot_name_another_file(file: Path) -> None:
    assert refusal_of_file(file, '[imgguard]\noslo_config_file = /x\n').startswith(
        "imgguard: unknown option 'oslo_config_file' in group [imgguard] of FILE; known are: connection, ")


# Bad values

BAD_VALUES = [
    ('requeue', 'on', "'on' is not allowed; allowed are: auto, off"),
    ('keep_default', 'Always', "'Always' is not allowed; allowed are: never, snapshots, always"),
    ('keep_default', 'snapshot', "'snapshot' is not allowed; allowed are: never, snapshots, always"),
    ('error_status', 'failed', "'failed' is not allowed; allowed are: error, killed"),
    ('on_store_failure', 'ignore', "'ignore' is not allowed; allowed are: pass, refuse"),
    ('cleanup_window', '-1', "'-1' is not allowed; give a whole number from 0 to 3600"),
    ('cleanup_window', '3601', "'3601' is not allowed; give a whole number from 0 to 3600"),
    ('give_up_after', 'never', "'never' is not allowed; give a whole number from 0 to 31536000"),
    ('give_up_after', '31536001', "'31536001' is not allowed; give a whole number from 0 to 31536000"),
    ('lease_seconds', '4', "'4' is not allowed; give a whole number from 5 to 3600"),
    ('lease_seconds', '60s', "'60s' is not allowed; give a whole number from 5 to 3600"),
    ('lease_seconds', '60.5', "'60.5' is not allowed; give a whole number from 5 to 3600"),
    ('fence_seconds', '5', "'5' is not allowed; give a whole number from 6 to 86400"),
    ('import_stall_seconds', '0', "'0' is not allowed; give a whole number from 1 to 31536000"),
    ('retention_days', '0', "'0' is not allowed; give a whole number from 1 to 3650"),
]


@pytest.mark.parametrize(('name', 'value', 'rest'), BAD_VALUES)
def test_bad_value_in_the_section(name: str, value: str, rest: str) -> None:
    assert refusal({name: value}) == f'imgguard: option {name!r} in {SECTION}: {rest}'


@pytest.mark.parametrize(('name', 'value', 'rest'), BAD_VALUES)
def test_bad_value_in_the_file(name: str, value: str, rest: str, file: Path) -> None:
    assert refusal_of_file(file, f'[imgguard]\n{name} = {value}\n') == (
        f'imgguard: option {name!r} in group [imgguard] of FILE: {rest}')


def test_of_an_option_given_twice_in_the_file_the_last_value_is_told(file: Path) -> None:
    assert "'x' is not allowed" in refusal_of_file(file, '[imgguard]\nretention_days = 7\nretention_days = x\n')


def test_a_bad_value_in_the_file_is_told_even_where_the_section_wins(file: Path) -> None:
    file.write_text('[imgguard]\nretention_days = x\n')
    assert "'x' is not allowed" in refusal({'oslo_config_file': str(file), 'retention_days': '7'})


@pytest.mark.parametrize('name', [opt.name for opt in OPTIONS])
def test_an_empty_value_is_no_value(name: str, file: Path) -> None:
    rest = 'is empty; leave it out to have the default'
    assert refusal({name: ''}) == f'imgguard: option {name!r} in {SECTION} {rest}'
    assert refusal_of_file(file, f'[imgguard]\n{name} =\n') == (
        f'imgguard: option {name!r} in group [imgguard] of FILE {rest}')


@pytest.mark.parametrize(('lease', 'fence', 'accepted'), [('60', '61', True), ('60', '60', False), ('61', '60', False)])
def test_the_lease_must_be_shorter_than_the_fence(lease: str, fence: str, accepted: bool) -> None:
    section = {'lease_seconds': lease, 'fence_seconds': fence}
    if accepted:
        assert resolve(section, SECTION).fence_seconds == 61
    else:
        assert refusal(section) == (f"imgguard: option 'lease_seconds' ({lease}, from {SECTION}) must be less than "
                                    f"'fence_seconds' ({fence}, from {SECTION})")


def test_a_contradiction_names_the_place_of_either_value(file: Path) -> None:
    assert refusal_of_file(file, '[imgguard]\nlease_seconds = 600\n') == (
        "imgguard: option 'lease_seconds' (600, from group [imgguard] of FILE) must be less than 'fence_seconds' "
        '(600, from the defaults)')


# Database URLs, whose passwords are never shown

@pytest.mark.parametrize('name', ['connection', 'glance_connection'])
@pytest.mark.parametrize('url', [
    'sqlite:///imgguard.db',
    'sqlite:///var/lib/glance/imgguard.db',
    'sqlite:///./imgguard.db',
    'sqlite:///file:imgguard.db?uri=true',
    'sqlite+pysqlite:///imgguard.db',
    'sqlite:///:memory:',
    'sqlite://',
])
def test_a_relative_sqlite_path_is_refused(name: str, url: str) -> None:
    assert refusal({name: url}) == (
        f'imgguard: option {name!r} in {SECTION}: the SQLite path in {url!r} is not absolute, so each process would '
        'find its own file or none; give an absolute path, which makes four slashes: '
        "'sqlite:////var/lib/glance/imgguard.db'")


@pytest.mark.parametrize('value', ['guard:s3cret@db/imgguard', '/s3cret/imgguard.db', '"mysql://guard:s3cret@db/x"'])
def test_a_url_that_is_none_is_refused_unseen(value: str) -> None:
    assert refusal({'connection': value}) == (
        f"imgguard: option 'connection' in {SECTION} is not an SQLAlchemy URL such as "
        "'postgresql+psycopg://user:password@host/database' (value not shown: it may hold a password)")


def test_a_single_dollar_in_the_file_is_told_without_the_password(file: Path) -> None:
    assert refusal_of_file(file, '[imgguard]\nconnection = mysql://guard:s3cret$x@db/imgguard\n') == (
        "imgguard: option 'connection' in group [imgguard] of FILE refers to another option with a $; a $ that is "
        'meant as such is written $$')


def test_repr_shows_no_password() -> None:
    settings = resolve({'connection': 'mysql://guard:s3cret@db/x', 'glance_connection': 'mysql://g:s3cret@db/y'}, '')
    assert 's3cret' not in repr(settings)
    assert 'lease_seconds=60' in repr(settings)


@pytest.mark.parametrize(('url', 'masked'), [
    ('sqlite:////var/lib/glance/imgguard.db', 'sqlite:////var/lib/glance/imgguard.db'),
    ('sqlite:////srv/a:b@c.db', 'sqlite:////srv/a:b@c.db'),
    ('postgresql://db:5432/imgguard', 'postgresql://db:5432/imgguard'),
    ('postgresql://guard@db/imgguard', 'postgresql://guard@db/imgguard'),
    ('postgresql+psycopg://guard:s3cret@db:5432/imgguard', 'postgresql+psycopg://guard:***@db:5432/imgguard'),
    ('mysql://guard:s3/c@r:e?t@db/imgguard', 'mysql://guard:***@db/imgguard'),
    ('mysql://:s3cret@db/imgguard', 'mysql://:***@db/imgguard'),
    ('postgresql:///imgguard?password=s3cret&host=db', 'postgresql:///imgguard?password=***&host=db'),
    ('mysql://db/imgguard?charset=utf8mb4&Passwd=s3cret', 'mysql://db/imgguard?charset=utf8mb4&Passwd=***'),
])
def test_mask_password(url: str, masked: str) -> None:
    assert mask_password(url) == masked


# The file itself

def about_file(rest: str) -> str:
    return f"imgguard: option 'oslo_config_file' in {SECTION}: {rest}"


@pytest.mark.parametrize('path', ['imgguard.conf', './imgguard.conf', '~/imgguard.conf', ''])
def test_the_file_is_named_by_an_absolute_path(path: str) -> None:
    assert refusal({'oslo_config_file': path}) == about_file(f'{path!r} is not allowed; give an absolute path')


def test_a_missing_file_is_an_error(file: Path) -> None:
    assert refusal({'oslo_config_file': str(file)}) == about_file(f'{file} cannot be read: No such file or directory')


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert refusal({'oslo_config_file': str(tmp_path)}) == about_file(f'{tmp_path} cannot be read: Is a directory')


@pytest.mark.parametrize(('text', 'rest'), [
    ('', 'FILE has no group [imgguard]'),
    ('[DEFAULT]\nkeep_default = always\n', 'FILE has no group [imgguard]'),
    ('[imguard]\nkeep_default = always\n', 'FILE has no group [imgguard]; is [imguard] misspelt?'),
    ('keep_default = always\n',
     'FILE is not an oslo.config file, see its line 1: Section must be started before assignment'),
    ('[imgguard]\nkeep_default = never\n\n  s3cret\n',
     'FILE is not an oslo.config file, see its line 4: Unexpected continuation line'),
])
def test_a_file_that_cannot_be_meant_is_an_error(text: str, rest: str, file: Path) -> None:
    assert refusal_of_file(file, text) == about_file(rest)


def test_a_file_that_is_not_text_is_an_error(file: Path) -> None:
    file.write_bytes(b'[imgguard]\n\xff\xfe\n')
    assert refusal({'oslo_config_file': str(file)}) == about_file(f'{file} is not an oslo.config file: it is not text')


def test_an_empty_group_sets_nothing(file: Path) -> None:
    file.write_text('[imgguard]\n')
    assert resolve({'oslo_config_file': str(file)}, SECTION) == resolve({}, SECTION)


# Options and settings agree

def test_settings_has_exactly_the_options() -> None:
    assert [each.name for each in dataclasses.fields(Settings)] == [*(opt.name for opt in OPTIONS), 'notifications']


# Notifications, which oslo.messaging's own options set up

@pytest.mark.parametrize(('groups', 'wanted'), [
    ('', False),
    ('[oslo_messaging_notifications]\ntopics = notifications\n', False),
    ('[oslo_messaging_notifications]\ndriver =\n', False),
    ('[oslo_messaging_notifications]\ndriver = noop\n', False),
    ('[oslo_messaging_notifications]\ndriver = messagingv2\n', True),
    ('[OSLO_MESSAGING_NOTIFICATIONS]\ndriver = noop\ndriver = log\n', True),
])
def test_a_driver_in_the_file_turns_notifications_on(file: Path, groups: str, wanted: bool) -> None:
    file.write_text(f'{groups}[imgguard]\n')
    assert resolve({'oslo_config_file': str(file)}, SECTION).notifications == (str(file) if wanted else None)


@pytest.mark.parametrize('opt', OPTIONS, ids=lambda opt: opt.name)
def test_the_type_of_a_field_is_that_of_its_option(opt: cfg.Opt) -> None:
    annotation = typing.get_type_hints(Settings)[opt.name]
    if isinstance(opt.type, types.Integer):
        assert annotation is int
        assert opt.type.min is not None and opt.type.max is not None
    else:
        assert isinstance(opt.type, types.String)
        assert opt.secret or typing.get_args(annotation) == tuple(opt.type.choices or ())


@pytest.mark.parametrize('opt', OPTIONS, ids=lambda opt: opt.name)
def test_each_option_is_explained_in_sentences(opt: cfg.Opt) -> None:
    assert opt.help is not None and re.match(r'[A-Z].+\.$', opt.help, re.DOTALL)


@pytest.mark.parametrize('url', [
    'http://user:secret@host/', 'http://secret@host', 'ftp://host', 'host:9292', 'http://', 'http://host:x',
    'http://host:65536', 'http://[:::]', 'http://h\xf6st', 'http://host/?secret', 'http://host/#secret',
    'http://host/a b'])
def test_a_backend_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigurationError, match="option 'backend_url' in the test") as raised:
        resolve_proxy({'backend_url': url}, 'the test')
    assert 'secret' not in str(raised.value)


@pytest.mark.parametrize('url', [
    'http://host', 'https://host:9292', 'HTTP://glance_1.example.org:65535/image/', 'http://[::1]:80/a%20b/c'])
def test_a_backend(url: str) -> None:
    assert resolve_proxy({'backend_url': url}, 'the test')[1].backend_url == url
