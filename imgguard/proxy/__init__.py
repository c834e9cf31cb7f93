"""A streaming reverse proxy as a WSGI application, which knows nothing of the guard.

Needs the extra ``proxy`` (httpcore).
"""

from imgguard.proxy.application import Proxy

__all__ = ('Proxy',)
