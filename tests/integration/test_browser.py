"""The report in a real browser: it loads nothing, fits desktop and phone, and can be read in light and in dark."""

from __future__ import annotations

import pytest
from fakes.browser import open_page
from fakes.runs import ENGINE, make_evaluation, make_measurement

from heartvit_edge.report.page import page
from heartvit_edge.report.rows import rows_of
from heartvit_edge.report.runs import Run
from heartvit_edge.spec.layers import EngineLayer, EngineLayers
from heartvit_edge.spec.measurement import MachineLimits, Window

pytestmark = pytest.mark.chromium

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")

LAYER = EngineLayer(
    name="{ForeignNode[blocks.0.norm1.weight...blocks.11.mlp.fc2.bias]}_myl0_12",
    kind="kgen",
    tactic="__myl_FcMulAddResTraMulMeaSubMulMeaAddSqrDivMulMulAdd_0xdeadbeef",
    precision="fp16",
    nodes=("/blocks.0/attn/qkv/MatMul", "/blocks.0/attn/qkv/Add"),
)


def run(label, mode):
    """Return a run that fills every section."""
    measurement = make_measurement(batch_sizes=(1, 8), power=True)
    measurement = measurement.model_copy(
        update={
            "machine": measurement.machine.model_copy(update={"power_mode": mode}),
            "idle": Window(start_s=0.0, end_s=0.9),
            "limits": MachineLimits(bandwidth_gb_s=204.8, peak_tmac_s=21.3, source="a data sheet"),
            "layers": (EngineLayers(engine_sha256=ENGINE, layers=(LAYER,) * 3, num_fused_attention=1),),
        }
    )
    return Run(label, measurement, make_evaluation(), measurement.pack)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_page(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    runs = [run("MAXN", "MAXN"), run("15W", "15W")]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(runs, rows_of(runs), 10.0), encoding="utf-8")
    return path


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in SCHEMES], ids="-".join)
def opened(request, browser, report):
    """Return the browser with the report open, everything unfolded."""
    size, scheme = request.param
    browser.open(report, *SIZES[size], scheme)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    return browser


def test_the_page_asks_for_nothing_but_itself_and_nothing_is_refused(opened, report):
    foreign = [address for address in opened.addresses if not address.startswith("data:image/png;base64,")]
    assert foreign == [report.as_uri()]
    assert opened.complaints == []


def test_the_page_does_not_scroll_sideways(opened):
    wide, seen = opened.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= seen


OUTSIDE = """
[...document.querySelectorAll('main *, header *')].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && !one.closest('.scroll, pre, nav, svg') && (box.right > innerWidth + 1 || box.left < -1);
}).map(one => one.outerHTML.slice(0, 120))
"""
"""Elements beyond the edge of the window that are in no box which scrolls."""


def test_nothing_is_cut_off_at_the_edge_of_the_window(opened):
    assert opened.evaluate(OUTSIDE) == []


CUT_TEXTS = """
[...document.querySelectorAll('svg.chart')].flatMap(chart => {
  const frame = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 14 || box.right > frame.right + 14
        || box.top < frame.top - 4 || box.bottom > frame.bottom + 4;
  }).map(text => chart.getAttribute('aria-label') + ': ' + text.textContent);
})
"""
"""Texts of charts beyond the padding of their card."""


def test_no_text_of_a_chart_is_cut_off(opened):
    assert opened.evaluate(CUT_TEXTS) == []


COVERED_TICKS = """
[...document.querySelectorAll('svg.chart')].flatMap(chart => {
  const boxes = [...chart.querySelectorAll('.tick')].map(text => [text.textContent, text.getBoundingClientRect()]);
  return boxes.flatMap(([text, one], index) => boxes.slice(index + 1).filter(([, other]) =>
    one.left < other.right && other.left < one.right && one.top + 3 < other.bottom && other.top + 3 < one.bottom
  ).map(([other]) => chart.getAttribute('aria-label') + ': ' + text + ' on ' + other));
})
"""
"""Pairs of labels of an axis that lie on each other."""


def test_no_label_of_an_axis_covers_another(opened):
    assert opened.evaluate(COVERED_TICKS) == []


FAINT_TEXTS = """
(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const colour = parts(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = new Set();
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || one.closest('title, style')) continue;
    const style = getComputedStyle(one);
    const ink = light(parts(one.closest('svg') ? style.fill : style.color)), paper = light(behind(one));
    const contrast = (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
    if (contrast < 4.5) found.add(one.tagName + '.' + one.getAttribute('class') + ' ' + contrast.toFixed(2));
  }
  return [...found];
})()
"""
"""Texts with less contrast than WCAG 2.2 asks of small ones (success criterion 1.4.3)."""


def test_every_text_stands_out_from_what_is_behind_it(opened):
    assert opened.evaluate(FAINT_TEXTS) == []


def test_the_colours_follow_the_readers_scheme(browser, report):
    shades = {}
    for scheme in SCHEMES:
        browser.open(report, *SIZES["desktop"], scheme)
        colour = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        shades[scheme] = sum(int(part) for part in colour.strip("rgb()").split(","))
    assert shades["dark"] < 3 * 64
    assert shades["light"] > 3 * 192


def test_every_section_is_reached_by_its_link_and_holds_something(opened):
    links = opened.evaluate("[...document.querySelectorAll('nav a')].map(one => one.getAttribute('href'))")
    assert links == opened.evaluate("[...document.querySelectorAll('main section')].map(one => '#' + one.id)")
    assert {"#comparison", "#modes", "#power", "#layers"} <= set(links)
    heights = opened.evaluate("[...document.querySelectorAll('main section')].map(one => one.offsetHeight)")
    assert all(height > 60 for height in heights)


def test_small_texts_are_large_enough_for_a_phone(browser, report):
    browser.open(report, *SIZES["phone"], "light")
    smallest = browser.evaluate(
        "Math.min(...[...document.querySelectorAll('svg.chart:not(.wide) text')].map(one => "
        "one.getBoundingClientRect().height))"
    )
    assert smallest >= 10
