"""The smallest client of the Images API: one request on one connection, and uploads that are cut on purpose."""

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from demo.server import HOST

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; names of headers are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode('utf-8', 'replace')

    @property
    def json(self) -> Any:
        """The body as JSON.

        :raises ValueError: it is not JSON
        """
        return json.loads(self.body)


class Client:
    """A caller of the server on ``port`` of this machine, who sends ``headers`` with each request."""

    def __init__(self, port: int, headers: Mapping[str, str] | None = None) -> None:
        self.port = port
        self.headers = dict(headers or {})

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and return its answer; a body that is no ``bytes`` is sent in chunks.

        :raises OSError: the connection broke or was silent for too long
        :raises http.client.HTTPException: the answer is no HTTP, or there is none
        """
        connection = http.client.HTTPConnection(HOST, self.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, response.reason, received, content)

    def create(self, headers: Mapping[str, str] | None = None, **fields: object) -> Answer:
        """Create a raw, bare image with these fields."""
        document = {'disk_format': 'raw', 'container_format': 'bare', **fields}
        content = {'Content-Type': 'application/json', **(headers or {})}
        return self.request('POST', '/v2/images', json.dumps(document).encode(), content)

    def show(self, image_id: str) -> Answer:
        """Ask for the image."""
        return self.request('GET', f'/v2/images/{image_id}')

    def upload(self, image_id: str, data: bytes | Iterable[bytes], headers: Mapping[str, str] | None = None) -> Answer:
        """Upload the whole of the data."""
        content = {'Content-Type': 'application/octet-stream', **(headers or {})}
        return self.request('PUT', f'/v2/images/{image_id}/file', data, content)

    def cut_upload(
        self, image_id: str, data: bytes, size: int | None, headers: Mapping[str, str] | None = None,
    ) -> None:
        """Announce ``size`` bytes (``None``: chunks), send ``data`` only, and hang up without reading an answer."""
        length = {'Transfer-Encoding': 'chunked'} if size is None else {'Content-Length': str(size)}
        content = {'Content-Type': 'application/octet-stream', **length, **self.headers, **(headers or {})}
        lines = [f'PUT /v2/images/{image_id}/file HTTP/1.1', f'Host: {HOST}:{self.port}']
        lines += [f'{name}: {value}' for name, value in content.items()]
        head = '\r\n'.join([*lines, '', '']).encode('latin-1')
        body = data if size is not None else b'%x\r\n%s\r\n' % (len(data), data)
        with socket.create_connection((HOST, self.port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(head + body)
