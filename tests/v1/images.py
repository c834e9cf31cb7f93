"""A caller of the v1 API over sockets."""

from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import uuid4

from demo.client import Answer, Client
from tests.identity import token
from tests.sockets import Exchange
from tests.uploading import new_project

OCTETS: Final = {'Content-Type': 'application/octet-stream'}
FORMATS: Final = {'x-image-meta-disk_format': 'raw', 'x-image-meta-container_format': 'bare'}
#: Without it a PUT that brings no data removes all properties that it does not name.
KEEP_PROPERTIES: Final = {'x-glance-registry-purge-props': 'false'}


class V1Images:
    """A caller of a Glance with the v1 API, or of what is in front of it; without one given, of a new project."""

    def __init__(self, port: int, caller: str | None = None) -> None:
        self.port = port
        self.caller = caller or token('alice', new_project())
        self.client = Client(port, {'X-Auth-Token': self.caller})

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None,
                body: bytes | Iterable[bytes] | None = None) -> Answer:
        """Send a request."""
        return self.client.request(method, path, body, headers)

    def create(self, body: bytes | Iterable[bytes] | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Create an image that data can be uploaded to, or create and upload."""
        named = {'x-image-meta-name': f'image-{uuid4().hex[:8]}'}
        octets = {} if body is None else OCTETS
        return self.request('POST', '/v1/images', {**named, **FORMATS, **octets, **(headers or {})}, body)

    def created(self, headers: Mapping[str, str] | None = None) -> str:
        """Create an image without data and return its id."""
        answer = self.create(headers=headers)
        assert answer.status == 201, answer.text
        return str(answer.json['image']['id'])

    def upload(self, image_id: str, body: bytes | Iterable[bytes], headers: Mapping[str, str] | None = None) -> Answer:
        """Upload data."""
        return self.request('PUT', f'/v1/images/{image_id}', {**OCTETS, **(headers or {})}, body)

    def uploading(self, image_id: str, arrived: bytes = b'x' * 300, announced: int | None = 1000,
                  headers: Mapping[str, str] | None = None) -> Exchange:
        """Begin an upload that has more to come; chunked where nothing is announced."""
        length = {'Transfer-Encoding': 'chunked'} if announced is None else {'Content-Length': str(announced)}
        exchange = Exchange(self.port)
        exchange.head('PUT', f'/v1/images/{image_id}',
                      {'X-Auth-Token': self.caller, **OCTETS, **length, **(headers or {})})
        return exchange.chunk(arrived) if announced is None else exchange.send(arrived)

    def head(self, image_id: str) -> Mapping[str, str]:
        """What HEAD tells of the image, by the names of the fields; properties are named ``property-...``."""
        answer = self.request('HEAD', f'/v1/images/{image_id}')
        assert answer.status == 200, answer
        prefix = 'x-image-meta-'
        return {name.removeprefix(prefix): value for name, value in answer.headers.items() if name.startswith(prefix)}

    def status(self, image_id: str) -> str:
        """The status that HEAD tells."""
        return self.head(image_id)['status']

    def listed(self, query: str = '', detail: bool = False) -> list[str]:
        """The ids of one page."""
        answer = self.request('GET', f'/v1/images{"/detail" if detail else ""}?{query}')
        return [image['id'] for image in answer.json['images']]

    def show(self, image_id: str) -> dict[str, Any]:
        """The image as v2 shows it."""
        image: dict[str, Any] = self.request('GET', f'/v2/images/{image_id}').json
        return image
