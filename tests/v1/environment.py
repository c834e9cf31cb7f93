"""The environment that glance 15.0.2 runs in: Python 2.7, the packages of ``constraints.txt``, an empty database.

It is made once, in ``$XDG_CACHE_HOME/imgguard`` (``~/.cache/imgguard``), outlives the checkout, and is named by what it
is made from.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from demo.private_glance import last_lines
from tests.harness import skip_or_fail

_PINS: Final = Path(__file__).resolve().parent / 'constraints.txt'
#: The last one that makes environments of Python 2.7.
_VIRTUALENV: Final = 'virtualenv==20.15.1'


class OldGlanceError(Exception):
    """The old Glance could not be made or started; the text says why."""


def environment() -> Path:
    """The environment that glance 15.0.2 runs in, made at the first call on this machine (a minute or two).

    Skips the test where there is no Python 2.7, or fails it where ``IMGGUARD_REQUIRE`` names ``python2.7``.

    :raises OldGlanceError: it could not be made
    """
    python = _python()
    if python is None:
        skip_or_fail('python2.7', 'glance 15.0.2, the last with the v1 API, needs it')
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'imgguard'
    made_from = hashlib.sha256(b'\0'.join([_PINS.read_bytes(), _VIRTUALENV.encode(), python.encode()]))
    return made(cache / f'glance-15-{made_from.hexdigest()[:12]}', partial(_make, python))


def _python() -> str | None:
    """A Python 2.7 that runs: pyenv puts one on the path that only says that it does not."""
    pyenv = Path(os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv') / 'versions'
    for candidate in filter(None, [shutil.which('python2.7'), *map(str, sorted(pyenv.glob('2.7.*/bin/python2.7')))]):
        done = subprocess.run([candidate, '-c', 'import ssl, sqlite3'], capture_output=True, check=False)
        if done.returncode == 0:
            return candidate
    return None


def made(place: Path, make: Callable[[Path], None]) -> Path:
    """What ``make`` makes at the path it is given, at this place; made there if it is not.

    One process makes it while others wait, and it is at its place only when it is complete.
    """
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.with_name(f'{place.name}.lock')):
        if not place.exists():
            part = place.with_name(f'{place.name}.part')
            # Whoever began this one is gone, for the lock was free.
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(place)
    return place


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(python: str, part: Path) -> None:
    tool = part / 'tool'
    _run(sys.executable, '-m', 'venv', str(tool))
    _run(str(tool / 'bin' / 'python'), '-m', 'pip', 'install', _VIRTUALENV)
    _run(str(tool / 'bin' / 'virtualenv'), '--python', python, str(part / 'glance'))
    shutil.rmtree(tool)
    # Its scripts name the place they were made at; modules do not.
    _run(str(interpreter(part)), '-m', 'pip', 'install', '--no-deps', '--requirement', str(_PINS))
    configuration = part / 'glance.conf'
    configuration.write_text(f'[database]\nconnection = sqlite:///{empty_database(part)}\n')
    _run(str(interpreter(part)), '-m', 'glance.cmd.manage', '--config-file', str(configuration), 'db_sync')


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise OldGlanceError(f'{" ".join(command)} ended with {done.returncode}:\n{last_lines(done.stdout)}')


def interpreter(environment: Path) -> Path:
    """The Python of an environment."""
    return environment / 'glance' / 'bin' / 'python'


def empty_database(environment: Path) -> Path:
    """The database of a Glance that holds nothing yet (SQLite), to be copied."""
    return environment / 'empty.db'
