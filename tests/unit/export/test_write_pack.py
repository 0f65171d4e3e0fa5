"""A budget pack is written whole, checked and hashed, or not at all."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import replace

import pytest
from fakes.tiny_vit import images, load_tiny, plan_of

from heartvit_edge.errors import CheckError, InputError
from heartvit_edge.export import making
from heartvit_edge.export.entries import Entry, planned_entries
from heartvit_edge.export.pack import write_pack
from heartvit_edge.spec.budget import Budget
from heartvit_edge.spec.files import sha256_file
from heartvit_edge.spec.model import ImageSetRef
from heartvit_edge.spec.pack import MANIFEST, BudgetPack

CLASSES = ("ant", "bee", "cat", "dog", "elk")
CALIBRATION = ImageSetRef(name="pets", num_images=6, sha256="a" * 64, labelled=True, seed=0)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp("weights"))


def plans_of(dense):
    """Return a plan with tokens and heads, a smaller one with tokens alone, and one that removes nothing."""
    return [
        plan_of(dense.shape, {1: 8, 3: 4}, source=dense.source, limit=0.5),
        plan_of(dense.shape, {2: 12}, {0: [1, 2]}, source=dense.source, limit=0.8),
        plan_of(dense.shape, source=dense.source, limit=1.0),
    ]


def written(dense, out, plans=None, entries=None, **given):
    arguments = {
        "batches": [images(4).numpy()], "classes": CLASSES, "calibration": CALIBRATION,
    } | given  # fmt: skip
    planned = planned_entries(dense, plans_of(dense) if plans is None else plans, "class-attention")
    return write_pack(dense, entries or planned, out, **arguments)


@pytest.fixture(scope="module")
def pack(dense, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "pack"
    return written(dense, out), out


def test_the_dense_model_comes_first_then_one_entry_a_budget_largest_first(pack):
    manifest, out = pack
    assert [entry.name for entry in manifest.entries] == ["dense", "macs-0.8", "macs-0.5"]
    assert sorted(path.name for path in out.iterdir()) == ["dense.onnx", "macs-0.5.onnx", "macs-0.8.onnx", MANIFEST]
    assert manifest.entries[0].plan.is_dense


def test_the_stored_pack_opens_as_the_one_returned(pack):
    manifest, out = pack
    assert BudgetPack.open(out) == manifest


def test_the_manifest_holds_the_model_its_images_and_each_files_hash(dense, pack):
    manifest, out = pack
    assert (manifest.source, manifest.shape, manifest.preprocessing) == (dense.source, dense.shape, dense.preprocessing)
    assert (manifest.classes, manifest.calibration) == (CLASSES, CALIBRATION)
    for entry in manifest.entries:
        assert entry.onnx_sha256 == sha256_file(out / entry.onnx)
        assert entry.parity.num_images == 4


def test_only_entries_that_drop_tokens_name_a_gate_and_kept_patches(pack):
    dense, loose, tight = pack[0].entries
    assert [entry.gate for entry in (dense, loose, tight)] == [None, "class-attention", "class-attention"]
    assert [output.name for output in dense.outputs] == ["logits"]
    assert [(output.name, output.shape) for output in loose.outputs[1:]] == [("kept_2", (None, 11))]
    assert [(output.name, output.shape) for output in tight.outputs[1:]] == [
        ("kept_1", (None, 7)),
        ("kept_3", (None, 3)),
    ]


def test_each_plan_is_followed_by_its_baselines_largest_first(dense):
    plans = [plan_of(dense.shape, {1: 8, 3: 4}, limit=0.5), plan_of(dense.shape, kept_heads={0: [1]}, limit=0.9)]
    entries = planned_entries(dense, plans, "attention-received", "fuse", ["random", "merge", "random"])
    assert [(entry.name, entry.role, entry.compares_with, entry.gate_name, entry.reduction) for entry in entries] == [
        ("dense", "dense", None, None, "drop"),
        ("macs-0.9", "pruned", None, None, "fuse"),  # no token goes: nothing to choose, and no baseline
        ("macs-0.5", "pruned", None, "attention-received", "fuse"),
        ("macs-0.5.random", "baseline", "macs-0.5", "random", "drop"),
        ("macs-0.5.merge", "baseline", "macs-0.5", None, "merge"),
    ]


def test_entries_with_weights_gates_and_reductions_of_their_own_are_stored_as_they_are(dense, tmp_path):
    plan = plan_of(dense.shape, {1: 8, 3: 4}, source=dense.source)
    entries = planned_entries(dense, [plan], "class-attention", "fuse", ["merge"])
    trained = load_tiny(tmp_path, seed=1).module  # other weights, as after fine-tuning
    entries.append(Entry("control", trained, entries[0].plan, role="control", compares_with="dense"))
    manifest = written(dense, tmp_path / "pack", entries=entries)
    assert BudgetPack.open(tmp_path / "pack") == manifest
    whole, fused, merged, control = manifest.entries
    assert [output.shape for output in fused.outputs[1:]] == [(None, 6), (None, 2)]
    assert [output.shape for output in merged.outputs[1:]] == [(None, 7), (None, 3)]
    assert (fused.reduction, fused.gate, merged.reduction, merged.gate) == ("fuse", "class-attention", "merge", None)
    assert (control.role, control.compares_with) == ("control", "dense")
    assert control.onnx_sha256 != whole.onnx_sha256


def test_a_plan_that_fuse_cannot_carry_out_leaves_no_pack(dense, tmp_path):
    plan = plan_of(dense.shape, {2: 2}, source=dense.source)
    with pytest.raises(InputError, match="leaves one patch token at block 2"):
        written(dense, tmp_path / "pack", entries=planned_entries(dense, [plan], "class-attention", "fuse"))
    assert list(tmp_path.iterdir()) == []


def test_each_entry_is_told_once_it_is_done(dense, tmp_path):
    told = []
    written(dense, tmp_path / "pack", advance=told.append)
    assert told == ["dense", "macs-0.8", "macs-0.5"]


def test_a_plan_of_several_budgets_is_named_by_all_of_them(dense, tmp_path):
    budgets = (Budget(limit=0.5), Budget(quantity="params", limit=0.9))
    manifest = written(dense, tmp_path / "pack", [plans_of(dense)[0].model_copy(update={"budgets": budgets})])
    assert [entry.name for entry in manifest.entries] == ["dense", "macs-0.5+params-0.9"]
    assert (tmp_path / "pack" / "macs-0.5+params-0.9.onnx").is_file()
    assert BudgetPack.open(tmp_path / "pack").entry("macs-0.5+params-0.9").plan.budgets == budgets


def test_a_graph_whose_plan_removes_hidden_units_is_smaller_by_their_weights(dense, tmp_path):
    whole = plans_of(dense)[0]
    blocks = [whole.blocks[0].model_copy(update={"kept_units": (0, 3)}), *whole.blocks[1:]]
    plan = whole.model_copy(update={"unit_groups": 8, "blocks": tuple(blocks)})
    manifest = written(dense, tmp_path / "units", [plan])
    written(dense, tmp_path / "whole", [whole])
    assert manifest.entries[1].parity.max_abs_error < 1e-4 * manifest.entries[1].parity.logit_scale
    sizes = [(tmp_path / name / "macs-0.5.onnx").stat().st_size for name in ("whole", "units")]
    gone = 128 * 6 // 8  # of 128 hidden units: a row of fc1 with its bias, and a column of fc2
    assert sizes[0] - sizes[1] == pytest.approx(4 * gone * (32 + 1 + 32), abs=64)


def test_two_exports_of_the_same_input_are_the_same_bytes(dense, pack, tmp_path):
    again = tmp_path / "pack"
    written(dense, again)
    for path in pack[1].iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_an_altered_file_is_refused_when_the_pack_is_opened(dense, tmp_path):
    written(dense, tmp_path / "pack")
    path = tmp_path / "pack" / "macs-0.5.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckError, match=r"macs-0\.5\.onnx was altered"):
        BudgetPack.open(tmp_path / "pack")


@pytest.fixture
def _perturbed(monkeypatch):
    """Let the graph of the second entry be written from other weights than PyTorch is asked with."""
    write, calls = making.store_graph, []

    def other(source, path, **given):
        calls.append(path.name)
        if len(calls) == 2:
            source = replace(source, module=copy.deepcopy(source.module))
            source.module.backbone.blocks[0].mlp.fc2.bias[0] += 0.5
        write(source, path, **given)

    monkeypatch.setattr(making, "store_graph", other)


@pytest.mark.usefixtures("_perturbed")
def test_a_graph_that_differs_from_pytorch_leaves_no_pack(dense, tmp_path):
    with pytest.raises(CheckError, match=r"macs-0\.8: ") as caught:
        written(dense, tmp_path / "pack")
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_perturbed")
def test_a_failed_check_leaves_the_pack_that_was_to_be_replaced(dense, tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / MANIFEST).write_text("mine")
    with pytest.raises(CheckError):
        written(dense, tmp_path / "pack", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]
    assert (tmp_path / "pack" / MANIFEST).read_text() == "mine"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_leave_no_pack(dense, tmp_path, value):
    broken = dataclasses.replace(dense, module=copy.deepcopy(dense.module))
    broken.module.blocks[1].mlp.fc2.weight[3, 5] = value
    with pytest.raises(CheckError, match="not all finite"):
        written(broken, tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_no_pack(dense, tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(dense, tmp_path / "pack", advance=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["weights", "shape"])
def test_a_plan_of_another_model_is_refused(dense, tmp_path, other):
    plan = plans_of(dense)[0]
    if other == "weights":
        plan = plan.model_copy(update={"source": dense.source.model_copy(update={"weights_sha256": "f" * 64})})
    else:
        plan = plan.model_copy(update={"shape": dense.shape.model_copy(update={"img_size": 40})})
    with pytest.raises(InputError, match="made for another model") as caught:
        written(dense, tmp_path / "pack", [plan])
    assert "plan again" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_existing_pack_is_kept_without_force_and_replaced_with_it(dense, tmp_path):
    out = tmp_path / "pack"
    written(dense, out)
    before = (out / MANIFEST).read_bytes()
    with pytest.raises(InputError, match="exists already"):
        written(dense, out, [])
    assert (out / MANIFEST).read_bytes() == before
    written(dense, out, [], force=True)
    assert sorted(path.name for path in out.iterdir()) == ["dense.onnx", MANIFEST]
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_a_folder_that_is_no_pack_is_kept_even_with_force(dense, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is no budget pack, and --force replaces only those"):
        written(dense, tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
