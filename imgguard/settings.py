"""The options of one filter, resolved once into a value that does not change.

What is wrong with them is found here, at start-up, and told in a text that names imgguard, the option and the place
it was read from. Every call reads for itself: nothing is shared between two filters of one process.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal, NoReturn
from urllib.parse import urlsplit

from oslo_config import cfg, types

from imgguard.errors import ConfigurationError
from imgguard.opts import GROUP, OPTIONS, PROXY_OPTIONS

FILE_OPTION: Final = 'oslo_config_file'
"""The key of a paste section that names the file with group ``[imgguard]``."""

NOTIFICATIONS: Final = 'oslo_messaging_notifications'
"""The group of that file in which oslo.messaging finds its own options for notifications."""

BadFile = cfg.Error
"""What is raised where a value in an oslo.config file cannot be had."""

Groups = dict[str, dict[str, list[str]]]

_BY_NAME: Final[Mapping[str, cfg.Opt]] = {opt.name: opt for opt in (*OPTIONS, *PROXY_OPTIONS)}
_BACKEND: Final = re.compile(
    r'https?://(?:[\w.~%-]+|\[[\da-f:.]+\])(?::\d+)?(?:/[!-"$->@-~]*)?', re.ASCII | re.IGNORECASE)
_URL: Final = re.compile(r'[a-z][a-z0-9_]*(\+[a-z0-9_]+)?://')
_RELATIVE_SQLITE: Final = re.compile(r'sqlite(\+\w+)?://(?!//)')
_CREDENTIALS: Final = re.compile(r'(://[^:/?@]*):.*@', re.DOTALL)
_SECRET_PARAMETER: Final = re.compile(r'([?&][^=&]*(?:passw|pwd|secret|token)[^=&]*=)[^&]*', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Settings:
    """Every option of the guard with its value; the meaning of each is told in :mod:`imgguard.opts`.

    The URLs hold passwords and are therefore left out of ``repr``; :func:`mask_password` makes them fit to be shown.
    Times are in seconds, ``retention_days`` is in days.
    """

    connection: str = field(repr=False)
    requeue: Literal['auto', 'off']
    glance_connection: str | None = field(repr=False)
    keep_default: Literal['never', 'snapshots', 'always']
    error_status: Literal['error', 'killed']
    cleanup_window: int
    give_up_after: int
    lease_seconds: int
    fence_seconds: int
    import_stall_seconds: int
    on_store_failure: Literal['pass', 'refuse']
    retention_days: int
    #: The oslo.config file that tells where notifications go; ``None`` when there are to be none.
    notifications: str | None = None


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """The options of the proxy alone; the meaning of each is told in :mod:`imgguard.opts`. Times are in seconds."""

    backend_url: str
    connect_timeout: int
    read_timeout: int
    forward_identity: bool
    cafile: str | None
    insecure: bool
    v1_error_status: Literal['error', 'queued']


@dataclass(frozen=True, slots=True)
class _Found:
    """A converted value, and the place it was read from."""

    value: Any = field(repr=False)
    where: str


def resolve(section: Mapping[str, str], where: str) -> Settings:
    """Read the options of one filter: the section wins over the file it names, the file over the defaults.

    :param section: the keys of the paste section, without those of paste itself
    :param where: how messages call that section, for example ``[filter:imgguard]``
    :raises ConfigurationError: an option is unknown or its value is bad, in the section or in the file, or the file
        cannot be read
    """
    found, notifications = _read(section, where, OPTIONS)
    return Settings(**found, notifications=notifications)


def resolve_proxy(section: Mapping[str, str], where: str) -> tuple[Settings, ProxySettings]:
    """As :func:`resolve`, of the proxy, which has options of its own beside those of the guard.

    :raises ConfigurationError: as :func:`resolve`, and where no ``backend_url`` is set
    """
    found, notifications = _read(section, where, (*OPTIONS, *PROXY_OPTIONS))
    own = {opt.name: found.pop(opt.name) for opt in PROXY_OPTIONS}
    url = own['backend_url']
    if url is None:
        raise _problem(f"option 'backend_url' is missing in {where}; give the address of Glance, such as "
                       "'http://glance.example.com:9292'")
    if not _is_backend(url):
        # Not shown: it may hold a password.
        raise _problem(f"option 'backend_url' in {where} is no address such as 'http://glance.example.com:9292' (user "
                       'and password cannot be given)')
    return Settings(**found, notifications=notifications), ProxySettings(**own)


def _is_backend(url: str) -> bool:
    try:
        port = urlsplit(url).port
    except ValueError:
        return False
    return port != 0 and _BACKEND.fullmatch(url) is not None


def _read(section: Mapping[str, str], where: str, options: Sequence[cfg.Opt]) -> tuple[dict[str, Any], str | None]:
    """The values of these options, and the file that tells where notifications go, if it does."""
    known = [opt.name for opt in options]
    own = {name: value for name, value in section.items() if name != FILE_OPTION}
    refuse_unknown(own, (*known, FILE_OPTION), where)
    found = {opt.name: _Found(opt.default, 'the defaults') for opt in options}
    notifications = None
    if FILE_OPTION in section:
        path = section[FILE_OPTION]
        groups = _parse(path, where)
        # The file may serve filter and proxy both.
        found |= {name: each for name, each in _of_group(groups, path, where).items() if name in known}
        notifications = path if _notifies(groups) else None
    found |= {name: _Found(_convert(name, value, where), where) for name, value in own.items()}
    _refuse_contradictions(found)
    return {name: each.value for name, each in found.items()}, notifications


def configuration(path: str) -> cfg.ConfigOpts:
    """Open an oslo.config file, alone: the process environment, which would win over it, is left out."""
    conf = cfg.ConfigOpts()
    conf(args=[], prog='imgguard', default_config_files=[path], default_config_dirs=[], use_env=False)
    return conf


def refuse_unknown(names: Iterable[str], known: Collection[str], where: str) -> None:
    """Refuse an option that is none of the known ones, and name the nearest.

    :raises ConfigurationError: there is one
    """
    for name in names:
        if name not in known:
            close = get_close_matches(name.lower().replace('-', '_'), known, n=1)
            advice = f'did you mean {close[0]!r}?' if close else f'known are: {", ".join(known)}'
            raise _problem(f'unknown option {name!r} in {where}; {advice}')


def refuse_defaults(global_conf: Mapping[str, str], where: str, names: Collection[str]) -> None:
    """Refuse an option in ``[DEFAULT]`` of the paste file.

    PasteDeploy hands on no key of a section that stands in ``[DEFAULT]`` too (``paste/deploy/loadwsgi.py``).

    :raises ConfigurationError: one of these names stands there
    """
    for name in sorted(global_conf.keys() & set(names)):
        raise _problem(f'the option {name} stands in [DEFAULT] of the paste file, which takes it away from filters and '
                       f'applications; move it to {where}')


def mask_password(url: str) -> str:
    """Return an SQLAlchemy URL with everything that looks like a password replaced by ``***``."""
    return _SECRET_PARAMETER.sub(r'\1***', _CREDENTIALS.sub(r'\1:***@', url))


def _of_group(groups: Groups, path: str, named_in: str) -> dict[str, _Found]:
    """Return the options set in group ``[imgguard]`` of an oslo.config file.

    ``oslo.config`` is asked for the values, so that the file obeys its rules (quotes, ``$``).
    """
    where = f'group [{GROUP.name}] of {path}'
    raw = _keys(groups, GROUP.name)
    if raw is None:
        misspelt = ''.join(f'; is [{name}] misspelt?' for name in get_close_matches(GROUP.name, groups, n=1))
        raise _problem(f'option {FILE_OPTION!r} in {named_in}: {path} has no group [{GROUP.name}]{misspelt}')
    refuse_unknown(raw, _BY_NAME, where)
    conf = configuration(path)
    conf.register_opts([*OPTIONS, *PROXY_OPTIONS], group=GROUP)
    found = {}
    for name, values in raw.items():
        # Of a key given twice the last counts, as in oslo.
        value = values[-1]
        _refuse_misshapen(name, value, where)
        try:
            found[name] = _Found(conf[GROUP.name][name], where)
        except cfg.ConfigFileValueError:
            _refuse_value(name, value, where)
        except cfg.Error:
            raise _problem(f'option {name!r} in {where} refers to another option with a $; a $ that is meant as such '
                           'is written $$') from None
    return found


def _notifies(groups: Groups) -> bool:
    """Whether a driver of notifications is set that does anything."""
    drivers = (_keys(groups, NOTIFICATIONS) or {}).get('driver', [])
    return any(driver not in ('', 'noop') for driver in drivers)


def _keys(groups: Groups, group: str) -> dict[str, list[str]] | None:
    """The raw keys and values of a group; ``None`` when it is not there."""
    # oslo.config takes the names of groups in any case.
    found = [keys for name, keys in groups.items() if name.lower() == group]
    return {name: values for keys in found for name, values in keys.items()} if found else None


def _parse(path: str, named_in: str) -> Groups:
    """Return the groups of an oslo.config file, as they are written."""
    about = f'option {FILE_OPTION!r} in {named_in}: '
    if not os.path.isabs(path):
        raise _problem(f'{about}{path!r} is not allowed; give an absolute path')
    groups: Groups = {}
    try:
        cfg.ConfigParser(path, groups).parse()
    except cfg.ParseError as error:
        # the text of the line stays out of the message: it may hold a password
        raise _problem(f'{about}{path} is not an oslo.config file, see its line {error.lineno}: {error.msg}') from None
    except UnicodeDecodeError:
        raise _problem(f'{about}{path} is not an oslo.config file: it is not text') from None
    except OSError as error:
        raise _problem(f'{about}{path} cannot be read: {error.strerror}') from error
    return groups


def _convert(name: str, value: str, where: str) -> Any:
    _refuse_misshapen(name, value, where)
    try:
        return _BY_NAME[name].type(value)
    except ValueError:
        _refuse_value(name, value, where)


def _refuse_misshapen(name: str, value: str, where: str) -> None:
    """Refuse what the types of oslo.config let pass; a value of a secret option is never shown."""
    if not value:
        raise _problem(f'option {name!r} in {where} is empty; leave it out to have the default')
    if not _BY_NAME[name].secret:
        return
    if not _URL.match(value):
        raise _problem(f'option {name!r} in {where} is not an SQLAlchemy URL such as '
                       "'postgresql+psycopg://user:password@host/database' (value not shown: it may hold a password)")
    if _RELATIVE_SQLITE.match(value):
        raise _problem(f'option {name!r} in {where}: the SQLite path in {mask_password(value)!r} is not absolute, so '
                       'each process would find its own file or none; give an absolute path, which makes four slashes: '
                       "'sqlite:////var/lib/glance/imgguard.db'")


def _refuse_value(name: str, value: str, where: str) -> NoReturn:
    kind = _BY_NAME[name].type
    if isinstance(kind, types.Integer):
        advice = f'give a whole number from {kind.min} to {kind.max}'
    elif isinstance(kind, types.Boolean):
        advice = 'give true or false'
    else:
        assert isinstance(kind, types.String) and kind.choices
        advice = f'allowed are: {", ".join(kind.choices)}'
    raise _problem(f'option {name!r} in {where}: {value!r} is not allowed; {advice}') from None


def _refuse_contradictions(found: Mapping[str, _Found]) -> None:
    lease, fence = found['lease_seconds'], found['fence_seconds']
    if lease.value >= fence.value:
        raise _problem(f"option 'lease_seconds' ({lease.value}, from {lease.where}) must be less than 'fence_seconds' "
                       f'({fence.value}, from {fence.where})')


def _problem(text: str) -> ConfigurationError:
    return ConfigurationError(f'imgguard: {text}')
