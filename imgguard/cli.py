"""``imgguard-manage``: what operators do from a shell.

Exit status: 0 done, 1 the operation failed (for example the store is down), 2 wrong usage or configuration. What was
asked for goes to stdout, as a table or as JSON; everything else goes to stderr. No password is shown.
"""

import argparse
import configparser
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Final, TypeAlias

from paste.deploy import loadwsgi  # type: ignore[import-untyped]

from imgguard import commands, sweep_command
from imgguard.commands import Answer, Command, Event, Job, Listing
from imgguard.errors import ConfigurationError, ImgguardError
from imgguard.outside import Outside
from imgguard.settings import FILE_OPTION, Settings, mask_password, resolve, resolve_proxy
from imgguard.store import Store
from imgguard.text import one_line

DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2

_FILTER: Final = 'filter:'
_PROXY: Final = 'app:'

Actions: TypeAlias = 'argparse._SubParsersAction[argparse.ArgumentParser]'


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
        run: Command = arguments.run
        with ExitStack() as opened:
            store = opened.enter_context(closing(Store(
                settings.connection, settings.lease_seconds, with_events=settings.notifications is not None,
                stall_seconds=settings.import_stall_seconds)))
            outside = None
            if settings.glance_connection is not None:
                outside = opened.enter_context(closing(Outside.of_commands(
                    settings.glance_connection, store, settings)))
            for answer in run(Job(settings, store, outside, _note), arguments):
                print(_json(answer) if as_json else _text(answer), flush=True)
    except ImgguardError as error:
        _note(str(error).removeprefix('imgguard: '))
        return WRONG_USAGE if isinstance(error, ConfigurationError) else FAILED
    return DONE


def _note(text: str) -> None:
    print(f'imgguard-manage: {" ".join(text.split())}', file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='imgguard-manage',
        description='Manages the store in which imgguard keeps why uploads of images failed.',
        epilog='Run it as the user Glance runs as: SQLite files belong to whoever makes them. '
               'Exit status: 0 done, 1 the operation failed, 2 wrong usage or configuration.')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--config-file', metavar='FILE', help='oslo.config file with group [imgguard]')
    source.add_argument('--paste-file', metavar='FILE', help="paste file with the filter's section, or the proxy's")
    parser.add_argument('--section', metavar='SECTION', default=f'{_FILTER}imgguard',
                        help='section of the paste file (default: %(default)s)')
    parser.add_argument('--format', choices=['table', 'json'], default='table',
                        help='a table for people (the default) or JSON for programs')
    actions = parser.add_subparsers(metavar='COMMAND', required=True)
    database = actions.add_parser('db', help="the store's tables").add_subparsers(
        metavar='ACTION', required=True)
    _add(database, 'upgrade', 'create the tables, or bring them up to date; does no harm when they are',
         commands.upgrade)
    _add(database, 'version', 'show the version of the tables', commands.version)
    _add_images(actions)
    return parser


def _add_images(actions: Actions) -> None:
    failures = actions.add_parser('failures', help='images in error').add_subparsers(metavar='ACTION', required=True)
    _add(failures, 'list', 'list the images in error', commands.failures)
    _add_image(_add(failures, 'show', 'show why one image is in error', commands.failure))
    attempts = actions.add_parser('attempts', help='the history of an image').add_subparsers(
        metavar='ACTION', required=True)
    _add_image(_add(attempts, 'list', 'list every attempt to bring data into an image, the newest first',
                    commands.attempts))
    sweep = _add(actions, 'sweep', 'put images in error whose worker was lost or whose deadline has passed, put those '
                                   'that Glance holds dead back to queued (with glance_connection), and forget what '
                                   'is too old; every minute until it is stopped', sweep_command.sweep)
    sweep.add_argument('--once', action='store_true', help='do it once')
    requeue = _add(actions, 'requeue', 'put an image in error back to queued, or see to it that a guard in Glance '
                                       'does', commands.requeue)
    _add_image(requeue)
    requeue.add_argument('--worker-is-dead', action='store_true',
                         help='the workers of its lost attempts are dead: do not wait for fence_seconds. Data may be '
                              'damaged if one is only paused')
    _add(actions, 'purge', 'forget images that were deleted or became active retention_days ago', commands.purge)


def _add_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('image', metavar='IMAGE', help='id of the image')


def _add(actions: Actions, name: str, summary: str, run: Command) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=summary, description=f'{summary[0].upper()}{summary[1:]}.')
    parser.set_defaults(run=run)
    # also taken after the command; without a default, which would undo what was said before the command
    parser.add_argument('--format', choices=['table', 'json'], default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    if arguments.config_file is not None:
        return resolve({FILE_OPTION: os.path.abspath(arguments.config_file)}, '--config-file')
    path = os.path.abspath(arguments.paste_file)
    where = f'[{arguments.section}] of {path}'
    if arguments.section.startswith(_PROXY):
        return resolve_proxy(_paste_section(path, arguments.section), where)[0]
    return resolve(_paste_section(path, arguments.section), where)


def _paste_section(path: str, section: str) -> Mapping[str, str]:
    """Return the keys of the section of a filter or proxy, read by paste itself, so that they are those it gets."""
    if not section.startswith((_FILTER, _PROXY)):
        raise ConfigurationError(f"--section: {section!r} is not allowed; give the section of a filter, such as "
                                 f"'{_FILTER}imgguard', or of a proxy, such as '{_PROXY}imgguard'")
    kind, name = loadwsgi.APP if section.startswith(_PROXY) else loadwsgi.FILTER, section.partition(':')[2]
    try:
        local: dict[str, str] = loadwsgi.ConfigLoader(path).get_context(kind, name).local_conf
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


def _json(answer: Answer) -> str:
    if isinstance(answer, Listing):
        return json.dumps(answer.rows)
    return json.dumps(answer.record if isinstance(answer, Event) else answer)


def _text(answer: Answer) -> str:
    if isinstance(answer, Listing):
        return _columns(answer)
    if isinstance(answer, Event):
        return '  '.join(f'{name}={_cell(value)}' for name, value in answer.record.items())
    width = max(map(len, answer))
    return '\n'.join(f'{name:{width}}  {_cell(value)}' for name, value in answer.items())


def _columns(listing: Listing) -> str:
    lines = [list(listing.columns), *([_cell(row[name]) for name in listing.columns] for row in listing.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join('  '.join(f'{cell:{width}}' for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return '-'
    # What came from a client must not drive the operator's terminal.
    return str(value).lower() if isinstance(value, bool) else one_line(str(value))
