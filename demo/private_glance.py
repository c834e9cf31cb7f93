"""Lay out a private Glance 33.0.0 in a folder of its own: configuration, database, store, logs.

Nothing outside the folder is read or written, and whoever may reach it is trusted: without Keystone
everyone is admin (flavor ``default``), or a given filter stands in for Keystone's (flavor ``keystone``).
See :mod:`demo.server` for starting servers on it.

The paste file is the project's own ``etc/glance-api-paste.ini``, so whatever runs here runs as an
operator would run it.
"""

import os
import re
import shutil
import sqlite3
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PASTE_FILE = CHECKOUT / 'etc' / 'glance-api-paste.ini'

#: A seconds-long wait of one SQLite writer for another, instead of Glance's answer 500.
SQLITE_TIMEOUT_SECONDS = 60

Options = Mapping[str, str]
#: Sections of glance-api.conf, each a mapping of option to value.
Sections = Mapping[str, Options]


class PrivateGlanceError(Exception):
    """The private Glance could not be laid out or started; the text says why."""


@dataclass(frozen=True, slots=True)
class PrivateGlance:
    """The places of a private Glance.

    :param folder: holds everything, absolute
    :param flavor: of the paste pipeline, ``''`` for the one without Keystone
    """

    folder: Path
    flavor: str = ''

    @property
    def configuration(self) -> Path:
        """The folder to name in ``OS_GLANCE_CONFIG_DIR``."""
        return self.folder / 'etc'

    @property
    def paste_file(self) -> Path:
        """The paste file the servers load."""
        return self.configuration / 'glance-api-paste.ini'

    @property
    def database(self) -> Path:
        """Glance's own SQLite database."""
        return self.folder / 'glance.db'

    @property
    def guard_database(self) -> Path:
        """The guard's store, unless its options name another."""
        return self.folder / 'imgguard.db'

    @property
    def store(self) -> Path:
        """Where the file store ``fs`` keeps the data of images."""
        return self.folder / 'images'

    @property
    def staging(self) -> Path:
        """Where staged data waits for its import."""
        return self.folder / 'staging'

    @property
    def glance_log(self) -> Path:
        """Glance's log, of all its processes."""
        return self.folder / 'glance-api.log'

    @property
    def server_log(self) -> Path:
        """What the servers themselves print."""
        return self.folder / 'server.log'

    def environment(self) -> dict[str, str]:
        """Return the environment variables for commands that work on this Glance."""
        python_path = [str(CHECKOUT), *filter(None, [os.environ.get('PYTHONPATH')])]
        return {
            **os.environ,
            'OS_GLANCE_CONFIG_DIR': str(self.configuration),
            'PYTHONPATH': os.pathsep.join(python_path),
            'PYTHONUNBUFFERED': '1',
        }


def lay_out(
    folder: Path,
    *,
    guard: Options | None,
    identity: str | None = None,
    flavor: str | None = None,
    settings: Sections | None = None,
    database: Path | None = None,
) -> PrivateGlance:
    """Make a private Glance in ``folder``, which must be empty or missing.

    :param guard: options of the section ``[filter:imgguard]``; ``connection`` defaults to a SQLite
        file in the folder; ``None`` is Glance without the guard
    :param identity: a paste filter factory (``module:function``) that stands in for Keystone's
    :param flavor: of the pipeline; when not given ``keystone`` with an identity, else none
    :param settings: sections of glance-api.conf that are added to ours or replace them
    :param database: a Glance database to copy, as :func:`create_database` made it; without one it
        is made here, which takes seconds
    :raises PrivateGlanceError: the folder is in use, or the database could not be made
    """
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        raise PrivateGlanceError(f'{folder} is not empty')
    if flavor is None:
        flavor = 'keystone' if identity else ''
    glance = PrivateGlance(folder, flavor)
    others = (folder / name for name in ('tasks', 'cache', 'locks'))
    for each in (glance.configuration, glance.store, glance.staging, *others):
        each.mkdir(parents=True, exist_ok=True)
    (glance.configuration / 'glance-api.conf').write_text(_configuration(glance, settings or {}))
    write_paste_file(glance.paste_file, glance, guard=guard, identity=identity)
    if database is None:
        create_database(glance)
    else:
        shutil.copyfile(database, glance.database)
    return glance


def write_paste_file(path: Path, glance: PrivateGlance, *, guard: Options | None, identity: str | None) -> None:
    """Write our paste file for this Glance to ``path``; the parameters are those of :func:`lay_out`.

    Values of options are given as they are meant; what PasteDeploy would expand (``%``) is escaped.
    """
    text = PASTE_FILE.read_text()
    if guard is None:
        text = re.sub(r'^(.*context) imgguard ', r'\1 ', text, flags=re.MULTILINE)
    else:
        options = {'use': 'egg:imgguard', 'connection': f'sqlite:///{glance.guard_database}', **guard}
        escaped = {name: value.replace('%', '%%') for name, value in options.items()}
        text = _replace_section(text, 'filter:imgguard', escaped)
    if identity is not None:
        text = _replace_section(text, 'filter:authtoken', {'paste.filter_factory': identity})
    path.write_text(text)


def create_database(glance: PrivateGlance) -> None:
    """Make Glance's database with ``glance-manage db_sync``, ready to be copied.

    :raises PrivateGlanceError: with the last lines of what the command printed
    """
    command = [script('glance-manage'), '--config-dir', str(glance.configuration), 'db_sync']
    done = subprocess.run(
        command, env=glance.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )
    if done.returncode != 0:
        raise PrivateGlanceError(f'{" ".join(command)} exited {done.returncode}:\n{last_lines(done.stdout)}')
    connection = sqlite3.connect(glance.database)
    try:
        # The mode stays with the file: a reader then never waits for a writer. Closing the last
        # connection folds the log back into the file, so that one file is all there is to copy.
        connection.execute('PRAGMA journal_mode=WAL')
    finally:
        connection.close()


def script(name: str) -> str:
    """Return the path of a command that was installed beside this Python.

    :raises PrivateGlanceError: it is not there
    """
    path = Path(sysconfig.get_path('scripts')) / name
    if not path.exists():
        raise PrivateGlanceError(f'{name} is not installed beside this Python; install the extra "demo" or "test"')
    return str(path)


def last_lines(text: str, count: int = 40) -> str:
    """Return the last lines of a log."""
    return '\n'.join(text.splitlines()[-count:])


def _configuration(glance: PrivateGlance, settings: Sections) -> str:
    folder = glance.folder
    sections: dict[str, dict[str, str]] = {
        'DEFAULT': {
            'log_file': str(glance.glance_log),
            'use_stderr': 'false',
            'enabled_backends': 'fs:file',
            'enabled_import_methods': '[glance-direct,web-download,copy-image]',
            'image_cache_dir': str(folder / 'cache'),
            # Glance's default driver wants an address at which each worker can be reached.
            'image_cache_driver': 'sqlite',
        },
        'database': {'connection': f'sqlite:///{glance.database}?timeout={SQLITE_TIMEOUT_SECONDS}'},
        'glance_store': {'default_backend': 'fs'},
        'fs': {'filesystem_store_datadir': str(glance.store)},
        'os_glance_staging_store': {'filesystem_store_datadir': str(glance.staging)},
        'os_glance_tasks_store': {'filesystem_store_datadir': str(folder / 'tasks')},
        'oslo_concurrency': {'lock_path': str(folder / 'locks')},
        'paste_deploy': {'flavor': glance.flavor},
        # Sources of web-download tests are on free ports of loopback.
        'import_filtering_opts': {'allowed_ports': '[]'},
    }
    if not glance.flavor.startswith('keystone'):
        # The callers without Keystone have no role at all, and Glance's new default policies refuse
        # even the admin among them to create an image. The old ones still know "everyone".
        sections['oslo_policy'] = {'enforce_new_defaults': 'false', 'enforce_scope': 'false'}
    for name, options in settings.items():
        sections.setdefault(name, {}).update(options)
    return '\n'.join(_section(name, options) for name, options in sections.items())


def _section(name: str, options: Options) -> str:
    return ''.join([f'[{name}]\n', *(f'{option} = {value}\n' for option, value in options.items())])


def _replace_section(text: str, name: str, options: Options) -> str:
    """Return the paste file with another body for one of its sections."""
    pattern = re.compile(rf'^\[{re.escape(name)}\]\n.*?(?=^\[|\Z)', re.MULTILINE | re.DOTALL)
    body = _section(name, options) + '\n'
    replaced, count = pattern.subn(lambda match: body, text)
    if count != 1:
        raise PrivateGlanceError(f'{PASTE_FILE} has {count} sections [{name}], not one')
    return replaced
