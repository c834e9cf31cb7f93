"""A stand-in for keystonemiddleware's auth_token: the token itself says who the caller is.

A token is ``user:project:role1,role2`` (see :func:`token`). As in auth_token with
``delay_auth_decision``, identity headers sent by the client are removed first, a request without a
good token goes on as ``Invalid`` and is refused by Glance's context filter. Keystonemiddleware sets
some of the headers to ``None``; so does this filter, because code behind it must live with that.
"""

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_SCOPES = ('', '_SERVICE')
_NAMES = (
    'DOMAIN_ID', 'DOMAIN_NAME', 'PROJECT_ID', 'PROJECT_NAME', 'PROJECT_DOMAIN_ID', 'PROJECT_DOMAIN_NAME',
    'USER_ID', 'USER_NAME', 'USER_DOMAIN_ID', 'USER_DOMAIN_NAME', 'ROLES', 'IDENTITY_STATUS',
)
_OTHERS = (
    'HTTP_X_SERVICE_CATALOG', 'HTTP_X_IS_ADMIN_PROJECT', 'HTTP_OPENSTACK_SYSTEM_SCOPE',
    'HTTP_X_ROLE', 'HTTP_X_USER', 'HTTP_X_TENANT', 'HTTP_X_TENANT_ID', 'HTTP_X_TENANT_NAME',
)
_CLIENT_MAY_NOT_SEND = (*(f'HTTP_X{scope}_{name}' for scope in _SCOPES for name in _NAMES), *_OTHERS)


def token(user: str, project: str, *roles: str) -> str:
    """Return the token of this user in this project; without roles given: member and reader.

    Keystone's implied roles are spelled out here as Keystone does it: who is admin is member and
    reader too.
    """
    return f'{user}:{project}:{",".join(roles or ("member", "reader"))}'


def admin_token(user: str = 'admin', project: str = 'admin-project') -> str:
    """Return a token of an administrator."""
    return token(user, project, 'admin', 'member', 'reader')


def reader_token(user: str, project: str) -> str:
    """Return a token of one who may look at the project's images and change nothing."""
    return token(user, project, 'reader')


class Identity:
    """The filter itself."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for name in _CLIENT_MAY_NOT_SEND:
            environ.pop(name, None)
        environ.update(_identity(environ.get('HTTP_X_AUTH_TOKEN') or environ.get('HTTP_X_STORAGE_TOKEN')))
        return self._application(environ, start_response)


def _identity(given: str | None) -> dict[str, Any]:
    """Return what auth_token puts into the environ for this token."""
    # glanceclient escapes what is no letter, digit or one of "_.-~/".
    parts = unquote(given or '').split(':')
    if len(parts) != 3 or not parts[0]:
        return {'HTTP_X_IDENTITY_STATUS': 'Invalid'}
    user, project, roles = parts
    return {
        # What the real one leaves here says more; that it is here says that the headers are its own.
        'keystone.token_auth': object(),
        'HTTP_X_IDENTITY_STATUS': 'Confirmed',
        'HTTP_X_USER_ID': user,
        'HTTP_X_USER_NAME': user,
        'HTTP_X_USER': user,
        'HTTP_X_USER_DOMAIN_ID': 'default',
        'HTTP_X_USER_DOMAIN_NAME': 'Default',
        'HTTP_X_PROJECT_ID': project,
        'HTTP_X_PROJECT_NAME': project,
        'HTTP_X_TENANT_ID': project,
        'HTTP_X_TENANT_NAME': project,
        'HTTP_X_TENANT': project,
        'HTTP_X_PROJECT_DOMAIN_ID': 'default',
        'HTTP_X_PROJECT_DOMAIN_NAME': 'Default',
        'HTTP_X_ROLES': roles,
        'HTTP_X_ROLE': roles,
        'HTTP_X_IS_ADMIN_PROJECT': 'True',
        'HTTP_X_DOMAIN_ID': None,
        'HTTP_X_DOMAIN_NAME': None,
        'HTTP_OPENSTACK_SYSTEM_SCOPE': None,
    }


def filter_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[[WSGIApplication], Identity]:
    """Make the filter for a paste section; it has no options, those of auth_token are let pass."""
    return Identity


def factory_with_session(global_conf: dict[str, str], **local_conf: str) -> Callable[[WSGIApplication], Identity]:
    """The same on hosts that hand requests on to each other: auth_token's options are there, as Glance wants it.

    Glance sends such a request with the caller's own token, and asks for Keystone's address before
    (``glance/context.py``, ``get_ksa_client``).
    """
    # As auth_token does it when it loads its plugin (keystonemiddleware/auth_token/__init__.py, _create_auth_plugin).
    from keystoneauth1 import loading
    from oslo_config import cfg

    options = loading.get_auth_plugin_conf_options('password')
    cfg.CONF.register_opts(options, group='keystone_authtoken')
    return Identity
