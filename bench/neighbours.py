"""Filters that stand before many a Glance today, as a measure of what operators accept."""

from collections.abc import Callable, Iterator
from typing import Any, Final

# Roughly what a cloud of some size has; auth_token parses the catalog with every request.
_SERVICES: Final = 15


def all_of_them() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Names, and what puts the filter before an application."""
    from oslo_middleware import cors, http_proxy_to_wsgi, request_id

    yield 'a filter of one line', lambda application: lambda environ, start_response: application(
        environ, start_response)
    yield 'oslo.middleware request_id', request_id.RequestId.factory({})
    # As Glance's paste file has it.
    yield 'oslo.middleware cors', cors.CORS.factory({}, oslo_config_project='glance', oslo_config_program='glance-api')
    yield 'oslo.middleware http_proxy_to_wsgi', http_proxy_to_wsgi.HTTPProxyToWSGI.factory({})
    yield 'keystonemiddleware auth_token', _auth_token


def _auth_token(application: Any) -> Any:
    """auth_token with its own cache in this process, which is warm after the first request."""
    from keystonemiddleware import auth_token

    class Known(auth_token.AuthProtocol):  # type: ignore[misc]
        def _create_identity_server(self) -> Any:
            return _Keystone()

    return Known(application, {'www_authenticate_uri': 'http://localhost', 'service_token_roles_required': 'true',
                               'delay_auth_decision': 'true', 'log_name': 'bench.auth_token'})


class _Keystone:
    """Knows every token."""

    def verify_token(self, token: str, allow_expired: bool = False) -> Any:
        """The document of a token, as Keystone answers it."""
        domain = {'id': 'default', 'name': 'Default'}
        return {'token': {
            'methods': ['password'], 'audit_ids': ['audit'], 'user': {'id': 'alice', 'name': 'alice', 'domain': domain},
            'issued_at': '2026-01-01T00:00:00.000000Z', 'expires_at': '2099-01-01T00:00:00.000000Z',
            'project': {'id': 'project', 'name': 'project', 'domain': domain},
            'roles': [{'id': name, 'name': name} for name in ('member', 'reader')],
            'catalog': [{'id': f'service-{number}', 'type': f'type-{number}', 'name': f'service {number}',
                         'endpoints': [{'id': f'{interface}-{number}', 'interface': interface, 'region': 'region',
                                        'region_id': 'region', 'url': f'http://localhost:{9000 + number}'}
                                       for interface in ('public', 'internal', 'admin')]}
                        for number in range(_SERVICES)]}}
