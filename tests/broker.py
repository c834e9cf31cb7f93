"""RabbitMQ as tests use it: topics of their own, their queues consumed; and a way to it that can be closed.

``IMGGUARD_TEST_RABBITMQ`` is the transport URL of an account that may make queues.
``IMGGUARD_REQUIRE=rabbitmq`` makes a broker that cannot be reached an error instead of a skip.
"""

import contextlib
import importlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from tests.harness import skip_or_fail
from tests.sources import unused_port

# Typed in part only.
kombu: Any = importlib.import_module('kombu')

URL: Final = os.environ.get('IMGGUARD_TEST_RABBITMQ', 'rabbit://guest:guest@127.0.0.1:5672/')
WAIT_SECONDS: Final = 60.0
# Notifications of a priority go to a queue of its name (oslo_messaging/notify/messaging.py).
QUEUES: Final = ('error', 'info')


@dataclass(frozen=True)
class Heard:
    """A message, and the queue it was in."""

    queue: str
    message: dict[str, Any]

    @property
    def payload(self) -> dict[str, Any]:
        """What the message tells."""
        told: dict[str, Any] = self.message['payload']
        return told

    @property
    def brief(self) -> tuple[str, int, str]:
        """Event, attempt and code."""
        return self.message['event_type'], self.payload['attempt'], self.payload['code']


def configuration(topic: str, connection: str, url: str = URL, more: str = '') -> str:
    """An oslo.config file for a guard whose events go to a topic.

    :param connection: of the guard's store
    :param more: further lines of its group [imgguard], or groups
    """
    return (f'[DEFAULT]\ncontrol_exchange = {topic}\ntransport_url = {url}\n'
            f'[oslo_messaging_notifications]\ndriver = messagingv2\ntopics = {topic}\n'
            f'[imgguard]\nconnection = {connection}\n{more}\n')


class Listener:
    """Consumes the notifications of one topic, of one that nobody else knows unless it is named.

    :param durable: whether its queues outlive a restart of the broker
    """

    def __init__(self, connection: Any, topic: str | None = None, durable: bool = False) -> None:
        self.topic: Final = topic or f'imgguard_test_{uuid4().hex}'
        self._channel = connection.channel()
        self._exchange = kombu.Exchange(self.topic, type='topic', durable=durable)
        self._queues = {queue: kombu.Queue(f'{self.topic}.{queue}', self._exchange, f'{self.topic}.{queue}',
                                           channel=self._channel, durable=durable) for queue in QUEUES}
        for queue in self._queues.values():
            queue.declare()

    def configure(self, path: Path, connection: str, url: str = URL, more: str = '') -> str:
        """Write a :func:`configuration` for this topic, and return its path."""
        path.write_text(configuration(self.topic, connection, url, more))
        return str(path)

    def heard(self) -> list[Heard]:
        """What has come since the last call, queue by queue."""
        found = []
        for name, queue in self._queues.items():
            while (message := queue.get(no_ack=True)) is not None:
                assert message.payload['oslo.version'] == '2.0'
                found.append(Heard(name, json.loads(message.payload['oslo.message'])))
        return found

    def wait_for(self, count: int) -> list[Heard]:
        """Wait until so many messages have come; in the order of what they tell."""
        found: list[Heard] = []
        deadline = time.monotonic() + WAIT_SECONDS
        while len(found) < count:
            assert time.monotonic() < deadline, f'{len(found)} of {count} messages: {found}'
            time.sleep(0.05)
            found += self.heard()
        return sorted(found, key=lambda each: (each.message['timestamp'], each.payload['attempt']))

    def close(self) -> None:
        """Take everything of this topic out of the broker."""
        for queue in self._queues.values():
            queue.delete()
        self._exchange(self._channel).delete()
        self._channel.close()


@contextmanager
def listening() -> Iterator[Listener]:
    """A topic nobody else knows, within the block."""
    with kombu.Connection(URL.replace('rabbit://', 'amqp://', 1), connect_timeout=5) as connection:
        try:
            connection.connect()
        except OSError as error:
            skip_or_fail('rabbitmq', f'no broker at {urlsplit(URL).hostname}: {error}')
        listener = Listener(connection)
        try:
            yield listener
        finally:
            listener.close()


class Way:
    """A port of this machine that leads to the broker while it is open; as long as it is not, nobody answers there."""

    def __init__(self) -> None:
        self.port: Final = unused_port()
        parts = urlsplit(URL)
        self._broker = (parts.hostname or '127.0.0.1', parts.port or 5672)
        account = parts.netloc.rpartition('@')[0]
        self.url: Final = f'rabbit://{account}@127.0.0.1:{self.port}{parts.path}'
        self._listening: socket.socket | None = None
        #: Once these bytes went to the broker, nothing comes back from it any more.
        self.deaf_after: bytes | None = None
        self._deaf = False

    def open(self) -> None:
        """Let everybody through from now on."""
        self._listening = socket.create_server(('127.0.0.1', self.port))
        threading.Thread(target=self._serve, args=(self._listening,), daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more; who is in stays until he leaves."""
        if self._listening is not None:
            # Closing alone does not wake up who accepts.
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        self._listening = None

    def _serve(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listening.accept()
                broker = socket.create_connection(self._broker)
                for here, there in ((caller, broker), (broker, caller)):
                    threading.Thread(target=self._pass_on, args=(here, there), daemon=True).start()

    def _pass_on(self, here: socket.socket, there: socket.socket) -> None:
        with here, contextlib.suppress(OSError):
            while (block := here.recv(65536)) and not self._deaf:
                self._deaf = self.deaf_after is not None and self.deaf_after in block
                there.sendall(block)
            if not self._deaf:
                there.shutdown(socket.SHUT_WR)
