"""The plot of an upload's throughput, as SVG: made here, so that it needs no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from publisher.console.formats import duration, rate
from publisher.core.ticket import Sample

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 76, 12, 12, 28
_POINTS_MAX = 240
_RATE_TICKS = 4
_TIME_TICKS = 6
_TIME_STEPS = [
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 360, 720, 1440)),
]


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    """In the plot's own units, along its axis."""
    words: str


@dataclass(frozen=True, slots=True)
class Line:
    """One attempt. `path` and `area` are SVG path data."""

    attempt: int
    path: str
    area: str
    words: str


@dataclass(frozen=True, slots=True)
class Plot:
    lines: Sequence[Line]
    rates: Sequence[Tick]
    times: Sequence[Tick]
    words: str
    """What is to be seen, for those who cannot."""


_Points = list[tuple[float, float]]
"""Seconds since the first sample, and bytes per second until then."""


def plot(samples: Sequence[Sample]) -> Plot | None:
    """None where there is nothing to be seen yet."""
    runs = [(attempt, points) for attempt, points in _runs(samples) if points]
    if not runs:
        return None
    last = max(points[-1][0] for _, points in runs) or 1.0
    step = _round_step(max(rate for _, points in runs for _, rate in points) / _RATE_TICKS)
    top = step * _RATE_TICKS

    def x(seconds: float) -> float:
        return LEFT + seconds / last * (WIDTH - LEFT - RIGHT)

    def y(bytes_per_second: float) -> float:
        return HEIGHT - BOTTOM - min(bytes_per_second / top, 1.0) * (HEIGHT - TOP - BOTTOM)

    lines = []
    for attempt, points in runs:
        places = [f"{x(seconds):.1f} {y(speed):.1f}" for seconds, speed in points]
        path = "M" + "L".join(places)
        floor = HEIGHT - BOTTOM
        area = f"{path}L{x(points[-1][0]):.1f} {floor}L{x(points[0][0]):.1f} {floor}Z"
        lines.append(Line(attempt, path, area, _words(attempt, points)))
    return Plot(
        lines,
        rates=[Tick(y(step * each), rate(step * each) if each else "0") for each in range(_RATE_TICKS + 1)],
        times=[Tick(x(seconds), duration(seconds)) for seconds in _times(last)],
        words="; ".join(each.words for each in lines),
    )


def _runs(samples: Sequence[Sample]) -> list[tuple[int, _Points]]:
    """The rates of each attempt; of one that was begun anew, as two."""
    if not samples:
        return []
    begin = samples[0].at
    runs = []
    for attempt, group in groupby(samples, key=lambda each: each.attempt):
        points: _Points = []
        for one, next in pairwise(group):
            if next.sent < one.sent:
                runs.append((attempt, _thinned(points)))
                points = []
            elif next.at > one.at:
                speed = (next.sent - one.sent) / (next.at - one.at)
                points += [(one.at - begin, speed)] * (not points) + [(next.at - begin, speed)]
        runs.append((attempt, _thinned(points)))
    return runs


def _thinned(points: _Points) -> _Points:
    """No more than can be seen: neighbours are made their mean."""
    size = math.ceil(len(points) / _POINTS_MAX)
    if size <= 1:
        return points
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], math.fsum(speed for _, speed in part) / len(part)) for part in parts]


def _times(last: float) -> list[float]:
    """From 0 to the last at most, by a step that people count in."""
    step = next((each for each in _TIME_STEPS if last / each < _TIME_TICKS), _TIME_STEPS[-1])
    return [step * each for each in range(min(int(last / step), _TIME_TICKS) + 1)]


def _round_step(least: float) -> float:
    """The next larger 1, 2, 2.5 or 5 of its power of ten MiB."""
    unit = least / (1 << 20) or 1.0
    power = 10.0 ** math.floor(math.log10(unit))
    return next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= unit * 0.999) * (1 << 20)


def _words(attempt: int, points: _Points) -> str:
    speeds = [speed for _, speed in points]
    mean = math.fsum(speeds) / len(speeds)
    took = duration(points[-1][0] - points[0][0])
    return f"Attempt {attempt}: {rate(mean)} in the mean, at most {rate(max(speeds))}, over {took}"
