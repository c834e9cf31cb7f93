"""What clients do, at random: each has one image after the other, and does some things to it on random hosts."""

import contextlib
import hashlib
import http.client
import json
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from chaos.ledger import Event, Ledger, Payload
from chaos.source import BAD, GOOD, Source
from demo.client import Answer, Client
from tests.identity import token
from tests.sockets import Exchange, chunked
from tests.uploading import ERROR, KEEP, KEPT

CALLER = token('alice', 'red')
HEADERS = {'X-Auth-Token': CALLER}
OCTETS = {'Content-Type': 'application/octet-stream'}
JSON = {'Content-Type': 'application/json'}
PATCH = {'Content-Type': 'application/openstack-images-v2.1-json-patch'}
DONT_KEEP = {'X-OpenStack-Image-Keep-On-Failure': 'false'}
#: What uWSGI's router says for a worker that is gone: no answer of Glance's.
NO_ANSWER = frozenset({502, 503, 504})
MOST_BYTES = 200_000
_MOST_ACTIONS = 6
_LONGEST_SECONDS = 14.0
_PIECES = 6


@dataclass(frozen=True, slots=True)
class Manner:
    """How data is sent.

    :param in_chunks: else with a Content-Length
    :param announced: ``size`` or ``digest``, ``wrong size`` or ``wrong digest``, or nothing
    :param end: ``whole``; ``cut`` or ``reset`` before all is sent; ``deaf``: all is sent, the answer not waited for
    :param seconds: that it takes
    """

    in_chunks: bool = False
    announced: str = 'size'
    end: str = 'whole'
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether all is sent as it was announced."""
        return self.end in ('whole', 'deaf') and not self.announced.startswith('wrong')


def any_manner(random: Random) -> Manner:
    """One of all, most of them good."""
    return Manner(
        in_chunks=random.random() < 0.5,
        announced=random.choices(('', 'size', 'digest', 'wrong size', 'wrong digest'), (4, 3, 3, 2, 2))[0],
        end=random.choices(('whole', 'cut', 'reset', 'deaf'), (6, 3, 1, 1))[0],
        seconds=random.choices((0, random.uniform(0, 3), random.uniform(3, _LONGEST_SECONDS)), (5, 3, 1))[0])


class Player:
    """One client.

    :param ports: of the hosts
    """

    def __init__(self, ports: list[int], source: Source, ledger: Ledger, random: Random) -> None:
        self._ports = ports
        self._source = source
        self._ledger = ledger
        self._random = random

    def play(self, stop: threading.Event) -> None:
        """Go on until told to stop."""
        while not stop.is_set():
            image_id = self.create()
            if image_id is None:
                stop.wait(0.5)
                continue
            for action in self._random.choices(*zip(*_ACTIONS, strict=True), k=self._random.randint(1, _MOST_ACTIONS)):
                if stop.is_set():
                    return
                action(self, image_id)
                self.look(image_id)

    def create(self) -> str | None:
        """A new image that is to be kept, if there is an answer."""
        document = {'disk_format': 'raw', 'container_format': 'bare'}
        sent = time.monotonic()
        answer = self._ask('POST', '/v2/images', json.dumps(document).encode(), {**JSON, **KEEP})
        if answer is None or answer.status != 201:
            return None
        image_id = str(answer.json['id'])
        self._note(image_id, 'create', sent, answer)
        return image_id

    def upload(self, image_id: str, manner: Manner | None = None) -> Event:
        """Send data."""
        return self._send(image_id, 'file', 'upload', manner or any_manner(self._random))

    def stage(self, image_id: str) -> Event:
        """Send data into staging."""
        return self._send(image_id, 'stage', 'stage', any_manner(self._random))

    def stage_and_import(self, image_id: str) -> None:
        """The same, and import it if that worked, or may have."""
        event = self.stage(image_id)
        if event.status in (None, 204):
            self.import_staged(image_id)

    def import_staged(self, image_id: str) -> Event:
        """Import what is staged, or nothing."""
        return self._import(image_id, 'glance-direct', {'name': 'glance-direct'}, None)

    def download(self, image_id: str) -> Event:
        """Let Glance fetch data from a source."""
        behaviour = self._random.choice((*GOOD, *BAD))
        payload = Payload(self._data(), behaviour in GOOD)
        address = self._source.offer(f'{image_id}-{payload.checksum}', payload.data, behaviour,
                                     self._random.uniform(0, 5))
        return self._import(image_id, 'web-download', {'name': 'web-download', 'uri': address}, payload)

    def rival(self, image_id: str) -> None:
        """Two clients upload at the same time."""
        other = Player(self._ports, self._source, self._ledger, Random(self._random.random()))
        thread = threading.Thread(target=other.upload, args=(image_id,))
        thread.start()
        self.upload(image_id)
        thread.join()

    def insist(self, image_id: str) -> None:
        """A slow upload, and others of a client that does not wait for its end: its host may have stopped."""
        other = Player(self._ports, self._source, self._ledger, Random(self._random.random()))
        slow = Manner(seconds=self._random.uniform(3, _LONGEST_SECONDS))
        thread = threading.Thread(target=other.upload, args=(image_id, slow))
        thread.start()
        for _ in range(_MOST_ACTIONS):
            time.sleep(self._random.uniform(0.5, 3))
            if self.upload(image_id, Manner(seconds=self._random.uniform(0, 5))).status == 204:
                break
        thread.join()

    def delete(self, image_id: str) -> None:
        """Delete the image: as a clean-up, or as it is meant."""
        headers = self._random.choice(({}, {}, KEEP, DONT_KEEP))
        sent = time.monotonic()
        self._note(image_id, 'delete', sent, self._ask('DELETE', f'/v2/images/{image_id}', None, headers))

    def declare(self, image_id: str) -> None:
        """Say that the image will never come."""
        self._patch(image_id, 'declare', 'error')

    def reset(self, image_id: str) -> Event:
        """Say that it may come all the same."""
        return self._patch(image_id, 'reset', 'queued')

    def wait(self, image_id: str) -> None:
        """Do nothing for a while."""
        time.sleep(self._random.uniform(0, 4))

    def look(self, image_id: str) -> Event:
        """Show the image, and see whether the list of those in error tells the same."""
        sent = time.monotonic()
        answer = self._ask('GET', f'/v2/images/{image_id}')
        shown = answer.json if answer is not None and answer.status == 200 else None
        listed = None
        if shown is not None and self._random.random() < 0.5:
            found = self.in_error()
            again = self._ask('GET', f'/v2/images/{image_id}')
            if found is not None and again is not None and again.status == 200 and _same(again.json, shown):
                listed = image_id in found
        return self._note(image_id, 'look', sent, answer, shown=shown, listed=listed)

    def in_error(self) -> set[str] | None:
        """The images that the list of those in error has; ``None`` if it could not be read to its end."""
        found: set[str] = set()
        path: str | None = '/v2/images?status=error&limit=500'
        while path is not None:
            answer = self._ask('GET', path)
            if answer is None or answer.status != 200:
                return None
            found.update(image['id'] for image in answer.json['images'])
            path = answer.json.get('next')
        return found

    def _patch(self, image_id: str, action: str, status: str) -> Event:
        document = json.dumps([{'op': 'replace', 'path': '/status', 'value': status}]).encode()
        sent = time.monotonic()
        return self._note(image_id, action, sent, self._ask('PATCH', f'/v2/images/{image_id}', document, PATCH))

    def _import(self, image_id: str, action: str, method: Mapping[str, str], payload: Payload | None) -> Event:
        sent = time.monotonic()
        answer = self._ask('POST', f'/v2/images/{image_id}/import', json.dumps({'method': method}).encode(), JSON)
        return self._note(image_id, action, sent, answer, payload)

    def _send(self, image_id: str, what: str, action: str, manner: Manner) -> Event:
        payload = Payload(self._data(), manner.whole)
        sent, answer = time.monotonic(), None
        with contextlib.suppress(OSError, http.client.HTTPException):
            with Exchange(self._random.choice(self._ports)) as exchange:
                exchange.head('PUT', f'/v2/images/{image_id}/{what}', {
                    **HEADERS, **OCTETS, **_framing(payload.data, manner)})
                # What is not taken any more may have been answered.
                with contextlib.suppress(OSError):
                    self._body(exchange, payload.data, manner)
                if manner.end == 'reset':
                    exchange.reset()
                elif manner.end != 'deaf':
                    answer = exchange.answer()
        return self._note(image_id, action, sent, answer, payload)

    def _body(self, exchange: Exchange, data: bytes, manner: Manner) -> None:
        size = len(data) // _PIECES + 1
        rest = data if manner.end in ('whole', 'deaf') else data[:self._random.randrange(len(data))]
        while rest:
            piece, rest = rest[:size], rest[size:]
            exchange.send(chunked(piece) if manner.in_chunks else piece)
            time.sleep(manner.seconds / _PIECES)
        if manner.end in ('whole', 'deaf'):
            exchange.send(chunked(b'') if manner.in_chunks else b'')
        elif manner.end == 'cut':
            exchange.half_close()

    def _data(self) -> bytes:
        return self._random.randbytes(self._random.randrange(1, MOST_BYTES))

    def _ask(self, method: str, path: str, body: bytes | None = None,
             headers: Mapping[str, str] | None = None) -> Answer | None:
        try:
            answer = Client(self._random.choice(self._ports), HEADERS).request(method, path, body, headers)
        except (OSError, http.client.HTTPException):
            return None
        return None if answer.status in NO_ANSWER else answer

    def _note(self, image_id: str, action: str, sent: float, answer: Answer | None, payload: Payload | None = None,
              shown: Mapping[str, Any] | None = None, listed: bool | None = None) -> Event:
        event = Event(image_id, action, sent, time.monotonic(), None, None, payload, shown, listed)
        if answer is not None and answer.status not in NO_ANSWER:
            text = '' if answer.status < 400 else ' '.join(answer.text.split())[-160:]
            event = replace(event, status=answer.status, kept=answer.headers.get(KEPT.lower()), text=text)
        self._ledger.add(event)
        return event


def _framing(data: bytes, manner: Manner) -> dict[str, str]:
    headers = {'Transfer-Encoding': 'chunked'} if manner.in_chunks else {'Content-Length': str(len(data))}
    wrong = manner.announced.startswith('wrong')
    if manner.announced.endswith('size'):
        headers['X-OpenStack-Image-Size'] = str(len(data) + wrong)
    elif manner.announced.endswith('digest'):
        digest = hashlib.sha256(data + b'another' * wrong).digest()
        headers['Content-Digest'] = f'sha-256=:{b64encode(digest).decode()}:'
    return headers


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ('status', f'{ERROR}_at', 'updated_at'))


_ACTIONS: tuple[tuple[Callable[[Player, str], object], int], ...] = (
    (Player.upload, 10), (Player.stage, 2), (Player.stage_and_import, 4), (Player.import_staged, 1),
    (Player.download, 4), (Player.rival, 2), (Player.insist, 2), (Player.delete, 3), (Player.declare, 1),
    (Player.reset, 1), (Player.wait, 3))
