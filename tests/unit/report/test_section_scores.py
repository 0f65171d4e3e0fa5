"""The report's section on scores: its shades, its plot and its table show the map's own numbers."""

from __future__ import annotations

import re

import pytest
from fakes.runs import make_evaluation, make_measurement, make_pack
from fakes.score_maps import HEADS_MEAN, HEADS_STDERR, make_map, scored_pack

from heartvit_edge.report.formats import DASH, TIMES
from heartvit_edge.report.page import page
from heartvit_edge.report.rows import rows_of
from heartvit_edge.report.runs import Run
from heartvit_edge.report.section_scores import REMOVED, scores
from heartvit_edge.report.svg_scores import FAINTEST, head_scores_map, opacities, site_scores_plot
from heartvit_edge.spec.pack import BudgetPack
from heartvit_edge.spec.sensitivity import Calibration

UNCHECKED = {"calibration": (), "drop_curves": (), "calibration_images": None}


def run_of(pack, label="run"):
    return Run(label, make_measurement(pack=pack), None, pack)


def test_shades_are_linear_in_the_logarithm_of_the_score():
    shades = opacities([[0.001, 0.01], [0.1, -1.0], [0.0316227766, 0.0]])
    darkest = 1.0
    assert shades[0] == pytest.approx([FAINTEST, (FAINTEST + darkest) / 2])
    assert shades[1] == [pytest.approx(darkest), None]
    assert shades[2] == [pytest.approx(FAINTEST + 0.75 * (darkest - FAINTEST), rel=1e-6), None]
    assert opacities([[0.5, 0.5], [0.5, 0.0]]) == [[1, 1], [1, None]]
    assert opacities([[0.0, -1.0]]) == [[None, None]]


def test_the_head_map_has_a_square_for_each_head_with_its_mean_and_error():
    drawn = head_scores_map(HEADS_MEAN, HEADS_STDERR, "nats")
    squares = re.findall(r'<rect class="([^"]*)"(?: fill-opacity="([\d.]+)")?[^>]*><title>([^<]*)</title>', drawn)
    assert [words for *_, words in squares] == [
        "block 0, head 0: 0.00100 ± 0.000100 nats",
        "block 0, head 1: 0.0100 ± 0.000200 nats",
        "block 1, head 0: 0.100 ± 0.00300 nats",
        "block 1, head 1: -0.00200 ± 0.000400 nats",
        "block 2, head 0: 0.0316 ± 0.000500 nats",
        "block 2, head 1: 0.0200 ± 0.000600 nats",
    ]
    found = [float(opacity) if opacity else None for _, opacity, _ in squares]
    expected = [opacity for row in opacities(HEADS_MEAN) for opacity in row]
    assert found == [None if one is None else pytest.approx(one, abs=0.01) for one in expected]
    assert [class_ for class_, *_ in squares].count("head removed") == 1
    assert ">0.00100 nats</text>" in drawn  # the least positive score, at the faint end of the key
    assert ">0.100 nats</text>" in drawn
    assert "from -0.00200 (block 1, head 1) to 0.100 (block 1, head 0)" in drawn


def test_a_map_without_a_positive_score_has_hollow_squares_and_no_key():
    drawn = head_scores_map([[-1.0, 0.0]], [[0.0, 0.0]], "nats")
    assert drawn.count("head removed") == 2
    assert "fill-opacity" not in drawn


def test_the_site_plot_stands_in_proportion_to_the_means_and_their_errors():
    drawn = site_scores_plot({1: 0.004, 2: 0.001}, {1: 0.0005, 2: 0.0001}, 3, "nats")
    marks = [tuple(map(float, found)) for found in re.findall(r'<circle[^>]*cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    bars = [
        tuple(map(float, found))
        for found in re.findall(r'<line class="bar s1" x1="([\d.]+)" y1="([\d.]+)" x2="[\d.]+" y2="([\d.]+)"', drawn)
    ]
    zero = float(re.search(r'<line class="axis"[^>]* y1="([\d.]+)"', drawn)[1])
    heights = [zero - y for _, y in marks]
    assert heights[0] / heights[1] == pytest.approx(4, rel=0.01)
    for (x, low, high), (mark_x, mark_y), share in zip(bars, marks, (0.0005 / 0.004, 0.0001 / 0.001), strict=True):
        assert x == mark_x
        assert low - mark_y == pytest.approx(mark_y - high, abs=0.02)
        assert (low - mark_y) / (zero - mark_y) == pytest.approx(share, rel=0.02)
    assert "nats a token, in units of 10⁻³" in drawn
    assert "block 1: 0.00400 ± 0.000500 nats a token" in drawn


@pytest.mark.parametrize(("num_sites", "labelled"), [(3, 3), (11, 11), (14, 14), (15, 8), (39, 13)])
def test_sites_are_labelled_as_far_as_there_is_room(num_sites, labelled):
    means = {site: 0.5 for site in range(1, num_sites + 1)}
    drawn = site_scores_plot(means, means, num_sites + 1, "nats")
    found = re.findall(r'<text class="tick"[^>]* text-anchor="middle">(\d+)</text>', drawn)
    assert (len(found), found[0]) == (labelled, "1")
    assert drawn.count('class="bar s1"') == num_sites


@pytest.mark.parametrize(
    ("means", "errors"),
    [({1: 0.0}, {1: 0.0}), ({1: -0.5, 2: 0.25}, {1: 0.1, 2: 0.0}), ({1: -2.0}, {1: 0.0}), ({1: 1e-9}, {1: 1e-10})],
)
def test_a_site_plot_of_odd_values_stays_inside_its_frame(means, errors):
    drawn = site_scores_plot(means, errors, 2, "score")
    heights = [float(y) for y in re.findall(r'<circle[^>]*cy="([\d.]+)"', drawn)]
    assert len(heights) == len(means)
    assert all(34 <= y <= 320 - 52 for y in heights)


def test_the_section_names_the_scorer_its_images_and_every_figure_of_the_calibration():
    text = scores([run_of(scored_pack())])
    for words in ("Worth of each head, nats", "Mean worth of a token at each site", "64 images of shapes.npz"):
        assert words in text
    assert "Scorer removal-gate: exact Fisher diagonal." in text
    row = re.search(r"<tr><th scope=\"row\">one token</th>(.*?)</tr>", text)[1]
    assert re.findall(r"<td>([^<]*)</td>", row) == [
        "128 on 8 held-out images",
        "0.912",
        f"1.25 {TIMES} predicted to the power 0.875",
        "0.734",
        "1.42",
    ]


def test_every_kind_of_removal_that_is_calibrated_has_words():
    assert set(REMOVED) == set(Calibration.model_json_schema()["properties"]["component"]["enum"])


def test_measured_drops_stand_beside_the_sums_of_scores():
    text = scores([run_of(scored_pack())])
    head = re.search(r"<th scope=\"col\">Site: sum of scores, nats</th>(.*?)</tr>", text)[1]
    assert re.findall(">([^<]+)</th>", head) == ["2 least-scored tokens dropped", "8 least-scored tokens dropped"]
    lines = [
        re.search(rf"<th scope=\"row\">block {site}, 8 held-out images</th>(.*?)</tr>", text)[1] for site in (1, 2)
    ]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", lines[0]) == ["0.0125, measured 0.0375", "0.250, measured 0.875"]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", lines[1]) == ["0.500, measured 0.750", DASH]


def test_scores_that_only_rank_are_not_called_nats():
    text = scores([run_of(scored_pack(in_nats=False, **UNCHECKED, heads_mean=()))])
    assert "nats" not in text
    assert "it predicts no loss that could be checked" in text
    assert "Worth of each head" not in text


def test_what_is_missing_is_said():
    unchecked = scored_pack(**UNCHECKED)
    assert "no images were held out" in scores([run_of(unchecked)])
    assert "heartvit-edge export stores them in it" in scores([run_of(make_pack())])
    assert "heartvit-edge bench makes" in scores([Run("run", None, make_evaluation(), None)])


def test_the_scores_of_a_pack_that_two_runs_share_are_shown_once():
    pack = scored_pack()
    assert scores([run_of(pack), run_of(pack, "again")]).count("Worth of each head") == 1
    other = scored_pack("other_vit")
    both = scores([run_of(pack), run_of(other, "other")])
    assert both.count("Worth of each head") == 2
    assert f"other_vit, pack {other.digest()[:12]}: Worth of each head" in both


def test_the_page_has_the_section_and_a_link_to_it():
    runs = [run_of(scored_pack())]
    text = page(runs, rows_of(runs))
    assert '<a href="#scores">Scores</a>' in text
    assert text.index('id="scores"') < text.index('id="plans"')
    assert "What the scores say" in text


def test_text_of_a_map_is_escaped():
    hostile = '"><script>alert(1)</script>'
    images = make_map().images.model_copy(update={"name": hostile})
    text = scores([run_of(scored_pack(estimator=hostile, images=images))])
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_pack_carries_its_scores_through_its_file_and_refuses_those_of_another_model(tmp_path):
    pack = scored_pack()
    pack.write(tmp_path / "manifest.json")
    assert BudgetPack.read(tmp_path / "manifest.json") == pack
    other = make_map().source.model_copy(update={"weights_sha256": "9" * 64})
    with pytest.raises(ValueError, match="scores are of tiny_vit with other weights"):
        BudgetPack.model_validate(pack.model_dump() | {"sensitivity": make_map(source=other).model_dump()})


def test_packs_from_before_scores_were_stored_are_still_read(tmp_path):
    pack = make_pack()
    pack.write(tmp_path / "manifest.json")
    text = (tmp_path / "manifest.json").read_text()
    assert ' "sensitivity": null,\n' in text
    (tmp_path / "old.json").write_text(text.replace(' "sensitivity": null,\n', ""))
    assert BudgetPack.read(tmp_path / "old.json") == pack
