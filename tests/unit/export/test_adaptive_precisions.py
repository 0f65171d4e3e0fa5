"""FP16 and INT8 of graphs that adapt: close to FP32 in every way they are run, and no weight twice."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from fakes.adaptive_pack import make_adaptive_pack
from fakes.board import Board, noise
from fakes.machines import DESKTOP
from fakes.tensorrt_surface import VERSIONS
from fakes.tiny_vit import images
from scipy.special import log_softmax

from heartvit_edge.engines.build import build_engine
from heartvit_edge.engines.pick_graph import graphs_in
from heartvit_edge.errors import CheckError
from heartvit_edge.export import fidelity
from heartvit_edge.export.assembly import FEWEST, Assembly, images_of_tails
from heartvit_edge.export.precision import Precisions
from heartvit_edge.export.quantize import find_layers
from heartvit_edge.runtime.open import open_runner
from heartvit_edge.runtime.routed_runner import RoutedRunner
from heartvit_edge.runtime.tensorrt_runner import TensorRTRunner
from heartvit_edge.runtime.verify import verify_engine
from heartvit_edge.spec.engine import EngineManifest
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.pack import BudgetPack

CALIBRATION = [{"images": images(12, seed=3).numpy()}, {"images": images(12, seed=4).numpy()}]
BLOCK = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
LAYERS = ["patch_embed.proj", *(f"blocks.{block}.{layer}" for block in range(4) for layer in BLOCK), "head"]
FORMS = ("adaptive-shape", "adaptive-input")


def asked(limit=2.0):
    return Precisions(("fp16", "int8"), "minmax", limit, CALIBRATION)


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """Return folder and manifest of a pack in every precision, by its form."""
    found = {}
    for form in FORMS:
        folder = tmp_path_factory.mktemp(form) / "pack"
        found[form] = folder, make_adaptive_pack(folder, form, buckets=2, precisions=asked())
    return found


def external(path):
    """Return the place of each tensor of a graph that lies in the file of weights."""
    return {
        tensor.name: {pair.key: pair.value for pair in tensor.external_data}
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_entry_has_its_graphs_in_each_precision_and_the_pack_checks_their_bytes(packs, form):
    folder, pack = packs[form]
    assert BudgetPack.open(folder) == pack
    files = {path.name for path in folder.glob("*.onnx")}
    for entry in pack.entries[1:]:
        for precision in ("fp16", "int8"):
            other = entry.other(precision)
            assert other.fidelity.num_images == 12
            for whole, graph in zip(entry.graphs, graphs_in(entry, precision), strict=True):
                assert graph.onnx == whole.onnx.replace(".onnx", f".{precision}.onnx")
                assert graph.onnx_sha256 == sha256_file(folder / graph.onnx)
                assert (graph.onnx, graph.onnx_sha256) in pack.files(entry)
                files.discard(graph.onnx)
            assert (other.quantization is None) == (precision == "fp16")
    assert not [
        name for name in files if name.startswith(("adaptive", "macs")) and (".fp16" in name or ".int8" in name)
    ]


def test_entries_that_share_a_graph_share_it_in_each_precision_and_each_is_compared_with_its_counts(packs):
    first, second = packs["adaptive-shape"][1].entries[1:]
    for precision in ("fp16", "int8"):
        ours, theirs = first.other(precision), second.other(precision)
        assert (ours.onnx, ours.onnx_sha256) == (theirs.onnx, theirs.onnx_sha256)
        assert ours.onnx == f"adaptive-shape.{precision}.onnx"
        assert ours.fidelity != theirs.fidelity
        assert ours.quantization == theirs.quantization


@pytest.mark.parametrize("form", FORMS)
def test_every_layer_is_quantised_once_whatever_graphs_have_it(packs, form):
    folder, pack = packs[form]
    for entry in pack.entries[1:]:
        found = []
        for graph in entry.graphs:
            found += find_layers(onnx.load(folder / graph.onnx).graph, pack.shape)
        assert set(found) == set(LAYERS)
        made = entry.other("int8").quantization
        assert (made.num_quantized, made.left_out, made.num_images) == (len(LAYERS), (), 24)


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_is_stored_once_for_each_element_type_and_int8_graphs_have_those_of_fp32(packs, form):
    folder, pack = packs[form]
    paths = {name for entry in pack.entries for name, _ in pack.files(entry) if name.endswith(".onnx")}
    content = (folder / "weights.bin").read_bytes()
    places = {}
    for name in paths:
        for found in external(folder / name).values():
            start, length = int(found["offset"]), int(found["length"])
            places[start, length] = content[start : start + length]
    assert len(set(places.values())) == len(places)
    for entry in pack.entries:
        for whole, byte, half in zip(*(graphs_in(entry, name) for name in ("fp32", "int8", "fp16")), strict=True):
            ours, theirs = external(folder / whole.onnx), external(folder / byte.onnx)
            assert {name: theirs[name] for name in ours} == ours
            assert len(external(folder / half.onnx)) > 4
            inside = [one for one in onnx.load(folder / half.onnx, load_external_data=False).graph.initializer]
            assert all(len(one.raw_data) < 1024 for one in inside)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_engines_are_built_of_these_graphs_and_answer_as_fp32_nearly(packs, tmp_path, form, precision):
    folder, pack = packs[form]
    answers = {}
    for which in ("fp32", precision):
        built = build_engine(
            folder, pack, "macs-0.6", "onnxruntime", which, None, tmp_path, DESKTOP, force=False, verify=verify_engine
        )
        manifest = EngineManifest.read(built / "manifest.json")
        used = [(part.onnx, part.onnx_sha256) for part in manifest.parts] or [(None, manifest.onnx_sha256)]
        wanted = graphs_in(pack.entry("macs-0.6"), which)
        assert [sha256 for _, sha256 in used] == [graph.onnx_sha256 for graph in wanted]
        with open_runner(manifest, built) as runner:
            answers[which] = runner.infer(noise(8, seed=7))["logits"]
    ours, theirs = answers[precision], answers["fp32"]
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert np.median(cosines) > 0.98


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_tensorrt_takes_these_graphs_and_8_6_those_in_fp32_for_fp16(
    packs, tmp_path, monkeypatch, version, form, precision
):
    board = Board(tmp_path, monkeypatch, version, make_pack=lambda _: packs[form][1])
    board.folder = packs[form][0]
    manifest, folder = board.build(precision, entry="macs-0.8")
    entry = packs[form][1].entry("macs-0.8")
    weak = version.startswith("8") and precision == "fp16"
    assert manifest.onnx_sha256 == graphs_in(entry, "fp32" if weak else precision)[0].onnx_sha256
    manifests = [manifest.of_part(part) for part in manifest.parts] or [manifest]
    parts = [TensorRTRunner(one, folder, board.cuda, board.scratch).__enter__() for one in manifests]
    runner = RoutedRunner(manifest, parts) if manifest.parts else parts[0]
    found = runner.infer(noise(4, seed=7))
    assert np.isfinite(found["logits"]).all()
    assert found["kept_3"].shape == (4, entry.outputs[-1].shape[1])


def test_the_range_of_a_tails_activations_is_that_of_what_the_stem_hands_to_it(packs):
    folder, pack = packs["adaptive-input"]
    entry = pack.entry("macs-0.6")
    stem = onnxruntime.InferenceSession(folder / entry.onnx, providers=["CPUExecutionProvider"])
    names = [info.name for info in stem.get_outputs()]
    found = [dict(zip(names, stem.run(names, feed), strict=True)) for feed in CALIBRATION]
    tokens = np.concatenate([one["tokens"] for one in found])
    needed = np.concatenate([one["num_keep"] for one in found])
    assembly = Assembly(tuple(folder / graph.onnx for graph in entry.graphs), entry.routing.buckets, entry.outputs)
    _, *fed = assembly.feeds(CALIBRATION)
    for rows, feeds in zip(images_of_tails(needed, entry.routing.buckets), fed, strict=True):
        np.testing.assert_allclose(np.concatenate([feed["tokens"] for feed in feeds]), tokens[rows], atol=1e-6)
        assert "num_keep" not in feeds[0]
        assert len(feeds[0]["tokens"]) <= 12


def test_a_tail_is_calibrated_on_its_own_images_and_the_closest_others_where_they_are_few():
    needed = np.array([5] * 20 + [9, 12, 30], dtype=np.int32)
    first, second, third = images_of_tails(needed, (5, 10, 15))
    assert first.tolist() == list(range(20))
    assert 20 in second
    assert len(second) == len(third) == FEWEST
    assert {21, 22} <= set(third.tolist())
    assert 20 in third  # the closest of the others


def test_the_loss_of_a_shared_graph_is_that_of_the_budget_that_loses_most(packs):
    folder, pack = packs["adaptive-shape"]
    means = []
    for entry in pack.entries[1:]:
        feeds = {f"num_keep_{site}": np.array(count) for site, count in entry.num_keep.items()}
        logs = []
        for (graph,) in (entry.graphs, graphs_in(entry, "int8")):
            session = onnxruntime.InferenceSession(folder / graph.onnx, providers=["CPUExecutionProvider"])
            logits = [session.run(["logits"], batch | feeds)[0] for batch in CALIBRATION]
            logs.append(log_softmax(np.concatenate(logits).astype(np.float64), axis=1))
        means.append((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())
    assert pack.entries[1].other("int8").quantization.loss_nats == pytest.approx(max(means), rel=1e-3)
    assert abs(means[0] - means[1]) > 0.01 * max(means)


@pytest.mark.parametrize("form", FORMS)
def test_layers_are_left_out_until_no_budget_loses_more_than_the_limit(packs, tmp_path, form):
    whole = packs[form][1].entry("macs-0.8").other("int8").quantization
    limit = whole.loss_nats / 3
    pack = make_adaptive_pack(tmp_path / "pack", form, buckets=2, precisions=asked(limit))
    made = pack.entry("macs-0.8").other("int8").quantization
    assert made.loss_nats <= limit
    assert made.num_quantized + len(made.left_out) == len(LAYERS)
    assert 0 < made.num_quantized < len(LAYERS)
    pairs = {}
    for graph in graphs_in(pack.entry("macs-0.8"), "int8"):
        nodes = onnx.load(tmp_path / "pack" / graph.onnx).graph.node
        pairs[graph.name] = sum(node.op_type == "QuantizeLinear" for node in nodes) // 2
    tails = {count for name, count in pairs.items() if name.startswith("tail")}
    assert len(tails) == (form == "adaptive-input")  # all tails have the same layers in INT8
    assert sum(tails) + pairs.get("stem", 0) + pairs.get("engine", 0) == made.num_quantized


@pytest.mark.parametrize("form", FORMS)
def test_a_gate_that_fails_leaves_no_pack(tmp_path, form, monkeypatch):
    monkeypatch.setattr(fidelity, "MIN_COSINE_FP16", 1.1)
    with pytest.raises(CheckError, match=r"(dense|macs-0\.8)\.fp16: the mean cosine"):
        make_adaptive_pack(tmp_path / "pack", form, buckets=2, budgets=1, precisions=Precisions(("fp16",)))
    assert not (tmp_path / "pack").exists()


def test_the_manifest_of_tails_in_another_precision_names_one_for_each(packs):
    entry = packs["adaptive-input"][1].entries[1]
    content = json.loads(entry.model_dump_json())
    content["others"][0]["tails"].pop()
    with pytest.raises(ValueError, match="has 2 tails"):
        type(entry).model_validate(content)


def test_counts_between_and_beyond_the_budgets_are_compared_in_every_precision_too(tmp_path, monkeypatch):
    compared, held = {}, []

    def recording(reference, other, feeds, name):
        compared[name] = feeds
        return fidelity.compare(reference, other, feeds, name)

    def holding(found, name, **how):
        held.append((name, how.get("few", False)))
        fidelity.check_half(found, name, **how)

    monkeypatch.setattr("heartvit_edge.export.precision.compare", recording)
    monkeypatch.setattr("heartvit_edge.export.precision.check_half", holding)
    pack = make_adaptive_pack(tmp_path / "pack", "adaptive-shape", budgets=2, precisions=asked())
    budgets = [entry.num_keep for entry in pack.entries[1:]]
    limits = pack.entries[1].num_keep_range
    for precision in ("fp16", "int8"):
        beside = {name: feeds for name, feeds in compared.items() if name.endswith(f", {precision}")}
        fed = [{site: int(feeds[0][f"num_keep_{site}"]) for site in limits} for feeds in beside.values()]
        assert not [counts for counts in fed if counts in budgets]
        for site, (least, most) in limits.items():
            tried = [counts[site] for counts in [*fed, *budgets]]
            assert (min(tried), max(tried)) == (least, most)
        for name, feeds in beside.items():
            assert name.startswith("adaptive-shape with num_keep_")
            assert len({len(feed["images"]) for feed in feeds}) == len(feeds)  # one batch of each size
    assert {few for name, few in held if name.startswith("adaptive-shape with num_keep_")} == {True}
    assert {few for name, few in held if not name.startswith("adaptive-shape with num_keep_")} == {False}


def test_a_graph_that_leaves_the_range_of_fp16_at_other_counts_alone_is_refused(tmp_path, monkeypatch):
    def strict_beside(_, name, *, few=False):
        if few:
            raise CheckError(f"{name}: too far")

    monkeypatch.setattr("heartvit_edge.export.precision.check_half", strict_beside)
    with pytest.raises(CheckError, match=r"adaptive-shape with num_keep_\d+ \d+, num_keep_\d+ \d+, fp16: too far"):
        make_adaptive_pack(tmp_path / "pack", "adaptive-shape", budgets=2, precisions=Precisions(("fp16",)))
    assert not (tmp_path / "pack").exists()
