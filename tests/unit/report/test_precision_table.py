"""The table of graphs in other precisions shows what the pack says of them."""

from __future__ import annotations

import re

from fakes.runs import make_pack

from heartvit_edge.report.precision_table import HEADINGS, precision_table
from heartvit_edge.spec.precision import Fidelity, LayerLoss, PrecisionGraph, Quantization

FIDELITY = Fidelity(
    num_images=64,
    cosine=0.9990904,
    same_tokens_cosine=0.95,
    kl_nats=0.0118,
    num_agreeing=63,
    num_other_tokens=2,
    kept_overlap=0.99,
)
MADE = Quantization(
    calibration="minmax",
    num_images=128,
    limit_nats=0.01,
    loss_nats=0.0086,
    num_quantized=48,
    left_out=(LayerLoss(name="blocks.2.mlp.fc2", loss_nats=0.235), LayerLoss(name="head", loss_nats=0.012)),
)


def entries():
    first, *others = make_pack().entries
    half = PrecisionGraph(precision="fp16", onnx="h.onnx", onnx_sha256="a" * 64, fidelity=FIDELITY)
    byte = PrecisionGraph(precision="int8", onnx="b.onnx", onnx_sha256="b" * 64, fidelity=FIDELITY, quantization=MADE)
    return [first.model_copy(update={"others": (half, byte)}), *others]


def test_there_is_no_table_without_such_graphs():
    assert precision_table(make_pack().entries, "") == []


def test_each_graph_has_a_row_with_what_it_reached_and_how_it_was_made():
    (table,) = precision_table(entries(), "pack: ")
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', table.replace("\N{NO-BREAK SPACE}", " "))
    cells = {name: re.findall(r"<td[^>]*>([^<]*)</td>", rest) for name, rest in rows}
    assert list(cells) == ["dense, fp16", "dense, int8"]
    assert cells["dense, int8"] == [
        "63 of 64, 98.4 %",
        "0.0118",
        "0.999090",
        "minmax, 128 images",
        "48 of 50",
        "blocks.2.mlp.fc2 0.235; head 0.0120",
    ]
    assert cells["dense, fp16"][:4] == ["63 of 64, 98.4 %", "0.0118", "0.999090", "none needed"]
    assert [name in table for name in HEADINGS] == [True] * len(HEADINGS)
