"""The HTML page: well formed, self-contained, escaped, and complete."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from fakes.compared import BASELINE, CONTROL, compared_run
from fakes.planned_pack import planned_pack
from fakes.runs import NO_POWER, make_evaluation, make_measurement, make_pack

from heartvit_edge.report.columns import PAGE_COLUMNS
from heartvit_edge.report.formats import value_text
from heartvit_edge.report.page import page
from heartvit_edge.report.rows import rows_of
from heartvit_edge.report.runs import Run

VOID = {"meta", "link", "img", "br", "input"}
HOSTILE = '"><script>alert(1)</script>'


class Reader(HTMLParser):
    """Checks that every element is closed in order, and collects elements, texts and table rows."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text, self.lines = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is given twice"
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.lines and {"td", "th"} & set(self.open):
            self.lines[-1][-1] += data


def _page(*runs):
    return page(runs, rows_of(runs))


def _run(label="run", measurement=None, evaluation=None):
    return Run(label, measurement, evaluation, measurement.pack if measurement else None)


FULL = _run(measurement=make_measurement(batch_sizes=(1, 4), power=True), evaluation=make_evaluation())
CASES = {
    "full": [FULL],
    "only measured": [_run(measurement=make_measurement())],
    "only evaluated": [_run(evaluation=make_evaluation())],
    "without labels": [_run(measurement=make_measurement(), evaluation=make_evaluation(labelled=False))],
    "one entry, one sample": [_run(measurement=make_measurement({"dense": [2.0]}), evaluation=make_evaluation())],
    "everything known of a plan": [_run(measurement=make_measurement(pack=planned_pack()))],
    "a baseline and a control": [compared_run()],
    "two packs": [FULL, _run("other", make_measurement(pack=make_pack("other_vit")))],
    "three runs": [FULL, _run("slow", make_measurement()), _run("asked", evaluation=make_evaluation())],
}


@pytest.mark.parametrize("runs", CASES.values(), ids=CASES)
def test_the_page_is_well_formed_and_its_ids_and_links_agree(runs):
    reader = Reader(_page(*runs))
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    links = [attrs["href"][1:] for tag, attrs in reader.elements if tag in ("a", "use")]
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    assert [tag for tag, _ in reader.elements].count("h1") == 1


@pytest.mark.parametrize("runs", CASES.values(), ids=CASES)
def test_the_page_loads_nothing_and_runs_nothing(runs):
    text = _page(*runs)
    reader = Reader(text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert {"script", "link", "iframe", "img", "object"}.isdisjoint(tag for tag, _ in reader.elements)
    loaded = [attrs[name] for _, attrs in reader.elements for name in ("href", "src") if name in attrs]
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in loaded)
    assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)


def test_the_summary_shows_every_figure_of_the_rows():
    rows = rows_of([FULL])
    reader = Reader(_page(FULL))
    width = len(PAGE_COLUMNS) + 1
    lines = [line for line in reader.lines if len(line) == width and line[0] in ("dense", "macs-0.5")]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line[0] == row.entry
        for cell, column in zip(line[1:], PAGE_COLUMNS, strict=True):
            assert cell.startswith(value_text(row.figures[column.key], column.unit))


def test_a_baseline_has_a_line_and_no_tile_and_shares_the_plan_it_carries_out():
    text = _page(compared_run())
    reader = Reader(text)
    assert [line[0] for line in reader.lines if len(line) == len(PAGE_COLUMNS) + 1] == [
        "dense",
        "macs-0.5",
        f"{BASELINE}baseline of macs-0.5",
        f"{CONTROL}control of dense",
    ]
    tiles = re.search(r'<div class="tiles">(.*?)</header>', text, flags=re.DOTALL)[1]
    assert "macs-0.5<" in tiles
    assert BASELINE not in tiles
    assert CONTROL not in tiles
    plans = text[text.index('id="plans"') : text.index('id="power"')]
    assert plans.count(f">{BASELINE}<") == 1  # its graph; what is kept and lost is the plan's


def test_a_missing_figure_is_a_dash_whose_footnote_says_why():
    text = _page(_run(measurement=make_measurement()))
    reader = Reader(text)
    row = next(line for line in reader.lines if line[0] == "dense" and len(line) > 10)
    assert row[-1] == "—2"
    note = re.search(r'<li id="note-2" value="2">([^<]*)</li>', text)
    assert note[1] == f"— {NO_POWER}"


def test_text_from_files_is_escaped_wherever_it_is_shown():
    measurement = make_measurement(pack=make_pack(HOSTILE))
    machine = measurement.machine.model_copy(update={"cpu": HOSTILE, "power_mode": HOSTILE})
    measurement = measurement.model_copy(
        update={"machine": machine, "command": HOSTILE, "no_power_reason": HOSTILE, "created": HOSTILE}
    )
    evaluation = make_evaluation(classes=("circle", HOSTILE, HOSTILE), pack=measurement.pack)
    sample = evaluation.samples[0].model_copy(update={"png_base64": HOSTILE})
    evaluation = evaluation.model_copy(update={"samples": (sample,), "command": HOSTILE})
    text = _page(_run(HOSTILE, measurement, evaluation))
    assert "<script" not in text
    assert f"label: {HOSTILE}" in Reader(text).text


def test_answers_say_whether_they_are_right():
    reader = Reader(_page(FULL))
    assert "Image 7, label: square" in reader.text
    assert "✓ square" in reader.text
    assert "✗ triangle" in reader.text


def test_class_numbers_stand_in_for_names_that_are_unknown():
    measurement = make_measurement()
    reader = Reader(_page(_run(measurement=measurement, evaluation=make_evaluation(classes=()))))
    assert "label: class 1" in reader.text


def test_every_drawing_that_is_not_decoration_says_what_it_shows():
    drawings = [attrs for tag, attrs in Reader(_page(FULL)).elements if tag == "svg"]
    assert drawings
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") == "true" for attrs in drawings)


def test_energy_plots_and_power_trace_are_there_only_with_power():
    with_power, without = _page(FULL), _page(_run(measurement=make_measurement(), evaluation=make_evaluation()))
    assert "Top-1 against energy, batch size 1" in with_power
    assert 'class="power"' in with_power
    assert "against energy" not in without
    assert f"No power trace: {NO_POWER}." in without


def test_the_head_says_in_few_words_why_there_is_no_energy_and_the_power_section_in_all():
    reason = "no power source was found: ina3221: there is none; jtop: the same"
    measurement = make_measurement().model_copy(update={"no_power_reason": reason})
    head, _, rest = Reader(_page(_run(measurement=measurement))).text.partition("Summary")
    assert "none: no power source was found" in head
    assert "ina3221" not in head
    assert f"No power trace: {reason}." in rest


def test_quality_is_agreement_where_no_image_is_labelled():
    text = _page(_run(measurement=make_measurement(), evaluation=make_evaluation(labelled=False)))
    assert "Agreement against median latency, batch size 1" in text
    assert "Top-1 against" not in text


def test_rows_of_several_runs_are_labelled_by_run():
    text = Reader(_page(FULL, _run("slow", make_measurement()))).text
    assert "run · batch size 4" in text
    assert "slow · batch size 1" in text


def test_a_pack_that_two_runs_share_is_drawn_once():
    text = _page(FULL, _run("slow", make_measurement()))
    assert text.count("Tokens per block</h3>") == 1


def test_maps_and_commands_that_two_runs_share_are_shown_once_under_both_labels():
    evaluation = make_evaluation()
    runs = [_run(label, make_measurement(), evaluation) for label in ("MAXN", "15W")]
    text = Reader(_page(*runs)).text
    assert text.count("Image 7, label: square") == 1
    assert text.count("heartvit-edge evaluate pack --data shapes.npz") == 1
    assert text.count("MAXN, 15W") == 2  # over the maps, and over the commands
    other = make_evaluation(classes=("disc", "box", "wedge"))
    assert Reader(_page(runs[0], _run("15W", make_measurement(), other))).text.count("Image 7, label") == 2


def test_the_same_runs_give_the_same_page():
    assert _page(FULL) == _page(FULL)
