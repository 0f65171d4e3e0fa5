"""The layers section: one line an engine, its list to unfold, and nothing where no builder told."""

from __future__ import annotations

import re

import pytest
from fakes.runs import ENGINE, make_measurement

from heartvit_edge.report.page import page
from heartvit_edge.report.rows import rows_of
from heartvit_edge.report.runs import Run
from heartvit_edge.report.section_layers import MOST_KINDS, engine_layers
from heartvit_edge.spec.layers import EngineLayer, EngineLayers


def layer(kind, precision="fp16", tactic="", nodes=()):
    return EngineLayer(name=f"<{kind}>", kind=kind, tactic=tactic, precision=precision, nodes=nodes)


def table(*layers, engine=ENGINE, fused=0):
    return EngineLayers(engine_sha256=engine, layers=layers, num_fused_attention=fused)


def run(*tables, label="run"):
    measurement = make_measurement().model_copy(update={"layers": tables})
    return Run(label, measurement, None, measurement.pack)


def test_layers_are_counted_by_precision_and_kind():
    layers = [layer("gemm", tactic="sm80_xmma", nodes=("/a/MatMul", "/b/Add"))] * 3 + [layer("kgen", "fp32")]
    html = engine_layers([run(table(*layers, fused=2))])
    cells = re.findall(r"<td>(.*?)</td>", html)
    assert cells[:4] == ["4", "3 fp16, 1 fp32", "2", "3 gemm, 1 kgen"]
    assert html.count("&lt;gemm&gt;") == 3
    assert "<td>/a/MatMul, /b/Add</td>" in html


def test_many_kinds_are_named_up_to_a_number_and_the_rest_counted():
    layers = [layer(f"kind {index}") for index in range(MOST_KINDS) for _ in range(2)]
    html = engine_layers([run(table(*layers, layer("rare"), layer("rarer")))])
    assert f"2 kind {MOST_KINDS - 1}, 2 others<" in html


@pytest.mark.parametrize(("fused", "text"), [(None, "not told"), (0, "0")])
def test_attention_that_the_inspector_does_not_tell_is_not_counted_as_none(fused, text):
    cells = re.findall(r"<td>(.*?)</td>", engine_layers([run(table(layer("Myelin"), fused=fused))]))
    assert cells[2] == text


def test_an_engine_that_ran_in_two_runs_is_listed_once():
    html = engine_layers([run(table(layer("gemm"))), run(table(layer("gemm")), label="other")])
    assert html.count("<details>") == 1


def test_budgets_of_one_engine_have_each_their_own_layers():
    own = table(layer("gemm")).model_copy(update={"budget": "dense"})
    another = table(layer("kgen")).model_copy(update={"budget": "no such row"})
    html = engine_layers([run(another, own)])
    assert html.count("<details>") == 1
    assert "&lt;gemm&gt;" in html


def test_runs_without_a_table_of_their_engines_have_neither_section_nor_link():
    for runs in ([run()], [run(table(layer("gemm"), engine="9" * 64))]):
        assert engine_layers(runs) is None
        assert "#layers" not in page(runs, rows_of(runs))
    assert '<a href="#layers">' in page([run(table(layer("gemm")))], rows_of([run()]))
