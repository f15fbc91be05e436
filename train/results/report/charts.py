"""Curves as plain numbers: where ticks, lines and dots go in a box of 1000 x 1000, which the page stretches.

Pure. Text is not part of the drawing: the page sets it in HTML, so that it keeps its size on a phone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

BOX = 1000.0
MOST_POINTS = 600
SMOOTHING_SHARE = 0.06
"""Width of the running mean, as a share of all steps."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One curve. `tone` picks its colour, `style` how it is drawn."""

    label: str
    points: Sequence[Point]
    tone: Literal["first", "second"] = "first"
    style: Literal["line", "faint", "dots"] = "line"


@dataclass(frozen=True)
class Chart:
    """Holds what one chart shows: curves over steps, and steps worth a mark."""

    title: str
    unit: str
    series: Sequence[Series]
    note: str = ""
    marks: Sequence[tuple[float, str]] = field(default=())
    from_zero: bool = False


def short_number(value: float) -> str:
    """Return a number in few characters.

    >>> [short_number(v) for v in (0, 0.0002, 0.25, 3.378, 41.06, 1234, 50128.9, 2_500_000)]
    ['0', '2e-4', '0.25', '3.378', '41.06', '1,234', '50.1k', '2.5M']
    """
    size = abs(value)
    if value == 0:
        return "0"
    if size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if size < 1000:
        return f"{value:.4g}"
    if size < 10_000:
        return f"{value:,.0f}"
    return f"{value / 1000:.3g}k" if size < 999_500 else f"{value / 1e6:.3g}M"


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers between `low` and `high`, about so many.

    >>> nice_ticks(3.31, 3.74)
    [3.4, 3.5, 3.6, 3.7]
    """
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= 0.75 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most so many points: the means of neighbours.

    >>> thinned([(0, 1.0), (1, 3.0), (2, 5.0), (3, 7.0)], most=2)
    [(0.5, 2.0), (2.5, 6.0)]
    """
    if len(points) <= most:
        return list(points)
    size = -(-len(points) // most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def running_mean(points: Sequence[Point], width: int) -> list[Point]:
    """Return each value as the mean of its neighbours, up to `width // 2` on either side, evenly many.

    >>> running_mean([(1, 1.0), (2, 2.0), (3, 6.0)], width=3)
    [(1, 1.0), (2, 3.0), (3, 6.0)]
    """
    reach, smooth = width // 2, []
    for index, (x, _) in enumerate(points):
        near = min(reach, index, len(points) - 1 - index)
        window = [y for _, y in points[index - near : index + near + 1]]
        smooth.append((x, sum(window) / len(window)))
    return smooth


def curve_with_trend(label: str, points: Sequence[Point]) -> list[Series]:
    """Return a noisy curve, faint, and its running mean; where points are too few for a trend, the curve alone."""
    width = round(SMOOTHING_SHARE * len(points))
    if width < 3:
        return [Series(label, points)]
    return [Series(label, points, style="faint"), Series(f"{label}, running mean", running_mean(points, width))]


def layout(chart: Chart) -> dict[str, Any] | None:
    """Lay the chart out as the template draws it; None where there is nothing to draw."""
    finite = [(x, y) for series in chart.series for x, y in series.points if math.isfinite(y)]
    if len({x for x, _ in finite}) < 2:
        return None
    left, right = min(x for x, _ in finite), max(x for x, _ in finite)
    bottom, top = _padded([y for _, y in finite], from_zero=chart.from_zero)

    def place(x: float, y: float) -> tuple[float, float]:
        return round(BOX * (x - left) / (right - left), 1), round(BOX * (top - y) / (top - bottom), 1)

    drawn = [_drawn(series, place) for series in chart.series if series.points]
    return {
        "title": chart.title,
        "unit": chart.unit,
        "note": chart.note,
        "x_ticks": [{"at": place(x, top)[0] / 10, "text": f"{x:,.0f}"} for x in _whole(nice_ticks(left, right, 5))],
        "y_ticks": [{"at": place(left, y)[1] / 10, "text": short_number(y)} for y in nice_ticks(bottom, top)],
        "marks": [{"at": place(x, top)[0] / 10, "text": text} for x, text in chart.marks if left <= x <= right],
        "series": drawn,
        "hover": {
            "left": left,
            "right": right,
            "bottom": bottom,
            "top": top,
            "series": [{"label": d["label"], "points": d["points"]} for d in drawn if d["style"] != "dots"],
        },
    }


def _whole(ticks: Sequence[float]) -> list[float]:
    return [tick for tick in ticks if tick == int(tick)]


def _padded(values: Sequence[float], *, from_zero: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    low = min(0.0, low) if from_zero else low
    padding = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return (low if from_zero else low - padding), high + padding


def _drawn(series: Series, place: Any) -> dict[str, Any]:
    points = thinned([(x, y) for x, y in series.points if math.isfinite(y)])
    placed = [place(x, y) for x, y in points]
    return {
        "label": series.label,
        "tone": series.tone,
        "style": series.style,
        "path": "M" + "L".join(f"{x:g} {y:g}" for x, y in placed),
        "dots": " ".join(f"M{x:g} {y:g}h0" for x, y in placed) if series.style == "dots" else "",
        "points": [[round(x, 2), float(f"{y:.6g}")] for x, y in points],
    }
