"""Results as a picture: what the guard adds to each case, as a part of Glance's own time, on a logarithmic scale."""

import math
from html import escape
from pathlib import Path
from typing import Final

from bench.measuring import Result
from bench.table import Report

_LEFT: Final = 330
_WIDTH: Final = 560
_ROW: Final = 20
_TOP: Final = 40
_TICKS: Final = (0.0001, 0.001, 0.01, 0.1, 1.0)


def draw(report: Report, path: Path) -> None:
    """Write an SVG; whiskers are quartiles, a cross line is the goal."""
    shown = [result for result in report.results if result.own is not None]
    bottom = _TOP + _ROW * len(shown)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 30}" height="{bottom + 20}" '
             'font-family="sans-serif" font-size="11">',
             '<rect width="100%" height="100%" fill="white"/>',
             f'<text x="10" y="15">Added, in parts of Glance\'s own time; store: {escape(report.store)}</text>']
    for tick in _TICKS:
        parts.append(f'<path d="M{_x(tick)} {_TOP - 5}V{bottom}" stroke="#ccc"/>'
                     f'<text x="{_x(tick)}" y="{_TOP - 9}" text-anchor="middle">{100 * tick:g} %</text>')
    for number, result in enumerate(shown):
        parts.append(_bar(result, _TOP + _ROW * number + _ROW // 2))
    path.write_text('\n'.join([*parts, '</svg>', '']))


def _bar(result: Result, y: int) -> str:
    assert result.own is not None and result.glance
    low, median, high = (_x(each / result.glance) for each in (result.own.low, result.own.median, result.own.high))
    color = {True: '#2a7', False: '#c33', None: '#579'}[result.met]
    parts = [f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(result.name)}</text>',
             f'<rect x="{_LEFT}" y="{y - 6}" width="{max(1, median - _LEFT)}" height="12" fill="{color}"/>',
             f'<path d="M{low} {y}H{high}" stroke="black"/>']
    if result.allowed is not None:
        goal = _x(result.allowed / result.glance)
        parts.append(f'<path d="M{goal} {y - 9}V{y + 9}" stroke="black" stroke-width="2"/>')
    return ''.join(parts)


def _x(share: float) -> int:
    low, high = math.log10(_TICKS[0]), math.log10(_TICKS[-1])
    place = (math.log10(max(share, _TICKS[0])) - low) / (high - low)
    return _LEFT + round(_WIDTH * min(place, 1.0))
