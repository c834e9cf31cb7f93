"""The stand-in for auth_token of :mod:`tests.identity`, for a Glance on Python 2.7.

The same tokens (``user:project:role1,role2``) mean the same caller; identity headers that a client sent are removed.
"""

from webob.request import BaseRequest

_HEADERS = ('X-Identity-Status', 'X-User-Id', 'X-User-Name', 'X-User', 'X-Project-Id', 'X-Project-Name', 'X-Tenant-Id',
            'X-Tenant-Name', 'X-Tenant', 'X-Roles', 'X-Role', 'X-Service-Catalog')


class Identity(object):
    """The filter itself."""

    def __init__(self, application):
        self._application = application

    def __call__(self, environ, start_response):
        headers = BaseRequest(environ).headers
        # glanceclient escapes what is no letter, digit or one of "_.-~/".
        given = headers.get('X-Auth-Token', '').replace('%3A', ':').replace('%2C', ',').split(':')
        for name in _HEADERS:
            headers.pop(name, None)
        if len(given) == 3 and given[0]:
            user, project, roles = given
            headers.update({'X-Identity-Status': 'Confirmed', 'X-User-Id': user, 'X-User-Name': user,
                            'X-Project-Id': project, 'X-Tenant-Id': project, 'X-Tenant': project, 'X-Roles': roles})
        else:
            headers['X-Identity-Status'] = 'Invalid'
        return self._application(environ, start_response)


def filter_factory(global_conf, **local_conf):
    """Make the filter for a paste section."""
    return Identity
