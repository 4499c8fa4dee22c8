"""Plot the throughput of an upload as SVG. Made on the server, so that it needs no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from publisher.console.rendering import duration, rate
from publisher.core.ticket import Sample

WIDTH, HEIGHT = 1000, 180
"""Size in the plot's own units. The width is stretched to the page; the height is in pixels."""
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
    """For a rate, pixels from the top; for a time, per cent of the width."""
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
    """A description of the plot, for readers who cannot see it."""


_Points = list[tuple[float, float]]
"""Seconds since the first sample, and the bytes per second up to then."""


def plot(samples: Sequence[Sample]) -> Plot | None:
    """Draw the samples. Returns None if there is nothing to draw yet."""
    runs = [(attempt, points) for attempt, points in _runs(samples) if points]
    if not runs:
        return None
    last = max(points[-1][0] for _, points in runs) or 1.0
    step = _round_step(max(rate for _, points in runs for _, rate in points) / _RATE_TICKS)
    top = step * _RATE_TICKS

    def x(seconds: float) -> float:
        return seconds / last * WIDTH

    def y(bytes_per_second: float) -> float:
        return HEIGHT - min(bytes_per_second / top, 1.0) * HEIGHT

    lines = []
    for attempt, points in runs:
        places = [f"{x(seconds):.1f} {y(speed):.1f}" for seconds, speed in points]
        path = "M" + "L".join(places)
        area = f"{path}L{x(points[-1][0]):.1f} {HEIGHT}L{x(points[0][0]):.1f} {HEIGHT}Z"
        lines.append(Line(attempt, path, area, _words(attempt, points)))
    return Plot(
        lines,
        rates=[Tick(y(step * each), rate(step * each) if each else "0") for each in range(_RATE_TICKS + 1)],
        times=[Tick(seconds / last * 100, duration(seconds)) for seconds in _times(last)],
        words="; ".join(each.words for each in lines),
    )


def _runs(samples: Sequence[Sample]) -> list[tuple[int, _Points]]:
    """Return the rates of each attempt. An attempt whose upload started again gives two runs."""
    if not samples:
        return []
    begin = samples[0].at
    runs = []
    for attempt, group in groupby(samples, key=lambda each: each.attempt):
        points: _Points = []
        for one, next in pairwise(_without_pause(list(group))):
            if next.sent < one.sent:
                runs.append((attempt, _thinned(points)))
                points = []
            elif next.at > one.at:
                speed = (next.sent - one.sent) / (next.at - one.at)
                points += [(one.at - begin, speed)] * (not points) + [(next.at - begin, speed)]
        runs.append((attempt, _thinned(points)))
    return runs


def _without_pause(samples: list[Sample]) -> list[Sample]:
    """Drop the last but one sample if nothing was sent after it.

    The cloud was still processing what had been sent by then, so the rate did not fall to zero.
    """
    return samples[:-2] + samples[-1:] if len(samples) > 2 and samples[-1].sent == samples[-2].sent else samples


def _thinned(points: _Points) -> _Points:
    """Reduce the points to as many as can be seen, by averaging neighbours."""
    size = math.ceil(len(points) / _POINTS_MAX)
    if size <= 1:
        return points
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    # Each part begins where the previous one ended; the very first point has no predecessor.
    begins = [points[0][0], *(part[-1][0] for part in parts)]
    means = [_mean(part, begin) for part, begin in zip(parts, begins, strict=False)]
    return [points[0], *((part[-1][0], mean) for part, mean in zip(parts, means, strict=True))]


def _mean(points: _Points, begin: float) -> float:
    """Return the mean rate, weighted by time: a slow rate that lasts long counts for more."""
    sent = math.fsum(speed * (at - before) for (at, speed), before in zip(points, _before(points, begin), strict=True))
    return sent / (points[-1][0] - begin) if points[-1][0] > begin else points[-1][1]


def _before(points: _Points, begin: float) -> list[float]:
    return [begin, *(at for at, _ in points[:-1])]


def _times(last: float) -> list[float]:
    """Return times from 0 to at most `last`, in a step that people count in."""
    step = next((each for each in _TIME_STEPS if last / each < _TIME_TICKS), _TIME_STEPS[-1])
    return [step * each for each in range(min(int(last / step), _TIME_TICKS) + 1)]


def _round_step(least: float) -> float:
    """Round up to 1, 2, 2.5 or 5 times a power of ten MiB."""
    unit = least / (1 << 20) or 1.0
    power = 10.0 ** math.floor(math.log10(unit))
    return next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= unit * 0.999) * (1 << 20)


def _words(attempt: int, points: _Points) -> str:
    speeds = [speed for _, speed in points]
    mean = _mean(points, points[0][0])
    took = duration(points[-1][0] - points[0][0])
    return f"Attempt {attempt}: {rate(mean)} on average, {rate(max(speeds))} at most, in {took}"
