"""When all is mended: what is there, against what everybody was told; and one last retry of each image without data."""

import contextlib
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random

from sqlalchemy import create_engine, text

from chaos.ledger import Event
from chaos.players import HEADERS, Manner, Player
from chaos.promises import History
from chaos.told import Told, by_image
from chaos.world import FENCE_SECONDS, LEASE_SECONDS, SILENCE_SECONDS, STALL_SECONDS, World
from demo.client import Client
from imgguard.attempts import Kind, State
from imgguard.notify import POLL_SECONDS
from imgguard.store import AttemptRow
from imgguard.store.outbox import CLAIM_SECONDS
from tests.sockets import GuardsStore

#: After this long all is as it stays: hosts see to what is due about once in a lease.
#: It is long, for on a busy machine a retry may be lost itself; only what is broken takes as long.
_ENOUGH_SECONDS = SILENCE_SECONDS + FENCE_SECONDS + STALL_SECONDS + 100.0
_LOOK_SECONDS = 0.5
_THREADS = 4
#: What is wrong once is seen by every look.
_MOST_PROBLEMS = 3
_REMAINS = ('os_glance_import_task', 'os_glance_stage_host', 'os_glance_importing_to_stores')


@dataclass(slots=True)
class Verdict:
    """What came out.

    :param ends: how many images ended how
    :param told: how many events of which name were heard, repeats among them
    :param wrong: what must not be; a sentence of each, with what was asked about the image
    """

    ends: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, history: History, problem: str, attempts: Iterable[AttemptRow]) -> None:
        """Note what must not be."""
        known = [f'attempt {each.number}: {each.kind} {each.state} {each.code} {each.worker}' for each in attempts]
        self.wrong.append('\n    '.join([f'{history.image_id}: {problem}', *map(str, history.events), *known]))


class Ending:
    """Looks at all images of a run."""

    def __init__(self, world: World, seed: str) -> None:
        self._world = world
        self._client = Client(world.ports[0], HEADERS)
        self._player = Player(world.ports, world.source, world.ledger, Random(f'{seed}/ending'))
        self._store: GuardsStore = world.shared.guards_store(LEASE_SECONDS)
        self.verdict = Verdict()

    def judge(self) -> Verdict:
        """All of it."""
        try:
            ids = list(self._world.ledger.by_image())
            _wait(lambda: not any(map(self._store.running, ids)))
            self._judge_run()
            with ThreadPoolExecutor(_THREADS) as threads:
                list(threads.map(self._judge_end, self._histories()))
                list(threads.map(self._retry, self._histories()))
            left: list[tuple[str, str]] = []
            _wait(lambda: not self._left(left))
            left += self._wrong_events()
            for history in self._histories():
                problems = [*history.broken(), *(problem for of, problem in left if of == history.image_id)]
                if problems:
                    self._add(history, '; '.join(problems[:_MOST_PROBLEMS]))
        finally:
            self._store.close()
        return self.verdict

    def _judge_run(self) -> None:
        """A run that met nothing must not look like one that found nothing."""
        if not any(each.arrived for each in self._histories()):
            self.verdict.wrong.append('This run proves nothing: no upload was acknowledged.')
        if not self._world.ledger.troubles:
            self.verdict.wrong.append('This run proves nothing: nothing was broken.')

    def _add(self, history: History, problem: str) -> None:
        self.verdict.add(history, problem, self._store.attempts(history.image_id))

    def _histories(self) -> list[History]:
        ledger = self._world.ledger
        since = time.time() - time.monotonic()
        return [History(image_id, events, ledger, [
            each.started_at - since for each in self._store.attempts(image_id)])
            for image_id, events in ledger.by_image().items()]

    def _judge_end(self, history: History) -> None:
        look = self._player.look(history.image_id)
        end = 'gone'
        if look.status == 404:
            pass
        elif _is_half_deleted(history, look):
            end = 'gone, by halves'
        elif look.shown is None:
            self._add(history, f'it cannot be shown: {look}')
            return
        elif history.deleted:
            self._add(history, f'it is there although it was deleted: {look}')
            return
        else:
            end = look.shown['status']
            problem = self._wrong_in(history, look)
            if problem is not None and not history.may_be_unguarded:
                self._add(history, f'{problem}: {look}')
        self.verdict.ends[end] += 1

    def _wrong_in(self, history: History, look: Event) -> str | None:
        assert look.shown is not None
        status = look.shown['status']
        if status == 'active':
            content = self._client.request('GET', f'/v2/images/{history.image_id}/file').body
            same = hashlib.md5(content).hexdigest() == look.shown['checksum'] and len(content) == look.shown['size']
            return None if same else 'its data is not what it is said to be'
        if status == 'queued':
            tried = any(each.kind is not Kind.DECLARE for each in self._store.attempts(history.image_id))
            was_reset = any(each.action == 'reset' and each.status in (None, 200) for each in history.events)
            return 'it failed silently' if tried and not was_reset else None
        if status == 'uploading':
            staged = any(each.action == 'stage' and each.status in (None, 204) for each in history.events)
            return None if staged else 'it waits for an import of nothing'
        return None if status == 'error' else 'it is stuck'

    def _retry(self, history: History) -> None:
        """Bring the image to have data, from whatever state it is in."""
        tries: list[Event] = []

        def active() -> bool:
            look = self._player.look(history.image_id)
            if look.status == 404 or _is_half_deleted(history, look) or (
                    look.shown is not None and look.shown['status'] == 'active'):
                return True
            if look.shown is not None and look.shown['status'] == 'uploading':
                tries.append(self._player.import_staged(history.image_id))
            elif look.shown is not None and look.shown['status'] in ('queued', 'error'):
                tries.append(self._player.upload(history.image_id, Manner()))
            return False

        if _wait(active, _ENOUGH_SECONDS / (10 if history.may_be_unguarded else 1)):
            return
        if history.may_be_unguarded:
            self.verdict.ends['not guarded, and held by Glance'] += 1
        else:
            self._add(history, 'no retry works: ' + '; '.join(map(str, tries[-3:])))

    def _left(self, left: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """What of attempts that are over is still there."""
        unguarded = {each.image_id for each in self._histories() if each.may_be_unguarded}
        left[:] = [each for each in self._remains() if each[0] not in unguarded]
        return left

    def _remains(self) -> Iterator[tuple[str, str]]:
        shown = {}
        for image_id in self._world.ledger.by_image():
            answer = self._client.show(image_id)
            if answer.status == 200:
                shown[image_id] = answer.json
                yield from ((image_id, f'it has {name}') for name in _REMAINS if answer.json.get(name))
            for attempt in self._store.attempts(image_id):
                if attempt.state is State.RUNNING:
                    yield image_id, f'attempt {attempt.number} runs'
        halves = {each.image_id for each in self._histories() if each.may_be_half_deleted}
        for path in self._world.shared.store.iterdir():
            status = shown.get(path.name, {'status': 'gone'})['status']
            if status != 'active' and not (status in ('gone', 'deleted') and path.name in halves):
                yield path.name, f'its data is stored, but it is {status}'
        for host in self._world.hosts:
            place = host.glance.folder.name
            yield from ((name.partition('.')[0], f'{name} is staged on {place}') for name in host.staged())
        for image_id, task in self._tasks():
            if image_id in shown:
                yield image_id, f'its task {task} is not over'

    def _wrong_events(self) -> Iterator[tuple[str, str]]:
        """What was told through the broker and is not so, or is so and was not told."""
        if self._world.broker is None:
            return
        _wait(lambda: not self._waiting(), CLAIM_SECONDS + 2 * POLL_SECONDS)
        yield from ((image_id, 'an event of it was not published') for image_id in self._waiting())
        heard = self._world.broker.heard()
        self.verdict.told.update(each.message['event_type'] for each in heard)
        told = by_image(heard)
        for history in self._histories():
            of, attempts = told.pop(history.image_id, Told([])), self._store.attempts(history.image_id)
            shown = self._client.show(history.image_id)
            problems = [*of.broken(attempts), *of.unseen(history.events)]
            if shown.status == 200 and not history.may_be_deleted(math.inf):
                # What came past the guard ends no error of its own accord; nobody is shown it all the same.
                active = shown.json['status'] == 'active' and not history.may_be_unguarded
                problems += of.missing(attempts, active, history.judged)
            yield from ((history.image_id, f'{problem} [{of}]') for problem in problems)
        for image_id, of in told.items():
            # Nobody was told the id of that image.
            self.verdict.wrong += [f'{image_id}: {each} [{of}]' for each in of.broken(self._store.attempts(image_id))]

    def _waiting(self) -> set[str]:
        engine = create_engine(self._world.shared.guard_url)
        with contextlib.closing(engine.connect()) as connection:
            found = set(connection.execute(text('SELECT image_id FROM imgguard_outbox')).scalars())
        engine.dispose()
        return found

    def _tasks(self) -> list[tuple[str, str]]:
        engine = create_engine(self._world.shared.glance_url)
        with contextlib.closing(engine.connect()) as connection:
            found = [(row.image_id, row.id) for row in connection.execute(
                text("SELECT image_id, id FROM tasks WHERE status NOT IN ('success', 'failure')"))]
        engine.dispose()
        return found


def _is_half_deleted(history: History, look: Event) -> bool:
    return look.shown is not None and look.shown['status'] == 'deleted' and history.may_be_half_deleted


def _wait(look: Callable[[], bool], seconds: float = _ENOUGH_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True
