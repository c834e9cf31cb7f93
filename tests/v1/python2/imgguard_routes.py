"""Tells what Glance 15.0.2 takes requests for: version negotiation, paste's URL map and the routes of v1.

Reads one environ in JSON a line, and answers each with one line: controller, action and id, or null.
"""

import json
import sys

from glance.api.middleware.version_negotiation import VersionNegotiationFilter
from glance.api.v1.router import API
from glance.common import config  # noqa: F401, the options of Glance
from glance.common.wsgi import APIMapper, JSONRequestDeserializer, Request
from paste.urlmap import URLMap
from routes.middleware import RoutesMiddleware


class Stand(object):
    """Stands where the application would."""

    def __init__(self):
        self.found = None
        urls = URLMap(not_found_app=_answer)
        urls['/v1'] = RoutesMiddleware(self._dispatch, API(APIMapper()).map)
        self._application = VersionNegotiationFilter(urls)

    def look(self, environ):
        """What the request is, as [controller, action, id, has a body]."""
        self.found = None
        self._application(environ, lambda *_: None)
        return self.found

    def _dispatch(self, environ, start_response):
        match = environ['wsgiorg.routing_args'][1]
        if match:
            self.found = [type(match['controller'].controller).__name__, match['action'], match.get('id'),
                          bool(JSONRequestDeserializer().has_body(Request(environ)))]
        return _answer(environ, start_response)


def _answer(environ, start_response):
    start_response('200 OK', [])
    return []


def main():
    """Answer until there is nothing more to read."""
    from oslo_config import cfg
    cfg.CONF([], project='glance', default_config_files=[])
    cfg.CONF.set_override('enable_v1_api', True)
    stand = Stand()
    for line in iter(sys.stdin.readline, ''):
        environ = dict((str(name), value.encode('latin-1')) for name, value in json.loads(line).items())
        environ['wsgi.input'] = sys.stdin
        try:
            found = stand.look(environ)
        except UnicodeError:
            found = 'UnicodeError'
        sys.stdout.write(json.dumps(found) + '\n')
        sys.stdout.flush()


if __name__ == '__main__':
    main()
