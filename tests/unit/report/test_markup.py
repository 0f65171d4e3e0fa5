"""Escaping of text and attributes."""

from __future__ import annotations

from heartvit_edge.report.markup import element, escaped, joined, number


def test_text_and_attributes_are_escaped():
    made = element("p", escaped("<script>&'"), title='"><script>')
    assert made == '<p title="&quot;&gt;&lt;script&gt;">&lt;script&gt;&amp;&#x27;</p>'


def test_attribute_names_take_hyphens_and_none_leaves_an_attribute_out():
    assert element("line", class_="grid", stroke_dasharray=None, x1=1.005, aria_label="a") == (
        '<line class="grid" x1="1" aria-label="a"/>'
    )


def test_coordinates_have_two_decimals_at_most_and_no_negative_zero():
    assert [number(value) for value in (1.0, 1.256, -0.001, -2.5)] == ["1", "1.26", "0", "-2.5"]


def test_the_separator_of_joined_parts_is_escaped():
    assert joined([escaped("a"), escaped("b")], " & ") == "a &amp; b"
