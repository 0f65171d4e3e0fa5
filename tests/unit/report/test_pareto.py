"""The front of points that no other beats."""

from __future__ import annotations

import random

from heartvit_edge.report.pareto import non_dominated


def _beaten(point, points):
    return any(c <= point[0] and q >= point[1] and (c, q) != point for c, q in points)


def test_the_front_is_what_comparing_every_pair_finds_ties_included():
    draw = random.Random(1)
    for _ in range(500):
        points = [(float(draw.randint(0, 6)), float(draw.randint(0, 6))) for _ in range(draw.randint(0, 9))]
        assert non_dominated(points) == tuple(not _beaten(point, points) for point in points)


def test_equal_points_stay_together():
    assert non_dominated([(1.0, 0.5), (1.0, 0.5), (1.0, 0.4)]) == (True, True, False)
