"""``imgguard-manage``: what operators do from a shell.

Exit status: 0 done, 1 the operation failed (for example the store is down), 2 wrong usage or configuration. What was
asked for goes to stdout, as a table or as JSON; everything else goes to stderr. No password is shown.
"""

import argparse
import configparser
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from paste.deploy import loadwsgi  # type: ignore[import-untyped]

from imgguard.errors import ConfigurationError, ImgguardError
from imgguard.settings import FILE_OPTION, Settings, mask_password, resolve
from imgguard.store import Store

DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2

_FILTER: Final = 'filter:'

Record = Mapping[str, str | None]
"""What a command answers: names and values, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a command works with."""

    settings: Settings
    store: Store


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    :param argv: the arguments without the name of the program; ``None`` for those of the process
    :raises SystemExit: the arguments are wrong (2), or ask for help (0)
    """
    arguments = _parser().parse_args(argv)
    try:
        settings = _settings(arguments)
        as_json = arguments.format == 'json'
        print(f'store: {mask_password(settings.connection)}', file=sys.stderr if as_json else sys.stdout, flush=True)
        run: Callable[[Job], Record] = arguments.run
        with closing(Store(settings.connection, lease_seconds=settings.lease_seconds)) as store:
            record = run(Job(settings, store))
    except ImgguardError as error:
        text = ' '.join(str(error).split()).removeprefix('imgguard: ')
        print(f'imgguard-manage: {text}', file=sys.stderr)
        return WRONG_USAGE if isinstance(error, ConfigurationError) else FAILED
    print(json.dumps(record) if as_json else _table(record))
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='imgguard-manage',
        description='Manages the store in which imgguard keeps why uploads of images failed.',
        epilog='Run it as the user Glance runs as: SQLite files belong to whoever makes them. '
               'Exit status: 0 done, 1 the operation failed, 2 wrong usage or configuration.')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--config-file', metavar='FILE', help='oslo.config file with group [imgguard]')
    source.add_argument('--paste-file', metavar='FILE', help="paste file with the filter's section")
    parser.add_argument('--section', metavar='SECTION', default=f'{_FILTER}imgguard',
                        help='section of the paste file (default: %(default)s)')
    parser.add_argument('--format', choices=['table', 'json'], default='table',
                        help='a table for people (the default) or JSON for programs')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    database = commands.add_parser('db', help="the store's tables").add_subparsers(metavar='ACTION', required=True)
    _add(database, 'upgrade', 'create the tables, or bring them up to date; does no harm when they are', _upgrade)
    _add(database, 'version', 'show the version of the tables', _version)
    return parser


def _add(commands: 'argparse._SubParsersAction[argparse.ArgumentParser]', name: str, summary: str,
         run: Callable[[Job], Record]) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=f'{summary[0].upper()}{summary[1:]}.')
    parser.set_defaults(run=run)
    # also taken after the command; without a default, which would undo what was said before the command
    parser.add_argument('--format', choices=['table', 'json'], default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    if arguments.config_file is not None:
        return resolve({FILE_OPTION: os.path.abspath(arguments.config_file)}, '--config-file')
    path = os.path.abspath(arguments.paste_file)
    return resolve(_paste_section(path, arguments.section), f'[{arguments.section}] of {path}')


def _paste_section(path: str, section: str) -> Mapping[str, str]:
    """Return the keys of a filter's section, read by paste itself, so that they are those the filter gets."""
    if not section.startswith(_FILTER):
        raise ConfigurationError(f"--section: {section!r} is not allowed; give the section of a filter, such as "
                                 f"'{_FILTER}imgguard'")
    try:
        loader = loadwsgi.ConfigLoader(path)
        local: dict[str, str] = loader.get_context(loadwsgi.FILTER, section.removeprefix(_FILTER)).local_conf
    except OSError as error:
        raise ConfigurationError(f'{path} cannot be read: {error.strerror}') from error
    except configparser.InterpolationError as error:
        raise ConfigurationError(f'option {error.option!r} in [{error.section}] of {path} has a % that paste does not '
                                 'understand; a % that is meant as such is written %%') from None
    except (configparser.Error, UnicodeDecodeError) as error:
        # the error's own text may quote a line with a password
        raise ConfigurationError(f'{path} is not a paste file ({type(error).__name__})') from None
    except (LookupError, ImportError, AttributeError) as error:
        raise ConfigurationError(f'[{section}] of {path} cannot be loaded: {error}') from error
    return local


def _upgrade(job: Job) -> Record:
    before = job.store.version()
    job.store.upgrade()
    return {'before': before, 'version': job.store.version()}


def _version(job: Job) -> Record:
    return {'version': job.store.version()}


def _table(record: Record) -> str:
    width = max(map(len, record))
    return '\n'.join(f'{name:{width}}  {"-" if value is None else value}' for name, value in record.items())
