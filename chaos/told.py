"""What was told through the message broker, against the history and against what anybody saw."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid5

from chaos.ledger import Event
from imgguard.attempts import Happening, Kind, State
from imgguard.codes import NEVER_ARRIVED, WORKER_LOST
from imgguard.store import AttemptRow
from tests.broker import Heard
from tests.uploading import ERROR

# As it was released: with another one repeats could not be dropped over an update.
_NAMESPACE = UUID('6d3a2b0f-5d0b-4f0e-9a5e-2c1d5b7c4e10')
_QUEUES = {Happening.ERROR: 'error', Happening.GIVE_UP: 'error', Happening.CLEARED: 'info'}
_SPOKEN = (State.FAILED, State.LOST)


class Told:
    """What was told of one image; repeats are dropped, as a consumer would.

    :param heard: all that was told of it
    """

    def __init__(self, heard: Iterable[Heard]) -> None:
        self._by_id: dict[str, list[Heard]] = defaultdict(list)
        for each in heard:
            self._by_id[each.payload['event_id']].append(each)
        firsts = (repeats[0] for repeats in self._by_id.values())
        self._events = sorted(firsts, key=lambda each: str(each.message['timestamp']))
        self._spoken = [each for each in self._events if not _is_cleared(each)]

    def __str__(self) -> str:
        return 'told ' + ', '.join(
            ' '.join((str(each.message['timestamp'])[11:], *map(str, each.brief))) for each in self._events)

    def broken(self, attempts: Sequence[AttemptRow]) -> Iterator[str]:
        """What is wrong in itself, or against the history."""
        for event_id, repeats in self._by_id.items():
            if any(_content(each) != _content(repeats[0]) or each.message['message_id'] != event_id
                   for each in repeats):
                yield f'two events have the id {event_id}'
            if _derived_id(repeats[0]) != event_id:
                yield f'{event_id} is not the id that {repeats[0].brief} has whenever it is told'
        if len({_content(each) for each in self._events}) < len(self._events):
            yield 'one event has two ids'
        shown: Heard | None = None
        for each in self._events:
            if each.queue != _QUEUES[Happening(each.message['event_type'])]:
                yield f'{each.brief} is in queue {each.queue}'
            if not _is_cleared(each):
                yield from self._untrue(each, attempts)
                shown = each
            elif shown is None or shown.brief[1:] != each.brief[1:]:
                yield f'{each.brief} clears what was not told'
            else:
                shown = None

    def unseen(self, looks: Iterable[Event]) -> Iterator[str]:
        """What somebody saw, and nobody was told of."""
        told = {(each.payload['code'], each.payload['at']) for each in self._spoken}
        for look in looks:
            if look.shown is not None and look.shown['status'] == 'error' and (
                    look.shown[f'{ERROR}_code'], look.shown[f'{ERROR}_at']) not in told:
                yield f'nobody was told of the error in {look}'

    def missing(self, attempts: Iterable[AttemptRow], active: bool, judged: bool) -> Iterator[str]:
        """What was not told of an image that is there.

        :param active: whether it is active at the end, by what the guard has seen
        :param judged: whether a client declared or reset it: the verdict on a silent attempt then may be replaced
            before it was there
        """
        told = {(each.payload['attempt'], each.payload['code']) for each in self._spoken}
        for attempt in attempts:
            # A copy fails, not its image.
            if attempt.guarded and attempt.state in _SPOKEN and attempt.kind is not Kind.COPY and (
                    attempt.number, attempt.code) not in told and not (judged and attempt.state is State.LOST):
                yield f'nobody was told that attempt {attempt.number} is {attempt.state} ({attempt.code})'
        if active and self._events and not _is_cleared(self._events[-1]):
            yield f'nobody was told that {self._events[-1].brief} is over'

    def _untrue(self, event: Heard, attempts: Iterable[AttemptRow]) -> Iterator[str]:
        number, code = event.payload['attempt'], event.payload['code']
        attempt = next((each for each in attempts if each.number == number), None)
        if (event.message['event_type'] == Happening.GIVE_UP.value) != (code == NEVER_ARRIVED):
            yield f'{event.brief} has the name of another event'
        if attempt is not None and attempt.state in _SPOKEN and attempt.code == code:
            return
        # Whoever was given up as lost, and was not, may end otherwise.
        if code != WORKER_LOST or not self._is_taken_back(event):
            yield f'told {event.brief}, but {attempt and (attempt.state.value, attempt.code)}'

    def _is_taken_back(self, event: Heard) -> bool:
        later = self._events[self._events.index(event) + 1:]
        return any(each.payload['attempt'] == event.payload['attempt'] for each in later)


def by_image(heard: Iterable[Heard]) -> dict[str, Told]:
    """What was told, by the images it is about."""
    found: dict[str, list[Heard]] = defaultdict(list)
    for each in heard:
        found[each.payload['id']].append(each)
    return {image_id: Told(those) for image_id, those in found.items()}


def _is_cleared(event: Heard) -> bool:
    return bool(event.message['event_type'] == Happening.CLEARED.value)


def _derived_id(event: Heard) -> str:
    """What the manual promises: of image, attempt, event, code and moment, and so the same for each publisher."""
    payload, message = event.payload, event.message
    at = datetime.fromisoformat(message['timestamp']).replace(tzinfo=UTC).timestamp()
    return str(uuid5(_NAMESPACE, '\n'.join((
        payload['id'], payload['created_at'], str(payload['attempt']), message['event_type'], payload['code'],
        f'{at:.6f}'))))


def _content(event: Heard) -> tuple[object, ...]:
    """What is the same however often it is told."""
    message = event.message
    payload = {name: value for name, value in event.payload.items() if name != 'event_id'}
    return message['event_type'], message['timestamp'], message['priority'], tuple(sorted(
        (name, repr(value)) for name, value in payload.items()))
