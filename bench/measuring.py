"""Measures a case.

* A/B: in each round the bare Glance, the bare Glance once more (the control) and the filtered one answer the same
  request in shuffled order, and the times of one round are compared. What the control spreads, A/B cannot resolve.
* self-time: the time in the filter less the time below it, for the same request; its reading of a body counts as
  its own. It has no noise of Glance, but does not see what the filter makes Glance do. What two clocks around nothing
  show is taken off.
"""

import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from bench.pipelines import Application, Clocked, Measured, Request, expect


@dataclass(frozen=True, slots=True)
class Goal:
    """What self-time must not exceed.

    :param share: of Glance's time in the same request
    :param seconds: beside that share
    """

    share: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """A request that is measured.

    :param rounds: how many rounds at factor 1
    :param request: makes the request, anew each time
    :param bare: makes the request that the bare Glance is sent instead
    :param after: is called with a request after it was answered
    :param at_once: how many such requests are sent at once; there is no self-time of more than one
    :param goal: by the name of the store's database; ``''`` for every other
    """

    name: str
    rounds: int
    request: Callable[[], Request]
    status: int = 200
    bare: Callable[[], Request] | None = None
    after: Callable[[Request], object] = bool
    at_once: int = 1
    goal: dict[str, Goal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of some values; of a single one it is that."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method='inclusive')
        return cls(low, median, high)


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured, in seconds and ratios.

    :param own: self-time, what the clocks take of it taken off; ``None`` where there is none
    :param glance: Glance's own time in the same requests
    """

    name: str
    rounds: int
    bare: Spread
    filtered: Spread
    ratio: Spread
    control: Spread
    own: Spread | None
    glance: float | None
    goal: Goal | None = None

    @property
    def share(self) -> float | None:
        """The self-time as a part of Glance's."""
        return None if self.own is None or self.glance is None else self.own.median / self.glance

    @property
    def allowed(self) -> float | None:
        """The goal, in seconds; ``None`` without one."""
        if self.goal is None or self.glance is None:
            return None
        return self.goal.seconds + self.goal.share * self.glance

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; ``None`` without one."""
        return None if self.own is None or self.allowed is None else self.own.median <= self.allowed


def measure(case: Case, bare: Application, measured: Measured, nothing: Clocked, rounds: int,
            goal: Goal | None = None) -> Result:
    """Measure a case.

    :param nothing: two clocks without a filter between them
    """
    ways = {'bare': bare, 'control': bare, 'filtered': measured.plain}
    took: dict[str, list[float]] = {name: [] for name in ways}
    own, below, floor = [], [], []
    for name, application in ways.items():
        _once(case, application, name == 'filtered')
    if case.at_once == 1:
        _clocked(case, measured.clocked)
    for _ in range(rounds):
        for name in random.sample(list(ways), len(ways)):
            took[name].append(_once(case, ways[name], name == 'filtered'))
        if case.at_once == 1:
            mine, glance = _clocked(case, measured.clocked)
            own.append(mine)
            below.append(glance)
            floor.append(_clocked(case, nothing, case.bare)[0])
    ratios = {name: Spread.of([each / base for each, base in zip(took[name], took['bare'], strict=True)])
              for name in ways}
    off = statistics.median(floor) if floor else 0.0
    taken = Spread.of([each - off for each in own]) if own else None
    of_glance = statistics.median(below) if below else None
    return Result(case.name, rounds, Spread.of(took['bare']), Spread.of(took['filtered']), ratios['filtered'],
                  ratios['control'], taken, of_glance, goal)


def _once(case: Case, application: Application, filtered: bool) -> float:
    make = case.request if filtered or case.bare is None else case.bare
    requests = [make() for _ in range(case.at_once)]
    began = time.perf_counter()
    if len(requests) == 1:
        expect(application, requests[0], case.status)
    else:
        _all_at_once(application, requests, case.status)
    took = time.perf_counter() - began
    for request in requests:
        case.after(request)
    return took


def _clocked(case: Case, clocked: Clocked, instead: Callable[[], Request] | None = None) -> tuple[float, float]:
    request = (instead or case.request)()
    taken = clocked.time(request, case.status)
    case.after(request)
    return taken


def _all_at_once(application: Application, requests: Sequence[Request], status: int) -> None:
    errors: list[Exception] = []

    def one(request: Request) -> None:
        try:
            expect(application, request, status)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
