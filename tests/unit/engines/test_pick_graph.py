"""Which graph of a pack an engine is built from, and that what is built answers as that graph."""

from __future__ import annotations

from functools import partial

import pytest
from fakes.machines import DESKTOP
from fakes.precise_pack import make_precise_pack
from fakes.tiny_pack import make_tiny_pack

from heartvit_edge.bench.stored import find_engines
from heartvit_edge.engines.build import build_engine
from heartvit_edge.engines.pick_graph import pick_graphs
from heartvit_edge.engines.store import load_engine
from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.runtime.verify import verify_engine
from heartvit_edge.spec.engine import BatchRange
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.pack import BudgetPack


@pytest.fixture
def pack(tmp_path):
    """Return the manifest of a pack with graphs in every precision; it lies in ``pack``."""
    return make_precise_pack(tmp_path / "pack")


@pytest.mark.parametrize(
    ("precision", "file"),
    [("fp32", "macs-0.5.onnx"), ("fp16", "macs-0.5.fp16.onnx"), ("int8", "macs-0.5.int8.onnx")],
)
def test_the_graph_is_that_of_the_precision(pack, tmp_path, precision, file):
    (graph,), found = pick_graphs(pack.entry("macs-0.5"), precision)
    assert (graph.onnx, graph.onnx_sha256, found) == (file, sha256_file(tmp_path / "pack" / file), precision)


def test_a_builder_that_chooses_fp16_itself_gets_the_fp32_graph_and_int8_as_it_is(pack):
    entry = pack.entry("dense")
    assert pick_graphs(entry, "fp16", weakly_typed=True) == (entry.graphs, "fp32")
    assert pick_graphs(entry, "int8", weakly_typed=True).graphs[0].onnx == "dense.int8.onnx"


def test_without_other_graphs_fp16_is_made_of_fp32_and_int8_is_refused_with_what_makes_it(tmp_path):
    entry = make_tiny_pack(tmp_path / "pack").entry("dense")
    assert pick_graphs(entry, "fp16") == (entry.graphs, "fp32")
    with pytest.raises(InputError, match="the pack has no INT8 graph of dense: INT8 needs images") as caught:
        pick_graphs(entry, "int8")
    assert "--precision int8" in caught.value.hint


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_is_built_from_the_graph_of_its_precision_verified_and_found(pack, tmp_path, precision):
    build = partial(build_engine, tmp_path / "pack", pack, backend="onnxruntime", batch=BatchRange())
    for entry in ("dense", "macs-0.5"):
        folder = build(
            entry_name=entry,
            precision=precision,
            engines=tmp_path / "engines",
            machine=DESKTOP,
            force=False,
            verify=verify_engine,
        )
        manifest = load_engine(folder, DESKTOP)
        assert manifest.onnx_sha256 == pack.entry(entry).other(precision).onnx_sha256
    found = find_engines(tmp_path / "pack", pack, ["dense", "macs-0.5"], tmp_path / "engines", None, None, DESKTOP)
    assert [engine.manifest.precision for engine in found] == [precision, precision]


def test_a_pack_with_an_altered_graph_of_any_precision_is_refused(pack, tmp_path):
    assert BudgetPack.open(tmp_path / "pack") == pack
    with (tmp_path / "pack/dense.int8.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckError, match=r"dense\.int8\.onnx was altered"):
        BudgetPack.open(tmp_path / "pack")
