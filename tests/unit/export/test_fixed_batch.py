"""Graphs with a constant batch: they answer as those with an open one, and take no other."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from fakes.adaptive_pack import SITES, make_adaptive_pack
from fakes.tiny_vit import images

from heartvit_edge.errors import InputError
from heartvit_edge.export.fixed_batch import check_batch, count_images
from heartvit_edge.export.precision import Precisions
from heartvit_edge.spec.route import route

BATCH = 3


def runs(folder, name, feeds=None):
    session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
    names = [info.name for info in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, {**given, **(feeds or {})}), strict=True))


def answers(folder, entry, batch):
    if entry.routing is None:
        feeds = {f"num_keep_{site}": np.array(count) for site, count in entry.num_keep.items()}
        return runs(folder, entry.onnx, feeds)({"images": batch})
    stem, *tails = (runs(folder, graph.onnx) for graph in entry.graphs)
    return route({"images": batch}, stem, tails, entry.routing.buckets, entry.outputs)


@pytest.mark.parametrize(
    ("form", "batch", "reduction"),
    [
        ("static", BATCH, "drop"),
        ("static", BATCH, "merge"),
        ("adaptive-shape", BATCH, "drop"),
        ("adaptive-shape", 1, "fuse"),
        ("adaptive-input", 1, "drop"),
    ],
)
def test_every_form_answers_as_with_an_open_batch_and_takes_no_other_batch(tmp_path, form, batch, reduction):
    gate = None if reduction == "merge" else "class-attention"
    fixed = make_adaptive_pack(tmp_path / "fixed", form, gate, reduction, 2, 1, batch=batch)
    free = make_adaptive_pack(tmp_path / "open", form, gate, reduction, 2, 1)
    given = images(batch, seed=9).numpy()
    for ours, theirs in zip(fixed.entries, free.entries, strict=True):
        assert (ours.fixed_batch, theirs.fixed_batch) == (batch, None)
        assert ours.parity.batch_sizes == (batch,)
        for graph in ours.graphs:
            assert {info.shape[0] for info in (*graph.inputs, *graph.outputs) if info.shape} == {batch}
            stored = onnx.load(tmp_path / "fixed" / graph.onnx, load_external_data=False).graph
            for info, value in zip((*graph.inputs, *graph.outputs), (*stored.input, *stored.output), strict=True):
                dims = value.type.tensor_type.shape.dim
                assert [dim.dim_value for dim in dims][:1] == list(info.shape)[:1]
        found, expected = answers(tmp_path / "fixed", ours, given), answers(tmp_path / "open", theirs, given)
        assert found.keys() == expected.keys()
        assert abs(found["logits"] - expected["logits"]).max() <= 1e-5 * abs(expected["logits"]).max()
        for name in set(found) - {"logits"}:
            assert found[name].tolist() == expected[name].tolist()
        with pytest.raises(Exception, match="Got invalid dimensions for input: images"):
            answers(tmp_path / "fixed", ours, images(batch + 1).numpy())


def test_the_count_of_a_shared_graph_stays_open_where_the_batch_does_not(tmp_path):
    pack = make_adaptive_pack(tmp_path / "pack", budgets=1, batch=BATCH)
    graph = onnx.load(tmp_path / "pack" / "adaptive-shape.onnx", load_external_data=False).graph
    assert [info.shape for info in pack.entries[1].inputs] == [(BATCH, 3, 32, 32), (), ()]
    for site, value in zip(SITES, graph.output[1:], strict=True):
        batch, count = value.type.tensor_type.shape.dim
        assert value.name == f"kept_{site}"
        assert (batch.dim_value, count.HasField("dim_value")) == (BATCH, False)


def test_graphs_in_other_precisions_have_the_same_batch(tmp_path):
    feeds = [{"images": images(BATCH, seed=seed).numpy()} for seed in range(2)]
    asked = Precisions(("fp16", "int8"), "minmax", 1.0, feeds)
    pack = make_adaptive_pack(tmp_path / "pack", "static", budgets=1, batch=BATCH, precisions=asked)
    for graph in pack.entries[1].others:
        sizes = onnx.load(tmp_path / "pack" / graph.onnx).graph.input[0].type.tensor_type.shape.dim
        assert [size.dim_value for size in sizes] == [BATCH, 3, 32, 32]
        assert graph.fidelity.num_images == 12


def test_a_tail_with_a_constant_batch_of_several_images_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="no constant batch of 2 can") as caught:
        make_adaptive_pack(tmp_path / "pack", "adaptive-input", batch=2)
    assert "--fixed-batch 1" in caught.value.hint
    assert not (tmp_path / "pack").exists()
    check_batch("adaptive-input", None)
    check_batch("adaptive-shape", 2)


def test_images_fill_whole_batches_and_are_as_many_as_are_wanted_where_there_are():
    assert count_images(64, 256, None) == 64
    assert count_images(64, 20, None) == 20
    assert count_images(64, 256, 5) == 65
    assert count_images(64, 66, 5) == 65
    assert count_images(64, 64, 5) == 60
    with pytest.raises(InputError, match="batch of 8 runs on no fewer images, found 7") as caught:
        count_images(64, 7, 8)
    assert "--num-images 8" in caught.value.hint
