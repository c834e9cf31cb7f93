"""A streaming reverse proxy as a WSGI application, which knows nothing of the guard.

It is put together as ``Edge(guard(Proxy(...)))``: :class:`Edge` sets right what must be right before anybody looks at
a request. Needs the extra ``proxy`` (httpcore).
"""

from imgguard.proxy.application import Proxy
from imgguard.proxy.edge import Edge

__all__ = ('Edge', 'Proxy')
