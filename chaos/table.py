"""The table at the end of a run, as plain text."""

from collections import Counter
from collections.abc import Iterable, Mapping

from chaos.ending import Verdict
from chaos.ledger import Event, Ledger

_HEADS = ('Requests', 'done', 'refused', 'failed', 'no answer')


def table(ledger: Ledger, verdict: Verdict) -> str:
    """What was broken, what was asked and answered, how the images ended, and how many promises were broken."""
    events = [event for each in ledger.by_image().values() for event in each]
    answers: Counter[tuple[str, str]] = Counter((event.action, _answer(event)) for event in events)
    actions = sorted({event.action for event in events})
    rows = [_HEADS, *((action, *(str(answers[action, name]) for name in _HEADS[1:])) for action in actions)]
    broken = Counter(each.what for each in ledger.troubles)
    kept = Counter(f'told {event.kept}' for event in events if event.kept is not None)
    return '\n\n'.join([
        _aligned([('Broken', 'times'), *_counts(broken)]), _aligned(rows),
        _aligned([('X-OpenStack-Image-Kept', 'answers'), *_counts(kept)]),
        _aligned([('Events', 'heard'), *_counts(verdict.told)]),
        _aligned([('Images before the last retry', 'count'), *_counts(verdict.ends)]),
        f'promises broken: {len(verdict.wrong)}'])


def _answer(event: Event) -> str:
    if event.status is None:
        return 'no answer'
    return 'done' if event.status < 400 else 'refused' if event.status < 500 else 'failed'


def _counts(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, str(count)) for name, count in sorted(counts.items())]


def _aligned(rows: Iterable[tuple[str, ...]]) -> str:
    found = list(rows)
    widths = [max(len(row[column]) for row in found) for column in range(len(found[0]))]
    return '\n'.join(row[0].ljust(widths[0]) + ''.join(
        '  ' + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)) for row in found)
