import re

from train.results.report.charts import MOST_POINTS, Chart, Series, layout, thinned


def test_long_runs_are_thinned_and_short_ones_drawn_whole():
    points = [(float(step), float(step % 7)) for step in range(10_000)]
    assert len(thinned(points)) <= MOST_POINTS
    assert thinned(points[:50]) == points[:50]
    drawn = layout(Chart("Loss", "", [Series("loss", points)]))
    assert len(drawn["series"][0]["points"]) <= MOST_POINTS
    assert layout(Chart("Loss", "", [Series("loss", points[:1])])) is None


def test_a_curve_stays_in_its_box():
    drawn = layout(Chart("Loss", "", [Series("loss", [(1, 2.0), (2, 5.0), (3, float("inf")), (4, 3.0)])]))
    numbers = [float(number) for number in re.findall(r"[\d.]+", drawn["series"][0]["path"])]
    assert len(numbers) == 6
    assert all(0 <= number <= 1000 for number in numbers)
    assert all(0 <= tick["at"] <= 100 for axis in ("x_ticks", "y_ticks") for tick in drawn[axis])
