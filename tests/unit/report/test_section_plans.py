"""The report's section on plans: its tables and drawings show the plans' own numbers."""

from __future__ import annotations

import re

import pytest
from fakes.learned import with_learned_gate
from fakes.planned_pack import CHECK, pack_with, planned_pack
from fakes.runs import make_evaluation, make_measurement, make_pack

from heartvit_edge.report.formats import DASH, TIMES
from heartvit_edge.report.glossary import WORDS
from heartvit_edge.report.page import styles_of
from heartvit_edge.report.palette import series_of
from heartvit_edge.report.plan_tables import LIMITS
from heartvit_edge.report.runs import Run
from heartvit_edge.report.section_plans import plans
from heartvit_edge.report.svg_blocks import hidden_units, units_plot
from heartvit_edge.spec.budget import QUANTITIES, Budget
from heartvit_edge.spec.pack import PackEntry
from heartvit_edge.spec.routing import Routing, Tail

DENSE, PRUNED = series_of([("run", "dense"), ("run", "macs-0.5")]).values()


def run_of(pack, label="run"):
    return Run(label, make_measurement(pack=pack), None, pack)


def section_of(*packs):
    """Return the section for runs of these packs."""
    runs = [run_of(pack, f"run {number}") for number, pack in enumerate(packs)]
    return plans(runs, styles_of(runs))


def tables_of(text):
    """Return each table by its first heading: for each line, its first cell to the others by their headings."""
    found, text = {}, text.replace("\N{NO-BREAK SPACE}", " ")
    for table in re.findall(r"<table.*?</table>", text):
        heads = re.findall(r'<th scope="col">([^<]*)</th>', table)
        lines = re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', table)
        cells = {name: re.findall(r"<td[^>]*>([^<]*)</td>", rest) for name, rest in lines}
        found[heads[0]] = {name: dict(zip(heads[1:], row, strict=True)) for name, row in cells.items()}
    return found


def test_what_is_kept_and_costs_is_told_of_every_entry():
    kept = tables_of(section_of(planned_pack()))["Entry: what it keeps"]
    assert kept["macs-0.5"] == {
        "Budgets": "MACs ≤ 50 % (binds); latency ≤ 4 ms; loss ≤ 0.02 nats (binds)",
        "Tokens kept": "9 from block 1, 5 from block 2",
        "Heads kept": "5 of 6",
        "MLP units kept": "40 of 48",  # 16 + 8 + 16
        "MACs": "50.0 %",
        "Weights": "75.0 %",
        "Latency by the device table": "3.25 ms",
        "Energy by the device table": "41.5 mJ",
    }
    assert list(kept["dense"].values()) == ["none", "all 17", "6 of 6", "48 of 48", "100 %", DASH, DASH, DASH]


def test_costs_and_units_that_no_plan_has_have_no_column():
    kept = tables_of(section_of(make_pack()))["Entry: what it keeps"]
    assert list(kept["macs-0.5"]) == ["Budgets", "Tokens kept", "Heads kept", "MACs", "Weights"]
    assert kept["macs-0.5"]["Budgets"] == "MACs ≤ 50 %"
    whole = planned_pack(blocks=make_pack().entries[1].plan.blocks, energy_mj=None)
    headings = list(tables_of(section_of(whole))["Entry: what it keeps"]["dense"])
    assert headings[-3:] == ["MACs", "Weights", "Latency by the device table"]


def test_tokens_that_images_get_by_need_are_told_from_fewest_to_most():
    pack = make_pack()
    dense, pruned, *others = pack.entries
    counts = ((3, 3), (8, 6))
    tails = tuple(
        Tail(
            num_keep=dict(zip(pruned.plan.sites, found, strict=True)),
            onnx=f"{found[0]}.onnx",
            onnx_sha256="0" * 64,
            outputs=pruned.outputs,
            macs=15_000,
            share=0.5,
        )
        for found in counts
    )
    routing = Routing(
        outputs=(),
        unit="share of nats",
        threshold=0.1,
        images=None,
        counts=((3, 1), (8, 1)),
        tails=tails,
        mean_macs=pruned.plan.dense_macs // 4,
        check=None,
    )
    by_input = PackEntry.model_validate(pruned.model_dump() | {"form": "adaptive-input", "routing": routing})
    adaptive = pack.model_copy(update={"entries": (dense, by_input, *others)})
    kept = tables_of(section_of(adaptive))["Entry: what it keeps"][pruned.name]
    expected = [
        f"{low + 1} to {high + 1} from block {site}" for low, high, site in zip(*counts, pruned.plan.sites, strict=True)
    ]
    assert kept["Tokens kept"] == ", ".join(expected) + ", by image"
    assert kept["MACs"] == "25.0 %"


def test_costs_read_outside_of_the_device_table_say_so():
    kept = tables_of(section_of(planned_pack(extrapolated=True)))["Entry: what it keeps"]["macs-0.5"]
    assert kept["Latency by the device table"] == "3.25 ms, extrapolated"
    assert kept["Energy by the device table"] == "41.5 mJ, extrapolated"


def test_every_quantity_has_words():
    assert set(LIMITS) == set(QUANTITIES)
    budgets = tuple(Budget(quantity=quantity, limit=0.125) for quantity in QUANTITIES)
    text = tables_of(section_of(planned_pack(budgets=budgets, binding=())))["Entry: what it keeps"]["macs-0.5"][
        "Budgets"
    ]
    assert text == "MACs ≤ 12.5 %; weights ≤ 12.5 %; latency ≤ 0.125 ms; energy ≤ 0.125 mJ; loss ≤ 0.125 nats"


def test_what_a_measured_plan_loses_is_told_with_standard_errors_images_and_what_chose_tokens():
    lost = tables_of(section_of(planned_pack()))["Entry: what it loses"]
    assert list(lost) == ["macs-0.5"]  # dense loses nothing
    assert lost["macs-0.5"] == {
        "Scorer": "fisher",
        "Predicted loss, nats": "0.0125 ± 0.00150, measured on the 1,064 images it was made on",
        "Measured on held-out images, nats": "0.0168 ± 0.00210 on 1,128 images",
        "Agreement there": "1,072 of 1,128, 95.0 %",
        "Tokens chosen by": "gate class-attention",
        "Saved by one more percent of the MACs, nats": "0.00125",
    }
    assert pytest.approx(0.95, abs=5e-4) == CHECK.agreement


def test_a_plan_of_scores_alone_says_what_was_not_measured():
    lost = tables_of(section_of(make_pack()))["Entry: what it loses"]["macs-0.5"]
    assert list(lost.values()) == [
        "fisher",
        "0.0125, from scores alone",
        "not measured",
        "not measured",
        "not measured",
        DASH,
    ]


def test_a_scorer_that_ranks_predicts_no_loss():
    lost = tables_of(section_of(pack_with(predicted_loss_nats=None)))["Entry: what it loses"]["macs-0.5"]
    assert lost["Predicted loss, nats"] == "none: scorer fisher ranks"


def test_tokens_chosen_by_the_scores_are_told_from_those_of_a_gate():
    lost = tables_of(section_of(planned_pack(chosen_by="scores")))["Entry: what it loses"]["macs-0.5"]
    assert lost["Tokens chosen by"] == "the scores, taken again at each site"


def test_a_pack_without_a_pruned_plan_has_no_table_of_losses():
    pack = make_pack()
    found = tables_of(section_of(pack.model_copy(update={"entries": pack.entries[:1]})))
    assert list(found) == ["Entry: what it keeps", "Entry: its graph"]


def test_the_graphs_stand_beside_pytorch():
    found = tables_of(section_of(planned_pack()))["Entry: its graph"]
    assert list(found["macs-0.5"].values()) == ["tiny", "dropped", f"1.0{TIMES}10⁻⁶", "4 of 4 images"]
    assert list(found["dense"].values())[:2] == ["none", "none: every token stays"]


def test_a_learned_gate_is_told_with_its_share_of_the_dense_macs_which_counts():
    found = tables_of(section_of(with_learned_gate(planned_pack())))
    assert found["Entry: its graph"]["macs-0.5"]["Gate"] == "learned, 1.00 % of the dense MACs"
    assert found["Entry: what it keeps"]["macs-0.5"]["MACs"] == "51.0 %"


def test_units_are_drawn_only_where_some_are_removed():
    drawn, whole = section_of(planned_pack()), section_of(make_pack())
    assert "MLP units per block</h3>" in drawn
    assert "Every MLP unit is kept by dense." in drawn
    assert "MLP units" not in whole
    for text in (drawn, whole):
        assert "Tokens per block</h3>" in text
        assert "Heads kept, macs-0.5</h3>" in text
        assert "All 6 heads are kept by dense." in text


def test_the_units_plot_is_as_high_as_the_units_that_stay():
    plan = planned_pack().entries[1].plan
    assert hidden_units(plan) == [16, 8, 16]
    drawn = units_plot([(PRUNED, plan)])
    path = re.search(r'<path class="line s1"[^>]* d="M[\d.]+ ([\d.]+)H[\d.]+V([\d.]+)H[\d.]+V([\d.]+)H[\d.]+"', drawn)
    first, second, third = map(float, path.groups())
    zero = float(re.search(r'<line class="axis"[^>]* y1="([\d.]+)"', drawn)[1])
    assert first == third
    assert (zero - second) / (zero - first) == pytest.approx(8 / 16, rel=0.001)
    assert "macs-0.5: 8 in block 1, 16 in the others" in drawn
    assert "MLP units per block: macs-0.5 keeps 40 of 48" in drawn


def test_a_group_kept_whole_is_no_unit_removed():
    blocks = [block.model_copy(update={"kept_units": (0, 1)}) for block in make_pack().entries[1].plan.blocks]
    text = section_of(pack_with(blocks=tuple(blocks), unit_groups=2))
    assert "MLP units" not in text


def test_the_plans_of_each_pack_are_named_where_there_are_several_and_shown_once():
    first, second = planned_pack(), planned_pack("other_vit")
    text = section_of(first, second, first)
    for pack in (first, second):
        title = f"{pack.source.name}, pack {pack.digest()[:12]}: "
        for label in ("Plans", "Loss of the plans", "Graphs of the plans"):
            assert text.count(f'aria-label="{title}{label}"') == 1
        assert f"{title}MLP units per block" in text


def test_without_a_measurement_it_is_said_where_plans_are():
    runs = [Run("run", None, make_evaluation(), None)]
    assert "heartvit-edge bench makes" in plans(runs, styles_of(runs))


def test_text_of_a_plan_is_escaped():
    hostile = '"><script>alert(1)</script>'
    text = section_of(planned_pack(scorer=hostile, chosen_by=hostile))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 2


@pytest.mark.parametrize(
    "word",
    [
        "Budget",
        "Binds",
        "Held-out images",
        "Tokens chosen by",
        "One more percent",
        "Device table",
        "Weights",
        "MLP unit",
    ],
)
def test_words_of_the_section_are_in_the_glossary(word):
    assert word in WORDS
    text = section_of(planned_pack())
    assert word.lower() in text.lower().replace("(binds)", "binds")
