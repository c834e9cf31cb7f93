"""The option ``connection``: what it may say, and how it is refused."""

import pytest

from imgguard.errors import ConfigurationError
from imgguard.store import Store
from imgguard.store.address import identity, parsed, place

GOOD = {
    'sqlite:////var/lib/glance/imgguard.db': 'SQLite file /var/lib/glance/imgguard.db',
    'postgresql://guard:sesame@db/imgguard': 'postgresql database imgguard at db',
    'postgresql+psycopg://guard:sesame@db:5433/imgguard': 'postgresql database imgguard at db:5433',
    'mysql://guard:sesame@db/imgguard': 'mysql database imgguard at db',
    'mariadb+pymysql:///imgguard?unix_socket=/run/mysqld/mysqld.sock': 'mariadb database imgguard at localhost',
}


@pytest.mark.parametrize('text', GOOD)
def test_good_ones(text: str) -> None:
    assert place(parsed(text)) == GOOD[text]


def test_a_database_without_a_driver_gets_the_tested_one() -> None:
    assert [parsed(f'{name}://db/imgguard').drivername for name in ('postgresql', 'mysql', 'mariadb')] == [
        'postgresql+psycopg', 'mysql+pymysql', 'mariadb+pymysql']


@pytest.mark.parametrize('texts', [
    ('sqlite:////var/lib/glance/imgguard.db', 'sqlite+pysqlite:////var/lib/glance/imgguard.db?timeout=60',
     'sqlite:////var/lib//glance/./imgguard.db'),
    ('postgresql://guard:sesame@db/imgguard', 'postgresql+psycopg://guard:sesame@DB:5432/imgguard',
     'postgresql://other:sesame@db/imgguard?connect_timeout=5'),
    ('mysql://guard:ses%40me@db/imgguard', 'mariadb+pymysql://guard:ses%40me@db:3306/imgguard?charset=utf8mb4'),
    ('mysql:///imgguard?unix_socket=/run/mysqld.sock&charset=utf8mb4',
     'mysql://localhost/imgguard?charset=utf8&unix_socket=/run/mysqld.sock'),
])
def test_one_address_in_other_words(texts: tuple[str, ...]) -> None:
    assert len({identity(text) for text in texts}) == 1


def test_other_addresses() -> None:
    texts = (*GOOD, 'postgresql://db/other', 'postgresql://db2/imgguard', 'mysql://db:3307/imgguard',
             'sqlite:////var/lib/glance/other.db', 'mysql:///imgguard', 'postgresql:///imgguard?host=/run/a')
    assert len({identity(text) for text in texts}) == len(texts)
    assert not any('sesame' in identity(text) for text in texts)


@pytest.mark.parametrize(('text', 'says'), [
    ('', 'is not a database URL; give one like sqlite:////var/lib/glance/imgguard.db'),
    ('guard:sesame', 'is not a database URL'),
    ('postgresql://guard:sesame@db:port/imgguard', 'is not a database URL'),
    ('sqlite:///imgguard.db', 'relative path.*absolute path, with four slashes'),
    ('sqlite://', 'relative path'),
    ('sqlite:///:memory:', 'relative path'),
    ('sqlite:///file:imgguard.db?uri=true', 'relative path'),
    ('oracle://guard:sesame@db/imgguard', "names the database 'oracle', which imgguard cannot use"),
    ('postgresql+psycopg2://guard:sesame@db/imgguard', r'works with postgresql\+psycopg: write that'),
    ('mysql+mysqldb://guard:sesame@db/imgguard', r'works with mysql\+pymysql: write that'),
    ('postgresql://guard:sesame@db', 'names no database after the host'),
])
def test_bad_ones_are_refused_before_anything_connects(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f'^imgguard: option connection .*{says}') as caught:
        Store(text, 60)
    assert 'sesame' not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(('text', 'package', 'extra'), [
    ('postgresql://db/imgguard', 'psycopg', r'imgguard\[postgresql\]'),
    ('mysql://db/imgguard', 'pymysql', r'imgguard\[mysql\]'),
])
def test_a_missing_driver_is_named_with_its_extra(text: str, package: str, extra: str,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__('sys').modules, package, None)
    with pytest.raises(ConfigurationError, match=f"'{package}'.*pip install '{extra}'"):
        Store(text, 60)
