"""Where names of points are written."""

from __future__ import annotations

from heartvit_edge.report.labels import Box, place

AREA = Box(0, 0, 480, 320)


def test_names_of_points_in_a_row_cover_neither_each_other_nor_the_points():
    points = [(60.0 + 90 * index, 280.0 - 60 * index) for index in range(5)]
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    boxes = place([f"macs-0.{index}" for index in range(5)], points, marks, AREA)
    for index, box in enumerate(boxes):
        assert sum(box.overlap(other) for other in [*marks, *boxes[:index]]) == 0
        assert box.outside(AREA) == 0


def test_a_name_at_the_right_edge_is_written_to_the_left_of_its_point():
    (box,) = place(["dense"], [(470.0, 100.0)], [], AREA)
    assert box.right < 470.0


def test_the_overlap_of_two_boxes_is_the_area_they_share():
    assert Box(0, 0, 4, 4).overlap(Box(3, 2, 9, 9)) == 2
    assert Box(0, 0, 4, 4).overlap(Box(4, 0, 8, 4)) == 0
    assert Box(-1, 0, 3, 4).outside(Box(0, 0, 10, 10)) == 4
