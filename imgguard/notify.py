"""Tells others through oslo.messaging: ``image.error``, ``image.error.cleared`` and ``image.give_up``.

What is told waits in the store (:mod:`imgguard.store.outbox`) and is published by a thread of each worker and
by the sweep, never by a request. What cannot be published goes on waiting; an event may be published twice when a
publisher dies, with the same ``message_id``.
"""

import importlib
import logging
import os
import secrets
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

from imgguard import codes
from imgguard.api import v2
from imgguard.attempts import Event, Happening
from imgguard.border import Border
from imgguard.errors import ConfigurationError, StoreUnavailable
from imgguard.settings import NOTIFICATIONS, BadFile, configuration, mask_password
from imgguard.store.outbox import Outbox, Waiting
from imgguard.text import one_line
from imgguard.workers import HOST

LOG: Final = logging.getLogger(__name__)

POLL_SECONDS: Final = 15.0
"""How often a worker looks for what others left behind; what happens in itself it publishes at once."""

_AT_ONCE: Final = 50
# A run of more gives the claims back in between: they last for CLAIM_SECONDS.
_RUN_SECONDS: Final = 30.0
# How long a broker may keep one message waiting, unless the operator has set this option himself.
_ANSWER_SECONDS: Final = 15
_NAMESPACE: Final = uuid.UUID('6d3a2b0f-5d0b-4f0e-9a5e-2c1d5b7c4e10')
_DRIVERS: Final = 'oslo.messaging.notify.drivers'
_RABBIT_LOGGER: Final = 'oslo.messaging._drivers.impl_rabbit'


def event_id(event: Event) -> str:
    """The id of an event, the same however often it is published, so that who listens can drop repeats."""
    name = (event.image_id, event.created_at, str(event.number), event.happening.value, event.code, f'{event.at:.6f}')
    return str(uuid.uuid5(_NAMESPACE, '\n'.join(name)))


def message(event: Event) -> dict[str, Any]:
    """The notification of an event, in the format of oslo.messaging (oslo_messaging/notify/notifier.py).

    The image has the keys it has in Glance's own notifications (glance/notifier.py), so far as they are known
    without asking Glance; there are no locations, tokens or paths in it.
    """
    code = codes.CODES.get(event.code)
    cleared = event.happening is Happening.CLEARED
    payload = {
        'event_id': event_id(event), 'id': event.image_id, 'created_at': event.created_at, 'owner': event.owner,
        # What the image is instead, Glance knows.
        **({} if cleared else {'status': 'error'}),
        'code': event.code, 'text': event.text, 'retryable': None if code is None else code.retryable,
        'attempt': event.number, 'kind': event.kind.value, 'request_id': event.request_id,
        'bytes_received': event.bytes_received, 'at': v2.timestamp(event.at)}
    return {'message_id': payload['event_id'], 'publisher_id': f'image.{HOST}', 'event_type': event.happening.value,
            'priority': 'INFO' if cleared else 'ERROR', 'payload': payload,
            'timestamp': str(datetime.fromtimestamp(event.at, UTC).replace(tzinfo=None))}


class Driver(Protocol):
    """A driver of oslo.messaging (oslo_messaging/notify/notifier.py, ``Driver``)."""

    def notify(self, ctxt: Mapping[str, object], msg: Mapping[str, object], priority: str, retry: int) -> None:
        """Send one notification."""


class Publisher:
    """Publishes what waits in the outbox of a store.

    :param file: the oslo.config file that sets notifications up
    :raises ConfigurationError: oslo.messaging is not installed, or cannot make anything of the file
    """

    def __init__(self, outbox: Outbox, file: str) -> None:
        self._outbox: Final = outbox
        self._configuration: Final = configuration(file)
        self._messaging: Final = _oslo_messaging(file)
        self._troubled = False
        self._dropping = False
        #: How many events were dropped because too many waited.
        self.dropped = 0
        where = f'group [{NOTIFICATIONS}] of {file}'
        try:
            with self._connection():
                pass
        except BadFile as error:
            raise ConfigurationError(f'imgguard: a value in {where} cannot be used ({type(error).__name__}); a $ that '
                                     'is meant as such is written $$') from None
        except LookupError as error:
            raise ConfigurationError(f"imgguard: option 'driver' in {where}: {error}") from None
        except (self._messaging.MessagingException, ValueError) as error:
            # Its text may hold the URL with its password.
            raise ConfigurationError(f'imgguard: oslo.messaging cannot use transport_url in {where}: '
                                     f'{type(error).__name__}') from None

    def publish(self) -> int:
        """Publish what waits, until nothing does, or half a minute long; trouble is logged when it begins and ends.

        :returns: how many events were published
        :raises StoreUnavailable: the store cannot be read or written
        """
        self._drop()
        by = f'{HOST}:{os.getpid()}:{secrets.token_hex(4)}'
        until = time.monotonic() + _RUN_SECONDS
        published = 0
        while time.monotonic() < until and (waiting := self._outbox.claim(by, _AT_ONCE)):
            sent, trouble = self._sent(waiting, until)
            self._outbox.end(by, sent, [each.key for each in waiting if each.key not in sent])
            published += len(sent)
            self._tell(trouble)
            if trouble is not None:
                break
        return published

    def try_to_publish(self) -> None:
        """As :meth:`publish`, where nothing may be raised."""
        # The heartbeat tells an outage of the store as an error, once.
        with Border(LOG, 'no events are published now', StoreUnavailable, level=logging.DEBUG):
            self.publish()

    def _sent(self, waiting: Sequence[Waiting], until: float) -> tuple[list[int], Exception | None]:
        """The keys of what was published, in order, and what kept the rest from it."""
        sent: list[int] = []
        try:
            with _quiet(), self._connection() as send:
                for each in waiting:
                    if time.monotonic() >= until:
                        break
                    send(message(each.event))
                    sent.append(each.key)
        except Exception as error:
            # Whatever the broker, the drivers and their libraries raise.
            return sent, error
        return sent, None

    @contextmanager
    def _connection(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Gives what sends a message; it is connected at the first one, and no longer than the block lasts.

        :raises LookupError: there is no such driver
        """
        transport = self._messaging.get_notification_transport(self._configuration)
        try:
            if 'oslo_messaging_rabbit' in self._configuration:
                self._configuration.set_default('heartbeat_timeout_threshold', _ANSWER_SECONDS, 'oslo_messaging_rabbit')
            hosts = self._messaging.TransportURL.parse(
                self._configuration, self._configuration[NOTIFICATIONS].transport_url).hosts
            outcome = _Outcome(transport)
            drivers = self._drivers(outcome)

            def send(sent: dict[str, Any]) -> None:
                for driver in drivers:
                    # Each host of the broker once.
                    driver.notify({}, sent, sent['priority'], max(0, len(hosts) - 1))
                    if outcome.error is not None:
                        raise outcome.error

            yield send
        finally:
            transport.cleanup()

    def _drivers(self, transport: object) -> list[Driver]:
        options = self._configuration[NOTIFICATIONS]
        known = {each.name: each for each in entry_points(group=_DRIVERS)}
        unknown = [name for name in options.driver if name not in known]
        if unknown:
            raise LookupError(f'{unknown[0]!r} is not allowed; known are: {", ".join(sorted(known))}')
        return [known[name].load()(self._configuration, topics=options.topics, transport=transport)
                for name in options.driver]

    def _drop(self) -> None:
        dropped = self._outbox.trim()
        self.dropped += dropped
        if dropped and not self._dropping:
            LOG.error('too many events wait to be published: the oldest are dropped, %d so far', self.dropped)
        elif self._dropping and not dropped:
            LOG.warning('no more events are dropped; %d were by this process', self.dropped)
        self._dropping = dropped > 0

    def _tell(self, trouble: Exception | None) -> None:
        if trouble is not None and not self._troubled:
            LOG.error('events cannot be published now and wait: %s: %s', type(trouble).__name__,
                      one_line(mask_password(str(trouble))))
        elif self._troubled and trouble is None:
            LOG.warning('events are published again')
        self._troubled = trouble is not None


class _Outcome:
    """A transport that remembers what went wrong, which drivers only log (oslo_messaging/notify/messaging.py)."""

    def __init__(self, transport: Any) -> None:
        self._transport: Final = transport
        self.error: Exception | None = None

    def _send_notification(self, target: object, ctxt: object, message: Mapping[str, object], version: float,
                           retry: int) -> None:
        try:
            # A copy, for each sending writes an id of its own into it.
            self._transport._send_notification(target, ctxt, dict(message), version=version, retry=retry)
        except Exception as error:
            self.error = error


def _oslo_messaging(file: str) -> Any:
    try:
        with warnings.catch_warnings():
            # It brings eventlet with it, which says that nobody should use it.
            warnings.simplefilter('ignore')
            return importlib.import_module('oslo_messaging')
    except ImportError as error:
        raise ConfigurationError(f'imgguard: {file} sets up notifications (group [{NOTIFICATIONS}]), which needs '
                                 f'oslo.messaging: install imgguard[messaging] ({error})') from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what oslo.messaging logs of this thread's own tries out of the log: what matters is told once."""
    mine = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != mine

    logger = logging.getLogger(_RABBIT_LOGGER)
    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)
